"""Layers that move numbers and have none: `stateless` is what layers without parameters share."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.pairs import Network, fix, partial


def no_params(key: jax.Array) -> tuple[tuple[()], tuple[()]]:
    """`((), ())`: neither parameters nor state. The key is not used."""
    return (), ()


def stateless(apply: Callable[..., Any]) -> Network:
    """A network without parameters or state from its forward function."""
    return Network(Partial(no_params), partial(apply))


def check_array(name, x):
    """Whether x is no tuple of arrays, nor a `Masked` sequence, which is one too."""
    if isinstance(x, tuple | list):
        raise ValueError(
            f"{name} expects an array, got {type(x).__name__}; around a layer for plain arrays put "
            "masked(...), and behind parallel an add or concatenate"
        )


def check_parts(name, x):
    """Whether x is a plain tuple of arrays, such as `parallel` gives."""
    if type(x) not in (tuple, list) or not x:
        raise ValueError(f"{name} expects a tuple of arrays, got {type(x).__name__}")


def flatten_apply(params, state, x, *, key=None, train=False):
    check_array("flatten", x)
    if x.ndim < 1:
        raise ValueError("flatten expects a batch in the first axis, got a scalar")
    return x.reshape(x.shape[0], math.prod(x.shape[1:])), state


flatten = stateless(flatten_apply)
"""All axes but the first made one: [n, a, b, ...] -> [n, a * b * ...]."""


def tokens_apply(params, state, x, *, key=None, train=False):
    check_array("tokens", x)
    if x.ndim < 3:
        raise ValueError(f"tokens expects [n, *spatial, features], got x of shape {x.shape}")
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]), state


tokens = stateless(tokens_apply)
"""The spatial axes made one, as an image is made a sequence: [n, a, b, f] -> [n, a * b, f]."""


def identity_apply(params, state, x, *, key=None, train=False):
    check_array("identity", x)
    return jnp.asarray(x), state


identity = stateless(identity_apply)
"""y = x."""


def shaped_apply(params, state, x, *, key=None, train=False, shape):
    if x.shape[1:] != shape:
        raise ValueError(f"expected x of shape [n, {', '.join(map(str, shape))}], got {x.shape}")
    return x, state


def shaped(shape: tuple[int, ...]) -> Network:
    """y = x for x of shape [n, *shape]; raises `ValueError`, at trace time, for any other."""
    return stateless(Partial(fix(shaped_apply, shape=tuple(shape))))


def add_apply(params, state, x, *, key=None, train=False):
    check_parts("add", x)
    if len({part.shape for part in x}) != 1:
        raise ValueError(f"add expects parts of one shape, got {[part.shape for part in x]}")
    return sum(x[1:], x[0]), state


add = stateless(add_apply)
"""The sum of a tuple of arrays of one shape, such as `parallel` gives."""


def multiply_apply(params, state, x, *, key=None, train=False):
    check_parts("multiply", x)
    if len({part.shape for part in x}) != 1:
        raise ValueError(f"multiply expects parts of one shape, got {[part.shape for part in x]}")
    return math.prod(x[1:], start=x[0]), state


multiply = stateless(multiply_apply)
"""The product, element by element, of a tuple of arrays of one shape, such as `parallel` gives."""


def concatenate_apply(params, state, x, *, key=None, train=False):
    check_parts("concatenate", x)
    if len({part.shape[:-1] for part in x}) != 1:
        raise ValueError(
            "concatenate expects parts that differ in their last axis alone, "
            f"got {[part.shape for part in x]}"
        )
    return jnp.concatenate(x, axis=-1), state


concatenate = stateless(concatenate_apply)
"""A tuple of arrays joined in the last axis: [..., a], [..., b] -> [..., a + b]."""
