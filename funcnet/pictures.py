"""Pictures of runs and sweeps. Each function returns a Figure of matplotlib, which is imported only
then; nothing is shown or saved: `plot_parallel(results).savefig("sweep.png")`."""

from typing import Any

import numpy as np

from funcnet.sweeps.learning_rate_finder import LearningRates
from funcnet.sweeps.points import Points, is_number
from funcnet.sweeps.tables import Table, cell
from funcnet.sweeps.views import bands, heat_map, loss_scale, parallel_axes, scale_of, smooth

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#222222")
FAILED = "#d55e00"


def new_figure(width, height):
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'pictures are drawn by matplotlib: pip install ".[plot]"'
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def colour_map(values):
    """Dark for the lowest, on the values' scale; it makes colours, and a colour bar is made of
    it."""
    from matplotlib.cm import ScalarMappable  # type: ignore[import-not-found]
    from matplotlib.colors import LogNorm, Normalize  # type: ignore[import-not-found]

    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    return ScalarMappable((LogNorm if scale_of(values) == "log" else Normalize)(low, high))


def plot_parallel(table: Table, by: str | None = None):
    """A line for each row across an axis for each column of points that varies, coloured by the
    score, the first unless `by` names another, which is the last axis.

    Earlier rows lie on top, so `plot_parallel(results.lowest())` shows the best; columns such as
    seeds are better averaged first. Rows whose score is not finite are dotted and stop short.
    """
    from matplotlib.collections import LineCollection  # type: ignore[import-not-found]

    axes, score = parallel_axes(table, by), table.score(by)
    figure = new_figure(1.5 + 1.7 * len(axes), 4.5)
    main = figure.subplots()
    heights = np.stack([axis.heights for axis in axes], axis=1)
    lines = np.stack([np.broadcast_to(np.arange(len(axes)), heights.shape), heights], -1)[::-1]
    score = score[::-1]
    colours, good = colour_map(score), np.isfinite(score)
    style = {"alpha": float(np.clip(30 / len(score), 0.15, 0.9)), "linewidths": 1.3}
    main.add_collection(LineCollection(lines[~good], colors=FAILED, linestyles=":", **style))
    main.add_collection(LineCollection(lines[good], colors=colours.to_rgba(score[good]), **style))
    main.set(xlim=(0, len(axes) - 1), ylim=(-0.03, 1.03), yticks=[])
    main.set_xticks(range(len(axes)), [axis.name for axis in axes])
    main.tick_params(axis="x", length=0, pad=10)
    main.spines[:].set_visible(False)
    for place, axis in enumerate(axes):
        draw_axis(main, place / (len(axes) - 1), axis)
    figure.colorbar(colours, ax=main, label=axes[-1].name, pad=0.1)
    return figure


def draw_axis(main, place, axis):
    """An upright axis of its own at a fraction of the width, on which height 0 and 1 are its
    ends."""
    upright = main.twinx()
    upright.spines[:].set_visible(False)
    upright.spines["right"].set(visible=True, position=("axes", place))
    low, high = axis.ends if axis.ends[0] < axis.ends[1] else (axis.ends[0] - 1, axis.ends[0] + 1)
    if axis.scale == "log":
        upright.set_yscale("log")
        margin = (high / low) ** 0.03
        upright.set_ylim(low / margin, high * margin)
    else:
        upright.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    if axis.marks:
        upright.set_yticks(list(axis.marks), axis.marks.values())
        upright.set_yticks([], minor=True)
    for label in upright.get_yticklabels():
        label.set_bbox({"color": "white", "alpha": 0.7, "pad": 0.5})


def plot_heat_map(table: Table, x: str, y: str, by: str | None = None, bins: int = 10):
    """The mean score for each value of x and of y, two columns of points, over all else; more than
    `bins` numbers are put into bins as in `Table.marginal`. A star says that some members of a cell
    failed, a cross that all did."""
    found = heat_map(table, x, y, by, bins)
    rows, columns = found.means.shape
    figure = new_figure(3.0 + 0.62 * columns, 1.8 + 0.45 * rows)
    axis = figure.subplots()
    colours = colour_map(found.means)
    axis.imshow(found.means, origin="lower", aspect="auto", norm=colours.norm, cmap=colours.cmap)
    for row, column in np.ndindex(rows, columns):
        mean = found.means[row, column]
        if np.isfinite(mean):
            dark = sum(colours.to_rgba(mean)[:3]) < 1.5
            style = {"color": "white" if dark else "black", "fontsize": "small"}
            star = "*" if found.failed[row, column] else ""
            axis.text(column, row, f"{mean:.3g}{star}", ha="center", va="center", **style)
        elif found.failed[row, column] == 1.0:
            axis.plot(column, row, "x", color=FAILED)
    axis.set_xticks(range(columns), map(short, found.x), rotation=45 if columns > 5 else 0)
    axis.set_yticks(range(rows), map(short, found.y))
    axis.set(xlabel=x, ylabel=y)
    name = next(iter(table.scores)) if by is None else by
    figure.colorbar(colours, ax=axis, label=f"mean {name}")
    return figure


