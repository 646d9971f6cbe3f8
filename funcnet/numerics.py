"""Arithmetic, and what numbers are, that more than one family shares."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def whole(value):
    """Whether a size or a count is an integer, be it NumPy's."""
    return hasattr(value, "__index__") and not isinstance(value, bool) and np.ndim(value) == 0


def widen(x):
    """x in float32 or a wider type: sums of many numbers are taken so, as 16 bits are too few."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def zeros_beside(x, *shape, dtype):
    """0 in [n, *shape] for the n examples of x, on the devices that have them: in `shard_map` and
    on a mesh of explicit axes what belongs to a batch must be as much in parts as the batch is."""
    row = jnp.zeros_like(x[(slice(None), *(slice(1),) * (x.ndim - 1))], dtype)
    return jnp.broadcast_to(row.reshape(x.shape[0], *(1,) * len(shape)), (x.shape[0], *shape))


def native(leaf):
    """An array of NumPy in the machine's order of bytes, which JAX demands; else the leaf."""
    if not isinstance(leaf, np.ndarray):
        return leaf
    return leaf.astype(leaf.dtype.newbyteorder("="), copy=False)


def kinds(tree):
    """(its name, dtype and shape in words, its dtype) of each array in a tree."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if isinstance(dtype := getattr(leaf, "dtype", None), np.dtype):
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "an array"
            yield f"{name} {dtype}{list(leaf.shape)}", dtype


def check_kinds(tree):
    """Whether all arrays are of numbers or truth values."""
    for kind, dtype in kinds(tree):
        if jnp.issubdtype(dtype, jnp.number) or dtype.kind == "b":
            continue
        hint = ""
        if dtype.names:
            hint = ": give its fields, a dict of arrays"
        elif dtype.kind == "V":
            hint = ": if these are bfloat16, as NumPy's files forget, array.view(jnp.bfloat16)"
        raise TypeError(f"data must hold numbers, got {kind}{hint}")


def varying(tree):
    """The axes of `shard_map` over which any array in a tree varies."""
    axes = frozenset()
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            kind = getattr(jax.typeof(leaf), "manual_axis_type", None)
            axes |= getattr(kind, "varying", frozenset())
    return axes


def varied(tree, others):
    """The tree, each array of which varies over all axes of `shard_map` over which anything in it
    or in `others` does; outside of `shard_map` the tree itself.

    The carry of a loop must vary over what its steps will make it vary over. And a parameter that
    did not vary would have its gradient summed over the devices.
    """
    axes = varying((tree, others))

    def one(leaf):
        return lax.pcast(leaf, tuple(sorted(axes - varying(leaf))), to="varying")

    return jax.tree.map(one, tree) if axes else tree
