"""Folders of shards, read as one source, and written."""

import itertools
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from funcnet.data.files import Rows, check_numbers, piece_in
from funcnet.data.sources import Arrays, as_examples, as_source
from funcnet.pairs import Tree, check_count

FILE = r"(?:(.+)-)?(\d+)\.npy"
UNFINISHED = "unfinished"
"""A file that is in the folder for as long as shards are written."""


def file_name(name, number):
    return f"{name}-{number:05d}.npy" if name else f"{number:05d}.npy"


def files_in(folder: Path) -> Any:
    """The lists of a folder's files, a dict, a tuple or a single one, as `write_shards` names
    them."""
    if (folder / UNFINISHED).exists():
        raise ValueError(f"{folder} was not written to its end: delete it, and write it again")
    found: dict[str, dict[int, Path]] = {}
    for path in folder.iterdir():
        if match := re.fullmatch(FILE, path.name):
            found.setdefault(match[1] or "", {})[int(match[2])] = path
    if not found:
        raise FileNotFoundError(f"no shards in {folder}: looked for NAME-00000.npy and so on")
    for name, paths in found.items():
        if gaps := sorted(set(range(max(paths))) - set(paths)):
            raise FileNotFoundError(f"no {file_name(name, gaps[0])} in {folder}, but later ones")
    lists = {name: [paths[number] for number in sorted(paths)] for name, paths in found.items()}
    if set(lists) == {""}:
        return lists[""]
    positions = [str(position) for position in range(len(lists))]
    return tuple(map(lists.get, positions)) if set(lists) == set(positions) else lists


def check_lengths(arrays):
    """Whether all have as many rows, naming the files where two begin to differ."""
    first = arrays[0]
    for other in arrays[1:]:
        if other.shape[0] == first.shape[0]:
            continue
        pairs = itertools.zip_longest(
            *([(piece.path, piece.rows) for piece in array.pieces] for array in (first, other)),
            fillvalue=("no file", 0),
        )
        (path, rows), (its_path, its_rows) = next((a, b) for a, b in pairs if a[1] != b[1])
        raise ValueError(
            f"arrays must have as many rows, got {first.shape[0]} and {other.shape[0]}: {path} "
            f"holds {rows}, but {its_path} {its_rows}"
        )


def are_paths(node):
    """Whether it is a list of files, and no tree of such lists."""
    return isinstance(node, list | tuple) and all(isinstance(p, str | os.PathLike) for p in node)


def sharded(files: str | os.PathLike[str] | Tree) -> Arrays:
    """The examples in `.npy` files: in a folder, named as by `write_shards`, or in a pytree of
    lists of files, each list an array in its order.

    Shards may be of unequal lengths, and need not be cut alike in each array. Here their headers
    are read; a file is opened while rows of it are read, one at a time. Raises `ValueError` or
    `FileNotFoundError`, with the file's name, for what is no array of numbers, for rows of another
    shape or dtype than the first file's, for arrays of unequal lengths, and for a missing number.
    """
    tree = files_in(Path(files)) if isinstance(files, str | os.PathLike) else files
    data = jax.tree.map(
        lambda paths: Rows([piece_in(Path(path)) for path in paths]), tree, is_leaf=are_paths
    )
    check_lengths(jax.tree.leaves(data))
    return as_source(data)


def named(part):
    """The arrays of a tuple, a dict or a bare array by name."""
    if isinstance(part, np.ndarray):
        return {"": part}
    parts = part if isinstance(part, dict) else {str(n): leaf for n, leaf in enumerate(part)}
    if wrong := [name for name, leaf in parts.items() if not isinstance(leaf, np.ndarray)]:
        raise ValueError(f"shards are of one array, or of a tuple or dict of them: not so {wrong}")
    if isinstance(part, dict):
        check_names(part)
    for name, array in parts.items():
        check_numbers(file_name(name, 0), array.dtype)
    return parts


def check_names(names):
    """Whether `files_in` would find a dict's names again."""
    for name in names:
        match = isinstance(name, str) and re.fullmatch(FILE, file_name(name, 0))
        if not (match and match[1] == name) or set(name) & set("/\\\0"):
            raise ValueError(
                f"a dict's keys name its files: expected text of one line, without slashes, "
                f"got {name!r}"
            )
    if set(names) == {str(position) for position in range(len(names))}:
        raise ValueError(f"a dict of keys {sorted(names)} would be read as a tuple: write a tuple")


def write_shards(folder: str | os.PathLike[str], data: Any, *, rows: int) -> None:
    """Write the examples of arrays, or of a source, as `.npy` files of `rows` each, the last one
    shorter: `x-00000.npy` and so on for a dict's "x", `0-00000.npy` for the first array of a tuple,
    `00000.npy` for a bare array.

    Raises `FileExistsError` where the folder has such files already, and `ValueError` for what they
    cannot hold, before the first is written. A folder that was not written to its end holds a file
    `unfinished` too, and `sharded` refuses it.
    """
    rows, folder, source = check_count("rows", rows, 1), Path(folder), as_examples(data)
    named(source.take(np.arange(1)))
    folder.mkdir(parents=True, exist_ok=True)
    if present := sorted([*folder.glob("*.npy"), *folder.glob(UNFINISHED)]):
        raise FileExistsError(f"{folder} has shards already, such as {present[0].name}")
    (folder / UNFINISHED).touch(exist_ok=False)
    for number, first in enumerate(range(0, len(source), rows)):
        part = source.take(np.arange(first, min(first + rows, len(source))))
        for name, array in named(part).items():
            # Where "x" and "X" are one file, the second is refused.
            with open(folder / file_name(name, number), "xb") as file:
                np.save(file, array)
    (folder / UNFINISHED).unlink()
