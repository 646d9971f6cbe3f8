"""What a sweep found, as a table: ranked, averaged over seeds, one axis at a time."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from funcnet.pairs import check_count
from funcnet.sweeps.points import Points, as_places, at, column, count, take

SHOWN = 20
"""How many rows a table's text has at most."""


class Table(NamedTuple):
    """A row for each member of a sweep, or for several together; `str` is the text."""

    points: Points
    scores: dict[str, np.ndarray]  # each [n], a mean where a row stands for several
    stds: dict[str, np.ndarray]  # each [n], of the means; empty before any
    members: np.ndarray  # [n], how many a row stands for
    failed: np.ndarray  # [n], how many of them have a score that is not finite

    def __str__(self) -> str:
        return text(self)

    def column(self, name: str):
        """A column of points or scores by its name."""
        columns = {**self.points, **self.scores}
        if name not in columns:
            raise ValueError(f"the table has columns {list(columns)}, got {name!r}")
        return columns[name]

    def rows(self, indices) -> "Table":
        """The table of the rows at `indices`, in that order, or where a mask is true."""
        indices = as_places(indices)
        return Table(
            take(self.points, indices),
            take(self.scores, indices),
            take(self.stds, indices),
            *(at(counts, indices) for counts in (self.members, self.failed)),
        )

    def lowest(self, k: int | None = None, by: str | None = None) -> "Table":
        """The k rows, all without a k, of the lowest score, the first unless `by` names another,
        in its order. Rows with failed members come last, by the share of those."""
        return self.rows(ranking(self, self.score(by))[:k])

    def highest(self, k: int | None = None, by: str | None = None) -> "Table":
        """As `lowest`, from the highest score down."""
        return self.rows(ranking(self, -self.score(by))[:k])

    def score(self, by: str | None = None) -> np.ndarray:
        """The scores of one name, the first by default."""
        by = next(iter(self.scores)) if by is None else by
        if by not in self.scores:
            raise ValueError(f"the table has scores {list(self.scores)}, got {by!r}")
        return self.scores[by]

    def mean_over(self, *names: str) -> "Table":
        """A row for each point that is left without these columns of points, such as "seed".

        Each score becomes the mean over the rows that have not failed, and `stds` their standard
        deviation (that of a sample, with n - 1; NaN for a single one). Rows in the order of their
        first member.
        """
        for name in names:
            self.axis(name)
        return grouped(self, {n: v for n, v in self.points.items() if n not in names})

    def marginal(self, name: str, bins: int = 10) -> "Table":
        """The effect of one column of points by itself: `mean_over` all others, by its value.

        Numbers of more than `bins` distinct values are put into so many bins of about equally many
        members each; a bin's value is its members' median, and `name_low` and `name_high` are its
        ends. Numbers stand in their order, choices in that of their first use.
        """
        places, values = binned(self.axis(name), check_count("bins", bins, 1))
        found = grouped(self, {name: places})
        order = np.argsort(found.points[name])
        found = found.rows(order)
        points = {name: values}
        if not isinstance(values, tuple) and len(np.unique(self.axis(name))) > len(values):
            for end, reduce in (("low", np.minimum), ("high", np.maximum)):
                points[f"{name}_{end}"] = per_bin(reduce.reduce, self.axis(name), places)
        return found._replace(points=points)

    def axis(self, name: str):
        """A column of points by its name."""
        if name not in self.points:
            raise ValueError(f"the table has points {list(self.points)}, got {name!r}")
        return self.points[name]


