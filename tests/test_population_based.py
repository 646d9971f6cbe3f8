"""Population-based training replayed by hand from its lineage, and its choices counted."""

import functools
import re

import jax
import members
import numpy as np
import pytest
from members import EVERY, KEY, MEMBERS, RATES, SIZE, TRAIN, VALIDATION, build, same_bits

import funcnet as fn
from funcnet.sweeps.names import named
from funcnet.sweeps.populations import exploited, explored

NAME = "step.update.learning_rate.value"
GENERATIONS, LOW, HIGH = 6, 0.01, 0.9
evolve = jax.jit(
    lambda trainers, key: fn.population_based(
        trainers,
        TRAIN,
        VALIDATION,
        key,
        explore={"learning_rate.value": fn.perturb(LOW, HIGH)},
        generations=GENERATIONS,
        steps=EVERY,
        batch_size=SIZE,
        fraction=0.3,
    )
)


def test_a_population_is_its_lineage_replayed():
    """Weights, optimizer's states and rates move as the lineage says, keys stay; of the six the
    two worst take after the two best, and no others move. The bits are those of plain sweeps."""
    population = evolve(members.sweep(), KEY)
    lineage, rates = np.asarray(population.lineage), np.asarray(population.hyperparameters[NAME])
    states = members.start(jax.random.split(jax.random.split(KEY)[0], MEMBERS))
    keys, everyone, before, scores = states.key, np.arange(MEMBERS), RATES, None
    factors, ranks = set(), set()
    for generation in range(GENERATIONS):
        source = lineage[generation]
        moved = source != everyone
        if generation == 0:
            assert not moved.any()
        else:
            order = np.argsort(np.where(np.isfinite(scores), scores, np.inf))
            assert set(everyone[moved]) == set(order[-2:])
            assert set(source[moved]) <= set(order[:2])
            ranks.add(tuple(source[order[-2:]] == order[0]))
        copied = before[source]
        np.testing.assert_array_equal(rates[generation][~moved], copied[~moved])
        for rate, old in zip(rates[generation][moved], copied[moved], strict=True):
            chances = np.clip(old * np.array([0.8, 1.2], np.float32), LOW, HIGH)
            assert min(abs(rate / chances - 1.0)) < 1e-6
            factors.add(int(abs(rate - chances[0]) > abs(rate - chances[1])))
        states = members.select(states, source)._replace(key=keys)
        states, losses, metrics = members.train(members.sweep(rates[generation]), states)
        before, scores = rates[generation], np.asarray(metrics["loss"])
        np.testing.assert_array_equal(population.scores[generation], scores)
        np.testing.assert_array_equal(population.metrics["loss"][generation], scores)
        np.testing.assert_allclose(
            population.loss[generation], np.asarray(losses).mean(axis=1), rtol=1e-6
        )
    assert same_bits(population.state, states)
    assert population.best == np.nanargmin(scores)
    assert same_bits(population.best_state, members.select(states, int(population.best)))
    assert factors == {0, 1}
    assert len(ranks) > 1, "each generation draws anew"
    assert np.isnan(population.scores[0, 3])
    assert np.isfinite(population.scores[1:]).all(), "the diverged one is replaced at once"
    last = fn.hyperparameters(population.trainers)
    np.testing.assert_array_equal(last[NAME], rates[-1])


def test_it_is_a_function_of_its_key():
    one, again, other = (evolve(members.sweep(), key) for key in (KEY, KEY, jax.random.key(8)))
    assert same_bits(one, again)
    assert (one.lineage != other.lineage).any()
    lost = evolve(members.sweep(np.full(MEMBERS, np.inf, np.float32)), KEY)
    assert not np.isfinite(lost.scores[:2]).any()


def test_exploit_takes_the_best_alike_often_and_finite_ones_only():
    scores = np.array([0.3, np.nan, 0.1, 0.2, np.inf, 5.0, 0.4, 0.5, -np.inf], np.float32)
    draw = jax.jit(jax.vmap(exploited, (0, None, None)), static_argnums=2)
    keys = jax.random.split(KEY, 3000)
    drawn = np.asarray(draw(keys, scores, 3))
    np.testing.assert_array_equal(drawn[:, [0, 2, 3, 5, 6, 7]], [[0, 2, 3, 5, 6, 7]] * 3000)
    for loser in (1, 4, 8):
        counts = np.bincount(drawn[:, loser], minlength=9)
        assert counts[[0, 2, 3]].sum() == 3000
        assert abs(counts[[0, 2, 3]] / 3000 - 1 / 3).max() < 0.04
    # Two of the three best are lost: all take after the one that is not.
    few = np.where(np.arange(9) == 6, 1.0, np.nan).astype(np.float32)
    few = np.asarray(draw(keys, few, 3))
    assert {tuple(set(row) - {0, 1, 2, 3, 4, 5, 7, 8}) for row in few} == {(6,)}
    moved = few != np.arange(9)
    assert (few[moved] == 6).all()
    assert (np.asarray(draw(keys[:1], scores[:1], 0)) == 0).all()


