"""Callbacks that write a run's metrics to a file, one row at the end of each chunk."""

import csv
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from funcnet.checkpoint import files


def rewritten(path: Path, text: str) -> None:
    files.make_folder(path.parent)
    files.replace(path, lambda file: files.write(file, text.encode()))


def written(path: Path) -> list[str]:
    """The whole lines of a file; one without an end was cut off."""
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def log_jsonl(path: str | os.PathLike[str]) -> Callable[..., None]:
    """A callback that appends `{"step": 100, "loss": 0.5, ...}` and a newline to a file.

    A run that continues goes on in the same file: its first row replaces those of its step and
    later ones, so no step is there twice. What is not finite is `null`.
    """
    path, begun = Path(path), False

    def log(step: int, state: Any, metrics: dict[str, float]) -> None:
        nonlocal begun
        if not begun:
            rewritten(path, "".join(x for x in written(path) if json.loads(x)["step"] < step))
            begun = True
        row = {name: x if math.isfinite(x) else None for name, x in metrics.items()}
        with open(path, "a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")

    return log


def log_csv(path: str | os.PathLike[str]) -> Callable[..., None]:
    """`log_jsonl` in columns: the step and the metrics by name, empty where a row has none of that
    name. A row with a name that is new has the file written again, with one column more."""
    path, names = Path(path), list[str]()

    def rows(given):
        text = io.StringIO()
        csv.DictWriter(text, names, restval="", lineterminator="\n").writerows(given)
        return text.getvalue()

    def log(step: int, state: Any, metrics: dict[str, float]) -> None:
        row = {"step": step, **metrics}
        if not set(row) <= set(names):
            before = [r for r in csv.DictReader(written(path)) if int(r["step"]) < step]
            names[:] = dict.fromkeys((*(before[0] if before else ()), *row))
            rewritten(path, ",".join(names) + "\n" + rows(before))
        with open(path, "a") as file:
            file.write(rows([row]))

    return log
