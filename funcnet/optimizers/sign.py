"""Optimizers that take the sign of a gradient and leave its size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import (
    along,
    counted,
    moving_average,
    narrowed,
    one_minus,
    plus_scaled,
    scaled,
    signs,
    square_zeros,
    wide,
    wide_zeros,
)
from funcnet.optimizers.decay import decoupled_decay
from funcnet.optimizers.descent import SgdState, rate_at, sgd_init
from funcnet.pairs import Optimizer, number
from funcnet.schedules import as_schedule


class MeanState(NamedTuple):
    count: Any
    learning_rate: Any
    mean: Any  # moving average of the gradient, in float32 at least


class RpropState(NamedTuple):
    count: Any
    sign: Any  # of the last gradient, 0 after a turn
    step_size: Any  # each coordinate's own


def sign_sgd_update(grads, state, params=None, *, learning_rate):
    rate = rate_at(learning_rate, state)
    return scaled(-rate, signs(grads)), SgdState(counted(state.count), rate)


def sign_sgd(learning_rate=1e-3) -> Optimizer:
    """theta <- theta - eta sign(g) (Bernstein et al. 2018, algorithm 1). As Optax's `sign_sgd`."""
    schedule = as_schedule("learning_rate", learning_rate)
    return Optimizer(Partial(sgd_init), Partial(sign_sgd_update, learning_rate=schedule))


def mean_init(params):
    return MeanState(*sgd_init(params), wide_zeros(params))


def signum_update(grads, state, params=None, *, learning_rate, one_minus_decay):
    rate = rate_at(learning_rate, state)
    mean = moving_average(state.mean, one_minus_decay, grads)
    updates = scaled(-rate, signs(mean))
    return narrowed(updates, grads), MeanState(counted(state.count), rate, mean)


def signum(learning_rate=1e-3, decay=0.9) -> Optimizer:
    """m <- b m + (1 - b) g, theta <- theta - eta sign(m) (Bernstein et al. 2018, algorithm 2).

    b is `decay`. As Optax's `signum`.
    """
    update = Partial(
        signum_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_decay=one_minus("decay", decay),
    )
    return Optimizer(Partial(mean_init), update)


def lion_update(grads, state, params=None, *, learning_rate, one_minus_b1, one_minus_b2):
    rate = rate_at(learning_rate, state)
    mean = moving_average(state.mean, one_minus_b2, grads)
    # c of the new m, times b2 > 0: where both are computed from the old one, which the new
    # replaces, XLA on a CPU copies it first.
    c = plus_scaled(scaled(1.0 - one_minus_b1, mean), one_minus_b1 - one_minus_b2, wide(grads))
    updates = scaled(-rate, signs(c))
    return narrowed(updates, grads), MeanState(counted(state.count), rate, mean)


def lion(learning_rate=1e-4, b1=0.9, b2=0.99, *, weight_decay=0.0) -> Optimizer:
    """c = b1 m + (1 - b1) g, theta <- theta - eta (sign(c) + lambda theta), m <- b2 m + (1 - b2) g
    (Chen et al. 2023, algorithm 2).

    lambda is `weight_decay`; b2 > 0. As Optax's `lion`, whose default decay is 1e-3.
    """
    update = Partial(
        lion_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=one_minus("b2", number("b2", b2, 1e-6)),
    )
    return decoupled_decay(Optimizer(Partial(mean_init), update), weight_decay)


def rprop_init(params):
    return RpropState(jnp.zeros((), jnp.int32), wide_zeros(params), square_zeros(params))


def rprop_update(
    grads,
    state,
    params=None,
    *,
    initial_step_size,
    shrink,
    grow,
    min_step_size,
    max_step_size,
):
    def resize(size, sign, last):
        first, low, high = (
            jnp.asarray(x, size.dtype) for x in (initial_step_size, min_step_size, max_step_size)
        )
        size = jnp.where(state.count == 0, first, size)
        agreement = along(sign, last)
        factor = jnp.where(agreement > 0.0, grow, jnp.where(agreement < 0.0, shrink, 1.0))
        return jnp.clip(jnp.asarray(factor, size.dtype) * size, low, high)

    # The signs' product, and not the gradients', cannot underflow.
    sign = signs(wide(grads))
    step_size = jax.tree.map(resize, state.step_size, sign, state.sign)
    sign = jax.tree.map(lambda s, last: jnp.where(along(s, last) < 0.0, 0.0, s), sign, state.sign)
    updates = jax.tree.map(lambda s, size: -size * s, sign, step_size)
    return narrowed(updates, grads), RpropState(counted(state.count), sign, step_size)


def rprop(
    initial_step_size=1e-2, *, shrink=0.5, grow=1.2, min_step_size=1e-6, max_step_size=50.0
) -> Optimizer:
    """s <- clip(grow s) where the gradient kept its sign, clip(shrink s) where it turned,
    theta <- theta - s sign(g) but for the coordinates that turned, which wait one step
    (Riedmiller & Braun 1993, without the step back, known as iRprop-).

    For gradients of the whole data set: noise turns signs. As PyTorch's `Rprop`, whose `lr` is
    `initial_step_size`, `etas` are (shrink, grow) and `step_sizes` the bounds. Optax's `rprop`
    applies each step's update one step late, which is not to be had here.
    """
    update = Partial(
        rprop_update,
        initial_step_size=number("initial_step_size", initial_step_size, 0.0),
        shrink=number("shrink", shrink, 0.0, 1.0),
        grow=number("grow", grow, 1.0),
        min_step_size=number("min_step_size", min_step_size, 0.0),
        max_step_size=number("max_step_size", max_step_size, 0.0),
    )
    return Optimizer(Partial(rprop_init), update)
