"""Runs on disk: whole trees in files that are verified, and folders of them.

The format is safetensors', readable by whatever reads that, without pickle. The header's metadata
has the schema, the versions of funcnet and jax, the step, a CRC-32 for each tensor and a SHA-256
of the whole (`tensors.write_tensors` says of what bytes).
"""

from funcnet.checkpoint.errors import (
    CheckpointError,
    ChecksumError,
    DamagedError,
    DtypeError,
    HeaderError,
    KeyKindError,
    MismatchError,
    ShapeError,
    TreeError,
)
from funcnet.checkpoint.single import (
    load,
    load_safetensors,
    read_metadata,
    read_tree,
    save,
    save_safetensors,
    write_tree,
)
from funcnet.checkpoint.store import Checkpoints, Restored, Skipped, restore_latest

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "ChecksumError",
    "DamagedError",
    "DtypeError",
    "HeaderError",
    "KeyKindError",
    "MismatchError",
    "Restored",
    "ShapeError",
    "Skipped",
    "TreeError",
    "load",
    "load_safetensors",
    "read_metadata",
    "read_tree",
    "restore_latest",
    "save",
    "save_safetensors",
    "write_tree",
]
