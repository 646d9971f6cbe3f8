"""How far a run is: one line, live in a terminal, now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO


class Progress(NamedTuple):
    """A run at the end of a chunk; `str` is the line."""

    step: int
    steps: int
    metrics: dict[str, float]
    steps_per_second: float
    examples_per_second: float
    seconds_left: float

    def __str__(self) -> str:
        parts = [
            f"step {self.step}/{self.steps}",
            f"{short(self.steps_per_second)} steps/s",
            f"{short(self.examples_per_second)} examples/s",
            f"{duration(self.seconds_left)} left",
        ]
        hidden = ("gradient_norm", "weight", "count", "validation_weight", "validation_count")
        shown = {name: x for name, x in self.metrics.items() if name not in hidden}
        order = sorted(shown, key=lambda name: (name != "loss", name != "learning_rate"))
        parts += [f"{name.replace('_', ' ')} {shown[name]:.4g}" for name in order]
        return "  ".join(parts)


def short(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def duration(seconds):
    """Seconds below two minutes, then minutes:seconds or hours:minutes:seconds."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Clock:
    """The rate of a run, without its compilation: from the end of the first chunk on."""

    def __init__(self, step: int):
        self.compiled = False
        self.begun = time.monotonic()
        self.start = (step, self.begun)

    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def progress(self, step: int, steps: int, examples: int, metrics: dict[str, float]) -> Progress:
        now = time.monotonic()
        first, then = self.start
        rate = (step - first) / max(now - then, 1e-9)
        if not self.compiled:
            self.start, self.compiled = (step, now), True
        left = (steps - step) / rate if rate else float("inf")
        return Progress(step, steps, metrics, rate, rate * examples, left)


def progress_line(file: TextIO | None = None, *, seconds: float = 5.0) -> Callable[[Any], None]:
    """A `report` for `fit`: the line that a `Progress` is, written over itself on a terminal,
    elsewhere on lines of their own, at most one in so many seconds and the last. What else is
    reported has a line of its own. `file` is standard output by default."""
    last, width = -float("inf"), 0

    def report(what):
        nonlocal last, width
        out = sys.stdout if file is None else file
        text, live, now = str(what), getattr(out, "isatty", bool)(), time.monotonic()
        if not isinstance(what, Progress):
            out.write(("\n" if width else "") + text + "\n")
            last, width = -float("inf"), 0
        elif (ends := what.step >= what.steps) or now - last >= (0.1 if live else seconds):
            out.write("\r" + text.ljust(width) if live else text + "\n")
            last, width = now, len(text) * live
            if ends:
                out.write("\n" * live)
                last, width = -float("inf"), 0
        getattr(out, "flush", bool)()

    return report
