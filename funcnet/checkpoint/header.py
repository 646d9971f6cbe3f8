"""The layout of safetensors: 8 bytes, little-endian, the length of the header; the header, JSON,
padded with spaces; the tensors' bytes, without holes."""

import json
import math
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from funcnet.checkpoint.errors import HeaderError

LONGEST = 100_000_000
"""Bytes of the longest header, here as in other readers of the format. To parse one takes some 30
times its size, so that is what a hostile file can cost, and no more than 30 times the file."""

METADATA = "__metadata__"
DTYPES = {
    code: np.dtype(scalar)
    for code, scalar in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "F8_E5M2": jnp.float8_e5m2,
        "F8_E4M3": jnp.float8_e4m3fn,
        "F8_E8M0": jnp.float8_e8m0fnu,
        "F8_E5M2FNUZ": jnp.float8_e5m2fnuz,
        "F8_E4M3FNUZ": jnp.float8_e4m3fnuz,
        "I16": np.int16,
        "U16": np.uint16,
        "F16": np.float16,
        "BF16": jnp.bfloat16,
        "I32": np.int32,
        "U32": np.uint32,
        "F32": np.float32,
        "C64": np.complex64,
        "F64": np.float64,
        "I64": np.int64,
        "U64": np.uint64,
    }.items()
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


class Entry(NamedTuple):
    """A tensor, and where its bytes are, counted from the header's end."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Header(NamedTuple):
    entries: dict[str, Entry]  # in the order of their bytes
    metadata: dict[str, str]
    raw: bytes  # the length and the JSON, as they are in the file


def lay_out(tensors: dict[str, np.ndarray]) -> dict[str, Entry]:
    """One after the other in the order given."""
    entries, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        entries[name] = Entry(tensor.dtype, tensor.shape, start, end)
    return entries


def pack_header(entries: dict[str, Entry], metadata: dict[str, str]) -> bytes:
    table: dict[str, Any] = {METADATA: metadata} | {
        name: {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        for name, (dtype, shape, start, end) in entries.items()
    }
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    if len(text) > LONGEST:
        raise ValueError(
            f"the header would be {len(text)} bytes, at most {LONGEST} can be read: too many leaves"
        )
    return len(text).to_bytes(8, "little") + text


def unique(pairs):
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in table if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return table


def no_integer(text):
    raise ValueError(f"{text} is no integer")


def is_size(value):
    return type(value) is int and 0 <= value < 2**63


def entry_of(name, found, size) -> Entry:
    """A tensor's entry, checked by itself against the `size` of the data."""

    def wrong(what):
        return HeaderError(f"tensor {name!r}: {what}", name)

    if not isinstance(found, dict) or set(found) != {"dtype", "shape", "data_offsets"}:
        raise wrong("expected dtype, shape and data_offsets")
    code, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise wrong(f"expected a dtype of {sorted(DTYPES)}, got {str(code)[:80]!r}")
    if not isinstance(shape, list) or len(shape) > 64 or not all(map(is_size, shape)):
        raise wrong(f"expected a shape of at most 64 sizes, got {str(shape)[:80]}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_size, offsets)):
        raise wrong(f"expected two data_offsets, got {str(offsets)[:80]}")
    dtype, (start, end) = DTYPES[code], offsets
    if not start <= end <= size:
        raise wrong(f"expected data_offsets in order and up to {size}, got {offsets}")
    if end - start != dtype.itemsize * math.prod(shape):
        raise wrong(f"{end - start} bytes cannot hold {str(shape)[:80]} of {dtype}")
    if dtype.itemsize * math.prod(max(n, 1) for n in shape) >= 2**63:
        raise wrong(f"the shape {shape} is too large, though it is empty")
    return Entry(dtype, tuple(shape), start, end)


def parse_header(text: bytes, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """(entries, metadata) of the header of a file with `size` bytes of data, all checked."""
    try:
        table = json.loads(
            text.decode(),
            object_pairs_hook=unique,
            parse_float=no_integer,
            parse_constant=no_integer,
        )
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"the header is no JSON of sizes and names: {str(error)[:200]}") from None
    if text[:1] != b"{" or not isinstance(table, dict):
        raise HeaderError("the header does not begin with {")
    metadata = table.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise HeaderError(f"{METADATA} must be text by name")
    entries = {name: entry_of(name, found, size) for name, found in table.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    end = 0
    for name, entry in entries.items():
        if entry.start != end:
            kind = "overlaps" if entry.start < end else "leaves a hole after"
            raise HeaderError(f"tensor {name!r} {kind} the one before it", name)
        end = entry.end
    if end != size:
        raise HeaderError(f"the tensors take {end} bytes, but the file has {size} for them")
    return entries, metadata


def read_header(file: BinaryIO) -> Header:
    """The header of a file, checked, with the file then at its first tensor.

    Raises `HeaderError` for whatever does not fit: no tensor has been allocated by then.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if size < 8:
        raise HeaderError(f"{size} bytes are too few for the length of a header, 8")
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if length > min(size - 8, LONGEST):
        raise HeaderError(
            f"the header's length is given as {length}, but the file is of {size} bytes"
            + (f" and headers are of at most {LONGEST}" if size - 8 > LONGEST else "")
        )
    text = file.read(length)
    if len(text) < length:
        raise HeaderError(f"the file ends within its header, after {8 + len(text)} bytes")
    return Header(*parse_header(text, size - 8 - length), start + text)
