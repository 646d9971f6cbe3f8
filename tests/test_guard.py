"""Guarded runs with faults put in at known steps, against a loop that leaves those steps out."""

import functools

import jax
import jax.numpy as jnp
import members
import numpy as np
import pytest
from members import FULL, KEY, LABELS, SIZE, VALIDATION, X, build, same_bits

import funcnet as fn
from funcnet.guard import Guarded
from funcnet.training import run_keys

OVER = np.float32(1e25)  # its square is infinite
FAULTS = {  # what a step's batch is, by one letter
    ".": (0.0, 1.0, 1.0),
    "l": (np.nan, 1.0, 1.0),  # a loss that is not finite, of finite gradients
    "g": (0.0, np.nan, 1.0),  # likewise gradients, and the loss
    "o": (0.0, OVER, 1.0),  # gradients, parameters finite, the optimizer's state not
    "s": (0.0, 1.0, np.inf),  # the network's state
}
PATTERNS = ["." * 10, "l..g.s.o..", "gg.gg.gg..", ".ggg......", "gggggggggg", "......lgos"]
PATIENCE = 3


def loss(params, state, batch, *, key=None, train=False):
    """A slope for the parameters, and a state that sums what it is given; noise in both."""
    added, slope, given = batch
    noise = jax.random.normal(key)
    value = added + slope * (params + noise * params).sum()
    return value, (state + given + noise, {})


TOY = fn.trainer(fn.Task(lambda key: (jnp.ones(2), jnp.zeros(())), loss), fn.adam(0.1))


def batches(pattern):
    return tuple(np.array([FAULTS[letter] for letter in pattern], np.float32).T)


@jax.jit
def guarded(patterns):
    trainer = fn.guard(TOY, patience=PATIENCE)
    return jax.vmap(lambda batches: jax.lax.scan(trainer.step, trainer.init(KEY), batches))(
        patterns
    )


