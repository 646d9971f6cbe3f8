"""Horizons and early stopping against loops in Python that stop each run by hand."""

import functools

import jax
import jax.numpy as jnp
import members
import numpy as np
import pytest
from members import EVERY, KEY, MEMBERS, RATES, SIZE, TRAIN, VALIDATION, build, same_bits

import funcnet as fn

HORIZONS = np.array([0.0, 1.0, 4.0, 3.0, 6.0, 2.5], np.float32)
KEYS = jax.random.split(KEY, MEMBERS)


def until_sweep():
    return jax.vmap(lambda rate, horizon: fn.until(build(rate), horizon))(RATES, HORIZONS)


def test_each_member_stops_at_its_horizon_bit_for_bit():
    """The members are those of plain sweeps of each length."""
    ran, losses, _ = members.train(until_sweep(), members.start(KEYS), steps=6)
    plain, trainers = [members.start(KEYS)], members.sweep()
    every = []
    for _ in range(6):
        state, loss, _ = members.train(trainers, plain[-1], steps=1)
        plain.append(state)
        every.append(loss[:, 0])
    for member, horizon in enumerate(np.ceil(HORIZONS).astype(int)):
        assert ran.step[member] == horizon
        assert same_bits(members.select(ran, member), members.select(plain[horizon], member))
        np.testing.assert_array_equal(losses[member, :horizon], np.array(every)[:horizon, member])
    again, _, _ = members.train(until_sweep(), ran, steps=6)
    ended = HORIZONS <= 6
    assert same_bits(members.select(again, ended), members.select(ran, ended))


def test_a_horizon_is_a_leaf_and_what_comes_before_it_differentiates():
    """In a bowl of curvatures 1 and 3 by momentum: d loss / d every number."""

    def loss(params, state, batch, *, key=None, train=False):
        return (batch.mean(axis=0) * params**2).sum(), (state, {})

    def bowl(rate):
        task = fn.Task(lambda key: (jnp.array([1.0, -2.0]), ()), loss)
        return fn.trainer(task, fn.momentum(rate, 0.8))

    with jax.enable_x64(True):
        data = np.array([[0.5, 1.0], [0.5, 2.0]])

        @functools.partial(jax.jit, static_argnames="steps")
        def slopes(trainer, steps):
            def final(trainer):
                result = fn.run(trainer, data, KEY, steps=steps, batch_size=None)
                return (result.state.params**4).sum()

            return jax.grad(final)(trainer)

        inside = slopes(fn.until(bowl(0.1), 4), steps=7).step.keywords
        whole = fn.hyperparameters(slopes(bowl(0.1), steps=4).step)
        within = fn.hyperparameters(inside["step"])
        assert inside["horizon"] == 0.0
        assert set(whole) == set(within)
        for name, slope in whole.items():
            np.testing.assert_allclose(within[name], slope, rtol=1e-12)
            assert slope != 0.0
    with pytest.raises(ValueError, match=r"horizon must lie in .* got -1"):
        fn.until(build(0.1), -1)
    one, other = fn.until(build(1.0), 4), fn.until(build(2.0), 5)
    assert jax.tree.structure(one) == jax.tree.structure(other)


PATIENCE = np.array([1, 2, 1, 2, 1, 3])
IMPROVEMENT = np.array([0.0, 0.0, 0.3, 0.0, 0.02, 0.0], np.float32)
STEPS = 8 * EVERY


def scarce(metrics):
    """The loss, which is not known in some places: NaN in the middle, -inf when small."""
    loss = metrics["loss"]
    return jnp.where(loss < 0.45, -jnp.inf, jnp.where((loss > 0.9) & (loss < 1.0), jnp.nan, loss))


SCORES = (fn.least("loss"), fn.greatest("accuracy"), scarce)
BY_HAND = (lambda m: m["loss"], lambda m: -m["accuracy"], scarce)


@jax.jit
def stop(trainers, start, patience, improvement, which):
    def score(metrics):
        return jnp.stack([score(metrics) for score in SCORES])[which]

    def one(trainer, start, patience, improvement):
        return fn.resume_early_stopping(
            trainer,
            TRAIN,
            VALIDATION,
            start,
            steps=STEPS,
            batch_size=SIZE,
            every=EVERY,
            patience=patience,
            min_improvement=improvement,
            score=score,
        )

    return jax.vmap(one)(trainers, start, patience, improvement)


