"""Tensors by name to and from a file, with a CRC-32 for each and a SHA-256 of the whole."""

import contextlib
import hashlib
import json
import queue
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from funcnet.checkpoint import files
from funcnet.checkpoint.errors import ChecksumError, HeaderError
from funcnet.checkpoint.header import Header, lay_out, pack_header

CHUNK = 1 << 20
"""Bytes that are read, hashed and written together, while they are in a cache."""

SHARED = 8 * CHUNK
"""Bytes of tensors from which on a second thread is worth its start, if they are of 64 KiB or more
on average."""

CRC32 = "funcnet.crc32"
SHA256 = "funcnet.sha256"
NO_DIGEST = "0" * 64


def digest_text(digest: str) -> bytes:
    """How the digest stands in a header. No name or value holds this: their quotes are escaped."""
    return f'"{SHA256}":"{digest}"'.encode()


def chunks(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of an array that is contiguous, in place."""
    view = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]


@contextlib.contextmanager
def hashing(digest: Any, size: int, count: int) -> Iterator[Callable[[Any], None]]:
    """`digest.update`, of `count` tensors of `size` bytes in all; nothing without a digest. Where
    they are large a thread does it, in order, while the next bytes are read or written, and the end
    waits for it.

    Not by an executor, since none takes anything more once Python ends, when a save may be on its
    way. Few chunks wait, so that no tensor is kept for long.
    """
    if digest is None or size < max(SHARED, count << 16):
        yield (lambda chunk: None) if digest is None else digest.update
        return
    waiting: queue.Queue[Any] = queue.Queue(4)

    def work():
        while (chunk := waiting.get()) is not None:
            digest.update(chunk)

    thread = threading.Thread(target=work, name="digest", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system allows no more: it is slower, but not lost
        yield digest.update
        return
    try:
        yield waiting.put
    finally:
        waiting.put(None)
        thread.join()


def write_tensors(file: BinaryIO, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write the whole file; wide dtypes come first, so that all are aligned.

    The SHA-256 is of the bytes from the header's end to the file's, followed by those before it,
    the length and the JSON with its spaces, in which the digest's own 64 digits are zeros.
    """
    tensors = {
        name: np.ascontiguousarray(tensor).reshape(tensor.shape)
        for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    }
    entries, sums = lay_out(tensors), dict.fromkeys(tensors, "0" * 8)

    def header():
        return pack_header(entries, {**metadata, CRC32: json.dumps(sums), SHA256: NO_DIGEST})

    files.write(file, header())  # of the same length as the one that is written over it
    digest = hashlib.sha256()
    with hashing(digest, sum(t.nbytes for t in tensors.values()), len(tensors)) as update:
        for name, tensor in tensors.items():
            crc = 0
            for chunk in chunks(tensor):
                update(chunk)
                crc = zlib.crc32(chunk, crc)
                files.write(file, chunk)
            sums[name] = f"{crc:08x}"
    final = header()
    digest.update(final)
    file.seek(0)
    files.write(file, final.replace(digest_text(NO_DIGEST), digest_text(digest.hexdigest())))


def table_of(header: Header, name: str) -> dict[str, str]:
    """A table of texts by tensor, which the metadata holds as JSON; empty where there is none."""
    try:
        table = json.loads(header.metadata.get(name, "{}"))
    except (ValueError, RecursionError):
        table = None
    if not (
        isinstance(table, dict)
        and table.keys() <= header.entries.keys()
        and all(isinstance(value, str) for value in table.values())
    ):
        raise HeaderError(f"the metadata {name} is no table of texts by tensor")
    return table


def is_checked(header: Header) -> bool:
    return SHA256 in header.metadata


def read_tensor(file, name, entry, update) -> tuple[np.ndarray, int]:
    """(a tensor, its CRC-32)."""
    try:
        tensor = np.empty(entry.shape, entry.dtype)
    except ValueError as error:
        raise HeaderError(f"tensor {name!r}: {error}", name) from None
    crc = 0
    for chunk in chunks(tensor):
        if file.readinto(chunk) != len(chunk):
            raise HeaderError(f"the file ends within tensor {name!r}", name)
        update(chunk)
        crc = zlib.crc32(chunk, crc)
    return tensor, crc


def read_tensors(file: BinaryIO, header: Header) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor in the order of its bytes, read straight into its array.

    Where the metadata has sums they are held against them: each tensor's before it is yielded, the
    whole's after the last, so what came is to be trusted, or changed, only once this has ended.
    Raises `ChecksumError`.
    """
    sums, digest = table_of(header, CRC32), hashlib.sha256()
    if is_checked(header) and sums.keys() != header.entries.keys():
        raise HeaderError(f"{CRC32} does not have the tensors' names")
    file.seek(len(header.raw))
    size = sum(entry.end - entry.start for entry in header.entries.values())
    with hashing(digest if is_checked(header) else None, size, len(header.entries)) as update:
        for name, entry in header.entries.items():
            tensor, crc = read_tensor(file, name, entry, update)
            if sums.get(name, f"{crc:08x}") != f"{crc:08x}":
                raise ChecksumError(
                    f"leaf {name!r} is damaged: expected the CRC-32 {sums[name]}, got {crc:08x}",
                    name,
                )
            if tensor.dtype == bool and tensor.view(np.uint8).max(initial=0) > 1:
                raise HeaderError(
                    f"tensor {name!r} has bytes that are neither true nor false", name
                )
            yield name, tensor
    if is_checked(header):
        wanted = digest_text(header.metadata[SHA256])
        digest.update(header.raw.replace(wanted, digest_text(NO_DIGEST)))
        if header.raw.count(wanted) != 1 or digest.hexdigest() != header.metadata[SHA256]:
            raise ChecksumError(
                f"expected the SHA-256 {header.metadata[SHA256][:80]}, got {digest.hexdigest()}"
            )
