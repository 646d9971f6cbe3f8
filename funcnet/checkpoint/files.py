"""A file that is replaced as a whole or not at all, also when the power fails.

The functions up to `remove` are all that is ever done to a disk, one operation each.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def create(path: Path) -> BinaryIO:
    """A new empty file, locked until it is closed or the process ends."""
    while True:
        file = open(path, "xb", buffering=0)  # noqa: SIM115
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # removed as a stale one before it was locked


def write(file: BinaryIO, data: Any) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def sync(file: BinaryIO) -> None:
    """The file's bytes are on the disk."""
    os.fsync(file.fileno())


def rename(old: Path, new: Path) -> None:
    os.replace(old, new)


def sync_folder(folder: Path) -> None:
    """The names in the folder are on the disk."""
    if fcntl is None:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    os.unlink(path)


def replace(path: Path, fill: Callable[[BinaryIO], None]) -> None:
    """`path` becomes the file that `fill(file)` writes, durably: a temporary file beside it is
    written, synced and renamed, then the folder is synced.

    Until the renaming what was there stands. Errors are raised as they come, and leave no
    temporary file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    file = create(temporary)
    try:
        with file:
            fill(file)
            sync(file)
            if fcntl is None:  # Windows renames closed files alone
                file.close()
            rename(temporary, path)  # before the lock is gone
    except BaseException:
        with contextlib.suppress(OSError):
            remove(temporary)
        raise
    sync_folder(path.parent)


def remove_stale(folder: Path, names: str) -> None:
    """Remove the temporary files of writers that were killed, where what they wrote was to have one
    of `names`, a regular expression.

    Each is locked by its writer until it has its name, so no living writer loses one, whatever
    the process or machine, where the file system has locks; elsewhere they stay.
    """
    for path in folder.iterdir() if fcntl is not None else ():
        if re.fullmatch(rf"\.{names}\.[0-9a-f]{{16}}\.tmp", path.name):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(path)


def make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
