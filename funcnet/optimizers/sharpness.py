"""Gradients taken at the worst point nearby: engines to give to `trainer` in place of JAX's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import narrowed, plus_scaled, scaled, wide
from funcnet.optimizers.clipping import norm_parts
from funcnet.pairs import fix, number, partial


def as_engine(value_and_grad: Callable[..., Any]) -> Partial:
    """An engine as a Partial: of one that is a Partial already the numbers stay leaves, any other,
    a `functools.partial` too, is a choice."""
    if isinstance(value_and_grad, Partial):
        return partial(value_and_grad)
    return Partial(fix(value_and_grad))


def moved(params, rho, direction, sized):
    """params + rho d / |s| for trees d and s, which is params where s = 0."""
    scale, root = norm_parts(sized)
    length = rho / jnp.where(root == 0.0, 1.0, root)
    return narrowed(plus_scaled(wide(params), length, scaled(1.0 / scale, direction)), params)


def ascent(params, grads, *, rho):
    return moved(params, rho, wide(grads), grads)


def adaptive_ascent(params, grads, *, rho, eta):
    size = jax.tree.map(lambda p: jnp.abs(p) + jnp.asarray(eta, p.real.dtype), wide(params))
    sized = jax.tree.map(jnp.multiply, size, wide(grads))
    return moved(params, rho, jax.tree.map(jnp.multiply, size, sized), sized)


def at_ascent(loss, *, has_aux=False, value_and_grad, ascend):
    engine = value_and_grad(loss, has_aux=has_aux)

    def value_and_grad_at_ascent(params, *args, **context):
        result, grads = engine(params, *args, **context)
        # Of a complex parameter JAX's gradient is the conjugate of the way up.
        rise = jax.tree.map(jnp.conj, grads)
        _, grads = engine(ascend(params, rise), *args, **context)
        return result, grads

    return value_and_grad_at_ascent


def sam(rho=0.05, value_and_grad: Callable[..., Any] = jax.value_and_grad) -> Partial:
    """Sharpness-aware minimisation: the gradient at theta + rho g / |g|, g the one at theta
    (Foret et al. 2021, equations 2 and 3, without second-order terms).

    An engine, `trainer(task, optimizer, sam(0.05))`: whatever the optimizer, it descends along
    this gradient. Loss, metrics and the network's state are those at theta, so that running
    statistics are averaged once; both passes have the same batch and key. |g| is the norm over all
    parameters, and where g = 0 the point is theta. `value_and_grad` is the engine that it calls
    twice; rho is a leaf of the engine, and so of the trainer. Optax's `contrib.sam` wraps the
    optimizer instead, `opaque_mode=True` is the same; PyTorch has none.
    """
    ascend = Partial(ascent, rho=number("rho", rho, 0.0))
    return Partial(at_ascent, value_and_grad=as_engine(value_and_grad), ascend=ascend)


def asam(rho=0.5, *, eta=0.01, value_and_grad: Callable[..., Any] = jax.value_and_grad) -> Partial:
    """Adaptive SAM: the gradient at theta + rho T^2 g / |T g| with T = |theta| + eta, number by
    number, which does not change when two layers' weights are scaled against each other
    (Kwon et al. 2021).

    For the rest see `sam`. The authors' code takes T = 1 for biases; here all parameters are
    alike. Neither Optax nor PyTorch has it.
    """
    ascend = Partial(adaptive_ascent, rho=number("rho", rho, 0.0), eta=number("eta", eta, 0.0))
    return Partial(at_ascent, value_and_grad=as_engine(value_and_grad), ascend=ascend)
