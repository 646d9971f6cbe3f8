"""Optimizers that divide each coordinate by the size of its own gradients. Their sums and averages
are kept in float32 at least, whatever the parameters' dtype."""

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
    over_root,
    root_plus_eps,
    root_with_eps,
    scaled,
    square_zeros,
    squared,
    wide,
    wide_zeros,
)
from funcnet.optimizers.descent import momentum as heavy_ball
from funcnet.optimizers.descent import rate_at, sgd, sgd_init
from funcnet.optimizers.transforms import chain
from funcnet.pairs import Optimizer, fix, number
from funcnet.schedules import as_schedule


class AdagradState(NamedTuple):
    count: Any  # int32, updates made
    learning_rate: Any  # the one last used, 0 at first
    sum: Any  # of squared gradients, like the parameters, in float32 at least


class RmsState(NamedTuple):
    square: Any  # moving average of the squared gradient


class CenteredRmsState(NamedTuple):
    square: Any
    mean: Any  # moving average of the gradient


class AdadeltaState(NamedTuple):
    count: Any
    learning_rate: Any
    square: Any  # moving average of the squared gradient
    step_square: Any  # and of the squared step


class AdamState(NamedTuple):
    count: Any
    learning_rate: Any
    mean: Any  # first moment, like the parameters
    square: Any  # second moment


def adagrad_init(params):
    return AdagradState(*sgd_init(params), square_zeros(params))


def adagrad_update(grads, state, params=None, *, learning_rate, eps, initial_accumulator, root):
    rate = rate_at(learning_rate, state)
    total = jax.tree.map(jnp.add, state.sum, squared(grads))

    def step(g, s):
        return g / root(jnp.asarray(initial_accumulator, s.dtype) + s, eps)

    updates = scaled(-rate, jax.tree.map(step, wide(grads), total))
    return narrowed(updates, grads), AdagradState(counted(state.count), rate, total)


def adagrad(
    learning_rate=1e-2, *, eps=1e-10, initial_accumulator=0.0, eps_in_root=False
) -> Optimizer:
    """s <- s + g^2, theta <- theta - eta g / (sqrt(s) + eps), coordinate by coordinate
    (Duchi et al. 2011).

    As the paper and PyTorch, whose `lr_decay` is `learning_rate=inverse_time(rate, decay)`.
    Optax adds eps = 1e-7 inside the root and starts s at 0.1:
    `adagrad(rate, eps=1e-7, initial_accumulator=0.1, eps_in_root=True)`.
    """
    update = Partial(
        fix(adagrad_update, root=root_with_eps if eps_in_root else root_plus_eps),
        learning_rate=as_schedule("learning_rate", learning_rate),
        eps=number("eps", eps, 0.0),
        initial_accumulator=number("initial_accumulator", initial_accumulator, 0.0),
    )
    return Optimizer(Partial(adagrad_init), update)


def rms_init(params):
    return RmsState(square_zeros(params))


def divide_by_rms(grads, state, params=None, *, one_minus_decay, eps, root):
    square = moving_average(state.square, one_minus_decay, squared(grads))
    updates = jax.tree.map(lambda g, v: g / root(v, eps), wide(grads), square)
    return narrowed(updates, grads), RmsState(square)


def centered_rms_init(params):
    return CenteredRmsState(square_zeros(params), wide_zeros(params))


def divide_by_deviation(grads, state, params=None, *, one_minus_decay, eps, root):
    square = moving_average(state.square, one_minus_decay, squared(grads))
    mean = moving_average(state.mean, one_minus_decay, grads)
    variance = jax.tree.map(jnp.subtract, square, squared(mean))
    updates = jax.tree.map(lambda g, v: g / root(v, eps), wide(grads), variance)
    return narrowed(updates, grads), CenteredRmsState(square, mean)


