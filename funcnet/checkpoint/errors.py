"""What can be wrong with a checkpoint: the file is damaged, or it is whole and of another tree."""

import contextlib
from collections.abc import Iterator


class CheckpointError(ValueError):
    """A file that cannot be restored; `leaf` names the leaf at fault, where it is one."""

    def __init__(self, message: str, leaf: str | None = None):
        super().__init__(message)
        self.leaf = leaf


class DamagedError(CheckpointError):
    """Not the bytes that were written."""


class HeaderError(DamagedError):
    """The header is no header, or does not fit the file: nothing was allocated for its tensors."""


class ChecksumError(DamagedError):
    """A leaf's CRC-32, or the SHA-256 of the whole, is not the one that was written."""


class MismatchError(CheckpointError):
    """A whole file, but not of the template's tree."""


class TreeError(MismatchError):
    """Leaves are missing, or unexpected."""


class ShapeError(MismatchError):
    """A leaf has another shape."""


class DtypeError(MismatchError):
    """A leaf has another dtype."""


class KeyKindError(MismatchError):
    """A leaf is a random key of another implementation, or is one where it should not be."""


@contextlib.contextmanager
def naming(path) -> Iterator[None]:
    """Within it, a `CheckpointError` also names the file."""
    try:
        yield
    except CheckpointError as error:
        error.args = (f"{path}: {error}",)
        raise
