"""Layers that move numbers and have none: `stateless` is what layers without parameters share."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.pairs import Network, partial


def no_params(key: jax.Array) -> tuple[tuple[()], tuple[()]]:
    """`((), ())`: neither parameters nor state. The key is not used."""
    return (), ()


def stateless(apply: Callable[..., Any]) -> Network:
    """A network without parameters or state from its forward function."""
    return Network(Partial(no_params), partial(apply))


def flatten_apply(params, state, x, *, key=None, train=False):
    if x.ndim < 1:
        raise ValueError("flatten expects a batch in the first axis, got a scalar")
    return x.reshape(x.shape[0], math.prod(x.shape[1:])), state


flatten = stateless(flatten_apply)
"""All axes but the first made one: [n, a, b, ...] -> [n, a * b * ...]."""


def tokens_apply(params, state, x, *, key=None, train=False):
    if x.ndim < 3:
        raise ValueError(f"tokens expects [n, *spatial, features], got x of shape {x.shape}")
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]), state


tokens = stateless(tokens_apply)
"""The spatial axes made one, as an image is made a sequence: [n, a, b, f] -> [n, a * b, f]."""


def identity_apply(params, state, x, *, key=None, train=False):
    return jnp.asarray(x), state


identity = stateless(identity_apply)
"""y = x."""


def add_apply(params, state, x, *, key=None, train=False):
    if len({part.shape for part in x}) != 1:
        raise ValueError(f"add expects parts of one shape, got {[part.shape for part in x]}")
    return sum(x[1:], x[0]), state


add = stateless(add_apply)
"""The sum of a tuple of arrays of one shape, such as `parallel` gives."""


def multiply_apply(params, state, x, *, key=None, train=False):
    if len({part.shape for part in x}) != 1:
        raise ValueError(f"multiply expects parts of one shape, got {[part.shape for part in x]}")
    return math.prod(x[1:], start=x[0]), state


multiply = stateless(multiply_apply)
"""The product, element by element, of a tuple of arrays of one shape, such as `parallel` gives."""


def concatenate_apply(params, state, x, *, key=None, train=False):
    return jnp.concatenate(x, axis=-1), state


concatenate = stateless(concatenate_apply)
"""A tuple of arrays joined in the last axis: [..., a], [..., b] -> [..., a + b]."""
