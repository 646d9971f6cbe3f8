"""What a run has come to so far: its history, its scores, its best state."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet.checkpoint import CheckpointError, Checkpoints, load
from funcnet.checkpoint.store import path_of
from funcnet.host.chunks import copy
from funcnet.host.progress import Clock


class Chunk(NamedTuple):
    """A chunk that was dispatched, and its arrays to come."""

    step: int  # after it
    size: int
    history: dict[str, Any]  # each [size]
    notes: dict[str, Any]


def means(history) -> dict[str, float]:
    """A chunk's metrics as numbers: their means, and the last learning rate."""
    numbers = {name: float(np.mean(x, dtype=np.float64)) for name, x in history.items()}
    if "learning_rate" in history:
        numbers["learning_rate"] = float(history["learning_rate"][-1])
    return numbers


class Course:
    """The mutable part of `fit`."""

    def __init__(
        self, step: int, steps: int, examples: int, score: Callable[..., Any], report: Any
    ):
        self.steps, self.score, self.report = steps, score, report
        self.clock = Clock(step, examples)
        self.history: list[dict[str, np.ndarray]] = []
        self.evaluations: list[dict[str, float]] = []
        self.failed_at, self.diverged = -1, False
        self.best: Any = None
        self.best_step: int | None = None
        self.best_score, self.waited = math.inf, 0

    def recall(self, checkpoints: Checkpoints, step: int, every: int, like: Any) -> None:
        """The best score so far, by the metrics of the checkpoints up to a step."""
        sign = 1.0 if checkpoints.best is min else -1.0
        known = {n: sign * m for n, m in checkpoints.metrics.items() if n <= step}
        known = {n: score for n, score in known.items() if math.isfinite(score)}
        if known:
            best = min(known, key=known.__getitem__)
            with contextlib.suppress(CheckpointError, OSError):
                self.best = load(path_of(checkpoints.folder, best), like)
                self.best_step, self.best_score = best, known[best]
                self.waited = step // every - best // every

    def judge(self, step: int, state: Any, scores: dict[str, Any]) -> float:
        """Take in an evaluation; its score."""
        numbers = {name: float(value) for name, value in jax.device_get(scores).items()}
        self.evaluations.append({"step": step, **numbers})
        score = float(self.score(numbers))
        self.waited += 1
        if math.isfinite(score) and score < self.best_score:
            self.best, self.best_step = copy(state), step
            self.best_score, self.waited = score, 0
        return score

    def settle(self, chunk: Chunk) -> dict[str, float]:
        """Wait for a chunk, take in its history and report; its metrics as numbers."""
        history, notes = jax.device_get((chunk.history, chunk.notes))
        self.history.append(history)
        metrics = means(history)
        if notes:
            metrics["skipped"] = float(notes["skipped"])
            self.failed_at = int(notes["failed_at"])
        if self.evaluations and self.evaluations[-1]["step"] == chunk.step:
            scores = {f"validation_{n}": x for n, x in self.evaluations[-1].items() if n != "step"}
            metrics |= scores
        if self.report is not None:
            self.report(self.clock.progress(chunk.step, self.steps, metrics))
        bad = np.flatnonzero(~np.isfinite(history["loss"]))
        if bad.size and not self.diverged:
            self.diverged = True
            at = chunk.step - chunk.size + int(bad[0])
            self.say(f"the loss of step {at} is {history['loss'][bad[0]]}: fn.diagnose says where")
        return metrics

    def say(self, text: str) -> None:
        if self.report is not None:
            self.report(text)

    def joined(self) -> dict[str, np.ndarray]:
        """The history of all chunks."""
        if not self.history:
            return {"loss": np.zeros(0, np.float32)}
        return {n: np.concatenate([h[n] for h in self.history]) for n in self.history[0]}

    def scores(self) -> dict[str, np.ndarray]:
        """The evaluations, as arrays."""
        names = self.evaluations[0] if self.evaluations else ()
        return {name: np.array([e[name] for e in self.evaluations]) for name in names}
