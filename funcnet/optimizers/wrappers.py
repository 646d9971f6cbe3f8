"""What decides whether, when and how far a wrapped optimizer moves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from funcnet.numerics import varied, widen
from funcnet.optimizers.arithmetic import narrowed, plus_scaled, scaled, wide_zeros
from funcnet.optimizers.transforms import Known, apply_updates, hand_on, members
from funcnet.pairs import Optimizer, check_count, fix, number


class AccumulateState(NamedTuple):
    count: Any  # int32, gradients taken in since the last update
    weight: Any  # the sum of their weights
    value: Any  # weighted sum of the losses, 0 where they are not known
    total: Any  # weighted sum of the gradients, in float32 at least
    inner: Any  # the wrapped optimizer's state


def accumulate_init(params, *, init):
    sums = (jnp.zeros(()) for _ in range(2))
    return AccumulateState(jnp.zeros((), jnp.int32), *sums, wide_zeros(params), init(params))


def plus_weighted(total, weight, x):
    """total + weight * x, whatever x where the weight is 0."""
    sound = jax.tree.map(lambda x: jnp.where(weight == 0.0, jnp.zeros_like(x), x), x)
    return plus_scaled(total, weight, sound)


def accumulate_update(grads, state, params=None, *, update, every, value=None, weight=None):
    own = jnp.asarray(1.0 if weight is None else weight, state.weight.dtype)
    total, summed = plus_weighted(state.total, own, grads), state.weight + own
    loss = state.value
    if value is not None:
        loss = plus_weighted(loss, own, jnp.asarray(value))
    count = (state.count + 1) % every

    def due():
        divisor = jnp.where(summed == 0.0, 1.0, summed)
        mean = narrowed(scaled(1.0 / divisor, total), grads)
        mean_loss = None if value is None else loss / divisor
        updates, inner = hand_on(update, mean, state.inner, params, Known(mean_loss, summed))
        zero = jnp.zeros_like(summed)
        return updates, (zero, jnp.zeros_like(loss), jax.tree.map(jnp.zeros_like, total), inner)

    def waiting():
        return jax.tree.map(jnp.zeros_like, grads), (summed, loss, total, state.inner)

    def alike(branch):
        return lambda: varied(branch(), (grads, state, params, update))

    # The count is the state's own and the same in all members of a sweep: the branch stays one.
    updates, rest = lax.cond(count == 0, alike(due), alike(waiting))
    return updates, AccumulateState(count, *rest)


def accumulate(optimizer: Optimizer, every: int) -> Optimizer:
    """One update of the optimizer by the mean of `every` gradients, g = sum w_k g_k / sum w_k, and
    updates of 0 in between, which cost no more than the sum.

    The weight w_k is what the loss was divided by, `update(..., weight=w)`, and 1 where it is not
    given; `trainer` hands on the task's metric `"weight"`. So the update is that of the whole
    batch, exactly, also where micro-batches have unequal weights or masks. `every` is a choice,
    part of the structure. In a sweep, too, the optimizer does not run while it waits. It does not
    get the objective, which is of one batch. Optax's `MultiSteps` takes the mean with equal weights
    or the sum, and computes the optimizer's update each time. Put `skip_non_finite` inside, not
    around it: around, the count is each member's own.
    """
    init, update = members("accumulate", optimizer)
    return Optimizer(
        Partial(accumulate_init, init=init),
        Partial(fix(accumulate_update, every=check_count("every", every, 1)), update=update),
    )


class SkipState(NamedTuple):
    skipped: Any  # int32, updates left out
    in_a_row: Any  # int32, of them since the last one made
    inner: Any  # the wrapped optimizer's state


def skip_init(params, *, init):
    return SkipState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), init(params))


def all_finite(tree):
    """Whether every number in a tree is finite; what is no number is."""
    finite = jnp.ones((), bool)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            finite &= jnp.isfinite(leaf).all()
    return finite


def chosen(which, tree, other):
    return jax.tree.map(lambda x, y: jnp.where(which, x, y), tree, other)


def spoilt(before, after):
    """Whether any number of a state was finite and is no longer."""
    lost = jnp.zeros((), bool)
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            lost |= (jnp.isfinite(x) & ~jnp.isfinite(y)).any()
    return lost


def skip_update(grads, state, params=None, *, update, value=None, weight=None, objective=None):
    arrived = all_finite((grads, value))
    # Zeros go in where anything is wrong, or derivatives of the branch not taken would be NaN.
    sound = chosen(arrived, grads, jax.tree.map(jnp.zeros_like, grads))
    known = Known(value, weight, objective)
    updates, inner = hand_on(update, sound, state.inner, params, known)
    after = updates if params is None else apply_updates(params, updates)
    good = arrived & all_finite((updates, after)) & ~spoilt(state.inner, inner)
    updates = chosen(good, updates, jax.tree.map(jnp.zeros_like, updates))
    bad = (~good).astype(jnp.int32)
    in_a_row = (state.in_a_row + 1) * bad
    return updates, SkipState(state.skipped + bad, in_a_row, chosen(good, inner, state.inner))


def skip_non_finite(optimizer: Optimizer) -> Optimizer:
    """The optimizer's update where loss, gradients, updates, the parameters after them and the
    optimizer's new state are all finite; else an update of 0, and the optimizer's state, its count
    too, as if nothing had come.

    Everything is chosen by `where`, so not one NaN gets through, nor into a neighbour of a sweep.
    The state counts what was `skipped`, in all and `in_a_row`; data and keys go on. The loss is
    looked at where it is given, as `trainer` does. Optax's `apply_if_finite` looks at the updates
    alone and lets them through after so many in a row.
    """
    init, update = members("skip_non_finite", optimizer)
    return Optimizer(Partial(skip_init, init=init), Partial(skip_update, update=update))


def cautious_update(
    grads, state, params=None, *, update, shift, value=None, weight=None, objective=None
):
    updates, state = hand_on(update, grads, state, params, Known(value, weight, objective))

    def masked(u, g):
        agrees = (widen(u) * jnp.conj(widen(g))).real < 0.0
        count = agrees.sum().astype(jnp.result_type(float))
        scale = agrees.size / jnp.where(count + shift == 0.0, 1.0, count + shift)
        # A NaN agrees with nothing, and must not become a silent 0.
        kept = jnp.where(agrees | jnp.isnan(u), widen(u), 0.0)
        return (scale * kept).astype(u.dtype)

    return jax.tree.map(masked, updates, grads), state


def cautious(optimizer: Optimizer, *, shift=1.0) -> Optimizer:
    """u <- u [-u g > 0] n / (nnz + xi): of the n numbers in a leaf, the nnz whose update goes
    against its gradient move, the farther the fewer they are (Liang et al. 2024).

    xi is `shift`, 1 in the paper. Put it around the optimizer without its weight decay. Authors
    after them divide by max(nnz / n, 1e-3) instead. Neither Optax nor PyTorch has it.
    """
    init, update = members("cautious", optimizer)
    return Optimizer(
        init, Partial(cautious_update, update=update, shift=number("shift", shift, 0.0))
    )
