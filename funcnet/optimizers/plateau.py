"""Smaller updates once the loss has stopped to fall."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import scaled
from funcnet.pairs import Optimizer, check_count, fix, number


class PlateauState(NamedTuple):
    scale: Any  # what updates are multiplied by, 1 at first
    best: Any  # the least loss so far
    total: Any  # sum of the losses in this window
    count: Any  # int32, losses in this window
    waited: Any  # int32, windows since the best
    cooling: Any  # int32, windows left in which none counts


def plateau_init(params):
    counts = (jnp.zeros((), jnp.int32) for _ in range(3))
    return PlateauState(jnp.ones(()), jnp.full((), jnp.inf, float), jnp.zeros(()), *counts)


def plateau_update(
    grads,
    state,
    params=None,
    *,
    value=None,
    factor,
    rtol,
    atol,
    min_scale,
    patience,
    cooldown,
    window,
):
    if value is None:
        raise ValueError(
            "reduce_on_plateau needs the loss: update(grads, state, params, value=loss)"
        )
    total = state.total + lax.stop_gradient(jnp.asarray(value, state.total.dtype))
    count = (state.count + 1) % window
    full, mean = count == 0, total / window

    # The best is infinite before the first window, and then anything finite is better.
    known = jnp.where(jnp.isfinite(state.best), state.best, 0.0)
    margin = rtol * jnp.abs(known) + atol
    better = jnp.where(jnp.isfinite(state.best), mean < known - margin, mean < state.best)
    cooling = state.cooling > 0
    waited = jnp.where(better | cooling, 0, state.waited + 1)
    fires = waited >= patience

    scale = jnp.where(fires, jnp.maximum(factor * state.scale, min_scale), state.scale)
    after = PlateauState(
        scale.astype(state.scale.dtype),
        jnp.where(better, mean, state.best),
        jnp.zeros_like(total),
        count,
        jnp.where(fires, 0, waited),
        jnp.where(fires, cooldown, jnp.maximum(state.cooling - 1, 0)),
    )
    now = state._replace(total=total, count=count)
    state = PlateauState(*(jnp.where(full, new, old) for new, old in zip(after, now, strict=True)))
    return scaled(state.scale, grads), state


def reduce_on_plateau(
    factor=0.1,
    patience: int = 10,
    *,
    rtol=1e-4,
    atol=0.0,
    cooldown: int = 0,
    window: int = 1,
    min_scale=0.0,
) -> Optimizer:
    """u <- s u, where s <- max(factor s, min_scale) once `patience` losses in a row were none of
    them better than the best, l < best - rtol |best| - atol; then `cooldown` losses do not count.

    Chain it after an optimizer. It needs the loss, `update(grads, state, params, value=loss)`,
    which `trainer`, `chain` and the wrappers hand on; each loss is the mean of `window` values, as
    those of mini-batches scatter. `patience`, `cooldown` and `window` are choices, part of the
    structure. The state's `scale` is s. Optax and PyTorch compare with (1 - rtol) best, which any
    constant negative loss is below, so that they never fire; for positive ones Optax's
    `reduce_on_plateau` is the same, and PyTorch's `ReduceLROnPlateau` waits for one loss more.
    """
    choices = {
        "patience": check_count("patience", patience, 1),
        "cooldown": check_count("cooldown", cooldown, 0),
        "window": check_count("window", window, 1),
    }
    update = Partial(
        fix(plateau_update, **choices),
        factor=number("factor", factor, 0.0, 1.0),
        rtol=number("rtol", rtol, 0.0),
        atol=number("atol", atol, 0.0),
        min_scale=number("min_scale", min_scale, 0.0),
    )
    return Optimizer(Partial(plateau_init), update)
