"""Successive halving and Hyperband against loops in Python and the published table."""

import functools

import jax
import jax.numpy as jnp
import members
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from members import EVERY, KEY, MEMBERS, SIZE, TRAIN, VALIDATION, build, same_bits

import funcnet as fn
from funcnet.sweeps import Rungs

KEYS = jax.random.split(KEY, MEMBERS)
HALVING = Rungs((6, 2), (EVERY, 2 * EVERY))
halve = jax.jit(
    lambda trainers, keys: fn.successive_halving(
        trainers, TRAIN, VALIDATION, keys, rungs=HALVING, batch_size=SIZE
    )
)


def by_hand(trainers, states, plan):
    """Each rung's members, scores and last states; the trained are those of a plain sweep."""
    alive, made, history = np.arange(plan.sizes[0]), 0, []
    for index, (size, steps) in enumerate(zip(*plan, strict=True)):
        if index:
            scores = history[-1][1]
            order = sorted(
                range(len(scores)), key=lambda i: (not np.isfinite(scores[i]), scores[i])
            )
            kept = order[:size]
            alive = alive[kept]
            trainers, states = members.select(trainers, kept), members.select(states, kept)
        states, _, metrics = members.train(trainers, states, steps=steps - made)
        made = steps
        history.append((alive, np.asarray(metrics["loss"]), states))
    return history


def test_halving_is_a_loop_over_the_survivors():
    """Bit for bit: a rung is a sweep of its own. The one that diverges is last."""
    halved = halve(members.sweep(), KEYS)
    history = by_hand(members.sweep(), members.start(KEYS), HALVING)
    reached, spent, last = (np.zeros(MEMBERS) for _ in range(3))
    for rung, (alive, scores, _) in enumerate(history):
        np.testing.assert_array_equal(halved.members[rung], alive)
        np.testing.assert_array_equal(halved.scores[rung], scores)
        np.testing.assert_array_equal(halved.metrics[rung]["loss"], scores)
        reached[alive], spent[alive], last[alive] = rung, HALVING.steps[rung], scores
    assert same_bits(halved.state, history[-1][2])
    np.testing.assert_array_equal(halved.rung, reached)
    np.testing.assert_array_equal(halved.steps, spent)
    np.testing.assert_array_equal(halved.score, last)
    best = int(np.argmin(history[-1][1]))
    assert halved.best == history[-1][0][best]
    assert same_bits(halved.best_state, members.select(history[-1][2], best))
    assert np.isnan(halved.score[3])
    assert reached[3] == 0


def test_all_may_diverge_and_one_is_enough():
    lost = halve(members.sweep(np.full(MEMBERS, np.inf, np.float32)), KEYS)
    np.testing.assert_array_equal(lost.members[1], [0, 1])
    assert not np.isfinite(lost.score).any()
    assert lost.best == 0
    plan = fn.geometric_rungs(1, steps=4)
    assert plan == Rungs((1,), (4,))
    alone = jax.eval_shape(
        lambda: fn.successive_halving(
            members.sweep([0.1]), TRAIN, VALIDATION, KEYS[:1], rungs=plan, batch_size=SIZE
        )
    )
    assert alone.score.shape == alone.members[0].shape == (1,)


