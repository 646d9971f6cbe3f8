"""One tree in one file."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax

from funcnet.checkpoint import files
from funcnet.checkpoint.errors import HeaderError, MismatchError, naming
from funcnet.checkpoint.header import Header, read_header
from funcnet.checkpoint.leaves import (
    check_leaves,
    decoded,
    meaning,
    named_leaves,
    placed,
    tensors_of,
)
from funcnet.checkpoint.tensors import is_checked, read_tensors, table_of, write_tensors
from funcnet.pairs import Tree, check_count
from funcnet.version import __version__

OWN = "funcnet."
SCHEMA, VERSION, JAX = OWN + "schema", OWN + "version", OWN + "jax"
STEP, METRIC, KINDS = OWN + "step", OWN + "metric", OWN + "kinds"
CURRENT = "1"


def metadata_of(kinds, step, metric, given: Mapping[str, str] | None) -> dict[str, str]:
    given = dict(given or {})
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str) or name.startswith(OWN):
            raise ValueError(
                f"metadata is text by name, and names do not begin with {OWN!r}: "
                f"got {name!r}: {value!r}"
            )
    own = {SCHEMA: CURRENT, VERSION: __version__, JAX: jax.__version__, KINDS: json.dumps(kinds)}
    if step is not None:
        own[STEP] = str(check_count("step", step, 0))
    if metric is not None:
        own[METRIC] = repr(float(metric))
    return {**given, **own}


def write_tree(
    file: BinaryIO,
    tree: Tree,
    *,
    step: int | None = None,
    metric: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """`save` to an open file, which may be in memory."""
    tensors, kinds = tensors_of(tree)
    write_tensors(file, tensors, metadata_of(kinds, step, metric, metadata))


def meanings(header: Header) -> tuple[dict[str, str], dict[str, jax.ShapeDtypeStruct]]:
    kinds = table_of(header, KINDS)
    found = {name: meaning(name, entry, kinds.get(name)) for name, entry in header.entries.items()}
    return kinds, found


def read_into(file: BinaryIO, header: Header, like: Tree) -> Tree:
    """The tree of a file whose header has been read; of a file that is damaged, that is the error,
    whatever else is wrong with it."""
    leaves, (kinds, found) = named_leaves(like), meanings(header)
    try:
        if header.metadata.get(SCHEMA, CURRENT) != CURRENT:
            raise MismatchError(f"expected schema {CURRENT}, got {header.metadata[SCHEMA][:80]!r}")
        check_leaves(leaves, found)
    except MismatchError:
        for _ in read_tensors(file, header):
            pass
        raise
    restored = {
        name: placed(decoded(tensor, kinds.get(name)), leaves[name])
        for name, tensor in read_tensors(file, header)
    }
    return jax.tree.unflatten(jax.tree.structure(like), [restored[name] for name in leaves])


def read_tree(file: BinaryIO, like: Tree, *, step: int | None = None) -> Tree:
    """`load` from an open file, which may be in memory; a checkpoint of that step, if given."""
    header = read_header(file)
    if not is_checked(header):
        raise HeaderError("no checkpoint: it has no SHA-256; load_safetensors reads plain files")
    if step is not None and header.metadata.get(STEP) != str(step):
        held = header.metadata.get(STEP, "none")
        raise HeaderError(f"expected step {step}, got {held[:80]}: the file was renamed")
    return read_into(file, header, like)


def save(
    path: str | os.PathLike[str],
    tree: Tree,
    *,
    step: int | None = None,
    metric: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a tree of arrays and keys to one file, whole and durable, or not at all.

    Every dtype of JAX's, keys of any implementation, shapes of size 0; Python numbers are stored
    as 64 bits. Sharded arrays are gathered. `metadata` is text by name for the header, beside
    which funcnet keeps its own. An error, as of a full disk, is raised as it comes, and a file
    that was there before still stands.

    Raises `TypeError` for leaves that are no numbers, by name.
    """
    path = Path(path)
    files.remove_stale(path.parent, re.escape(path.name))
    files.replace(
        path, lambda file: write_tree(file, tree, step=step, metric=metric, metadata=metadata)
    )


def load(path: str | os.PathLike[str], like: Tree) -> Tree:
    """The tree in a file of `save`'s, in the form of the template `like`.

    like: the tree's structure with arrays or `jax.ShapeDtypeStruct`s for leaves, such as
    `jax.eval_shape(trainer.init, key)`. Arrays go to the device or sharding of the template's
    leaf, where it has one; NumPy arrays and Python numbers come back as such. All bits are those
    saved, or it raises: `HeaderError` or `ChecksumError` (both `DamagedError`) for a damaged file,
    `TreeError`, `ShapeError`, `DtypeError` or `KeyKindError` (all `MismatchError`) for one of
    another tree. Each names the leaf, where it can. Weak types are kept for scalars.
    """
    with naming(path), open(path, "rb") as file:
        return read_tree(file, like)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The header's metadata of any safetensors file, with `"funcnet.step"` and the like where
    `save` wrote it. Nothing but the header's form is checked."""
    with naming(path), open(path, "rb") as file:
        return read_header(file).metadata


def save_safetensors(
    path: str | os.PathLike[str], params: Tree, metadata: Mapping[str, str] | None = None
) -> None:
    """Write parameters to a safetensors file, for whatever reads that format.

    Each tensor's name is its path in the tree, such as `0.weight`. The metadata says
    `"format": "pt"`, as readers for PyTorch expect, unless it says otherwise. The file has the sums
    that `load` checks, too.
    """
    save(path, params, metadata={"format": "pt", **(metadata or {})})


def load_safetensors(path: str | os.PathLike[str], like: Tree = None) -> Any:
    """The tensors of any safetensors file: by name, as NumPy arrays, or in the form of `like`.

    As `load`, but for files without sums too; where there are any they are checked.
    """
    with naming(path), open(path, "rb") as file:
        header = read_header(file)
        if like is not None:
            return read_into(file, header, like)
        kinds, _ = meanings(header)
        tensors = read_tensors(file, header)
        return {name: decoded(tensor, kinds.get(name)) for name, tensor in tensors}