def test_explore_changes_what_is_named_of_those_that_moved():
    def build(rate, decay, clip):
        optimizer = fn.chain(fn.clip_by_global_norm(clip), fn.momentum(rate, decay))
        return fn.trainer(fn.supervised(fn.dense(3, 3), fn.cross_entropy), optimizer)

    count = 2000
    columns = (np.full(count, value, np.float32) for value in (0.5, 0.9, 2.0))
    trainers = jax.jit(jax.vmap(build))(*columns)
    before = jax.tree.map(np.asarray, fn.hyperparameters(trainers))
    rate, clip = (next(name for name in before if end in name) for end in ("rate", "max_norm"))
    moved = np.arange(count) % 2 == 0
    rules = {
        "learning_rate.value": fn.perturb(0.45, 3.0, down=0.5, up=4.0),
        clip: fn.resample(1, 9),
    }
    found = named("explore", rules, trainers)
    explore = jax.jit(lambda trainers: explored(KEY, trainers, found, moved))
    after = fn.hyperparameters(explore(trainers))
    after = jax.tree.map(np.asarray, after)
    for name in before:
        np.testing.assert_array_equal(after[name][~moved], before[name][~moved])
        assert (after[name] != before[name]).any() == (name in (rate, clip))
    drawn = np.asarray(after[rate])[moved]
    assert set(drawn.tolist()) == {np.float32(0.45).item(), 2.0}
    assert abs((drawn == 2.0).mean() - 0.5) < 0.05
    quantile = np.sort(np.log(np.asarray(after[clip])[moved])) / np.log(9)
    np.testing.assert_allclose(quantile, np.linspace(0, 1, count // 2), atol=0.06)
    assert abs(np.corrcoef(drawn, np.asarray(after[clip])[moved])[0, 1]) < 0.1


NUMBERS = {"rate": 1.0, "a": {"rate": 2.0, "decay": 3.0}, "b": {"decay": 4.0}}
AMBIGUOUS = "'decay' stands for ['a.decay', 'b.decay']"
ALL = "x expects names of ['a.decay', 'a.rate', 'b.decay', 'rate'], or their ends: "
# what is given, the names that it means or what the error says
NAMES = {
    "whole": ({"a.rate": 1, "rate": 2}, {"a.rate": 1, "rate": 2}),
    "end": ({"b.decay": 1}, {"b.decay": 1}),
    "function": (lambda name: "a.rate" in name or None, {"a.rate": True}),
    "nothing": ({}, {}),
    "ambiguous": ({"decay": 1}, ALL + AMBIGUOUS),
    "part": ({"ate": 1}, ALL + "'ate' is none of them"),
    "beginning": ({"a": 1}, ALL + "'a' is none of them"),
    "empty": ({"": 1}, ALL + "'' is none of them"),
}


@pytest.mark.parametrize("case", NAMES)
def test_numbers_go_by_their_names_or_the_ends_of_them(case):
    given, expected = NAMES[case]
    if isinstance(expected, dict):
        assert named("x", given, NUMBERS) == expected
    else:
        with pytest.raises(ValueError, match=re.escape(expected)):
            named("x", given, NUMBERS)
    with pytest.raises(ValueError, match=r"x names 'c.d.e' twice, got \['d.e', 'e'\]"):
        named("x", {"d.e": 1, "e": 2}, {"c": {"d": {"e": 0.0}}})


def test_ancestors_lead_back_to_the_first():
    lineage = np.array([[0, 1, 2], [0, 0, 2], [1, 1, 2], [0, 1, 0]])
    # In the last row 2 took after 0, which took after 1 before, which took after 0.
    for member, path in ((2, [0, 1, 0, 2]), (1, [0, 1, 1, 1])):
        np.testing.assert_array_equal(fn.ancestors(lineage, member), path)


def test_bad_arguments_say_so_and_one_member_trains_on():
    run = functools.partial(
        fn.population_based, generations=2, steps=1, batch_size=SIZE, explore={}
    )
    alone = jax.eval_shape(lambda: run(members.sweep([0.1]), TRAIN, VALIDATION, KEY))
    assert alone.lineage.shape == (2, 1)
    guarded = jax.vmap(lambda rate: fn.guard(build(rate)))(RATES)
    states = jax.eval_shape(lambda: run(guarded, TRAIN, VALIDATION, KEY)).state
    assert states.key.shape == states.failed_at.shape == (MEMBERS,)
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 0.5\], got 0.6"):
        run(members.sweep(), TRAIN, VALIDATION, KEY, fraction=0.6)
    with pytest.raises(TypeError, match="expected a key, such as jax"):
        run(members.sweep(), TRAIN, VALIDATION, 3)
    with pytest.raises(ValueError, match="generations must be at least 1, got 0"):
        run(members.sweep(), TRAIN, VALIDATION, KEY, generations=0)


def test_rules_need_an_interval():
    with pytest.raises(ValueError, match="low must lie in"):
        fn.resample(0.0, 0.5)
    for rule in (fn.resample, fn.perturb):
        with pytest.raises(ValueError, match=r"low must be below high, got 0\.5 and 0\.1"):
            rule(0.5, 0.1)
