"""Parameters and states in 16 bits that still take small steps in."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from funcnet.numerics import widen
from funcnet.optimizers.arithmetic import narrowed, wide
from funcnet.optimizers.transforms import Known, hand_on, members, need_params
from funcnet.pairs import Optimizer, check_count, fix


class KahanState(NamedTuple):
    inner: Any  # the wrapped optimizer's state, as of parameters in float32 at least
    lost: Any  # what rounding has kept from the parameters, in their dtypes


def kahan_init(params, *, init):
    return KahanState(init(wide(params)), jax.tree.map(jnp.zeros_like, params))


def rounded(x, dtype):
    """x rounded to the numbers of a narrower dtype, but not cast. XLA may leave out a cast and its
    reverse, and with them the rounding; this it must do."""
    if x.dtype == dtype:
        return x
    limits = jnp.finfo(dtype)
    return lax.reduce_precision(x, limits.nexp, limits.nmant)


def of_wide(objective, params):
    """The objective as a function of parameters in float32 at least."""
    if objective is None:
        return None
    return lambda wide: objective(narrowed(wide, params))


def kahan_update(grads, state, params=None, *, update, value=None, weight=None, objective=None):
    need_params("kahan", params)
    known = Known(value, weight, of_wide(objective, params))
    updates, inner = hand_on(update, wide(grads), state.inner, wide(params), known)

    def compensated(u, c, p):
        y = u + widen(c)
        step = rounded(y, p.dtype)
        after = rounded(widen(p) + step, p.dtype)
        return step.astype(p.dtype), (y - (after - widen(p))).astype(c.dtype)

    leaves, structure = jax.tree.flatten(updates)
    rest = map(jax.tree.leaves, (state.lost, params))
    pairs = [compensated(*each) for each in zip(leaves, *rest, strict=True)]
    steps, lost = (structure.unflatten([pair[i] for pair in pairs]) for i in (0, 1))
    return narrowed(steps, grads), KahanState(inner, lost)


def kahan(optimizer: Optimizer) -> Optimizer:
    """Compensated summation: y = u + c, theta' = round(theta + y), c <- y - (theta' - theta), so
    that what rounding keeps back is made up for later (Kahan 1965; for bfloat16 parameters
    Zamirai et al. 2020).

    The optimizer sees gradients and parameters in float32 at least, and its state is kept so; c has
    the parameters' dtype, hence two bfloat16 numbers have 16 bits between them. What is put around
    it must leave its updates as they are, as `ema` and `skip_non_finite` do and `lookahead` does
    not. Neither Optax nor PyTorch has it.
    """
    init, update = members("kahan", optimizer)
    return Optimizer(Partial(kahan_init, init=init), Partial(kahan_update, update=update))


class StochasticState(NamedTuple):
    count: Any  # int32, updates made
    key: Any  # stays as it is; each update folds its count in
    inner: Any  # the wrapped optimizer's state, as of parameters in float32 at least


def stochastic_init(params, *, init, seed):
    return StochasticState(jnp.zeros((), jnp.int32), jax.random.key(seed), init(wide(params)))


def to_bfloat16(x, key):
    """x, float32, rounded up or down to a bfloat16 number, but not cast: to each of its neighbours
    with the probability of its nearness. A bfloat16 is the upper half of a float32's bits."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    upper = lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), upper, x)


def stochastic_update(
    grads, state, params=None, *, update, value=None, weight=None, objective=None
):
    need_params("stochastic_rounding", params)
    known = Known(value, weight, of_wide(objective, params))
    updates, inner = hand_on(update, wide(grads), state.inner, wide(params), known)
    key = jax.random.fold_in(state.key, state.count)
    leaves, structure = jax.tree.flatten(updates)
    steps = []
    for index, (u, p) in enumerate(zip(leaves, jax.tree.leaves(params), strict=True)):
        if p.dtype == jnp.bfloat16:
            after = to_bfloat16(widen(p) + u, jax.random.fold_in(key, index))
            u = rounded(after - widen(p), p.dtype)
        steps.append(u)
    state = StochasticState(state.count + 1, state.key, inner)
    return narrowed(structure.unflatten(steps), grads), state


def stochastic_rounding(optimizer: Optimizer, *, seed: int = 0) -> Optimizer:
    """theta' is one of the two bfloat16 numbers about theta + u, drawn so that its mean is
    theta + u: a step below half a rounding is made in one of so many updates, not in none
    (Gupta et al. 2015; Zamirai et al. 2020).

    The optimizer sees gradients and parameters in float32 at least, and its state is kept so.
    Leaves of other dtypes are rounded to the nearest, as always. Exact for |u| up to |theta| / 2,
    to a rounding of u beyond. The draw is a function of the state's key, made of `seed`, of the
    count and of the leaf's place. What is put around it must leave its updates as they are. Neither
    Optax nor PyTorch has it.
    """
    init, update = members("stochastic_rounding", optimizer)
    return Optimizer(
        Partial(fix(stochastic_init, seed=check_count("seed", seed, 0)), init=init),
        Partial(stochastic_update, update=update),
    )


def slot_names(path):
    """What the keys of a path are called."""
    return [str(getattr(key, "name", getattr(key, "key", None))) for key in path]


def kept(state, dtypes):
    """The state's numbers in the dtypes given for their slots."""

    def cast(path, leaf):
        own = [dtypes[name] for name in slot_names(path) if name in dtypes]
        if not own or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf.astype(own[-1])

    return jax.tree_util.tree_map_with_path(cast, state)


def state_dtype_init(params, *, init, slots):
    state = init(params)
    paths = jax.tree_util.tree_flatten_with_path(state)[0]
    there = {name for path, _ in paths for name in slot_names(path)}
    missing = sorted(set(dict(slots)) - there)
    if missing and jax.tree.leaves(params):
        raise ValueError(f"state_dtype finds no slot {missing} in {type(state).__name__}")
    return kept(state, dict(slots))


def state_dtype_update(
    grads, state, params=None, *, update, slots, value=None, weight=None, objective=None
):
    opened = kept(state, {name: jnp.promote_types(dtype, jnp.float32) for name, dtype in slots})
    updates, state = hand_on(update, grads, opened, params, Known(value, weight, objective))
    return updates, kept(state, dict(slots))


def state_dtype(optimizer: Optimizer, slots: Mapping[str, Any]) -> Optimizer:
    """The optimizer with slots of its state kept in dtypes of one's choice:
    `state_dtype(adam(1e-3), {"mean": jnp.bfloat16})` halves the memory of the first moment.

    A slot is a field of the state, or a key of a dict in it, with all floating-point numbers
    beneath; each update computes in float32 at least and rounds the slot to the nearest. A slow
    average in 16 bits stands still, as (1 - decay) (x - average) is rounded away: leave second
    moments in float32. Optax has such a keyword, `mu_dtype`, in some of its optimizers.
    """
    if not isinstance(slots, Mapping):
        raise TypeError(f"state_dtype expects a dict of dtypes by slot, got {slots!r}")
    pairs = tuple(sorted((name, jnp.dtype(dtype)) for name, dtype in slots.items()))
    for name, dtype in pairs:
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"state_dtype expects floating-point dtypes, got {dtype} for {name!r}")
    init, update = members("state_dtype", optimizer)
    return Optimizer(
        Partial(fix(state_dtype_init, slots=pairs), init=init),
        Partial(fix(state_dtype_update, slots=pairs), update=update),
    )
