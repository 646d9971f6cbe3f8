"""Gradient descent, plain and with momentum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import counted, narrowed, plus_scaled, scaled, wide, wide_zeros
from funcnet.pairs import Optimizer, number
from funcnet.schedules import as_schedule


class SgdState(NamedTuple):
    count: Any  # int32, updates made
    learning_rate: Any  # the one last used, 0 at first


class MomentumState(NamedTuple):
    count: Any
    learning_rate: Any
    velocity: Any  # like the parameters, in float32 at least


def rate_at(schedule, state):
    """The schedule's value for the next update, in the dtype that the state keeps."""
    return jnp.asarray(schedule(state.count), state.learning_rate.dtype)


def learning_rates(opt_state):
    """What `learning_rate` fields the optimizer's states hold, in their order."""
    paths = jax.tree_util.tree_flatten_with_path(opt_state)[0]
    return [leaf for path, leaf in paths if getattr(path[-1], "name", None) == "learning_rate"]


def sgd_init(params):
    return SgdState(jnp.zeros((), jnp.int32), jnp.zeros(()))


def sgd_update(grads, state, params=None, *, learning_rate):
    rate = rate_at(learning_rate, state)
    return scaled(-rate, grads), SgdState(counted(state.count), rate)


def sgd(learning_rate) -> Optimizer:
    """Gradient descent, theta <- theta - eta g (Robbins & Monro 1951).

    `learning_rate` is a number or a schedule `step -> rate`. Over the whole data set this is
    batch gradient descent, over one example stochastic, in between mini-batch.
    """
    schedule = as_schedule("learning_rate", learning_rate)
    return Optimizer(Partial(sgd_init), Partial(sgd_update, learning_rate=schedule))


def momentum_init(params):
    return MomentumState(*sgd_init(params), wide_zeros(params))


def rate_after(grads, state, params=None, *, learning_rate, decay, dampening):
    rate = rate_at(learning_rate, state)
    share = jnp.where(state.count == 0, 1.0, 1.0 - dampening)
    velocity = plus_scaled(scaled(decay, state.velocity), share, grads)
    updates = narrowed(scaled(-rate, velocity), grads)
    return updates, MomentumState(counted(state.count), rate, velocity)


def rate_inside(grads, state, params=None, *, learning_rate, decay, dampening):
    rate = rate_at(learning_rate, state)
    share = jnp.where(state.count == 0, 1.0, 1.0 - dampening)
    velocity = plus_scaled(scaled(decay, state.velocity), -rate * share, grads)
    return narrowed(velocity, grads), MomentumState(counted(state.count), rate, velocity)


def momentum(learning_rate, decay=0.9, *, dampening=0.0, rate_in_velocity=False) -> Optimizer:
    """Heavy ball, v <- mu v + (1 - dampening) g, theta <- theta - eta v (Polyak 1964).

    mu is `decay`. The rate is applied after the velocity, as PyTorch and Optax do;
    `rate_in_velocity=True` is the form of Sutskever et al. (2013), v <- mu v - eta g,
    theta <- theta + v, which differs only while the rate changes. `dampening` is PyTorch's,
    which leaves the first gradient undamped; Optax and the papers have none.
    """
    update = Partial(
        rate_inside if rate_in_velocity else rate_after,
        learning_rate=as_schedule("learning_rate", learning_rate),
        decay=number("decay", decay, 0.0, 1.0),
        dampening=number("dampening", dampening, 0.0, 1.0),
    )
    return Optimizer(Partial(momentum_init), update)


def nesterov_update(grads, state, params=None, *, learning_rate, decay):
    rate = rate_at(learning_rate, state)
    velocity = plus_scaled(wide(grads), decay, state.velocity)
    updates = scaled(-rate, plus_scaled(wide(grads), decay, velocity))
    return narrowed(updates, grads), MomentumState(counted(state.count), rate, velocity)


def nesterov(learning_rate, decay=0.9) -> Optimizer:
    """Nesterov's momentum, v <- mu v + g, theta <- theta - eta (g + mu v) (Nesterov 1983, in the
    form of Sutskever et al. 2013 with theta the point where the gradient is taken).

    mu is `decay`. As PyTorch's `SGD(nesterov=True)` and Optax's `sgd(nesterov=True)`.
    """
    update = Partial(
        nesterov_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        decay=number("decay", decay, 0.0, 1.0),
    )
    return Optimizer(Partial(momentum_init), update)
