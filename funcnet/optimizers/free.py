"""Optimizers that find their own learning rate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import (
    bias_correction,
    counted,
    inner,
    moving_average,
    narrowed,
    one_minus,
    over_root,
    plus_scaled,
    safe_sqrt,
    scaled,
    squared,
    wide,
    wide_copies,
    wide_zeros,
)
from funcnet.optimizers.decay import decoupled_decay
from funcnet.optimizers.descent import sgd_init
from funcnet.pairs import Optimizer, fix, number
from funcnet.schedules import as_schedule


class ProdigyState(NamedTuple):
    count: Any
    learning_rate: Any  # the one last used: the schedule's value times the distance
    distance: Any  # d, estimate of |theta_0 - theta*|
    numerator: Any  # r
    mean: Any  # of d g
    square: Any  # of d^2 g^2
    sum: Any  # s, decayed sum of weighted gradients
    start: Any  # theta_0, in float32 at least


def prodigy_init(params):
    zeros = (wide_zeros(params) for _ in range(3))
    return ProdigyState(
        *sgd_init(params), jnp.zeros(()), jnp.zeros(()), *zeros, wide_copies(params)
    )


def weighed_by_rate(distance, rate):
    return rate


def weighed_by_distance(distance, rate):
    return distance


def adams_correction(one_minus_b1, one_minus_b2, count):
    """sqrt(1 - b2^t) / (1 - b1^t)."""
    c1, c2 = (bias_correction(f, count) for f in (one_minus_b1, one_minus_b2))
    return safe_sqrt(c2) / c1


def no_correction(one_minus_b1, one_minus_b2, count):
    return 1.0


def prodigy_update(
    grads,
    state,
    params=None,
    *,
    learning_rate,
    one_minus_b1,
    one_minus_b2,
    one_minus_b3,
    eps,
    initial_distance,
    growth,
    correct,
    weigh,
):
    if params is None:
        raise ValueError("prodigy needs the parameters: update(grads, state, params)")
    g, count = wide(grads), counted(state.count)
    d = jnp.where(state.count == 0, initial_distance, state.distance)
    rate = d * learning_rate(state.count) * correct(one_minus_b1, one_minus_b2, count)
    rate = jnp.asarray(rate, state.learning_rate.dtype)
    mean = moving_average(state.mean, one_minus_b1, scaled(d, g))
    square = moving_average(state.square, one_minus_b2, squared(scaled(d, g)))
    # Relative to the first estimate, or they would be too small.
    size, b3 = d / initial_distance, 1.0 - one_minus_b3
    walked = inner(g, jax.tree.map(jnp.subtract, state.start, wide(params)))
    numerator = jnp.asarray(b3 * state.numerator + size * rate * walked, state.numerator.dtype)
    total = plus_scaled(scaled(b3, state.sum), size * weigh(d, rate), g)
    length = inner(total, jax.tree.map(jnp.sign, total))
    found = growth * numerator / jnp.where(length == 0.0, 1.0, length)
    distance = jnp.asarray(jnp.maximum(d, found), state.distance.dtype)
    updates = scaled(-rate, over_root(mean, square, 1.0, distance * eps))
    return narrowed(updates, grads), ProdigyState(
        count, rate, distance, numerator, mean, square, total, state.start
    )


def prodigy(
    learning_rate=1.0,
    b1=0.9,
    b2=0.999,
    b3=None,
    *,
    eps=1e-8,
    initial_distance=1e-6,
    growth=1.0,
    weight_decay=0.0,
    safeguard_warmup=False,
    corrected=True,
) -> Optimizer:
    """Adam on d g, whose rate is eta d with the estimate d <- max(d, r / |s|_1) of the distance
    from theta_0 to the minimum, r <- b3 r + eta d^2 <g, theta_0 - theta> / d_0,
    s <- b3 s + eta d^2 g / d_0, b3 = sqrt(b2) (Mishchenko & Defazio 2024).

    d_0 is `initial_distance`, and `growth` is a factor of r / |s|_1. `learning_rate` is 1 or a
    schedule from 1 down; the state's is eta d, with Adam's bias corrections. As Optax's
    `contrib.prodigy` (`estim_lr0`, `estim_lr_coef`), but a gradient of 0 leaves d as it is, where
    that gives NaN. The authors' code has `corrected=False` by default. `safeguard_warmup=True`
    leaves eta out of s. The decay is decoupled, eta d lambda theta.
    """
    fraction = one_minus("b2", b2)
    # 1 - sqrt(b2), without the loss of digits.
    root_fraction = fraction / (1.0 + (1.0 - fraction) ** 0.5)
    update = Partial(
        fix(
            prodigy_update,
            correct=adams_correction if corrected else no_correction,
            weigh=weighed_by_distance if safeguard_warmup else weighed_by_rate,
        ),
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=fraction,
        one_minus_b3=root_fraction if b3 is None else one_minus("b3", b3),
        eps=number("eps", eps, 0.0),
        # Its square has to be more than 0 in float32.
        initial_distance=number("initial_distance", initial_distance, 1e-18),
        growth=number("growth", growth, 0.0),
    )
    return decoupled_decay(Optimizer(Partial(prodigy_init), update), weight_decay)
