"""Adam's successors: other averages of the gradient over the root of a second moment."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.optimizers.adaptive import AdamState, adam_init
from funcnet.optimizers.arithmetic import (
    bias_correction,
    counted,
    moving_average,
    narrowed,
    one_minus,
    over_root,
    plus_scaled,
    root_with_eps,
    safe_sqrt,
    scaled,
    squared,
    wide,
    wide_zeros,
)
from funcnet.optimizers.decay import decoupled_decay
from funcnet.optimizers.descent import rate_at
from funcnet.pairs import Optimizer, number, partial
from funcnet.schedules import as_schedule


class AdanState(NamedTuple):
    count: Any
    learning_rate: Any
    mean: Any  # of the gradients
    change: Any  # of the gradients' differences
    square: Any  # of the gradient looked ahead
    gradient: Any  # the last one


class AdemamixState(NamedTuple):
    count: Any
    learning_rate: Any
    fast: Any  # mean of the gradients, of b1
    slow: Any  # and of b3
    square: Any


def adan_init(params):
    count, rate, mean, square = adam_init(params)
    return AdanState(count, rate, mean, wide_zeros(params), square, wide_zeros(params))


def adan_update(
    grads,
    state,
    params=None,
    *,
    learning_rate,
    one_minus_b1,
    one_minus_b2,
    one_minus_b3,
    look_ahead,
    eps,
    eps_root,
):
    rate, count = rate_at(learning_rate, state), counted(state.count)
    g = wide(grads)
    difference = jax.tree.map(
        lambda x, last: jnp.where(state.count == 0, 0.0, x - last), g, state.gradient
    )
    mean = moving_average(state.mean, one_minus_b1, g)
    change = moving_average(state.change, one_minus_b2, difference)
    square = moving_average(
        state.square, one_minus_b3, squared(plus_scaled(g, look_ahead, difference))
    )
    ahead = plus_scaled(
        scaled(1.0 / bias_correction(one_minus_b1, count), mean),
        look_ahead / bias_correction(one_minus_b2, count),
        change,
    )
    unbias = 1.0 / bias_correction(one_minus_b3, count)

    def step(u, n):
        root = root_with_eps(jnp.asarray(unbias, n.dtype) * n, eps_root)
        return u / (root + jnp.asarray(eps, n.dtype))

    updates = scaled(-rate, jax.tree.map(step, ahead, square))
    after = AdanState(count, rate, mean, change, square, g)
    return narrowed(updates, grads), after


def adan(
    learning_rate=1e-3,
    b1=0.98,
    b2=0.92,
    b3=0.99,
    *,
    look_ahead=None,
    eps=1e-8,
    eps_root=0.0,
    weight_decay=0.0,
) -> Optimizer:
    """m <- b1 m + (1 - b1) g, d <- b2 d + (1 - b2) (g - g_last),
    n <- b3 n + (1 - b3) (g + a (g - g_last))^2,
    theta <- theta - eta ((m' + a d') / (sqrt(n' + eps_root) + eps) + lambda theta), ' as in Adam
    (Xie et al. 2022, algorithm 1, whose beta are 1 - b).

    a is `look_ahead`, b2 in the paper and here. Optax's `adan` has 1 - b2 there, which mixes the
    two ways to write b2, and an eps inside the root: `adan(rate, look_ahead=0.08, eps_root=1e-8)`.
    lambda is `weight_decay`, as in the authors' code with `no_prox=True`, which otherwise divides
    theta by 1 + eta lambda.
    """
    update = Partial(
        adan_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=one_minus("b2", b2),
        one_minus_b3=one_minus("b3", b3),
        look_ahead=number("look_ahead", b2 if look_ahead is None else look_ahead),
        eps=number("eps", eps, 0.0),
        eps_root=number("eps_root", eps_root, 0.0),
    )
    return decoupled_decay(Optimizer(Partial(adan_init), update), weight_decay)


def unclipped(x, count):
    return x


def clipped_at_power(x, count, *, power):
    """Each number within [-t^power, t^power], a complex one's magnitude."""
    limit = jnp.maximum(count, 1).astype(x.real.dtype) ** jnp.asarray(power, x.real.dtype)
    if jnp.iscomplexobj(x):
        return limit / jnp.maximum(jnp.abs(x), limit) * x
    return jnp.clip(x, -limit, limit)


def adopt_update(
    grads, state, params=None, *, learning_rate, one_minus_b1, one_minus_b2, eps, clip
):
    rate, first = rate_at(learning_rate, state), state.count == 0

    def normalised(g, v):
        return clip(g / jnp.maximum(safe_sqrt(v), jnp.asarray(eps, v.dtype)), state.count)

    quotient = jax.tree.map(normalised, wide(grads), state.square)
    mean = moving_average(state.mean, jnp.where(first, 0.0, one_minus_b1), quotient)
    square = moving_average(state.square, jnp.where(first, 1.0, one_minus_b2), squared(grads))
    updates = narrowed(scaled(-rate, mean), grads)
    return updates, AdamState(counted(state.count), rate, mean, square)


def adopt(learning_rate=1e-3, b1=0.9, b2=0.9999, *, eps=1e-6, clip_power: Any = 0.25) -> Optimizer:
    """m <- b1 m + (1 - b1) clip(g / max(sqrt(v), eps)), theta <- theta - eta m,
    v <- b2 v + (1 - b2) g^2, v the one before this gradient (Taniguchi et al. 2024).

    The clip is to [-t^p, t^p] at step t = 0, 1, ..., p being `clip_power`; `None` is without. The
    first gradient starts v and moves nothing. As Optax's `contrib.adopt`, whose
    `use_clipping=False` is `None`. For decay see `decoupled_decay`.
    """
    clip = Partial(unclipped)
    if clip_power is not None:
        clip = Partial(clipped_at_power, power=number("clip_power", clip_power))
    update = Partial(
        adopt_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=one_minus("b2", b2),
        eps=number("eps", eps, 0.0),
        clip=clip,
    )
    return Optimizer(Partial(adam_init), update)


def one_minus_value(step, *, schedule):
    return 1.0 - schedule(step)


def ademamix_init(params):
    count, rate, fast, square = adam_init(params)
    return AdemamixState(count, rate, fast, wide_zeros(params), square)


def ademamix_update(
    grads,
    state,
    params=None,
    *,
    learning_rate,
    one_minus_b1,
    one_minus_b2,
    one_minus_b3,
    alpha,
    eps,
):
    rate, count = rate_at(learning_rate, state), counted(state.count)
    fast = moving_average(state.fast, one_minus_b1, grads)
    slow = moving_average(state.slow, one_minus_b3(state.count), grads)
    square = moving_average(state.square, one_minus_b2, squared(grads))
    mixed = plus_scaled(
        scaled(1.0 / bias_correction(one_minus_b1, count), fast), alpha(state.count), slow
    )
    unbias = 1.0 / bias_correction(one_minus_b2, count)
    updates = scaled(-rate, over_root(mixed, square, unbias, eps))
    return narrowed(updates, grads), AdemamixState(count, rate, fast, slow, square)


def ademamix(
    learning_rate=1e-3, b1=0.9, b2=0.999, b3=0.9999, *, alpha=5.0, eps=1e-8, weight_decay=0.0
) -> Optimizer:
    """m1 <- b1 m1 + (1 - b1) g, m2 <- b3 m2 + (1 - b3) g, v as in Adam,
    theta <- theta - eta ((m1' + alpha m2) / (sqrt(v') + eps) + lambda theta), ' as in Adam
    (Pagliardini et al. 2024, algorithm 1).

    `alpha` and `b3` are numbers or schedules, which rise in the paper. lambda is `weight_decay`.
    As Optax's `contrib.ademamix`.
    """
    if callable(b3):
        slow = Partial(one_minus_value, schedule=partial(b3))
    else:
        slow = as_schedule("b3", one_minus("b3", b3))
    update = Partial(
        ademamix_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=one_minus("b2", b2),
        one_minus_b3=slow,
        alpha=as_schedule("alpha", alpha),
        eps=number("eps", eps, 0.0),
    )
    return decoupled_decay(Optimizer(Partial(ademamix_init), update), weight_decay)
