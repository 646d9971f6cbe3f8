"""Arithmetic that more than one family shares."""

import jax.numpy as jnp


def widen(x):
    """x in float32 or a wider type: sums of many numbers are taken so, as 16 bits are too few."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
