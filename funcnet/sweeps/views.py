"""The numbers in the pictures of a sweep: what `funcnet.pictures` draws."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from funcnet.pairs import check_count
from funcnet.sweeps.points import Points, at, column, count
from funcnet.sweeps.tables import Table, binned, cell, grouped, groups_of

FEW = 5
"""Up to so many numbers are marked one by one."""


def scale_of(values) -> str:
    """ "log" where the finite values span a decade or more above 0 and their median is nearer to
    the middle of their logarithms than of themselves, as in a log-spaced grid; else "linear"."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not values.size or values.min() <= 0.0 or values.max() < 9.99 * values.min():
        return "linear"

    def off_centre(v):
        return abs((np.median(v) - v.min()) / (v.max() - v.min()) - 0.5)

    # Of two values, and of those spread as evenly either way, the orders of magnitude count.
    return "log" if off_centre(np.log(values)) <= off_centre(values) + 1e-9 else "linear"


def loss_scale(values) -> str:
    """ "log" where the finite values span a decade or more above 0, else "linear"."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return "log" if values.size and 0.0 < 10.0 * values.min() <= values.max() else "linear"


def heights_of(values, scale):
    """Values on their way from the least to the greatest finite one, as 0 to 1; NaN where they are
    not finite, and 1/2 where all are one."""
    values = np.log(values) if scale == "log" else np.asarray(values, float)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    if low == high:
        return np.where(np.isfinite(values), 0.5, np.nan)
    return np.where(np.isfinite(values), (values - low) / (high - low), np.nan)


class Parallel(NamedTuple):
    """An axis of a picture of parallel axes, and where each row of the table crosses it."""

    name: str
    scale: str  # "log", "linear" or "choice"
    ends: tuple[float, float]  # the values at heights 0 and 1; of choices their places
    marks: dict[float, str]  # what to write where, for choices and a few numbers; else empty
    heights: np.ndarray  # [n] in [0, 1], NaN where a score is not finite


def parallel_axis(name, values) -> Parallel:
    places, distinct = binned(values, len(values))
    if isinstance(values, tuple):
        marks = {float(place): cell(choice) for place, choice in enumerate(distinct)}
        ends = (0.0, len(distinct) - 1.0)
        return Parallel(name, "choice", ends, marks, heights_of(places, "linear"))
    finite, scale = distinct[np.isfinite(distinct)], scale_of(values)
    ends = (float(finite[0]), float(finite[-1])) if finite.size else (0.0, 0.0)
    marks = {float(value): cell(value) for value in finite} if finite.size <= FEW else {}
    return Parallel(name, scale, ends, marks, heights_of(values, scale))


def parallel_axes(table: Table, by: str | None = None) -> list[Parallel]:
    """An axis for each column of points that varies, then the score."""
    score = next(iter(table.scores)) if by is None else by
    axes = [parallel_axis(name, values) for name, values in table.points.items()]
    axes = [axis for axis in axes if axis.ends[0] < axis.ends[1]]
    if not axes:
        raise ValueError(f"no column of points varies, got {list(table.points)}")
    return [*axes, parallel_axis(score, table.score(by))]


class HeatMap(NamedTuple):
    """The mean score of each cell, and how many of its members failed."""

    x: Sequence[Any]  # the values, or the bins' medians
    y: Sequence[Any]
    means: np.ndarray  # [len(y), len(x)], NaN in cells without any finite member
    failed: np.ndarray  # [len(y), len(x)], the share of its members; NaN in cells without members


def heat_map(table: Table, x: str, y: str, by: str | None = None, bins: int = 10) -> HeatMap:
    """The means over all members that share a value of x and of y, or a bin of them as in
    `Table.marginal`."""
    (x_places, x_values), (y_places, y_values) = (binned(table.axis(n), bins) for n in (x, y))
    found = grouped(table, {"x": x_places, "y": y_places})
    cells = found.points["y"], found.points["x"]
    means, failed = np.full((2, len(y_values), len(x_values)), np.nan)
    means[cells], failed[cells] = found.score(by), found.failed / found.members
    return HeatMap(x_values, y_values, means, failed)


class Band(NamedTuple):
    """The curves of one group: their median and where the middle half of them lies, [steps]."""

    label: tuple[Any, ...]  # its value in each column
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bands(history: Any, groups: Points | None = None, window: int = 1) -> list[Band]:
    """A band for the members alike in all columns of `groups`, in the order of the first.

    history: [members, steps], averaged over a sliding window first. What is not finite counts as
    infinitely high, so a median ends where half of its members have failed. The band is from the
    quarter below to the quarter above, of up to four members from the least to the greatest.
    """
    history = np.asarray(history, float)
    if history.ndim != 2:
        raise ValueError(f"history must be [members, steps], got shape {history.shape}")
    groups = {name: column(name, values) for name, values in (groups or {}).items()}
    if groups and count(groups) != len(history):
        raise ValueError(f"groups must be one a member, {len(history)}, got {count(groups)}")
    history = smooth(np.where(np.isfinite(history), history, np.inf), window)
    first, places = groups_of(groups.values(), len(history))
    found = []
    for place, row in enumerate(first):
        label = tuple(at(values, [row])[0] for values in groups.values())
        ordered = np.sort(history[places == place], axis=0)
        last = len(ordered) - 1
        median = 0.5 * (ordered[last // 2] + ordered[(last + 1) // 2])
        edges = (ordered[last // 4], ordered[last - last // 4])
        found.append(Band(label, *(np.where(np.isinf(c), np.nan, c) for c in (median, *edges))))
    return found


def smooth(history, window):
    """The means over a sliding window of steps, shorter at the start, [members, steps]."""
    window, steps = check_count("window", window, 1), history.shape[1]
    total = np.zeros_like(history)
    for shift in range(min(window, steps)):
        total[:, shift:] += history[:, : steps - shift]
    return total / np.minimum(np.arange(1, steps + 1), window)
