"""Tables of results and what pictures draw, against loops in plain Python."""

import math
import re
import statistics
import sys

import jax
import numpy as np
import pytest

import funcnet as fn
from funcnet.sweeps import views

POINTS = fn.crossed(
    fn.sample(
        jax.random.key(1), 20, rate=fn.log_uniform(1e-4, 1), act=fn.choice(["relu", np.tanh])
    ),
    fn.grid(width=[32, 8], seed=range(3)),
)
RANDOM = np.random.default_rng(0)
LOSS = np.log10(POINTS["rate"]) ** 2 + RANDOM.normal(size=120)
LOSS[[4, 50, 51, 100]] = [np.nan, np.inf, -np.inf, np.nan]
LOSS[30:36] = np.nan
ACCURACY = RANDOM.uniform(size=120)
ACCURACY[7] = np.nan
RESULTS = fn.table(POINTS, loss=LOSS, accuracy=ACCURACY)
FINITE = [i for i in range(120) if math.isfinite(LOSS[i]) and math.isfinite(ACCURACY[i])]


def groups(key):
    """{key of a row: its members}, in the order of the first."""
    found = {}
    for i in range(120):
        found.setdefault(key({name: values[i] for name, values in POINTS.items()}), []).append(i)
    return found


def mean(values):
    return statistics.fmean(values) if values else math.nan


def check_scores(found, members):
    """Means, deviations and counts of a table against those of lists of members."""
    for name, scores in (("loss", LOSS), ("accuracy", ACCURACY)):
        finite = [[float(scores[i]) for i in group if i in FINITE] for group in members]
        np.testing.assert_allclose(found.scores[name], [mean(f) for f in finite], rtol=1e-12)
        stds = [statistics.stdev(f) if len(f) > 1 else math.nan for f in finite]
        np.testing.assert_allclose(found.stds[name], stds, rtol=1e-10)
    assert found.members.tolist() == [len(group) for group in members]
    assert found.failed.tolist() == [sum(i not in FINITE for i in group) for group in members]


def test_ranking_puts_failures_last():
    found = RESULTS.lowest()
    assert found.scores["loss"][: len(FINITE)].tolist() == sorted(LOSS[FINITE])
    assert not set(found.scores["loss"][len(FINITE) :]) & set(LOSS[FINITE])
    assert found.scores["accuracy"][0] == ACCURACY[FINITE][LOSS[FINITE].argmin()]
    top = RESULTS.highest(3, "accuracy")
    assert top.scores["accuracy"].tolist() == sorted(ACCURACY[FINITE])[:-4:-1]
    first = list(ACCURACY).index(top.scores["accuracy"][0])
    for name, values in POINTS.items():
        assert top.column(name)[0] == values[first]
    averaged = RESULTS.mean_over("seed")
    shares = (averaged.lowest().failed / averaged.lowest().members).tolist()
    assert shares == sorted(shares)


def test_rows_where_a_mask_is_true():
    found = fn.table({"a": [1, 2, 3]}, loss=[0.5, 3.0, 0.1])
    np.testing.assert_array_equal(found.rows(found.scores["loss"] < 2.0).points["a"], [1, 3])


def test_mean_over_seeds():
    found = RESULTS.mean_over("seed")
    expected = groups(lambda p: (p["rate"], p["act"], p["width"]))
    assert list(zip(*found.points.values(), strict=True)) == list(expected)
    check_scores(found, list(expected.values()))
    whole = RESULTS.mean_over(*POINTS)
    check_scores(whole, [range(120)])
    # Of means, each row counts once.
    twice = found.mean_over("rate", "act")
    finite = [row for row in range(40) if math.isfinite(found.scores["loss"][row])]
    for row, width in enumerate((32, 8)):
        means = [found.scores["loss"][i] for i in finite if found.points["width"][i] == width]
        np.testing.assert_allclose(twice.scores["loss"][row], mean(means))
        np.testing.assert_allclose(twice.stds["loss"][row], statistics.stdev(means))
    assert twice.members.tolist() == [60, 60]