begin = jax.jit(lambda: jax.vmap(fn.sweeps.watch)(members.start(KEYS)))


@functools.cache
def chunks():
    """The states and metrics of all members after each evaluation, had none stopped."""
    states, found = [members.start(KEYS)], []
    for _ in range(STEPS // EVERY):
        state, losses, metrics = members.train(members.sweep(), states[-1])
        states.append(state)
        found.append((losses, metrics))
    return states, found


@pytest.mark.parametrize("which", range(3), ids=["loss", "accuracy", "scarce"])
def test_early_stopping_is_a_loop_in_python(which):
    stopped = stop(members.sweep(), begin(), PATIENCE, IMPROVEMENT, which)
    states, found = chunks()
    ends = []
    for member in range(MEMBERS):
        best, best_at, waited, scores = np.inf, 0, 0, np.full(STEPS // EVERY, np.nan)
        for index, (_, metrics) in enumerate(found):
            score = scores[index] = BY_HAND[which]({k: v[member] for k, v in metrics.items()})
            waited += 1
            if np.isfinite(score) and score < best - float(IMPROVEMENT[member]):
                best, best_at, waited = score, index + 1, 0
            if waited >= PATIENCE[member]:
                break
        ends.append(index + 1)
        got = members.select(stopped, member)
        np.testing.assert_array_equal(got.scores, scores)
        assert got.stopped_at == EVERY * (index + 1)
        assert got.watch.best_score == best
        assert same_bits(got.watch.state, members.select(states[index + 1], member))
        assert same_bits(got.watch.best, members.select(states[best_at], member))
        losses = [np.asarray(losses)[member].mean() for losses, _ in found[: index + 1]]
        np.testing.assert_allclose(got.loss[: index + 1], losses, rtol=1e-6)
        assert np.isnan(np.asarray(got.loss)[index + 1 :]).all()
        assert np.isnan(np.asarray(got.metrics["accuracy"])[index + 1 :]).all()
    assert len(set(ends)) > 2, "the cases differ"


def test_early_stopping_goes_on_where_it_ended_bit_for_bit():
    """Through a first end by the number of steps, and with more patience after the last."""
    whole = stop(members.sweep(), begin(), PATIENCE + 1, IMPROVEMENT, 0)
    less = stop(members.sweep(), begin(), PATIENCE, IMPROVEMENT, 0)
    assert (less.stopped_at < whole.stopped_at).any()
    rest = stop(members.sweep(), less.watch, PATIENCE + 1, IMPROVEMENT, 0)
    assert stop._cache_size() == 1, "a beginning and a continuation are one program"
    ended = np.asarray(whole.stopped_at) < STEPS
    assert ended.any()
    assert same_bits(members.select(rest.watch, ended), members.select(whole.watch, ended))
    for member in np.flatnonzero(ended):
        first, second = (np.asarray(part.scores[member]) for part in (less, rest))
        joined = np.append(first[~np.isnan(first)], second[~np.isnan(second)])
        scores = np.asarray(whole.scores[member])
        np.testing.assert_array_equal(joined, scores[~np.isnan(scores)])


def test_one_run_stops_alone_and_a_lost_one_keeps_its_beginning():
    stopping = jax.jit(
        functools.partial(fn.early_stopping, steps=STEPS, batch_size=SIZE, every=EVERY, patience=2)
    )
    lost = stopping(build(np.float32(np.inf)), TRAIN, VALIDATION, KEY)
    begun = members.start(KEY[None])
    assert lost.stopped_at == 2 * EVERY
    assert lost.watch.best_score == np.inf
    np.testing.assert_allclose(
        *(jax.tree.leaves(s.params)[0].ravel() for s in (lost.watch.best, begun)), rtol=1e-6
    )
    alone = stopping(build(np.float32(0.5)), TRAIN, VALIDATION, KEYS[1])
    among = members.select(
        stop(members.sweep(), begin(), np.full(MEMBERS, 2), 0 * IMPROVEMENT, 0), 1
    )
    assert alone.stopped_at == among.stopped_at
    np.testing.assert_allclose(alone.scores, among.scores, rtol=1e-5)
    with pytest.raises(ValueError, match="steps must be a multiple of every, got 7 and 3"):
        fn.early_stopping(
            build(0.1), TRAIN, VALIDATION, KEY, steps=7, batch_size=SIZE, every=3, patience=1
        )