def test_steps_that_are_not_finite_are_left_out_and_three_in_a_row_freeze():
    """In each of four places; the optimizer's count and the noise are those of the steps made."""
    patterns = jax.tree.map(lambda *a: np.stack(a), *map(batches, PATTERNS))
    states, metrics = guarded(patterns)
    step = jax.jit(TOY.step)
    for member, pattern in enumerate(PATTERNS):
        run, skipped, in_a_row, failed_at = TOY.init(KEY), 0, 0, -1
        for index, letter in enumerate(pattern):
            if letter == "." and failed_at < 0:
                batch = tuple(np.float32(a) for a in FAULTS[letter])
                run, in_a_row = step(run._replace(step=jnp.int32(index)), batch)[0], 0
            elif failed_at < 0:
                skipped, in_a_row = skipped + 1, in_a_row + 1
                failed_at = index - PATIENCE + 1 if in_a_row == PATIENCE else -1
        got = members.select(states, member)
        assert (got.skipped, got.in_a_row, got.failed_at) == (skipped, in_a_row, failed_at)
        assert got.frozen == (failed_at >= 0)
        assert got.step == len(pattern)
        for a, b in zip(jax.tree.leaves(got.run[:3]), jax.tree.leaves(run[:3]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        assert got.opt_state.count == run.opt_state.count
    np.testing.assert_array_equal(
        np.isnan(metrics["loss"]), [[c in "lg" for c in p] for p in PATTERNS]
    )


def test_an_infinite_slope_counts_also_where_the_optimizer_makes_it_finite():
    """The root's at 0, which is infinite, by its sign."""

    def root(params, state, batch, *, key=None, train=False):
        return jnp.sqrt(params), (state, {})

    trainer = fn.trainer(fn.Task(lambda key: (jnp.zeros(()), ()), root), fn.sign_sgd(0.5))
    for around, params in ((trainer, -0.5), (fn.guard(trainer), 0.0)):
        state, metrics = around.step(around.init(KEY), ())
        assert metrics["loss"] == 0.0
        assert metrics["gradient_norm"] == np.inf
        assert state.params == params
    assert state.skipped == 1


def test_the_others_do_not_notice():
    """One example is NaN in one member's data: that member leaves out the batches that hold it,
    and the other's bits are those that they are beside a healthy member. One of the rates is
    infinite, and its member keeps its first parameters."""
    rates, steps = np.array([0.3, 0.1, np.inf], np.float32), 10
    task = fn.supervised(fn.dense(3, 3), fn.cross_entropy)
    begun = jax.jit(fn.trainer(task, fn.momentum(0.1)).init)(KEY)
    x = np.stack([X, X, X])
    x[1, 5] = np.nan

    @functools.partial(jax.jit, compiler_options=FULL)
    def run(x, rates):
        def one(x, rate):
            trainer, none = fn.guard(fn.trainer(task, fn.momentum(rate))), jnp.int32(0)
            start = Guarded(begun, none, none, none - 1)
            return fn.resume(trainer, (x, LABELS), start, steps=steps, batch_size=SIZE)

        return jax.vmap(one)(x, rates)

    ill, well = run(x, rates), run(np.stack([X, X, X]), np.array([0.3, 0.2, 0.1], np.float32))
    assert same_bits(members.select(ill, 0), members.select(well, 0))
    data_key, _ = run_keys(well.state.key[0])
    hit = [5 in fn.batch_indices(data_key, step, len(X), SIZE) for step in range(steps)]
    assert sum(hit) >= 2
    np.testing.assert_array_equal(np.isnan(ill.loss[1]), hit)
    np.testing.assert_array_equal(ill.state.skipped, [0, sum(hit), 3])
    np.testing.assert_array_equal(ill.state.failed_at, [-1, -1, 0])
    np.testing.assert_array_equal(ill.state.step, steps)
    for got, first in zip(*map(jax.tree.leaves, (ill.state.params, begun.params)), strict=True):
        np.testing.assert_array_equal(got[2], first)
        assert np.isfinite(got).all()


def test_a_guard_changes_no_bit_of_a_healthy_run():
    """Nor its scores, its derivatives and its structure for another rate."""
    trainers = members.sweep()
    keys = jax.random.split(KEY, members.MEMBERS)
    around = jax.vmap(lambda rate: fn.guard(build(rate), patience=2))(members.RATES)
    none = jnp.zeros(members.MEMBERS, jnp.int32)
    begun = Guarded(members.start(keys), none, none, none - 1)
    healthy = np.isfinite(members.RATES)
    ran, losses, scores = members.train(around, begun)
    plain = members.train(trainers, members.start(keys))
    for got, want in zip((ran.run, losses, scores), plain, strict=True):
        assert same_bits(members.select(got, healthy), members.select(want, healthy))
    assert np.isnan(plain[1][~healthy]).any()
    np.testing.assert_array_equal(ran.frozen, ~healthy)
    twice, structure = fn.guard(fn.guard(build(0.1))), jax.tree.structure(fn.guard(build(0.2)))
    scored = jax.eval_shape(lambda: fn.evaluate(twice, twice.init(KEY), VALIDATION))
    assert scored.keys() == scores.keys()
    assert jax.tree.structure(fn.guard(build(0.1))) == structure
    assert jax.tree.structure(fn.guard(build(0.1), patience=4)) != structure
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        fn.guard(build(0.1), patience=0)


def test_a_guarded_run_differentiates():
    def final(trainer):
        patterns = tuple(jnp.asarray(a) for a in batches(PATTERNS[0]))
        return jax.lax.scan(trainer.step, trainer.init(KEY), patterns)[0].params.sum()

    plain, around = jax.jit(lambda: (jax.grad(final)(TOY), jax.grad(final)(fn.guard(TOY))))()
    for a, b in zip(*map(jax.tree.leaves, (plain, around)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
        assert a != 0.0


def test_a_run_past_its_horizon_does_not_fail():
    """Inside a guard: the batch that would come next, and is looked at for ever, is not finite."""
    x = X.copy()
    data_key, _ = run_keys(build(0.1).init(KEY).key)
    seen = np.concatenate([fn.batch_indices(data_key, k, len(x), SIZE) for k in range(3)])
    following = np.asarray(fn.batch_indices(data_key, 3, len(x), SIZE))
    x[np.setdiff1d(following, seen)] = np.nan
    assert np.isnan(x[following]).any()
    trainer = fn.guard(fn.until(build(0.1), 3.0), patience=2)
    state = fn.run(trainer, (x, LABELS), KEY, steps=8, batch_size=SIZE).state
    assert (int(state.step), bool(state.frozen), int(state.skipped)) == (3, False, 0)
