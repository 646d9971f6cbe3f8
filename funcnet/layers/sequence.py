"""Sequences of unequal lengths: the values with a mask of which of them are there."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from funcnet.layers.shape import stateless


class Masked(NamedTuple):
    """A batch of sequences x [n, T, ...] with a mask, bool [n, T], true where there is a value.

    Layers over time take it in the place of x and return the same form. Attention also takes a
    mask [n, T, T] or [n, heads, T, T], true where a query, in the last axis but one, may look at a
    key, in the last. What nobody may look at has no influence, be it NaN. What only some may look
    at is weighted by 0 for the others, and 0 times NaN is NaN.
    """

    x: Any
    mask: Any

    def __getattr__(self, name):
        raise AttributeError(
            f"a Masked sequence has no {name!r}; put layers for plain arrays inside masked(...)"
        )


def split(x):
    """(values, mask), the mask None where there is none."""
    return (x.x, x.mask) if isinstance(x, Masked) else (x, None)


def join(values, mask):
    """The values in the form in which `split` found them."""
    return values if mask is None else Masked(values, mask)


def check_mask(name, values, mask):
    """Whether a mask says of each step if it is there, and nothing else."""
    if mask is not None and (mask.shape != values.shape[:2] or mask.dtype != bool):
        raise ValueError(
            f"{name} expects a mask of bool and of the shape {values.shape[:2]}, "
            f"got {mask.dtype} of shape {mask.shape}"
        )


def check_pairs(name, values, mask):
    """Whether a mask is about the steps [n, T] or pairs of them, [n, T, T] or [n, heads, T, T]."""
    if mask is None:
        return
    n, steps = values.shape[:2]
    heads = mask.shape[1] if mask.ndim == 4 else 1
    shapes = ((n, steps), (n, steps, steps), (n, heads, steps, steps))
    if mask.shape not in shapes or mask.dtype != bool:
        raise ValueError(
            f"{name} expects a mask of bool and of the shape {shapes[0]} or {shapes[1]}, "
            f"got {mask.dtype} of shape {mask.shape}"
        )


def cleared(values, mask):
    """The values with 0 at the steps that a mask [n, T] says are not there: even a NaN there is
    then without influence. Of another mask, which is about pairs of steps, nothing is cleared."""
    if mask is None or mask.ndim != 2:
        return values
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (values.ndim - 2)), values, 0)


def last_step_apply(params, state, x, *, key=None, train=False):
    values, mask = split(x)
    if values.ndim < 2 or values.shape[1] < 1:
        raise ValueError(f"last_step expects [n, T, ...], T >= 1, got x of shape {values.shape}")
    check_mask("last_step", values, mask)
    if mask is None:
        return values[:, -1], state
    last = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    y = jnp.take_along_axis(values, last.reshape(-1, *[1] * (values.ndim - 1)), axis=1)[:, 0]
    return jnp.where(mask.any(axis=1).reshape(-1, *[1] * (y.ndim - 1)), y, 0), state


last_step = stateless(last_step_apply)
"""The value at the last step that is there: [n, T, features] -> [n, features]; 0 for none."""
