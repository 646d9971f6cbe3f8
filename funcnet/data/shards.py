"""One array in many `.npy` files."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from funcnet.data.mapped import read_rows

OPEN = 32
"""Files of an array that are open at once."""


def check_numbers(name, dtype):
    """Whether a `.npy` file holds the dtype as it is."""
    if dtype.kind not in "biufc":
        raise ValueError(f"{name} must hold numbers of a dtype of NumPy's own, got {dtype}")


def mapped(path):
    """A `.npy` file of numbers as a mapped array."""
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be mapped as a .npy file: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim < 1:
        raise ValueError(f"{path} must hold one array with a leading axis of examples")
    check_numbers(path, array.dtype)
    return array


class Shards:
    """An array in files, laid end to end: `shape` and `dtype` of the whole, `rows` in each.

    Each file's header is read when this is made; a file is mapped when rows of it are needed.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]):
        self.paths = [Path(path) for path in paths]
        if not self.paths:
            raise ValueError("shards must be at least one file, got none")
        self.mapped = functools.lru_cache(OPEN)(mapped)
        kinds = []
        for path in self.paths:
            array = mapped(path)
            kinds.append((len(array), array.shape[1:], array.dtype))
            if kinds[-1][1:] != kinds[0][1:]:
                raise ValueError(
                    f"{path} holds rows of shape {kinds[-1][1]} and dtype {kinds[-1][2]}, expected "
                    f"{kinds[0][1]} and {kinds[0][2]} as in {self.paths[0]}"
                )
        self.rows = [kind[0] for kind in kinds]
        self.bounds = np.cumsum([0, *self.rows])
        self.shape, self.dtype = (int(self.bounds[-1]), *kinds[0][1]), kinds[0][2]

    def read_rows(self, indices: Any, rows: Any, places: Any) -> None:
        """rows[places] = self[indices] for `indices` in ascending order."""
        cuts = np.searchsorted(indices, self.bounds)
        for shard in np.flatnonzero(np.diff(cuts)):
            part = slice(cuts[shard], cuts[shard + 1])
            array = self.mapped(self.paths[shard])
            read_rows(array, indices[part] - self.bounds[shard], rows, places[part])
