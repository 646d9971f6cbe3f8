"""A folder of checkpoints, one a step, written in the background."""

import contextlib
import os
import re
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from funcnet.checkpoint import files
from funcnet.checkpoint.errors import CheckpointError, DamagedError, naming
from funcnet.checkpoint.leaves import tensors_of
from funcnet.checkpoint.single import METRIC, metadata_of, read_metadata, read_tree
from funcnet.checkpoint.tensors import write_tensors
from funcnet.pairs import Tree, check_count

NAMES = r"step-(\d+)\.safetensors"


class Skipped(NamedTuple):
    """A checkpoint that could not be restored."""

    path: Path
    reason: str


class Restored(NamedTuple):
    """What was restored, and what had to be passed over for it."""

    tree: Tree
    step: int
    skipped: tuple[Skipped, ...]  # newer ones, the newest first


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:010d}.safetensors"


def steps_in(folder: Path) -> list[int]:
    """The steps that have a checkpoint, whole or not, in order."""
    found = (re.fullmatch(NAMES, path.name) for path in folder.iterdir())
    steps = sorted({int(match[1]) for match in found if match})
    return [step for step in steps if path_of(folder, step).exists()]


def metric_in(path: Path) -> float:
    """The metric that a checkpoint was saved with; NaN where it cannot be told."""
    with contextlib.suppress(CheckpointError, OSError, ValueError):
        return float(read_metadata(path).get(METRIC, "nan"))
    return np.nan


def copied(kept: np.ndarray | None, tensor: np.ndarray) -> np.ndarray:
    """A copy of a tensor, in memory that was kept if it fits: three times as fast as in new."""
    if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
        return np.array(tensor)
    np.copyto(kept, tensor)
    return kept


def restore_latest(folder: str | os.PathLike[str], like: Tree) -> Restored | None:
    """The newest whole checkpoint of a folder, in the form of `like` as with `load`; None where
    there is no checkpoint at all.

    Newer ones that are damaged or cannot be read are passed over, each with a warning, and
    reported in `skipped`. Raises `DamagedError` where none is whole, `MismatchError` where the
    newest whole one is of another tree, as an older one would not be what was asked for, and
    `FileNotFoundError` for no folder.
    """
    folder = Path(folder)
    skipped: list[Skipped] = []
    for step in reversed(steps_in(folder)):
        path = path_of(folder, step)
        try:
            with naming(path), open(path, "rb") as file:
                return Restored(read_tree(file, like, step=step), step, tuple(skipped))
        except (DamagedError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            warnings.warn(f"skipped a checkpoint: {reason}", stacklevel=2)
            skipped.append(Skipped(path, reason))
    if skipped:
        reasons = "; ".join(reason for _, reason in skipped)
        raise DamagedError(
            f"none of the {len(skipped)} checkpoints in {folder} is whole: {reasons}"
        )
    return None


class Checkpoints:
    """The checkpoints of one run in a folder of its own: `step-0000000123.safetensors` and so on.

    The last `keep_last` are kept, and the `keep_best` whose metric is best: the least (`best=min`)
    or the greatest (`best=max`). What is removed was there when the folder was opened or has been
    written since by this very object, and is of no later step than the one just written. So of two
    writers in one folder neither removes what the other goes on to write, and of a step that both
    write the later file stands. Temporary files of writers that were killed are removed when the
    folder is opened, those of living ones are not.

    Use it in a `with` statement, or `close` it: the last save may be on its way. Python does not
    end before it is written, but only `close` tells of its error.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep_last: int = 3,
        keep_best: int = 0,
        best: Callable[..., Any] = min,
    ):
        if best not in (min, max):
            raise ValueError(f"best must be min or max, the functions, got {best!r}")
        self.folder = Path(folder)
        self.keep_last = check_count("keep_last", keep_last, 1)
        self.keep_best = check_count("keep_best", keep_best, 0)
        self.best = best
        files.make_folder(self.folder)
        files.remove_stale(self.folder, NAMES)
        paths = {step: path_of(self.folder, step) for step in steps_in(self.folder)}
        self.metrics = {step: metric_in(path) for step, path in paths.items() if path.is_file()}
        self.copies: dict[str, np.ndarray] = {}
        self.executor = ThreadPoolExecutor(1, "checkpoint")
        self.closed = False
        self.pending: Future[list[OSError]] | None = None

    def save(self, step: int, tree: Tree, metric: float | None = None) -> None:
        """Copy the tree to the host, and have it written as the checkpoint of `step`.

        Once this returns the arrays may be donated or overwritten: the copy is complete. Its memory
        is kept for the next. It waits for the save before, whose error, if any, it raises in its
        stead: nothing is then saved. Raises `RuntimeError` once it is closed.
        """
        self.check_open()
        self.wait()
        tensors, kinds = tensors_of(tree)
        metadata = metadata_of(kinds, step, metric, None)
        self.copies = {name: copied(self.copies.get(name), t) for name, t in tensors.items()}
        number = np.nan if metric is None else float(metric)
        self.pending = self.executor.submit(self._write, int(step), metadata, number)

    def check_open(self) -> None:
        if self.closed:
            raise RuntimeError(
                f"the Checkpoints of {self.folder} are closed, as by the end of their `with` "
                "statement: open the folder again"
            )

    def _write(self, step, metadata, metric):
        """Write, and then remove what is not kept; the errors of what could not be removed."""
        files.replace(
            path_of(self.folder, step), lambda file: write_tensors(file, self.copies, metadata)
        )
        self.metrics[step] = metric
        steps = sorted(known for known in self.metrics if known <= step)
        rated = [known for known in steps if not np.isnan(self.metrics[known])]
        rated.sort(key=self.metrics.__getitem__, reverse=self.best is max)
        errors = []
        for known in sorted(set(steps[: -self.keep_last]) - set(rated[: self.keep_best])):
            del self.metrics[known]
            try:
                files.remove(path_of(self.folder, known))
            except FileNotFoundError:  # another writer's doing
                pass
            except OSError as error:
                errors.append(error)
        return errors

    def wait(self) -> None:
        """Return once the last save is durable, or raise its error, once. A warning tells of an old
        checkpoint that could not be removed; it stays until the folder is opened again."""
        if self.pending is not None:
            wait_for([self.pending])
            pending, self.pending = self.pending, None
            for error in pending.result():
                text = f"could not remove an old checkpoint: {type(error).__name__}: {error}"
                warnings.warn(text, stacklevel=2)

    def restore(self, like: Tree) -> Restored | None:
        """`restore_latest` of the folder, once the last save is durable."""
        self.wait()
        return restore_latest(self.folder, like)

    def close(self) -> None:
        """`wait`, and accept no more."""
        self.closed = True
        try:
            self.wait()
        finally:
            self.executor.shutdown()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(
                f"the last checkpoint was not saved: {type(failure).__name__}: {failure}"
            )
