"""Optimizers whose step for an array depends on that array's own norm."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from funcnet.optimizers.adaptive import AdamState, adam_init
from funcnet.optimizers.arithmetic import (
    bias_correction,
    counted,
    magnitude_squared,
    moving_average,
    narrowed,
    norm,
    one_minus,
    over_root,
    plus_scaled,
    root_mean_square,
    scaled,
    square_zeros,
    squared,
    wide,
)
from funcnet.optimizers.descent import rate_at, sgd_init
from funcnet.pairs import Optimizer, fix, number
from funcnet.schedules import as_schedule


class AdafactorState(NamedTuple):
    count: Any
    learning_rate: Any
    square: Any  # for each parameter (its mean over columns, over rows) or (all of it,)


def trusted(update, param):
    """The update times |theta| / |u|, or as it is where either is 0."""
    size, length = norm(param), norm(update)
    ratio = size / jnp.where(length == 0.0, 1.0, length)
    return jnp.where((size == 0.0) | (length == 0.0), 1.0, ratio) * update


def lamb_update(
    grads, state, params=None, *, learning_rate, one_minus_b1, one_minus_b2, eps, weight_decay
):
    if params is None:
        raise ValueError("lamb needs the parameters: update(grads, state, params)")
    rate, count = rate_at(learning_rate, state), counted(state.count)
    mean = moving_average(state.mean, one_minus_b1, grads)
    square = moving_average(state.square, one_minus_b2, squared(grads))
    corrected = scaled(1.0 / bias_correction(one_minus_b1, count), mean)
    steps = over_root(corrected, square, 1.0 / bias_correction(one_minus_b2, count), eps)
    steps = jax.tree.map(trusted, plus_scaled(steps, weight_decay, params), wide(params))
    return narrowed(scaled(-rate, steps), grads), AdamState(count, rate, mean, square)


def lamb(learning_rate=1e-3, b1=0.9, b2=0.999, *, eps=1e-6, weight_decay=0.0) -> Optimizer:
    """u = m' / (sqrt(v') + eps) + lambda theta with Adam's m' and v',
    theta <- theta - eta u |theta| / |u|, norms of each array alone (You et al. 2020, algorithm 2,
    with phi the identity).

    lambda is `weight_decay`. An array whose theta or u is 0 moves by u. As Optax's `lamb`.
    """
    update = Partial(
        lamb_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=one_minus("b2", b2),
        eps=number("eps", eps, 0.0),
        weight_decay=number("weight_decay", weight_decay),
    )
    return Optimizer(Partial(adam_init), update)


def relative_step_value(step, *, value):
    return jnp.minimum(value, 1.0 / jnp.sqrt(step + 1.0))


def relative_step(value=1e-2) -> Partial:
    """min(value, 1 / sqrt(t)), t = 1 at first: the relative step size of Adafactor."""
    return Partial(relative_step_value, value=number("value", value, 0.0))


def factored_axes(shape, min_size):
    """The two largest axes of a shape, the larger one last, or () where either is shorter than
    `min_size`."""
    axes = [int(axis) for axis in np.argsort(shape, kind="stable")[-2:]]
    return axes if len(axes) == 2 and shape[axes[0]] >= min_size else ()


def averaged_over(square, min_size):
    """The means over each of the two axes, or the whole where there are none to factor."""
    axes = factored_axes(square.shape, min_size)
    return tuple(square.mean(axis, keepdims=True) for axis in reversed(axes)) or (square,)


def product_of(averages, min_size, floor):
    """The outer product of two averages over their common mean, or the whole."""
    if len(averages) == 1:
        return averages[0]
    row, column = averages
    shape = np.broadcast_shapes(row.shape, column.shape)
    mean = row.mean(factored_axes(shape, min_size)[0], keepdims=True)
    return row / jnp.maximum(mean, floor) * column


def adafactor_init(params, *, min_size):
    zeros = jax.tree.map(lambda p: averaged_over(p, min_size), square_zeros(params))
    return AdafactorState(*sgd_init(params), zeros)


def adafactor_update(
    grads,
    state,
    params=None,
    *,
    learning_rate,
    decay_power,
    eps,
    floor,
    clip,
    min_scale,
    weight_decay,
    min_size,
):
    if params is None:
        raise ValueError("adafactor needs the parameters: update(grads, state, params)")
    rate, count = rate_at(learning_rate, state), counted(state.count)
    fraction = count.astype(rate.dtype) ** -decay_power

    def average(g, averages):
        square = magnitude_squared(g)
        new = averaged_over(square + jnp.asarray(eps, square.dtype), min_size)
        return moving_average(averages, fraction, new)

    def step(g, p, averages):
        least, limit, low = (jnp.asarray(x, g.real.dtype) for x in (floor, clip, min_scale))
        v = jnp.maximum(product_of(averages, min_size, least), jnp.square(least))
        # A gradient of 0 has no use for v, whose derivative may be out of range there.
        u = g * lax.rsqrt(jnp.where(g == 0.0, 1.0, v))
        u = u / jnp.maximum(1.0, root_mean_square(u) / limit)
        size = rate * jnp.maximum(low, root_mean_square(p))
        return -(jnp.asarray(size, g.dtype) * u + jnp.asarray(weight_decay, g.dtype) * p)

    square = jax.tree.map(average, wide(grads), state.square)
    updates = jax.tree.map(step, wide(grads), wide(params), square)
    return narrowed(updates, grads), AdafactorState(count, rate, square)


def adafactor(
    learning_rate: Any = 1e-2,
    decay_power=0.8,
    *,
    eps=1e-30,
    floor=0.0,
    clip=1.0,
    min_scale=1e-3,
    weight_decay=0.0,
    min_size: int = 1,
) -> Optimizer:
    """R, C <- moving averages of the rows' and columns' means of g^2 + eps, with 1 - b = t^-p,
    V = R C / mean(R), u = g / sqrt(V), u <- u / max(1, rms(u) / d),
    theta <- theta - eta max(rms(theta), min_scale) u - lambda theta
    (Shazeer & Stern 2018, algorithms 4 and 5).

    p is `decay_power`, d is `clip` and lambda `weight_decay`. An array has V whole, as in Adam,
    unless its two largest axes are `min_size` long. As Optax's `adafactor`, with its
    `min_size=128`. The paper's rate is `relative_step(1e-2)`. PyTorch's `Adafactor` has that rate,
    and clamps in place of adding: with its `lr` and `weight_decay`
    `adafactor(relative_step(lr), eps=0.0, floor=jnp.finfo(dtype).eps, weight_decay=lr * decay)`;
    of an array with more than two axes it takes the last two.
    """
    update = Partial(
        fix(adafactor_update, min_size=min_size),
        learning_rate=as_schedule("learning_rate", learning_rate),
        decay_power=number("decay_power", decay_power, 0.0),
        eps=number("eps", eps, 0.0),
        floor=number("floor", floor, 0.0),
        clip=number("clip", clip, 0.0),
        min_scale=number("min_scale", min_scale, 0.0),
        weight_decay=number("weight_decay", weight_decay),
    )
    return Optimizer(Partial(fix(adafactor_init, min_size=min_size)), update)