def loops(jaxpr):
    """(length, first axes of the carried arrays) of each scan."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            first = equation.params["num_consts"]
            carried = equation.invars[first : first + equation.params["num_carry"]]
            yield equation.params["length"], {v.aval.shape[0] for v in carried if v.aval.shape}
        for inner in jaxprs_in_params(equation.params):
            yield from loops(inner)


def test_a_rung_computes_its_own_members_alone():
    program = jax.make_jaxpr(
        lambda trainers: fn.successive_halving(
            trainers, TRAIN, VALIDATION, KEYS, rungs=Rungs((6, 3, 2), (5, 12, 23)), batch_size=SIZE
        )
    )(members.sweep())
    found = [loop for loop in loops(program.jaxpr) if loop[0] in (5, 7, 11)]
    assert found == [(5, {6}), (7, {3}), (11, {2})]


LI_2018 = {  # R = 81, eta = 3: (members, steps) for each s
    4: [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    3: [(34, 3), (11, 9), (3, 27), (1, 81)],
    2: [(15, 9), (5, 27), (1, 81)],
    1: [(8, 27), (2, 81)],
    0: [(5, 81)],
}


def test_brackets_are_the_papers():
    for s, bracket in zip(LI_2018, fn.brackets(steps=81), strict=True):
        assert list(zip(*bracket, strict=True)) == LI_2018[s]
    thousand = fn.brackets(steps=81_000, least_steps=1000)
    assert [b.sizes for b in thousand] == [b.sizes for b in fn.brackets(steps=81)]
    assert [b.steps[0] for b in thousand] == [1000, 3000, 9000, 27000, 81000]
    assert len(fn.brackets(steps=242)) == 5
    assert len(fn.brackets(steps=243)) == 6
    assert fn.brackets(steps=5, least_steps=5) == (Rungs((1,), (5,)),)
    assert fn.geometric_rungs(16, steps=100, factor=2) == Rungs(
        (16, 8, 4, 2, 1), (6, 12, 25, 50, 100)
    )


def shrink(params, state, batch, *, key=None, train=False):
    return 0.5 * params**2, (state, {"size": jnp.abs(params)})


def shrinking(rate):
    """A run whose parameter after k steps is (1 - rate)^k."""
    return fn.trainer(fn.Task(lambda key: (jnp.ones(()), ()), shrink), fn.sgd(rate))


def some(key, count):
    return jax.vmap(shrinking)(jax.random.uniform(key, (count,), maxval=2.4))


TRACES = []


@jax.jit
def search(key, sign):
    TRACES.append(key)

    def score(metrics):
        return jnp.where(sign > 0, fn.least("size")(metrics), fn.greatest("size")(metrics))

    data = jnp.zeros(4)
    return fn.hyperband(
        some, data, data, key, steps=18, least_steps=2, batch_size=None, score=score
    )


@pytest.mark.parametrize("sign", [1, -1], ids=["least", "greatest"])
def test_hyperband_merges_its_brackets(sign):
    """Brackets of 9, 3 and 1, of 5 and 1, and of 3 members; one trace for any key."""
    plans = fn.brackets(steps=18, least_steps=2)
    assert [plan.sizes for plan in plans] == [(9, 3, 1), (5, 1), (3,)]
    search(jax.random.key(9), sign)
    found = search(KEY, sign)
    assert len(TRACES) == 1
    rates = np.asarray(found.hyperparameters["step.update.learning_rate.value"])
    assert len(set(rates)) == 17
    np.testing.assert_array_equal(found.bracket, np.repeat([0, 1, 2], [9, 5, 3]))
    ends, spent, reached = np.zeros(17), np.zeros(17, int), np.zeros(17, int)
    finalists, alive = [], np.split(np.arange(17), [9, 14])
    for members_of, (sizes, steps) in zip(alive, plans, strict=True):
        for rung, (size, made) in enumerate(zip(sizes, steps, strict=True)):
            members_of = members_of[np.argsort(sign * ends[members_of])][:size]
            ends[members_of] = abs(1.0 - rates[members_of].astype(float)) ** made
            spent[members_of], reached[members_of] = made, rung
        finalists += list(members_of)
    np.testing.assert_allclose(found.score, sign * ends, rtol=1e-4)
    np.testing.assert_array_equal(found.steps, spent)
    np.testing.assert_array_equal(found.rung, reached)
    assert set(found.finalists.tolist()) == set(finalists)
    best = min(finalists, key=lambda member: sign * ends[member])
    assert found.best == best
    np.testing.assert_allclose(abs(found.best_state.params), ends[best], rtol=1e-4)


BAD = [
    (Rungs((6, 7), (1, 2)), r"sizes must fall from the 6 members, got \(6, 7\)"),
    (Rungs((5, 2), (1, 2)), r"sizes must fall from the 6 members, got \(5, 2\)"),
    (Rungs((6, 2), (2, 2)), r"steps count from the beginning and must rise, got \(2, 2\)"),
    (Rungs((6, 2), (2, 1)), r"steps count from the beginning and must rise, got \(2, 1\)"),
    (Rungs((6, 2), (2,)), "as many sizes as steps"),
    (Rungs((6, 0), (1, 2)), "sizes must be at least 1, got 0"),
]


@pytest.mark.parametrize(("plan", "message"), BAD, ids=[message[:20] for _, message in BAD])
def test_bad_rungs_say_so(plan, message):
    run = functools.partial(fn.successive_halving, rungs=plan, batch_size=SIZE)
    with pytest.raises(ValueError, match=message):
        run(members.sweep(), TRAIN, VALIDATION, KEYS)


def test_bad_arguments_say_so():
    with pytest.raises(ValueError, match="leading axis of members in each number"):
        fn.successive_halving(build(0.1), TRAIN, VALIDATION, KEYS, rungs=HALVING, batch_size=SIZE)
    with pytest.raises(TypeError, match=r"trainers stacked as one, .* got \[Trainer"):
        fn.successive_halving([build(0.1)], TRAIN, VALIDATION, KEYS, rungs=HALVING, batch_size=SIZE)
    with pytest.raises(TypeError, match="expected a key, such as"):
        fn.hyperband(some, TRAIN, VALIDATION, 0, steps=3, batch_size=SIZE)
    with pytest.raises(ValueError, match="make at most 2 rungs by 3, got 3"):
        fn.geometric_rungs(8, steps=9, count=3)
    with pytest.raises(ValueError, match="5 rungs by 3 need at least 81 steps, got 80"):
        fn.geometric_rungs(81, steps=80)
    assert fn.geometric_rungs(81, steps=9, count=3).steps == (1, 3, 9)
    with pytest.raises(ValueError, match="at most the 5 steps, got 6"):
        fn.brackets(steps=5, least_steps=6)


def test_a_member_that_is_not_a_number_is_not_accurate():
    """Nine of ten examples are of class 0, which the largest of NaNs is taken for."""
    labels = np.where(np.arange(16) % 10 == 9, 1, 0).astype(np.int32)
    data = (TRAIN[0], labels)
    halved = jax.jit(
        lambda trainers, keys: fn.successive_halving(
            trainers, data, data, keys, rungs=Rungs((2, 1), (2, 4)), batch_size=SIZE,
            score=fn.greatest("accuracy"),
        )
    )(members.sweep([1e-3, np.nan]), KEYS[:2])  # fmt: skip
    assert halved.best == 0
    assert np.isnan(halved.scores[0]).tolist() == [False, True]
    assert np.isnan(fn.accuracy(np.array([[1.0, 2.0], [np.nan, 0.0]]), [1, 0])).tolist() == [0, 1]
    assert np.isnan(fn.binary_accuracy(np.array([1.0, np.nan]), np.array([1.0, 0.0]))).any()
