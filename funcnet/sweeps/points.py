"""Points of a sweep: a plain dict, name -> column of n values.

A column of numbers is an array [n], so that `jax.vmap(build)(**points)` makes n trainers; one of
choices (strings, functions, bools) is a tuple of n.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Points = dict[str, Any]
"""name -> array [n] or tuple of n."""


def is_number(value) -> bool:
    """Whether a value is a number to compute with, rather than a choice; a bool is a choice."""
    if isinstance(value, np.ndarray | jnp.ndarray):
        kinds = (jnp.floating, jnp.integer)
        return value.ndim == 0 and any(jnp.issubdtype(value.dtype, kind) for kind in kinds)
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def plain(value):
    """Whole numbers, bools and strings of NumPy's or JAX's as Python's, which are exact and of the
    type that a choice is compared by."""
    dtype = getattr(value, "dtype", None)
    kinds = (np.bool_, np.integer, np.character)
    if isinstance(dtype, np.dtype) and any(jnp.issubdtype(dtype, kind) for kind in kinds):
        return np.asarray(value).item() if np.ndim(value) == 0 else value
    return value


def is_several(value) -> bool:
    """Whether a value is a list or an array of some, which no single one is."""
    many = hasattr(value, "ndim") and not isinstance(value, type) and np.ndim(value) > 0
    return many or isinstance(value, list)


def column(name: str, values: Iterable[Any]):
    """Values as a column: an array of floats or ints where all are numbers, else a tuple."""
    if isinstance(values, jax.Array):
        if jnp.issubdtype(values.dtype, jax.dtypes.prng_key):
            raise TypeError(f"{name} must be seeds, of which build makes keys, got keys")
        values = np.asarray(values)
    values = tuple(plain(value) for value in values)
    if not values:
        raise ValueError(f"{name} needs at least one value, got none")
    for value in values:
        if is_several(value):
            raise ValueError(
                f"{name} must be a column of single values, got {value!r}; a choice of several "
                "numbers, such as widths, is a tuple"
            )
    if not all(is_number(value) for value in values):
        return values
    if not all(isinstance(value, int) for value in values):
        floats = (float(v) if isinstance(v, int) else np.asarray(v)[()] for v in values)
        return np.array([*floats])
    if wide := [value for value in values if not -(2**63) <= value < 2**63]:
        raise ValueError(f"{name} must be integers of 64 bits, got {wide[0]}")
    return np.array(values, np.int64)


def at(values, indices):
    """A column's values at some places."""
    if isinstance(values, tuple):
        return tuple(values[index] for index in indices)
    return np.asarray(values)[indices]


def as_places(indices) -> np.ndarray:
    """Places as ints, also those where a mask is true."""
    indices = np.asarray(indices)
    return np.flatnonzero(indices) if indices.dtype == bool else indices.astype(int)


def take(points: Mapping[str, Any], indices: Sequence[int] | np.ndarray) -> Points:
    """The points at `indices`, in that order, or where a mask is true."""
    indices = as_places(indices)
    return {name: at(values, indices) for name, values in points.items()}


def count(points: Mapping[str, Any]) -> int:
    """How many points there are; raises `ValueError` for columns of unequal lengths."""
    lengths = {name: len(values) for name, values in points.items()}
    if not lengths or len(set(lengths.values())) > 1:
        raise ValueError(f"points are columns of one length, got {lengths}")
    return next(iter(lengths.values()))


def crossed(*points: Mapping[str, Any]) -> Points:
    """Every combination of a point of each: n of one and m of the other make n m, the last
    changing fastest. `crossed(sample(key, 64, ...), grid(seed=range(3)))` gives each of 64 samples
    three seeds.

    Raises `ValueError` where two have a column of the same name.
    """
    if not points:
        raise ValueError("crossed expects points, got none")
    names = [name for one in points for name in one]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"crossed expects points of different names, got {twice} more than once")
    sizes = [count(one) for one in points]
    places = np.indices(sizes).reshape(len(sizes), -1)
    return {
        name: values
        for one, indices in zip(points, places, strict=True)
        for name, values in take(one, indices).items()
    }
