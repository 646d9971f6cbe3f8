"""Descent whose result is an average of the points it went through."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import (
    bias_correction,
    counted,
    moving_average,
    narrowed,
    one_minus,
    over_root,
    plus_scaled,
    scaled,
    square_zeros,
    squared,
    wide,
    wide_copies,
)
from funcnet.optimizers.descent import rate_at, sgd_init
from funcnet.pairs import Optimizer, number
from funcnet.schedules import as_schedule


class AveragedSgdState(NamedTuple):
    count: Any
    learning_rate: Any
    average: Any  # of the parameters, in float32 at least: what to evaluate


class ScheduleFreeState(NamedTuple):
    count: Any
    learning_rate: Any
    largest_rate: Any
    weight: Any  # sum of all the averaged points' weights
    extrapolation: Any  # 1 / b1 - 1
    z: Any  # where plain descent has come, in float32 at least
    square: Any  # second moment, or () of plain descent


def averaged_sgd_init(params):
    return AveragedSgdState(*sgd_init(params), wide_copies(params))


def averaged_sgd_update(grads, state, params=None, *, learning_rate, decay, power, start):
    if params is None:
        raise ValueError("averaged_sgd needs the parameters: update(grads, state, params)")
    step = state.count.astype(state.learning_rate.dtype)
    rate = rate_at(learning_rate, state)
    rate = rate / (1.0 + decay * rate * step) ** power
    updates = scaled(-rate, plus_scaled(wide(grads), decay, params))
    moved = jax.tree.map(jnp.add, wide(params), updates)
    average = moving_average(state.average, 1.0 / jnp.maximum(step - start, 1.0), moved)
    return narrowed(updates, grads), AveragedSgdState(counted(state.count), rate, average)


def averaged_sgd(learning_rate=1e-2, *, decay=1e-4, power=0.75, start=1e6) -> Optimizer:
    """eta_n = eta / (1 + lambda eta n)^p, theta <- theta - eta_n (g + lambda theta),
    a <- a + (theta - a) / max(1, n - n0), n = 0 at first (Polyak & Juditsky 1992, with the rates of
    Bottou 2012).

    lambda is `decay`, p `power` and n0 `start`. Evaluate at `state.average`, a. As PyTorch's
    `ASGD` (`lambd`, `alpha`, `t0`), which keeps eta_n and the average's weight in float32, and
    under a schedule computes eta_n with the eta of the step before. Optax has none.
    """
    update = Partial(
        averaged_sgd_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        decay=number("decay", decay, 0.0),
        power=number("power", power, 0.0),
        start=number("start", start),
    )
    return Optimizer(Partial(averaged_sgd_init), update)


def schedule_free_sgd_init(params):
    zeros = (jnp.zeros(()) for _ in range(3))
    return ScheduleFreeState(*sgd_init(params), *zeros, wide_copies(params), ())


def schedule_free_adamw_init(params):
    return schedule_free_sgd_init(params)._replace(square=square_zeros(params))


def schedule_free_step(steps, state, params, learning_rate, one_minus_b1, weight_power):
    """The updates of y for z <- z - eta d, and the state after them."""
    rate = rate_at(learning_rate, state)
    largest_rate = jnp.maximum(state.largest_rate, rate)
    share = largest_rate**weight_power
    weight = jnp.asarray(state.weight + share, state.weight.dtype)
    c = share / jnp.where(weight == 0.0, 1.0, weight)
    z = plus_scaled(state.z, -rate, steps)
    # y = (1 - b1) z + b1 x before and after x <- (1 - c) x + c z, without x, and of the new z
    # alone: where the old one, which it replaces, is read too, XLA on a CPU copies that first.
    updates = scaled(c, jax.tree.map(jnp.subtract, z, wide(params)))
    updates = plus_scaled(updates, -rate * one_minus_b1 * (1.0 - c), steps)
    extrapolation = jnp.asarray(one_minus_b1 / (1.0 - one_minus_b1), rate.dtype)
    return updates, ScheduleFreeState(
        counted(state.count), rate, largest_rate, weight, extrapolation, z, state.square
    )


def schedule_free_sgd_update(
    grads, state, params=None, *, learning_rate, one_minus_b1, weight_power
):
    if params is None:
        raise ValueError("schedule_free_sgd needs the parameters: update(grads, state, params)")
    updates, state = schedule_free_step(
        wide(grads), state, params, learning_rate, one_minus_b1, weight_power
    )
    return narrowed(updates, grads), state


def schedule_free_adamw_update(
    grads,
    state,
    params=None,
    *,
    learning_rate,
    one_minus_b1,
    one_minus_b2,
    eps,
    weight_decay,
    weight_power,
):
    if params is None:
        raise ValueError("schedule_free_adamw needs the parameters: update(grads, state, params)")
    square = moving_average(state.square, one_minus_b2, squared(grads))
    unbias = 1.0 / bias_correction(one_minus_b2, counted(state.count))
    steps = plus_scaled(over_root(wide(grads), square, unbias, eps), weight_decay, params)
    updates, state = schedule_free_step(
        steps, state._replace(square=square), params, learning_rate, one_minus_b1, weight_power
    )
    return narrowed(updates, grads), state


def interpolation(b1):
    """1 - b1 for the weight b1 of the average in y, which must not be 0."""
    return 1.0 - number("b1", b1, float(np.finfo(np.float32).eps), 1.0)


def schedule_free_sgd(learning_rate=1.0, b1=0.9, *, weight_power=2.0) -> Optimizer:
    """z <- z - eta g(y), x <- (1 - c) x + c z, y = (1 - b1) z + b1 x with c = w / (sum of all w),
    w = (largest eta so far)^p (Defazio et al. 2024, equations 3 to 5; p in the authors' code).

    The parameters are y; evaluate at x, `schedule_free_eval(state, params)`. p is `weight_power`.
    Nothing around it may change its updates, as `lookahead` does: y would not be between z and x.
    As Optax's `contrib.schedule_free_sgd`, but under a schedule: there step n goes by schedule(n)
    and is weighed by schedule(n + 1), here both are schedule(n).
    """
    update = Partial(
        schedule_free_sgd_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=interpolation(b1),
        weight_power=number("weight_power", weight_power),
    )
    return Optimizer(Partial(schedule_free_sgd_init), update)


def schedule_free_adamw(
    learning_rate=2.5e-3, b1=0.9, b2=0.999, *, eps=1e-8, weight_decay=0.0, weight_power=2.0
) -> Optimizer:
    """`schedule_free_sgd` along g / (sqrt(v') + eps) + lambda y in place of g, Adam's v'
    (Defazio et al. 2024, algorithm 1).

    lambda is `weight_decay`. As Optax's `contrib.schedule_free_adamw`, with the same exception.
    """
    update = Partial(
        schedule_free_adamw_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=interpolation(b1),
        one_minus_b2=one_minus("b2", b2),
        eps=number("eps", eps, 0.0),
        weight_decay=number("weight_decay", weight_decay),
        weight_power=number("weight_power", weight_power),
    )
    return Optimizer(Partial(schedule_free_adamw_init), update)


def schedule_free_eval(state, params):
    """The average x = y + (1 / b1 - 1)(y - z) of a schedule-free optimizer: what to evaluate and
    to keep, in the parameters' dtypes.

    `fn.evaluate(trainer, s._replace(params=fn.schedule_free_eval(s.opt_state, s.params)), data)`
    for a run's state s.
    """
    if not isinstance(state, ScheduleFreeState):
        raise TypeError(
            f"schedule_free_eval expects a schedule-free optimizer's state, "
            f"got {type(state).__name__}"
        )
    y = wide(params)
    x = plus_scaled(y, state.extrapolation, jax.tree.map(jnp.subtract, y, state.z))
    return narrowed(x, params)