def short(value):
    """A value as a label."""
    return f"{value:.3g}" if isinstance(value, float | np.floating) else cell(value)


def plot_curves(history: Any, groups: Points | None = None, *, window: int = 1, name: str = "loss"):
    """The median curve of each group of members, such as one rate's seeds, and where the middle
    half of them lies (of up to four, all).

    history: [members, steps]; groups: points, in all columns of which a group is alike, such as
    `{"learning_rate": points["learning_rate"]}`; `window` averages over so many steps. A member
    that has failed counts as infinitely high.
    """
    found = bands(history, groups, window)
    figure = new_figure(7.5, 4.5)
    axis = figure.subplots()
    title, labels = ", ".join(groups or ()), [band.label for band in found]
    numbers = len(labels[0]) == 1 and is_number(labels[0][0])
    colours = None
    if numbers and len(found) > len(COLOURS):
        colours = colour_map([number for (number,) in labels])
    for place, band in enumerate(found):
        colour = colours.to_rgba(*band.label) if colours else COLOURS[place % len(COLOURS)]
        steps = np.arange(1, 1 + len(band.median))
        axis.plot(steps, band.median, color=colour, label=", ".join(map(short, band.label)))
        axis.fill_between(steps, band.low, band.high, color=colour, alpha=0.15, lw=0)
    axis.set(xlabel="step", ylabel=name, yscale=loss_scale([band.median for band in found]))
    axis.grid(alpha=0.3)
    if colours:
        figure.colorbar(colours, ax=axis, label=title)
    elif groups:
        axis.legend(title=title, fontsize="small")
    return figure


def plot_history(history: Any, *, window: int = 1):
    """A panel for each metric of a run over its steps, the loss on top: of the training batches,
    averaged over `window` steps, and of the validation data, with the step that was best.

    history: what `fit` returned, or a `Result`.
    """
    loss = np.asarray(history.loss)
    training = {"loss": loss, **history.metrics}
    validation = dict(getattr(history, "validation", {}))
    last = int(history.state.step)
    steps = np.arange(last - len(loss) + 1, last + 1)
    hidden = ("weight", "count")
    names = [n for n in dict.fromkeys((*training, *validation)) if n not in (*hidden, "step")]
    names.sort(key=lambda name: (name != "loss", name == "gradient_norm", name == "learning_rate"))
    figure = new_figure(7.5, 1.0 + 2.2 * len(names))
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for panel, name in zip(panels, names, strict=True):
        drawn = []
        if name in training:
            values = np.asarray(training[name], float)[None]
            drawn.append(smooth(values, 1 if name == "learning_rate" else window)[0])
            panel.plot(steps, drawn[-1], color=COLOURS[0], lw=1, label="training")
        if name in validation:
            drawn.append(np.asarray(validation[name], float))
            panel.plot(validation["step"], drawn[-1], ".-", color=COLOURS[3], label="validation")
        if validation and history.best_step is not None:
            panel.axvline(history.best_step, color=COLOURS[6], ls=":", lw=1, label="best")
        scale = loss_scale(np.concatenate(drawn)) if name == "loss" else "linear"
        panel.set(ylabel=name.replace("_", " "), yscale=scale)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    panels[-1].set(xlabel="step")
    return figure


def plot_learning_rates(finding: LearningRates):
    """What `find_learning_rate` found: the score against the rate, a dot for each seed and the
    median's line; and the median curves of the losses, a colour for each rate."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    order = np.argsort(finding.rates)
    rates, score, median, diverged, loss = (
        np.asarray(a)[order]
        for a in (finding.rates, finding.score, finding.median, finding.diverged, finding.loss)
    )
    good = ~diverged
    both = np.broadcast_to(rates[:, None], score.shape)
    finite = np.isfinite(score)
    left.plot(rates, np.where(np.isfinite(median), median, np.nan), color="#222222")
    left.plot(both[good], score[good], ".", color=COLOURS[0], label="a seed")
    left.plot(both[~good & finite], score[~good & finite], "x", color=FAILED, label="diverged")
    left.axvline(finding.suggestion, color=COLOURS[2], label=f"suggestion {finding.suggestion:.2g}")
    if np.isfinite(finding.edge):
        left.axvspan(finding.edge, rates.max(), color=FAILED, alpha=0.1, lw=0)
    left.set(xlabel="learning rate", ylabel="loss at the end", xscale=scale_of(rates))
    left.set(yscale=loss_scale(score[good]))
    left.legend(fontsize="small")
    colours = colour_map(rates)
    steps = np.arange(1, 1 + loss.shape[-1])
    for band in bands(loss.reshape(-1, len(steps)), {"rate": both.ravel()}, window=5):
        right.plot(steps, band.median, color=colours.to_rgba(*band.label), lw=1)
    right.set(xlabel="step", ylabel="loss", yscale=left.get_yscale())
    if np.isfinite(finding.suggestion):  # what flies off is not to flatten the rest
        low, start = score.min(), np.median(loss[..., 0])
        bottom = 0.8 * low if right.get_yscale() == "log" else low - 0.1 * (start - low)
        right.set_ylim(bottom, start + (start - low))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.colorbar(colours, ax=right, label="learning rate")
    return figure
