"""Layers that are linear in their input."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.tree_util import Partial

from funcnet.layers.shape import check_array
from funcnet.numerics import whole, widen
from funcnet.pairs import Network, fix, partial

lecun_normal = initializers.lecun_normal()
"""Var(w) = 1 / fan_in (LeCun et al. 1998): keeps the variance of a linear layer's output."""

Initializer = Callable[..., Any]
"""`(key, shape) -> array`, as in `jax.nn.initializers`."""


def check_inexact(name, x):
    """Whether x is an array of real or complex numbers, not of integers."""
    check_array(name, x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ValueError(
            f"{name} expects floating-point features, got x of dtype {x.dtype}; "
            "scale integer images first, e.g. x / 255"
        )


def check_floating(name, x):
    """Whether x is an array of real numbers, where the formula is wrong of complex ones."""
    check_inexact(name, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{name} expects real features, got x of dtype {x.dtype}; "
            "give it real and imaginary parts as features of their own"
        )


def dense_init(key, *, fan_in, fan_out, weight_init, bias_init):
    weight_key, bias_key = jax.random.split(key)
    params = {"weight": weight_init(weight_key, (fan_in, fan_out))}
    if bias_init is not None:
        params["bias"] = bias_init(bias_key, (fan_out,))
    return params, ()


def biased(params, y):
    """y + b, if there is a b, added wide, as is then its gradient, a sum over all positions."""
    if "bias" not in params:
        return y
    bias = params["bias"]
    return (widen(y) + widen(bias)).astype(jnp.result_type(y, bias))


def dense_apply(params, state, x, *, key=None, train=False):
    weight = params["weight"]
    check_inexact("dense", x)
    if x.ndim < 1 or x.shape[-1] != weight.shape[0]:
        raise ValueError(
            f"dense expects {weight.shape[0]} features in the last axis, got x of shape {x.shape}"
        )
    return biased(params, x @ weight), state


def dense(
    fan_in: int,
    fan_out: int,
    *,
    weight_init: Initializer = lecun_normal,
    bias_init: Initializer | None = initializers.zeros,
) -> Network:
    """Affine map of the last axis, y = x W + b.

    x: [..., fan_in], W: [fan_in, fan_out], b: [fan_out], y: [..., fan_out]. `bias_init=None`
    leaves b out. The initialisers are those of `jax.nn.initializers`, `(key, shape) -> array`;
    make one once and reuse it, since two made alike are different functions and compile twice.
    One with its numbers bound by `Partial` has them as leaves, so its scale can be swept.

    Raises `ValueError` for sizes below 1 and, at trace time, for x of another width or of integers.
    """
    for name, size in (("fan_in", fan_in), ("fan_out", fan_out)):
        if not whole(size) or size < 1:
            raise ValueError(f"dense expects {name} to be a positive integer, got {size!r}")
    init = Partial(
        fix(dense_init, fan_in=int(fan_in), fan_out=int(fan_out)),
        weight_init=partial(weight_init),
        bias_init=None if bias_init is None else partial(bias_init),
    )
    return Network(init, Partial(dense_apply))
