"""The suggested learning rate, against closed forms and runs one by one."""

import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.training import run_keys

RATES = np.array([0.01, 0.6, 0.05, 0.3, 0.15, 1.1, 3.0, 1e30])
KEYS = jax.random.split(jax.random.key(2), 4)
DATA = np.zeros((6, 1))
STEPS = 10


def init(key):
    """A point, and as the state how steep its bowl is."""
    point, steepness = jax.random.uniform(key, (2,), minval=1.0, maxval=4.0)
    return point, steepness


def bowl(params, state, batch, *, key=None, train=False):
    return 0.5 * state * (params - batch.mean()) ** 2, (state, {})


def two_kinds(key):
    return jnp.zeros(()), (jax.random.uniform(key) < 0.5).astype(int)


def prescribed(params, state, batch, *, key=None, train=False):
    """After three steps at a rate of 0, 1 or 2: the losses of the two kinds of seeds."""
    still = jax.lax.stop_gradient(params)
    loss = jnp.array([[1.0, 0.9, 2.0], [100.0, 50.0, 3.0]])[state, (still / 3).astype(int)]
    return loss + still - params, (state, {})


BOWLS = fn.Task(init, bowl)


def build(rate, task=BOWLS):
    return fn.trainer(task, fn.sgd(rate))


find = functools.partial(fn.find_learning_rate, build, rates=RATES, steps=STEPS, batch_size=None)


@pytest.fixture(scope="module")
def found():
    return jax.tree.map(np.asarray, jax.jit(find)(DATA, KEYS))


def test_descent_in_bowls(found):
    starts = [build(0.1).init(key) for key in KEYS]
    points, steepness = (np.array([float(s[i]) for s in starts]) for i in (0, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        # The point shrinks by 1 - rate * steepness a step.
        factors = 1 - RATES[:, None, None] * steepness[:, None]
        curves = 0.5 * steepness[:, None] * (points[:, None] * factors ** np.arange(STEPS)) ** 2
    np.testing.assert_allclose(found.loss[:7], curves[:7], rtol=2e-4)
    scores = [[statistics.fmean(curve[-3:]) for curve in row] for row in curves]
    np.testing.assert_allclose(found.score[:7], scores[:7], rtol=2e-4)
    assert np.isinf(found.score[7]).all()
    np.testing.assert_allclose(
        found.median[:7], [statistics.median(row) for row in scores[:7]], rtol=2e-4
    )
    assert np.isinf(found.median[7])
    np.testing.assert_array_equal(found.diverged, abs(factors[..., 0]) >= 1)
    # The rate whose worst seed is the best, which here is not the one of the best median.
    worst = [max(row) for row in scores]
    assert found.suggestion == np.float32(RATES[np.argmin(worst)]) == np.float32(0.3)
    assert RATES[found.median.argmin()] == 0.6
    assert found.edge == np.float32(1.1)


def test_a_rate_at_which_any_seed_diverges_is_not_suggested():
    hard = functools.partial(build, task=fn.Task(two_kinds, prescribed))
    options = {"steps": 4, "batch_size": None}
    kinds = [int(two_kinds(jax.random.split(key)[0])[1]) for key in KEYS]
    assert set(kinds) == {0, 1}

    @jax.jit
    def found(rates):
        return fn.find_learning_rate(hard, DATA, KEYS, rates=rates, **options)

    one = found(np.array([2.0, 1.0]))
    np.testing.assert_array_equal(one.diverged, [[kind == 0 for kind in kinds], [False] * 4])
    assert (one.suggestion, one.edge) == (1, 2)
    none = found(np.array([2.0, 2.0]))
    assert np.isnan(none.suggestion)
    assert none.edge == 2


def test_a_key_gives_each_rate_the_same_batches():
    data = np.arange(7.0)[:, None]
    at_rest = functools.partial(find, rates=[0.0, 1e-30], steps=5, batch_size=3)
    loss = np.asarray(jax.jit(at_rest)(data, KEYS[:2]).loss)
    np.testing.assert_array_equal(loss[0], loss[1])
    indices = jax.jit(fn.batch_indices, static_argnums=(2, 3))
    for curve, key in zip(loss[0], KEYS, strict=False):
        state = build(0.1).init(key)
        data_key, _ = run_keys(state.key)
        means = np.array([data[indices(data_key, step, 7, 3)].mean() for step in range(5)])
        np.testing.assert_allclose(curve, 0.5 * state.state * (state.params - means) ** 2, 1e-5)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"keys must be an array \[S\] of them, such as"):
        find(DATA, KEYS[0])
    with pytest.raises(ValueError, match=r"rates must be an array \[K\], got shape \(\)"):
        find(DATA, KEYS, rates=0.1)
    with pytest.raises(ValueError, match="steps must be at least 2, got 1"):
        find(DATA, KEYS, steps=1)


def test_the_picture_shows_the_suggestion(found):
    pytest.importorskip("matplotlib")
    left, right, bar = fn.plot_learning_rates(found).axes
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["a seed", "diverged", "suggestion 0.3"]
    assert [left.get_xscale(), left.get_yscale()] == ["log", "log"]
    assert bar.get_ylabel() == "learning rate"
    assert len(right.lines) == len(RATES)
    assert right.get_ylim()[1] < 100
    nothing = found._replace(suggestion=np.nan, diverged=np.ones_like(found.diverged))
    assert fn.plot_learning_rates(nothing).axes[0].get_legend() is not None
