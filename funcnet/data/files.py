"""Rows of arrays in files, read into memory of one's own.

A mapped file's pages count as the process's own memory once touched, and to map and unmap them
costs more than to read. So the rows are read, one by one: the file stays in the system's cache,
which gives way where memory is short. The system is told of all the rows before the first is read:
it then fetches them side by side, which from a disk takes a fraction of the time.
"""

import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ALIGNMENT = 64


class Piece(NamedTuple):
    """Rows that lie `stride` bytes apart in a file."""

    path: Path
    offset: int  # of the first, in bytes
    stride: int
    rows: int
    kind: tuple[tuple[int, ...], np.dtype[Any]]  # shape and dtype of a row


def piece_of(array: np.ndarray) -> Piece | None:
    """Where the rows of a mapped array lie in its file; None where they are not mapped, not whole,
    or were perhaps changed without the file (mode "c")."""
    whole = array[:1].flags.c_contiguous
    if not (whole and isinstance(array, np.memmap) and array.filename and array.mode != "c"):
        return None
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    start = np.frombuffer(base, np.uint8).__array_interface__["data"][0]
    mapped_from = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    offset = array.__array_interface__["data"][0] - start + mapped_from
    kind = array.shape[1:], array.dtype
    return Piece(Path(array.filename), offset, array.strides[0], len(array), kind)


def piece_in(path: Path) -> Piece:
    """The rows of a `.npy` file of numbers."""
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a .npy file: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim < 1:
        raise ValueError(f"{path} must hold one array with a leading axis of examples")
    check_numbers(path, array.dtype)
    piece = piece_of(array)
    if piece is None:
        raise ValueError(f"{path} must hold its rows one after another, got Fortran's order")
    return piece._replace(path=path)


def check_numbers(name, dtype):
    """Whether a `.npy` file holds the dtype as it is."""
    if dtype.kind not in "biufc":
        raise ValueError(f"{name} must hold numbers of a dtype of NumPy's own, got {dtype}")


def aligned(shape, dtype):
    """An empty array that begins where XLA wants it to, so that the CPU's device need not copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    skipped = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory[skipped : skipped + size].view(dtype).reshape(shape)


def read_rows(piece, indices, rows, places):
    """rows[places] = the rows at `indices`, in ascending order; `rows` is contiguous."""
    size = rows[:1].nbytes
    offsets = (piece.offset + indices.astype(np.int64) * piece.stride).tolist()
    memory = memoryview(rows.reshape(-1).view(np.uint8))
    with open(piece.path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for offset in offsets:
                os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_WILLNEED)
        for offset, place in zip(offsets, (places * size).tolist(), strict=True):
            file.seek(offset)
            if file.readinto(memory[place : place + size]) != size:
                raise ValueError(f"{piece.path} ends within a row, at byte {offset} and later")


class Rows:
    """An array in files, laid end to end, with its `shape` and `dtype`.

    Files are opened when rows of them are needed, one at a time.
    """

    def __init__(self, pieces: Sequence[Piece]):
        if not pieces:
            raise ValueError("an array must lie in at least one file, got none")
        first = pieces[0]
        for piece in pieces:
            if piece.kind != first.kind:
                raise ValueError(
                    f"{piece.path} holds rows of shape {piece.kind[0]} and dtype {piece.kind[1]}, "
                    f"expected {first.kind[0]} and {first.kind[1]} as in {first.path}"
                )
        self.pieces = pieces
        self.bounds = np.cumsum([0, *(piece.rows for piece in pieces)])
        self.shape, self.dtype = (int(self.bounds[-1]), *first.kind[0]), first.kind[1]

    def __getitem__(self, indices: Any) -> Any:
        """The rows at `indices`, int [k], in range."""
        order = np.argsort(indices)
        ascending = indices[order]
        rows = aligned((len(indices), *self.shape[1:]), self.dtype)
        cuts = np.searchsorted(ascending, self.bounds)
        for number in np.flatnonzero(np.diff(cuts)).tolist() if rows.size else ():
            part = slice(cuts[number], cuts[number + 1])
            read_rows(self.pieces[number], ascending[part] - self.bounds[number], rows, order[part])
        return rows
