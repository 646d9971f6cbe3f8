"""The checkpoints of a run: where it begins, and what it leaves."""

import contextlib
import math
import os
import warnings
from typing import Any

import jax

from funcnet.checkpoint import CheckpointError, Checkpoints, load
from funcnet.checkpoint.store import path_of
from funcnet.host.chunks import begin, copy, key_of


class Saver(contextlib.ExitStack):
    """`Checkpoints`, those of a folder, which it then closes, or none."""

    def __init__(self, checkpoints: Checkpoints | str | os.PathLike[str] | None):
        super().__init__()
        if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
            checkpoints = self.enter_context(Checkpoints(checkpoints, keep_best=1))
        self.checkpoints = checkpoints
        self.step = -1  # of the last one that was saved

    def start(self, trainer, key, report) -> tuple[Any, int]:
        """(a run's state, its step): that of the newest whole checkpoint, or a new one."""
        checkpoints, found = self.checkpoints, None
        if checkpoints is not None:
            found = checkpoints.restore(jax.eval_shape(trainer.init, key))
        if checkpoints is None or found is None:
            state = begin(trainer, key)
            return state, int(state.step)
        if (jax.random.key_data(found.tree.key) != key_of(trainer, key)).any():
            raise ValueError(
                f"the checkpoints in {checkpoints.folder} are of a run with another key: "
                "give its key to continue it, or another folder"
            )
        self.step = found.step
        if report is not None:
            report(f"continuing from step {found.step}, {checkpoints.folder}")
        return copy(found.tree), found.step

    def best(self, every: int, like: Any) -> tuple[int, float, Any, int] | None:
        """(its step, its score, its state, evaluations since) of the best checkpoint up to where
        the run began, if it is known; without its state, and with a warning, if that is damaged."""
        if self.checkpoints is None or self.step < 0:
            return None
        known = {n: self.signed(m) for n, m in self.checkpoints.metrics.items() if n <= self.step}
        known = {n: score for n, score in known.items() if math.isfinite(score)}
        if not known:
            return None
        best, state = min(known, key=known.__getitem__), None
        try:
            state = load(path_of(self.checkpoints.folder, best), like)
        except (CheckpointError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            warnings.warn(f"the best state, of step {best}, is lost: {reason}", stacklevel=3)
        return best, known[best], state, self.step // every - best // every

    def signed(self, score):
        """A score, of which the least is best, as the checkpoints' metric, or the reverse."""
        return score if self.checkpoints.best is min else -score

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Save a step that is not saved yet."""
        if self.checkpoints is not None and step != self.step:
            self.checkpoints.save(step, state, None if score is None else self.signed(score))
            self.step = step

    def rescue(self, step: int, state: Any, score: float | None, error: BaseException) -> None:
        """Save what is there before an error is raised, which says so if that fails, too; nothing
        before an interrupt, which is to end the run at once."""
        if not isinstance(error, Exception):
            return
        try:
            self.save(step, state, score)
            self.wait()
        except Exception as failure:
            error.add_note(f"nor was step {step} saved: {type(failure).__name__}: {failure}")

    def finish(self, step: int, state: Any, score: float | None) -> None:
        """Save the last step, and try once more if that failed, or the save before: there is no
        later one."""
        try:
            self.save(step, state, score)
            self.wait()
        except OSError as error:
            reason = f"{type(error).__name__}: {error}"
            warnings.warn(f"a save failed, and the last step is saved anew: {reason}", stacklevel=3)
            self.step = -1
            self.save(step, state, score)
            self.wait()

    def wait(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.wait()
