"""Averages of the parameters that an optimizer goes through, for evaluation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import (
    bias_correction,
    counted,
    moving_average,
    narrowed,
    one_minus,
    wide,
)
from funcnet.optimizers.transforms import Known, apply_updates, hand_on, members, need_params
from funcnet.pairs import Optimizer, check_count, fix, number


class AveragedState(NamedTuple):
    count: Any  # int32, updates made
    inner: Any  # the wrapped optimizer's state
    average: Any  # what to evaluate: like the parameters, in float32 at least


def averaged_init(params, *, init):
    # A copy, so that parameters and average can be donated both.
    average = jax.tree.map(jnp.copy, wide(params))
    return AveragedState(jnp.zeros((), jnp.int32), init(params), average)


def averaged_update(
    grads, state, params=None, *, update, share, value=None, weight=None, objective=None
):
    need_params("an average of the parameters", params)
    known = Known(value, weight, objective)
    updates, inner = hand_on(update, grads, state.inner, params, known)
    count = counted(state.count)
    average = moving_average(state.average, share(count), wide(apply_updates(params, updates)))
    return updates, AveragedState(count, inner, average)


def ema_share(count, *, one_minus_decay):
    return one_minus_decay / bias_correction(one_minus_decay, count)


def ema(optimizer: Optimizer, decay=0.999) -> Optimizer:
    """The optimizer's own updates, and beside them an exponential moving average of the parameters
    after each, a_t = (d a'_{t-1} + (1 - d) theta_t) / (1 - d^t), a'_t the same undivided
    (Polyak & Juditsky 1992; bias correction as in Kingma & Ba 2015, section 7.2).

    It is kept divided, a <- a + (1 - d) / (1 - d^t) (theta - a), ready to use: `averaged_params`.
    Optax's `ema` averages what a chain hands it, so its owner applies it to the parameters;
    PyTorch's `AveragedModel` with `get_ema_avg_fn` has no correction and starts at the first theta.
    """
    init, update = members("ema", optimizer)
    share = Partial(ema_share, one_minus_decay=one_minus("decay", decay))
    return Optimizer(
        Partial(averaged_init, init=init), Partial(averaged_update, update=update, share=share)
    )


def swa_share(count, *, start, every):
    since = count - start
    number_averaged = jnp.maximum(since // every, 0) + 1
    skipped = (since > 0) & (since % every != 0)
    return jnp.where(skipped, 0.0, 1.0 / number_averaged.astype(jnp.result_type(float)))


def swa(optimizer: Optimizer, start: int, *, every: int = 1) -> Optimizer:
    """The optimizer's own updates, and beside them the plain mean of the parameters after updates
    start, start + every, start + 2 every, ... (Izmailov et al. 2018, stochastic weight averaging):
    a <- (n a + theta) / (n + 1), n those already in it.

    Until then the average is the parameters themselves. Use it by `averaged_params`; a network
    with batch norm needs its running statistics taken anew. `start` and `every` are choices, part
    of the structure. As PyTorch's `swa_utils`; Optax has none.
    """
    init, update = members("swa", optimizer)
    share = Partial(
        fix(swa_share, start=check_count("start", start, 1), every=check_count("every", every, 1))
    )
    return Optimizer(
        Partial(averaged_init, init=init), Partial(averaged_update, update=update, share=share)
    )


def lookahead_update(
    grads, state, params=None, *, update, step_size, every, value=None, weight=None, objective=None
):
    need_params("lookahead", params)
    known = Known(value, weight, objective)
    updates, inner = hand_on(update, grads, state.inner, params, known)
    count = state.count + 1  # may turn negative: only its remainder counts
    due = count % every == 0
    fast = wide(apply_updates(params, updates))
    ahead = moving_average(state.average, step_size, fast)
    slow = jax.tree.map(lambda a, s: jnp.where(due, a, s), ahead, state.average)
    back = narrowed(jax.tree.map(jnp.subtract, slow, wide(params)), grads)
    updates = jax.tree.map(lambda b, u: jnp.where(due, b, u), back, updates)
    return updates, AveragedState(count, inner, slow)


def lookahead(optimizer: Optimizer, every: int = 5, step_size=0.5) -> Optimizer:
    """Every k-th update ends at phi <- phi + alpha (theta - phi), theta <- phi: slow weights phi
    follow the fast ones theta of the optimizer (Zhang et al. 2019).

    k is `every`, a choice and part of the structure; alpha is `step_size`. `averaged_params` gives
    the slow weights. The optimizer's state goes on across synchronisations, the paper's default;
    Optax, whose numbers are the same, has both sets of weights in its parameters and can reset it.
    """
    init, update = members("lookahead", optimizer)
    return Optimizer(
        Partial(averaged_init, init=init),
        Partial(
            fix(lookahead_update, every=check_count("every", every, 1)),
            update=update,
            step_size=number("step_size", step_size, 0.0, 1.0),
        ),
    )


def averaged_params(opt_state, params):
    """The average that `ema`, `swa` or `lookahead` keeps in an optimizer's state, in the
    parameters' dtypes; of several, one around the other, the outermost.

    `evaluate(trainer, state._replace(params=averaged_params(state.opt_state, state.params)), data)`
    evaluates it, also of a sweep, whose states have a member axis.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, AveragedState))
    found = [node.average for node in nodes if isinstance(node, AveragedState)]
    if len(found) != 1:
        raise ValueError(
            "averaged_params expects the state of one ema, swa or lookahead, "
            f"got {len(found)} in {type(opt_state).__name__}"
        )
    if jax.tree.structure(found[0]) != jax.tree.structure(params):
        raise ValueError(
            "averaged_params expects an average of all parameters; put ema, swa or lookahead "
            "around partition, not into it"
        )
    return narrowed(found[0], params)
