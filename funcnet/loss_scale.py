"""Training in float16: the loss is scaled up, so that small gradients do not become 0."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.numerics import varied
from funcnet.optimizers.arithmetic import scaled
from funcnet.optimizers.wrappers import all_finite, chosen
from funcnet.pairs import Trainer, check_count, check_trainer, fix, partial, unbind
from funcnet.training import check_own, replaced

LEAST, GREATEST = 1.0, 2.0**24


class ScaleState(NamedTuple):
    """A loss-scaled run's `opt_state`."""

    scale: Any  # float32, a power of two
    in_a_row: Any  # int32, steps made since the scale changed
    skipped: Any  # int32, steps left out
    inner: Any  # the optimizer's state


def loss_scaled_init(key, *, init, scale):
    run, zero = init(key), jnp.zeros((), jnp.int32)
    opt_state = ScaleState(jnp.float32(scale), zero, zero, run.opt_state)
    return varied(run._replace(opt_state=opt_state), key)


def scaled_engine(loss, *, has_aux, value_and_grad, scale):
    """`value_and_grad` of the loss times the scale, and the gradient divided by it."""

    def larger(*inputs, **context):
        value, aux = loss(*inputs, **context)
        return jnp.asarray(scale, value.dtype) * value, (value, aux)

    def engine(*inputs, **context):
        (_, (value, aux)), grads = value_and_grad(larger, has_aux=has_aux)(*inputs, **context)
        return (value, aux), scaled(1.0 / scale, grads)

    return engine


def loss_scaled_step(state, batch, *, step, value_and_grad, every):
    check_own(state.opt_state, ScaleState)
    scale, in_a_row, skipped, inner = state.opt_state
    engine = Partial(scaled_engine, value_and_grad=value_and_grad, scale=scale)
    before = state._replace(opt_state=inner)
    after, metrics = step(before, batch, value_and_grad=engine)
    good = all_finite(metrics["gradient_norm"])
    # Of a step that is not made there remains that it was seen: the next is of the next batch.
    run = chosen(good, after, replaced(before, step=after.step))
    due = good & (in_a_row + 1 == every)
    factor = jnp.where(good, jnp.where(due, 2.0, 1.0), 0.5)
    kept = ScaleState(
        jnp.clip(scale * factor, LEAST, GREATEST),
        jnp.where(good & ~due, in_a_row + 1, 0),
        skipped + ~good,
        run.opt_state,
    )
    # An overflow is no failure as long as the scale can give way.
    norm = jnp.where(good | (scale == LEAST), metrics["gradient_norm"], 0.0)
    metrics = {**metrics, "gradient_norm": norm, "loss_scale": scale}
    return run._replace(opt_state=kept), metrics


def loss_scaled(trainer: Trainer, *, scale: float = 2.0**15, every: int = 2000) -> Trainer:
    """The trainer with dynamic loss scaling, for gradients in float16, which know nothing between
    0 and 6e-8: g = d(s L) / d theta / s (Micikevicius et al. 2018).

    A step whose gradient overflows is left out, and s is halved; it is doubled after `every` steps
    that were made in a row. s is a power of two in [1, 2^24], so where nothing overflows or
    vanishes the gradients are the unscaled ones, bit for bit. Of a step left out `step` alone
    counts on, as in `guard`, and the gradient's norm is reported as 0, unless s is 1; a metric
    `"loss_scale"` says which s it was. `scale`, the first one, and `every` are choices, part of the
    structure.

    Parameters stay in float32, `compute_dtype(network, jnp.float16)`: in float16 their gradients
    would vanish when they are divided by s. The state is kept in `opt_state`, a `ScaleState`. It
    goes around a trainer made by `trainer`, whose engine must take any loss (`chain_rule`'s, which
    looks for the loss's rule, does not); `guard` goes around it, and undoes a halving too where the
    loss itself is not finite, which no smaller scale would mend.
    """
    check_trainer(trainer)
    if math.frexp(scale)[0] != 0.5 or not LEAST <= scale <= GREATEST:
        raise ValueError(f"scale must be a power of two in [1, 2^24], got {scale}")
    function, keywords = unbind(trainer.step)
    if "value_and_grad" not in keywords:
        raise ValueError(
            "loss_scaled expects a trainer made by trainer(task, optimizer): put guard around it"
        )
    init = fix(loss_scaled_init, scale=float(scale))
    step = fix(loss_scaled_step, every=check_count("every", every, 1))
    value_and_grad = keywords.pop("value_and_grad")
    bare = Partial(function, **keywords)
    return Trainer(
        Partial(init, init=partial(trainer.init)),
        Partial(step, step=bare, value_and_grad=value_and_grad),
    )