def test_marginal_effects():
    expected = groups(lambda p: p["act"])
    found = RESULTS.marginal("act")
    assert found.points == {"act": tuple(expected)}
    check_scores(found, list(expected.values()))
    expected = groups(lambda p: p["width"])
    found = RESULTS.marginal("width")
    assert found.points["width"].tolist() == [8, 32]
    check_scores(found, [expected[8], expected[32]])
    # 20 rates of 6 members each, into 5 bins: 4 rates each.
    found = RESULTS.marginal("rate", bins=5)
    rates = sorted(set(POINTS["rate"]))
    bins = [rates[i : i + 4] for i in range(0, 20, 4)]
    check_scores(found, [[i for i in range(120) if POINTS["rate"][i] in b] for b in bins])
    np.testing.assert_allclose(found.points["rate"], [statistics.median(b) for b in bins])
    assert found.points["rate_low"].tolist() == [b[0] for b in bins]
    assert found.points["rate_high"].tolist() == [b[-1] for b in bins]
    assert list(RESULTS.marginal("rate", bins=20).points) == ["rate"]
    # Equal values are never parted.
    tied = fn.table({"x": [0, 0, 0, 0, 0, 1, 2]}, y=range(7)).marginal("x", bins=2)
    assert (tied.members.tolist(), tied.scores["y"].tolist()) == ([5, 2], [2, 5.5])


TEXT = """\
  rate  make  seed  loss
------------------------
   0.1  sgd      1  0.25
   0.1  sgd      0   0.5
1e-100  adam     0     4
   0.1  adam     1   nan
1 of 4 members failed: a score is not finite"""
AVERAGE = """\
make   loss       ±  members  failed
------------------------------------
sgd   0.375  0.1768        2       0
adam      4     nan        2       1
1 of 4 members failed: a score is not finite"""


def test_text():
    points = {"rate": [0.1, 0.1, 1e-100, 0.1], "make": [fn.sgd] * 2 + [fn.adam] * 2}
    small = fn.table({**points, "seed": [0, 1, 0, 1]}, loss=[0.5, 0.25, 4, np.nan])
    assert str(small.lowest()) == TEXT
    assert str(small.mean_over("rate", "seed")) == AVERAGE
    lines = str(fn.table({"i": range(100_000)}, loss=np.arange(1e5))).splitlines()
    assert (len(lines), lines[-1]) == (23, "... and 99,980 more")


