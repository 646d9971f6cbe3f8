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


def appended(path: Path, text: str) -> None:
    with open(path, "a", encoding="utf-8", newline="") as file:
        file.write(text)


def wrong(path: Path, expected: str, got: Any) -> ValueError:
    return ValueError(
        f"{path} is no log of a run, and is left as it is: expected {expected}, got {got!s:.80}"
    )


def written(path: Path) -> list[str]:
    """The lines of a file; the last has no end where it was cut off."""
    if path.is_dir():
        raise wrong(path, "a file", "a folder")
    try:
        text = path.read_text("utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise wrong(path, "text", error) from None
    return text.split("\n")


def rows_of_json(path: Path) -> list[tuple[int, str]]:
    """(its step, its line) of each whole row."""
    *lines, cut = written(path)
    rows, expected = [], 'rows such as {"step": 100, "loss": 0.5}'
    for line in lines:
        try:
            step = json.loads(line)["step"]
        except (ValueError, TypeError, KeyError, RecursionError):
            step = None
        if type(step) is not int:
            raise wrong(path, expected, line)
        rows.append((step, line + "\n"))
    if cut and not cut.startswith("{"):
        raise wrong(path, expected, cut)
    return rows


def rows_of_csv(path: Path) -> list[dict[str, str]]:
    """Each whole row by name."""
    *lines, cut = written(path)
    table = csv.DictReader(lines)
    try:
        names, rows = table.fieldnames or (), list(table)
    except csv.Error as error:
        raise wrong(path, "rows separated by commas", error) from None
    if (lines or cut) and "step" not in names:
        raise wrong(path, "a header with the name step", (lines or [cut])[0])
    for row in rows:
        if not (row["step"] or "").isdecimal() or None in row:
            raise wrong(path, f"rows of a whole step and of {names}", row)
    return rows


def log_jsonl(path: str | os.PathLike[str]) -> Callable[..., None]:
    """A callback that appends `{"step": 100, "loss": 0.5, ...}` and a newline to a file.

    A run that continues goes on in the same file: its first row replaces those of its step and
    later ones, so no step is there twice; so does that of another run with the same callback. What
    is not finite is `null`. Raises `ValueError` for a file of something else.
    """
    path, last = Path(path), math.inf
    rows_of_json(path)

    def log(step: int, state: Any, metrics: dict[str, float]) -> None:
        nonlocal last
        if step <= last:
            rewritten(path, "".join(line for its, line in rows_of_json(path) if its < step))
        row = {name: x if math.isfinite(x) else None for name, x in metrics.items()}
        appended(path, json.dumps({"step": step, **row}) + "\n")
        last = step

    return log


def log_csv(path: str | os.PathLike[str]) -> Callable[..., None]:
    """`log_jsonl` in columns: the step and the metrics by name, empty where a row has none of that
    name. A row with a name that is new has the file written again, with one column more."""
    path, names, last = Path(path), list[str](), math.inf
    rows_of_csv(path)

    def text_of(rows):
        text = io.StringIO()
        csv.DictWriter(text, names, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue()

    def log(step: int, state: Any, metrics: dict[str, float]) -> None:
        nonlocal last
        row = {"step": step, **metrics}
        if step <= last or not set(row) <= set(names):
            before = [row for row in rows_of_csv(path) if int(row["step"]) < step]
            names[:] = dict.fromkeys((*(before[0] if before else ()), *row))
            rewritten(path, ",".join(names) + "\n" + text_of(before))
        appended(path, text_of([row]))
        last = step

    return log
