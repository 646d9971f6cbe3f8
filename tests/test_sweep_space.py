"""Grids and samples: closed forms of the distributions, even filling, exact order."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.sweeps.sobol_sequence import DIMENSIONS, sobol_sequence

KEY = jax.random.key(7)
LOG = math.log(1e3)
# distribution, its cumulative distribution, mean, standard deviation
CONTINUOUS = {
    "uniform": (fn.uniform(-2, 4), lambda x: (x + 2) / 6, 1.0, 6 / math.sqrt(12)),
    "log_uniform": (
        fn.log_uniform(1e-3, 1),
        lambda x: math.log(x / 1e-3) / LOG,
        (1 - 1e-3) / LOG,
        math.sqrt((1 - 1e-6) / (2 * LOG) - ((1 - 1e-3) / LOG) ** 2),
    ),
    "normal": (fn.normal(3, 0.5), lambda x: math.erfc((3 - x) / 0.5 / math.sqrt(2)) / 2, 3.0, 0.5),
}
# distribution, the probability of each value
DISCRETE = {
    "integers": (fn.integers(-1, 3), {-1: 0.25, 0: 0.25, 1: 0.25, 2: 0.25}),
    "choice": (fn.choice(["a", max, True]), {"a": 1 / 3, max: 1 / 3, True: 1 / 3}),
    "weights": (fn.choice([32, 64, 128], [1, 0, 3]), {32: 0.25, 128: 0.75}),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_numbers_have_their_distribution(name):
    distribution, cumulative, mean, std = CONTINUOUS[name]
    n = 4096
    x = fn.sample(KEY, n, x=distribution)["x"]
    u = np.sort([cumulative(value) for value in x])
    # Kolmogorov and Smirnov: beyond 1.63 once in a hundred samples.
    assert np.abs(u - (np.arange(n) + 0.5) / n).max() < 1.63 / math.sqrt(n)
    np.testing.assert_allclose(x.mean(), mean, atol=4 * std / math.sqrt(n))
    np.testing.assert_allclose(x.std(), std, rtol=0.05)
    u = np.array([1e-9, 0.025, 0.3, 0.5, 0.975])
    np.testing.assert_allclose([cumulative(x) for x in distribution.quantile(u)], u, atol=1e-14)


def test_quantiles_by_hand():
    u = np.array([0.025, 0.5, 0.75])
    np.testing.assert_allclose(fn.uniform(2, 4).quantile(u), [2.05, 3, 3.5])
    np.testing.assert_allclose(fn.log_uniform(1e-4, 1).quantile(u), [10**-3.9, 0.01, 0.1])
    normal = [-1.9599639845400545, 0, 0.6744897501960817]
    np.testing.assert_allclose(fn.normal(0, 1).quantile(u), normal, rtol=1e-14)
    ends = np.array([2.0**-33, 1 - 2.0**-33])
    np.testing.assert_array_equal(fn.integers(3, 10**6).quantile(ends), [3, 10**6 - 1])
    assert fn.choice("ab").quantile(np.append(ends, 0.5)) == ("a", "b", "b")
    assert fn.log_uniform(1e-3, 0.1).quantile(np.array([1.0]))[0] <= 0.1


@pytest.mark.parametrize("name", DISCRETE)
def test_choices_have_their_probabilities(name):
    distribution, probabilities = DISCRETE[name]
    n = 4096
    drawn = list(fn.sample(KEY, n, x=distribution)["x"])
    assert set(drawn) == set(probabilities)
    # In a Latin hypercube the numbers of each are exact, but for one at each edge.
    even = list(fn.latin_hypercube(KEY, n, x=distribution)["x"])
    for value, p in probabilities.items():
        assert abs(drawn.count(value) - n * p) < 4 * math.sqrt(n * p * (1 - p))
        assert abs(even.count(value) - n * p) <= 2


def test_a_column_is_a_function_of_the_key_and_its_name():
    space = {"x": fn.uniform(0, 1), "y": fn.uniform(0, 1)}
    for draw in (fn.sample, fn.latin_hypercube):
        both = draw(KEY, 512, **space, n=0.5, key="relu")
        np.testing.assert_array_equal(draw(KEY, 512, y=space["y"])["y"], both["y"])
        assert abs(np.corrcoef(both["x"], both["y"])[0, 1]) < 4 / math.sqrt(512)
        other = draw(jax.random.key(8), 512, **space)["x"]
        assert abs(np.corrcoef(both["x"], other)[0, 1]) < 4 / math.sqrt(512)
        np.testing.assert_array_equal(both["n"], np.full(512, 0.5))
        assert both["key"] == ("relu",) * 512
    golden = [0.414011889253743, 0.149704449926503, 0.380899393116124]
    np.testing.assert_allclose(fn.sample(KEY, 3, x=fn.uniform(0, 1))["x"], golden, rtol=1e-14)
    assert fn.uniform(0, 1) == fn.uniform(0.0, 1)


def test_latin_hypercube_has_one_in_each_stratum():
    n = 37
    space = {name: distribution for name, (distribution, *_) in CONTINUOUS.items()}
    points = fn.latin_hypercube(KEY, n, **space)
    orders = []
    for name, (_, cumulative, *_) in CONTINUOUS.items():
        u = n * np.array([cumulative(x) for x in points[name]])
        np.testing.assert_array_equal(np.sort(np.floor(u)), np.arange(n))
        assert 0.2 < np.std(u - np.floor(u)) < 0.4  # uniform inside: 0.29
        orders.append(tuple(np.floor(u)))
    assert len(set(orders)) == 3


def test_sobol_is_the_published_sequence():
    # The first points in three dimensions, by hand from m = (1, 1, 1), (1, 3, 5), (1, 3, 1).
    eighths = sobol_sequence(8, 3) / 2**32 * 8
    by_hand = [[0, 0, 0], [4, 4, 4], [6, 2, 2], [2, 6, 6], [3, 3, 5], [7, 7, 1], [5, 1, 7]]
    np.testing.assert_array_equal(eighths[:7], by_hand)
    qmc = pytest.importorskip("scipy.stats").qmc
    theirs = qmc.Sobol(DIMENSIONS, scramble=False, bits=32).random(1024)
    np.testing.assert_array_equal(sobol_sequence(1024, DIMENSIONS), theirs * 2**32)


def test_sobol_is_even_in_boxes_and_uniform_over_keys():
    space = {f"x{i}": fn.uniform(0, 1) for i in range(DIMENSIONS)}
    k = 6
    points = np.array(list(fn.sobol(KEY, 2**k, **space).values()))
    assert points.shape == (21, 64)
    for row in points:
        np.testing.assert_array_equal(np.sort(np.floor(row * 2**k)), np.arange(2**k))
    for i in range(k + 1):
        cells = np.floor(points[0] * 2**i) * 2 ** (k - i) + np.floor(points[1] * 2 ** (k - i))
        np.testing.assert_array_equal(np.sort(cells), np.arange(2**k))
    keys = jax.random.split(KEY, 100)
    first = np.array([fn.sobol(key, 1, x=space["x0"])["x"][0] for key in keys])
    assert np.abs(np.sort(first) - (np.arange(100) + 0.5) / 100).max() < 1.63 / 10


def test_sobol_skips_constants_and_integrates_better_than_chance():
    space = {"a": fn.uniform(0, 1), "c": 3, "b": fn.uniform(0, 1)}
    one, two = fn.sobol(KEY, 8, **space), fn.sobol(KEY, 8, a=space["a"], b=space["b"])
    np.testing.assert_array_equal(one["b"], two["b"])
    assert list(one) == ["a", "c", "b"]
    assert one["c"].tolist() == [3] * 8

    def error(draw):
        p = draw(KEY, 1024, a=space["a"], b=space["b"])
        return abs((p["a"] * p["b"]).mean() - 0.25)

    assert error(fn.sobol) < 1e-3  # of independent points 7e-3 is usual
    assert list(fn.sobol(KEY, 2, c=1)) == ["c"]


def test_grid_is_the_product_in_order():
    axes = {"rate": [0.1, 0.01, 1], "make": (fn.sgd, fn.adam), "seed": range(2)}
    points = fn.grid(**axes, dropout=0.5, name="adam", train=[True])
    rows = list(itertools.product(*axes.values()))
    for place, name in enumerate(axes):
        assert list(points[name]) == [row[place] for row in rows]
    assert (points["rate"].dtype, points["seed"].dtype) == (float, int)
    assert points["name"] == ("adam",) * 12
    assert points["train"] == (True,) * 12
    pair = fn.sgd(0.1)
    assert fn.grid(pair=pair, seed=[jnp.int32(0), jnp.float32(1)])["pair"] == (pair, pair)
    np.testing.assert_array_equal(points["dropout"], np.full(12, 0.5))
    rates = jnp.logspace(-3, 0, 4)
    np.testing.assert_array_equal(fn.grid(rate=rates)["rate"], rates)


def test_values_are_pythons_own_and_exact():
    """Whichever array they came in: a bool of NumPy's is not True, and another choice."""
    flags = (np.array([True, False]), jnp.array([True, False]), [np.True_, np.False_])
    for values in flags:
        assert all(a is b for a, b in zip(fn.grid(a=values)["a"], (True, False), strict=True))
    points = fn.grid(seed=[2**63 - 1, -(2**63)], name=np.array(["x"]), widths=[(64, 64), (8,)])
    assert points["seed"].tolist() == [2**63 - 1] * 2 + [-(2**63)] * 2
    assert [type(name) for name in points["name"]] == [str] * 4
    assert points["widths"] == ((64, 64), (8,)) * 2
    assert fn.grid(a=[2**53 + 1, np.uint64(7), np.int8(-1)])["a"].tolist() == [2**53 + 1, 7, -1]
    assert fn.grid(a=np.float32([0.1]))["a"].dtype == np.float32
    assert fn.grid(a=[2**70, 0.5])["a"].tolist() == [2.0**70, 0.5]
    assert fn.grid(a=[np.float32, jnp.bfloat16], b=np.float32)["a"] == (np.float32, jnp.bfloat16)