# what is wrong, what the error says
WRONG = {
    "length": (lambda: fn.table({"a": [1, 2]}, s=[1]), "shape (2,), one a point, got {'s': (1,)}"),
    "curves": (lambda: fn.table({"a": [1]}, s=[[1, 2]]), "got {'s': (1, 2)}"),
    "columns": (
        lambda: fn.table({"a": [1], "b": [1, 2]}, s=[1]),
        "one length, got {'a': 1, 'b': 2",
    ),
    "no score": (lambda: fn.table({"a": [1]}), "at least one score"),
    "name": (lambda: fn.table({"a": [1]}, a=[1]), "other names than the points, got ['a']"),
    "axis": (lambda: RESULTS.mean_over("sed"), "the table has points ['rate', 'act', 'width', 's"),
    "score": (lambda: RESULTS.lowest(3, "seed"), "has scores ['loss', 'accuracy'], got 'seed'"),
    "column": (lambda: RESULTS.column("x"), "has columns ['rate'"),
    "bins": (lambda: RESULTS.marginal("rate", 0), "bins must be at least 1, got 0"),
    "alike": (
        lambda: views.parallel_axes(fn.table({"a": [1, 1]}, s=[1, 2])),
        "no column of points varies, got ['a']",
    ),
    "history": (
        lambda: views.bands(np.ones(3)),
        "history must be [members, steps], got shape (3,)",
    ),
    "groups": (lambda: views.bands(np.ones((3, 2)), {"a": [1]}), "groups must be one a member, 3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_is_wrong(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# values, and whether they are spread over orders of magnitude
SCALES = {
    "grid": (np.logspace(-4, 0, 9), "log"),
    "two": ([1e-3, 1e-1], "log"),
    "sample": (POINTS["rate"], "log"),
    "even": (np.linspace(0.001, 1, 9), "linear"),
    "near": ([1, 2, 4, 8], "linear"),
    "negative": ([-1, 100, 1e4], "linear"),
    "one": ([0.5, 0.5], "linear"),
    "failed": ([np.nan, np.inf], "linear"),
}


@pytest.mark.parametrize("name", SCALES)
def test_scale(name):
    values, scale = SCALES[name]
    assert views.scale_of(values) == scale


def test_parallel_axes_cross_at_the_values():
    axes = {axis.name: axis for axis in views.parallel_axes(RESULTS)}
    assert list(axes) == ["rate", "act", "width", "seed", "loss"]
    low, high = POINTS["rate"].min(), POINTS["rate"].max()
    expected = np.log(POINTS["rate"] / low) / np.log(high / low)
    np.testing.assert_allclose(axes["rate"].heights, expected, atol=1e-12)
    assert axes["rate"].ends == (low, high)
    assert axes["width"].marks == {8.0: "8", 32.0: "32"}
    np.testing.assert_array_equal(axes["width"].heights, POINTS["width"] == 32)
    first = POINTS["act"][0]
    np.testing.assert_array_equal(axes["act"].heights, [act is not first for act in POINTS["act"]])
    assert sorted(axes["act"].marks.values()) == ["relu", "tanh"]
    finite = np.isfinite(LOSS)
    low, high = LOSS[finite].min(), LOSS[finite].max()
    np.testing.assert_allclose(axes["loss"].heights[finite], (LOSS[finite] - low) / (high - low))
    assert np.isnan(axes["loss"].heights[~finite]).all()
    constant = fn.table({"a": [1, 1], "b": [1, 2]}, s=[3, 3])
    assert [axis.name for axis in views.parallel_axes(constant)] == ["b", "s"]
    np.testing.assert_array_equal(views.parallel_axes(constant)[1].heights, [0.5, 0.5])


def test_heat_map_means_over_all_else():
    found = views.heat_map(RESULTS, "rate", "act", "accuracy", bins=20)
    members = groups(lambda p: (p["rate"], p["act"]))
    assert found.x.tolist() == sorted(set(POINTS["rate"]))
    for row, act in enumerate(found.y):
        for column, rate in enumerate(found.x):
            group = members.get((rate, act), [])
            expected = mean([float(ACCURACY[i]) for i in group if i in FINITE])
            np.testing.assert_allclose(found.means[row, column], expected)
            share = mean([float(i not in FINITE) for i in group])
            np.testing.assert_allclose(found.failed[row, column], share)
    assert np.nanmax(found.failed) == 1
    assert views.heat_map(RESULTS, "rate", "width", bins=4).means.shape == (2, 4)


def test_bands_end_where_half_have_failed():
    history = np.array([[4.0, 2, 1], [8, 6, np.nan], [6, np.inf, 5], [1, 1, 1], [3, 3, np.nan]])
    first, second = views.bands(history, {"a": [0.1] * 3 + [0.2] * 2, "b": "xxxyy"})
    assert (first.label, second.label) == ((0.1, "x"), (0.2, "y"))
    np.testing.assert_array_equal(first.median, [6, 6, 5])
    np.testing.assert_array_equal(first.low, [4, 2, 1])
    np.testing.assert_array_equal(first.high, [8, np.nan, np.nan])
    np.testing.assert_array_equal(second.median, [2, 2, np.nan])
    (band,) = views.bands(np.arange(9.0)[:, None] + 4.0 * np.arange(3), window=2)
    np.testing.assert_array_equal(
        [band.low, band.median, band.high], [[2, 4, 8], [4, 6, 10], [6, 8, 12]]
    )


def test_without_matplotlib_pictures_say_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\.\[plot\]"'):
        fn.plot_curves(np.ones((2, 3)))


def test_pictures_show_names_scales_and_scores():
    pytest.importorskip("matplotlib")
    main, *uprights, bar = fn.plot_parallel(RESULTS.mean_over("seed").lowest()).axes
    names = [label.get_text() for label in main.get_xticklabels()]
    assert names == ["rate", "act", "width", "loss"]
    assert [axis.get_yscale() for axis in uprights] == ["log", "linear", "linear", "linear"]
    assert [len(lines.get_segments()) for lines in main.collections] == [2, 38]
    assert bar.get_ylabel() == "loss"
    axis, bar = fn.plot_heat_map(RESULTS, "rate", "width", "accuracy", bins=4).axes
    names = [axis.get_xlabel(), axis.get_ylabel(), bar.get_ylabel()]
    assert names == ["rate", "width", "mean accuracy"]
    assert len(axis.texts) == 8
    history = np.exp(-np.arange(12.0)[:, None] * np.arange(9))
    axis, bar = fn.plot_curves(history, {"rate": np.repeat([*range(11)], [2, *[1] * 10])}).axes
    assert (len(axis.lines), axis.get_yscale(), bar.get_ylabel()) == (11, "log", "rate")
    (axis,) = fn.plot_curves(history, {"act": ["relu"] * 6 + ["tanh"] * 6}, name="error").axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["relu", "tanh"]
    assert axis.get_ylabel() == "error"
    assert len(fn.plot_curves(history).axes[0].lines) == 1