def rmsprop(
    learning_rate=1e-3,
    decay=0.9,
    *,
    eps=1e-8,
    centered=False,
    momentum=None,
    eps_in_root=False,
    rate_in_velocity=False,
) -> Optimizer:
    """v <- b v + (1 - b) g^2, theta <- theta - eta g / (sqrt(v) + eps) (Hinton 2012, lecture 6e).

    b is `decay`, 0.9 in the lecture and in Optax, 0.99 in PyTorch (`alpha`). `centered=True`
    divides by the root of v - m^2, m the moving average of g (Graves 2013). With `momentum=mu`
    the quotient u goes through a velocity, w <- mu w + u, theta <- theta - eta w, as in PyTorch;
    `rate_in_velocity=True` has the rate inside it, w <- mu w - eta u, as in Optax, which differs
    only while the rate changes. Optax adds eps inside the root (`eps_in_root=True`), PyTorch
    outside.
    """
    update = Partial(
        fix(
            divide_by_deviation if centered else divide_by_rms,
            root=root_with_eps if eps_in_root else root_plus_eps,
        ),
        one_minus_decay=one_minus("decay", decay),
        eps=number("eps", eps, 0.0),
    )
    normalise = Optimizer(Partial(centered_rms_init if centered else rms_init), update)
    if momentum is None:
        return chain(normalise, sgd(learning_rate))
    velocity = heavy_ball(learning_rate, momentum, rate_in_velocity=rate_in_velocity)
    return chain(normalise, velocity)


def adadelta_init(params):
    return AdadeltaState(*sgd_init(params), square_zeros(params), square_zeros(params))


def adadelta_update(grads, state, params=None, *, learning_rate, one_minus_decay, eps):
    rate = rate_at(learning_rate, state)
    square = moving_average(state.square, one_minus_decay, squared(grads))

    def step(g, v, s):
        return root_with_eps(s, eps) / root_with_eps(v, eps) * g

    steps = jax.tree.map(step, wide(grads), square, state.step_square)
    step_square = moving_average(state.step_square, one_minus_decay, squared(steps))
    after = AdadeltaState(counted(state.count), rate, square, step_square)
    return narrowed(scaled(-rate, steps), grads), after


def adadelta(learning_rate=1.0, decay=0.9, *, eps=1e-6) -> Optimizer:
    """v <- b v + (1 - b) g^2, d = sqrt(s + eps) / sqrt(v + eps) g, s <- b s + (1 - b) d^2,
    theta <- theta - eta d (Zeiler 2012, where eta is 1).

    b is `decay`, both peers' `rho`. As PyTorch's and Optax's, whose rate has no default.
    """
    update = Partial(
        adadelta_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_decay=one_minus("decay", decay),
        eps=number("eps", eps, 0.0),
    )
    return Optimizer(Partial(adadelta_init), update)


def adam_init(params):
    return AdamState(*sgd_init(params), wide_zeros(params), square_zeros(params))


def adam_update(grads, state, params=None, *, learning_rate, one_minus_b1, one_minus_b2, eps):
    rate, count = rate_at(learning_rate, state), counted(state.count)
    mean = moving_average(state.mean, one_minus_b1, grads)
    square = moving_average(state.square, one_minus_b2, squared(grads))
    # m / (1 - b1^t) is taken into the rate: one division an element, not three.
    step_size = rate / bias_correction(one_minus_b1, count)
    unbias = 1.0 / bias_correction(one_minus_b2, count)
    updates = scaled(-step_size, over_root(mean, square, unbias, eps))
    return narrowed(updates, grads), AdamState(count, rate, mean, square)


def adam(learning_rate=1e-3, b1=0.9, b2=0.999, *, eps=1e-8) -> Optimizer:
    """m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2,
    theta <- theta - eta m' / (sqrt(v') + eps), m' = m / (1 - b1^t), v' = v / (1 - b2^t)
    (Kingma & Ba 2015, algorithm 1).

    As PyTorch's `Adam` and Optax's `adam`. The leaves are 1 - b1 and 1 - b2: a float32 b2 of
    0.999 would be off by 1e-5 of 1 - b2.
    """
    update = Partial(
        adam_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=one_minus("b2", b2),
        eps=number("eps", eps, 0.0),
    )
    return Optimizer(Partial(adam_init), update)