def table(points: Mapping[str, Any], **scores: Any) -> Table:
    """The results of a sweep: its points, and the scores [n] of its members.

    `table(points, loss=losses, accuracy=accuracies).lowest(5)`. A member one of whose scores is NaN
    or infinite has failed: it is counted, ranked last and left out of means.
    """
    columns = {name: column(name, values) for name, values in points.items()}
    n = count(columns)
    if not scores:
        raise ValueError("table expects at least one score, such as loss=losses")
    if twice := sorted(set(columns) & set(scores)):
        raise ValueError(f"scores need other names than the points, got {twice}")
    arrays = {name: np.asarray(values, float) for name, values in scores.items()}
    if wrong := {name: a.shape for name, a in arrays.items() if a.shape != (n,)}:
        raise ValueError(f"scores must have shape ({n},), one a point, got {wrong}")
    failed = ~np.isfinite(list(arrays.values())).all(axis=0)
    return Table(columns, arrays, {}, np.ones(n, int), failed.astype(int))


def ranking(table, values):
    """The rows from the lowest value up, NaN at the end, those without failed members first."""
    return np.lexsort((values, table.failed / table.members))


def codes(values):
    """Each value of a column as the place of the first one like it, int [n]."""
    if not isinstance(values, tuple):
        _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        return first[inverse]
    places = {}
    return np.array([places.setdefault(value, i) for i, value in enumerate(values)])


def groups_of(columns, n):
    """(the first row of each group of rows alike in all columns, the group of each row)."""
    group = np.zeros(n, int)
    for values in columns:
        group = codes(group * n + codes(values))
    return np.unique(group, return_inverse=True)


def grouped(table, points):
    """A row for each distinct one of `points`, columns that are as long as the table."""
    n = len(table.failed)
    first, group = groups_of(points.values(), n)
    valid = np.isfinite(list(table.scores.values())).all(axis=0)
    total = np.bincount(group, valid)
    means, stds = {}, {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, values in table.scores.items():
            values = np.where(valid, values, 0.0)
            means[name] = np.bincount(group, values) / total
            squares = np.where(valid, values - means[name][group], 0.0) ** 2
            stds[name] = np.sqrt(np.bincount(group, squares) / np.maximum(total - 1.0, 0.0))
    counts = (np.bincount(group, c).astype(int) for c in (table.members, table.failed))
    return Table(take(points, first), means, stds, *counts)


def binned(values, bins):
    """(the bin of each of a column's values, int [n]; each bin's value).

    The bins are the distinct values, numbers in their order and choices in that of their first
    use; of more numbers than `bins`, so many quantiles, whose values are medians. Equal numbers
    share a bin.
    """
    first, places = np.unique(codes(values), return_inverse=True)
    if isinstance(values, tuple):
        return places, at(values, first)
    distinct, places = np.unique(values, return_inverse=True)
    if len(distinct) <= bins:
        return places, distinct
    below = np.searchsorted(np.sort(values), distinct)
    quantile = np.unique(below * bins // len(values), return_inverse=True)[1]
    places = quantile[places]
    return places, per_bin(np.median, values, places)


def per_bin(function, values, places):
    """`function` of each bin's values."""
    return np.array([function(values[places == bin]) for bin in range(places.max() + 1)])


def cell(value) -> str:
    """A value in a table's text."""
    if isinstance(value, np.integer):
        return f"{value:d}"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return getattr(value, "__name__", str(value))


def text(table: Table) -> str:
    """The first rows as aligned columns, and a line on what is not shown or not finite."""
    shown = table.rows(range(min(SHOWN, len(table.failed))))
    columns = list(shown.points.items())
    for name, values in shown.scores.items():
        columns += [(name, values)] + ([("±", shown.stds[name])] if shown.stds else [])
    if shown.stds:
        columns += [("members", shown.members), ("failed", shown.failed)]
    cells = [[name, *map(cell, values)] for name, values in columns]
    widths = [max(map(len, column)) for column in cells]
    sides = ["<" if isinstance(values, tuple) else ">" for _, values in columns]
    lines = []
    for row in zip(*cells, strict=True):
        parts = (f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True))
        lines.append("  ".join(parts).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
    if hidden := len(table.failed) - len(shown.failed):
        lines.append(f"... and {hidden:,} more")
    if failed := table.failed.sum():
        lines.append(f"{failed:,} of {table.members.sum():,} members failed: a score is not finite")
    return "\n".join(lines)
