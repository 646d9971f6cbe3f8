"""Activations as networks. The functions are `jax.nn`'s."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.layers.linear import check_floating
from funcnet.layers.shape import check_array, no_params
from funcnet.numerics import widen
from funcnet.pairs import Network, fix, number, partial


def activation_apply(params, state, x, *, key=None, train=False, function):
    check_array("activation", x)
    return function(x), state


def activation(function: Callable[[Any], Any]) -> Network:
    """The network y = function(x) of any function that acts on each element alone.

    Name a top-level function (`activation(jnp.sin)`): a lambda made anew is a new function and
    compiles again.
    """
    return Network(Partial(no_params), Partial(activation_apply, function=partial(function)))


relu = activation(jax.nn.relu)
"""max(x, 0); its derivative at 0 is 0."""

tanh = activation(jnp.tanh)
"""(exp(x) - exp(-x)) / (exp(x) + exp(-x))."""

sigmoid = activation(jax.nn.sigmoid)
"""1 / (1 + exp(-x))."""

gelu = activation(fix(jax.nn.gelu, approximate=False))
"""x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016): the exact form, as in
PyTorch; JAX and Flax default to the tanh approximation."""

silu = activation(jax.nn.silu)
"""x sigmoid(x), also called swish."""

softplus = activation(jax.nn.softplus)
"""log(1 + exp(x))."""

elu = activation(jax.nn.elu)
"""x for x > 0, exp(x) - 1 elsewhere (Clevert et al. 2016, alpha = 1)."""


def leaky(x, *, slope):
    check_floating("leaky_relu", x)
    wide = widen(x)  # as is then the slope's gradient, a sum over all elements
    return jax.nn.leaky_relu(wide, jnp.asarray(slope, wide.dtype)).astype(x.dtype)


def leaky_relu(slope: float = 0.01) -> Network:
    """x for x >= 0, slope * x elsewhere (Maas et al. 2013); the slope is a leaf."""
    return activation(Partial(leaky, slope=number("slope", slope)))
