"""What a run has come to so far: its history, its scores, its best state."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet.host.chunks import copy
from funcnet.host.progress import Clock


class Chunk(NamedTuple):
    """A chunk that was dispatched, and its arrays to come."""

    step: int  # after it
    size: int
    examples: int  # in a batch
    history: dict[str, Any]  # each [size]
    notes: dict[str, Any]


def means(history) -> dict[str, float]:
    """A chunk's metrics as numbers: their means, and the last learning rate."""
    numbers = {name: float(np.mean(x, dtype=np.float64)) for name, x in history.items()}
    if "learning_rate" in history:
        numbers["learning_rate"] = float(history["learning_rate"][-1])
    return numbers


class Limits(NamedTuple):
    """Where a run ends at the latest."""

    steps: int
    evaluations: int | None  # without a better score
    seconds: float | None


class Course:
    """The mutable part of `fit`."""

    def __init__(self, step: int, limits: Limits, score: Callable[..., Any], report: Any):
        self.limits, self.score, self.report = limits, score, report
        self.clock = Clock(step)
        self.pending: Chunk | None = None
        self.history: list[dict[str, np.ndarray]] = []
        self.evaluations: list[dict[str, float]] = []
        self.failed_at, self.diverged = -1, False
        self.best: Any = None
        self.best_step: int | None = None
        self.best_score, self.waited = math.inf, 0

    def recall(self, step: int, score: float, state: Any, waited: int) -> None:
        """Go on from the best of a run that continues."""
        self.best_step, self.best_score, self.best, self.waited = step, score, state, waited

    @property
    def evaluated(self) -> int | None:
        """The step of the last evaluation."""
        return int(self.evaluations[-1]["step"]) if self.evaluations else None

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

    def expect(self, chunk: Chunk) -> None:
        """A chunk is dispatched: only now is the one before waited for."""
        before, self.pending = self.pending, None
        if before is not None:
            self.take_in(before)
        self.pending = chunk

    def settle(self) -> dict[str, float]:
        """Wait for the last chunk, if that was not done; its metrics as numbers."""
        chunk, self.pending = self.pending, None
        return {} if chunk is None else self.take_in(chunk)

    def reason_to_stop(self) -> str | None:
        """Of those that lie in the run itself."""
        if self.failed_at >= 0:
            return "frozen"
        if self.limits.evaluations is not None and self.waited >= self.limits.evaluations:
            return "patience"
        seconds = self.limits.seconds
        return "time" if seconds is not None and self.clock.seconds() >= seconds else None

    def take_in(self, chunk: Chunk) -> dict[str, float]:
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
            steps = self.limits.steps
            self.report(self.clock.progress(chunk.step, steps, chunk.examples, metrics))
        bad = np.flatnonzero(~np.isfinite(history["loss"]))
        if bad.size and not self.diverged:
            self.diverged = True
            at = chunk.step - chunk.size + int(bad[0])
            self.say(f"the loss of step {at} is {history['loss'][bad[0]]}: fn.diagnose says where")
        return metrics

    def say(self, text: str | None) -> None:
        if self.report is not None and text is not None:
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
