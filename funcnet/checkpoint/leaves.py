"""Trees to and from tensors by name: a leaf's name is its path, such as `params.0.weight`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.checkpoint.errors import (
    DtypeError,
    HeaderError,
    KeyKindError,
    ShapeError,
    TreeError,
)
from funcnet.checkpoint.header import CODES, METADATA, Entry
from funcnet.pairs import Tree, leaf_names

PRNG = "prng:"
UNNAMED = {
    np.dtype(scalar).name: np.dtype(scalar)
    for scalar in (
        np.complex128,
        jnp.float8_e3m4,
        jnp.float8_e4m3,
        jnp.float8_e4m3b11fnuz,
        jnp.float4_e2m1fn,
        jnp.int4,
        jnp.int2,
        jnp.uint4,
        jnp.uint2,
    )
}
"""Dtypes for which the format has no name: they are stored as their bytes, in a last axis."""


def bytes_axis(dtype) -> tuple[int, ...]:
    """What is added to the shape of an array of such a dtype when it is stored as bytes."""
    return (dtype.itemsize,) * (dtype.itemsize > 1)


def is_key(dtype) -> bool:
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def named_leaves(tree: Tree) -> dict[str, Any]:
    names = leaf_names(tree)
    if METADATA in names:
        raise ValueError(f"the format keeps the name {METADATA!r} for itself: rename that leaf")
    return dict(zip(names, jax.tree.leaves(tree), strict=True))


def to_host(name, leaf) -> tuple[np.ndarray, str | None]:
    """(the array to be stored, its kind where the array alone does not tell it)."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise ValueError(
            f"leaf {name!r} is spread over several processes, and this one has only a part of it"
        )
    if isinstance(leaf, jax.Array) and is_key(leaf.dtype):
        return np.asarray(jax.random.key_data(leaf)), PRNG + str(jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype in CODES:
        return array, None
    if array.dtype not in UNNAMED.values():
        raise TypeError(f"leaf {name!r} must be an array of numbers or keys, got {leaf!r:.80}")
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.reshape(array.shape + bytes_axis(array.dtype)), array.dtype.name


def tensors_of(tree: Tree) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, kinds) by name, on the host; a tensor may share its memory with the leaf."""
    leaves = named_leaves(tree)
    for leaf in leaves.values():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    hosted = {name: to_host(name, leaf) for name, leaf in leaves.items()}
    tensors = {name: array for name, (array, _) in hosted.items()}
    return tensors, {name: kind for name, (_, kind) in hosted.items() if kind is not None}


def meaning(name, entry: Entry, kind: str | None) -> jax.ShapeDtypeStruct:
    """What a stored tensor is: a key, an array of a dtype without a name, or just itself."""
    stored = jax.ShapeDtypeStruct(entry.shape, entry.dtype)
    if kind is None:
        return stored
    try:
        if kind.startswith(PRNG):
            wrap = functools.partial(jax.random.wrap_key_data, impl=kind.removeprefix(PRNG))
            return jax.eval_shape(wrap, stored)
        dtype = UNNAMED[kind]
    except (KeyError, TypeError, ValueError) as error:
        raise HeaderError(f"tensor {name!r} cannot be {kind[:80]!r}: {error}", name) from None
    width = bytes_axis(dtype)
    if entry.dtype != np.uint8 or entry.shape[len(entry.shape) - len(width) :] != width:
        raise HeaderError(
            f"tensor {name!r} cannot be {kind!r}, stored as {entry.dtype} of shape {entry.shape}",
            name,
        )
    return jax.ShapeDtypeStruct(entry.shape[: len(entry.shape) - len(width)], dtype)


def decoded(array: np.ndarray, kind: str | None) -> Any:
    """A stored tensor as what it is: a NumPy array, or a key."""
    if kind is None:
        return array
    if kind.startswith(PRNG):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=kind.removeprefix(PRNG))
    dtype = UNNAMED[kind]
    return array.reshape(-1).view(dtype).reshape(array.shape[: array.ndim - len(bytes_axis(dtype))])


def is_host(leaf) -> bool:
    return isinstance(leaf, bool | int | float | complex | np.ndarray | np.generic)


def check_leaf(name, leaf, found: jax.ShapeDtypeStruct) -> None:
    wanted = np.asarray(leaf) if is_host(leaf) else leaf
    if not isinstance(wanted, np.ndarray | jax.Array | jax.ShapeDtypeStruct):
        raise TypeError(
            f"the template's leaf {name!r} must be an array, a ShapeDtypeStruct or a number, "
            f"got {leaf!r:.80}"
        )
    if wanted.dtype != found.dtype:
        kind = KeyKindError if is_key(wanted.dtype) or is_key(found.dtype) else DtypeError
        raise kind(f"leaf {name!r}: expected {wanted.dtype}, got {found.dtype}", name)
    if wanted.shape != found.shape:
        raise ShapeError(f"leaf {name!r}: expected shape {wanted.shape}, got {found.shape}", name)
    if not is_host(leaf) and not is_key(wanted.dtype):
        held = jax.dtypes.canonicalize_dtype(wanted.dtype)
        if held != wanted.dtype:
            raise DtypeError(f"leaf {name!r}: {wanted.dtype} needs jax_enable_x64", name)


def check_leaves(leaves: dict[str, Any], found: dict[str, jax.ShapeDtypeStruct]) -> None:
    """Raise a `MismatchError` unless the file has the template's leaves."""
    missing = [name for name in leaves if name not in found]
    unexpected = [name for name in found if name not in leaves]
    if missing or unexpected:
        parts = [
            f"{len(names)} {what}: {', '.join(map(repr, names[:5]))}{', ...' * (len(names) > 5)}"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise TreeError(f"another tree: leaves {'; '.join(parts)}", (missing + unexpected)[0])
    for name, leaf in leaves.items():
        check_leaf(name, leaf, found[name])


def placed(array: Any, leaf: Any) -> Any:
    """A decoded tensor as the template's leaf is: on the host, or placed like it."""
    if isinstance(leaf, np.ndarray):
        return array
    if isinstance(leaf, np.generic):
        return array[()]
    if is_host(leaf):
        return type(leaf)(array.item())
    if getattr(leaf, "weak_type", False) and array.shape == ():
        weak = jnp.asarray(array.item())
        if weak.dtype == array.dtype:
            array = weak
    uncommitted = isinstance(leaf, jax.Array) and not leaf.committed
    return jax.device_put(array, None if uncommitted else leaf.sharding)
