"""Sequences of unequal lengths: the values with a mask of which of them are there."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from funcnet.layers.shape import stateless


class Masked(NamedTuple):
    """A batch of sequences x [n, T, ...] with a mask, bool [n, T], true where there is a value.

    Layers over time take it in the place of x and return the same form. Attention also takes a
    mask [n, T, T] or [n, heads, T, T], true where a query (third axis from the end counts heads,
    the second queries, the last keys) may look. What is masked has no influence on what is not.
    """

    x: Any
    mask: Any


def split(x):
    """(values, mask), the mask None where there is none."""
    return (x.x, x.mask) if isinstance(x, Masked) else (x, None)


def join(values, mask):
    """The values in the form in which `split` found them."""
    return values if mask is None else Masked(values, mask)


def last_step_apply(params, state, x, *, key=None, train=False):
    values, mask = split(x)
    if mask is None:
        return values[:, -1], state
    last = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    y = jnp.take_along_axis(values, last[:, None, None], axis=1)[:, 0]
    return jnp.where(mask.any(axis=1)[:, None], y, 0.0), state


last_step = stateless(last_step_apply)
"""The value at the last step that is there: [n, T, features] -> [n, features]; 0 for none."""