def test_crossed_gives_each_the_others():
    samples = fn.sample(KEY, 3, rate=fn.uniform(0, 1), kind=fn.choice("ab"))
    seeds = fn.grid(seed=range(2))
    points = fn.crossed(samples, seeds)
    rows = list(zip(*points.values(), strict=True))
    expected = itertools.product(zip(*samples.values(), strict=True), range(2))
    assert rows == [(*point, seed) for point, seed in expected]
    assert list(fn.crossed(samples, seeds, fn.grid(z=[1, 2, 3]))["seed"][:6]) == [0, 0, 0, 1, 1, 1]


def test_points_are_a_sweep():
    def build(learning_rate, b1):
        return fn.adam(learning_rate, b1=b1)

    points = fn.sobol(KEY, 4, learning_rate=fn.log_uniform(1e-4, 1e-1), b1=0.9)
    found = fn.hyperparameters(jax.vmap(build)(**points))
    np.testing.assert_allclose(found["update.learning_rate.value"], points["learning_rate"], 1e-6)


# what is wrong, what the error says
WRONG = {
    "order": (lambda: fn.uniform(1, 1), ValueError, "uniform expects finite low < high, got 1"),
    "infinite": (lambda: fn.uniform(0, np.inf), ValueError, "finite low < high"),
    "no number": (lambda: fn.uniform("a", 1), TypeError, "low must be a number, got 'a'"),
    "array": (lambda: fn.uniform(np.zeros(2), 1), TypeError, "numbers known in advance"),
    "logarithm": (lambda: fn.log_uniform(0, 1), ValueError, "log_uniform expects low > 0, got 0"),
    "std": (lambda: fn.normal(0, 0), ValueError, "std > 0, got 0 and 0"),
    "half": (lambda: fn.integers(0, 1.5), TypeError, "integers expects integers, got 0 and 1.5"),
    "coarse": (lambda: fn.integers(0, 2**53 + 1), ValueError, "integers expects at most 2"),
    "no integer": (lambda: fn.integers(2, 2), ValueError, "low < high, got 2 and 2"),
    "nothing": (lambda: fn.choice([]), ValueError, "choice needs at least one value"),
    "weights": (lambda: fn.choice("ab", [1, -1]), ValueError, "a weight >= 0 for each of 2"),
    "no weight": (lambda: fn.choice("ab", [0, 0]), ValueError, "a weight >= 0 for each of 2"),
    "list": (lambda: fn.sample(KEY, 2, a=[1, 2]), TypeError, "a must be a distribution, such as"),
    "seed": (lambda: fn.sample(0, 2, a=fn.uniform(0, 1)), TypeError, "expected a key, such as"),
    "none": (lambda: fn.sample(KEY, 0, a=1), ValueError, "n must be at least 1, got 0"),
    "drawn": (lambda: fn.grid(a=fn.uniform(0, 1)), TypeError, "sample draws from a distribution"),
    "empty": (lambda: fn.grid(a=[]), ValueError, "a needs at least one value, got none"),
    "matrix": (lambda: fn.grid(a=np.ones((2, 2))), ValueError, "a must be a column of single"),
    "list of lists": (
        lambda: fn.grid(a=[[32, 32], [64]]),
        *(ValueError, "got [32, 32]; a choice of several numbers, such as widths, is a tuple"),
    ),
    "choice of lists": (lambda: fn.choice([[1, 2]]), ValueError, "choice must be a column of sin"),
    "wide": (
        lambda: fn.grid(a=[1, 2**63]),
        ValueError,
        f"integers of 64 bits, got {2**63}",
    ),
    "wider": (lambda: fn.grid(a=[2**64]), ValueError, "a must be integers of 64 bits"),
    "wide array": (lambda: fn.grid(a=np.array([2**63], np.uint64)), ValueError, "of 64 bits"),
    "keys": (lambda: fn.grid(a=jax.random.split(KEY, 2)), TypeError, "a must be seeds"),
    "twice": (lambda: fn.crossed({"a": [1]}, {"a": [2]}), ValueError, "got ['a'] more than once"),
    "nothing at all": (fn.grid, ValueError, "crossed expects points, got none"),
    "unequal": (lambda: fn.crossed({"a": [1], "b": [1, 2]}), ValueError, "{'a': 1, 'b': 2}"),
    "dimensions": (
        lambda: fn.sobol(KEY, 2, **{f"x{i}": fn.uniform(0, 1) for i in range(22)}),
        *(ValueError, "sobol has 21 dimensions, got 22"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_is_wrong(name):
    call, error, message = WRONG[name]
    with pytest.raises(error, match=re.escape(message)):
        call()
