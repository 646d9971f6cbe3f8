"""Population-based training: members copy better ones, and try other numbers from there on."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from funcnet.evaluation import evaluate
from funcnet.numerics import varied
from funcnet.pairs import Trainer, Tree, check_count, check_key, hyperparameters, number
from funcnet.sweeps.members import LEAST_LOSS, count_members, gathered, ranking
from funcnet.sweeps.names import named
from funcnet.training import replaced, resume


class Population(NamedTuple):
    """The last generation, and what led to it: arrays [generations, members]."""

    trainers: Trainer  # as the last generation trained
    state: Any  # run states [members, ...]
    lineage: Any  # int32, whose weights and numbers each member took at a generation's beginning
    hyperparameters: dict[str, Any]  # those explored, as each generation trained with them
    scores: Any  # after it
    metrics: dict[str, Any]  # of the validation data
    loss: Any  # mean of its training batches

    @property
    def best(self):
        """The best member of the last generation."""
        return ranking(self.scores[-1])[0]

    @property
    def best_state(self):
        """That member's run state."""
        return gathered(self.state, self.best)


def interval(low, high, least) -> dict[str, Any]:
    """The two ends, as leaves."""
    low, high = number("low", low, least), number("high", high, least)
    if isinstance(low, float) and isinstance(high, float) and not low < high:
        raise ValueError(f"low must be below high, got {low:g} and {high:g}")
    return {"low": low, "high": high}


def perturbed(key, value, *, down, up, low, high):
    return jnp.clip(value * jnp.where(jax.random.bernoulli(key), up, down), low, high)


def perturb(low, high, *, down=0.8, up=1.2) -> Partial:
    """The rule `(key, value) -> value` that multiplies by one of two factors, at even odds, within
    [low, high] (Jaderberg et al. 2017)."""
    numbers = {"down": number("down", down), "up": number("up", up)}
    return Partial(perturbed, **numbers, **interval(low, high, -np.inf))


def resampled(key, value, *, low, high):
    log = jax.random.uniform(key, value.shape, value.dtype, jnp.log(low), jnp.log(high))
    return jnp.exp(log)


def resample(low, high) -> Partial:
    """The rule `(key, value) -> value` that draws anew, its logarithm uniform over [low, high]."""
    return Partial(resampled, **interval(low, high, float(np.finfo(np.float32).tiny)))


def exploited(key, scores, count):
    """[members], whom each is next: one of the `count` worst one of the `count` best, drawn at
    random from those that are finite, each other itself."""
    members, order = jnp.arange(len(scores), dtype=jnp.int32), ranking(scores)
    finite = jnp.clip(jnp.isfinite(scores).sum(), 1, max(count, 1))
    donors = order[jax.random.randint(key, (count,), 0, finite)]
    return members.at[order[len(scores) - count :]].set(donors.astype(jnp.int32))


def explored(key, trainers, rules, moved):
    """The trainers with the rules applied to the members that moved."""
    leaves, structure = jax.tree.flatten(trainers)
    for index, name in enumerate(hyperparameters(trainers)):
        if name in rules:
            keys = jax.random.split(jax.random.fold_in(key, index), len(moved))
            leaf = leaves[index]
            new = jax.vmap(rules[name])(keys, leaf).astype(leaf.dtype)
            leaves[index] = jax.vmap(jnp.where)(moved, new, leaf)
    return jax.tree.unflatten(structure, leaves)


def population_based(
    trainers: Trainer,
    data: Tree,
    validation: Tree,
    key,
    *,
    explore: Mapping[str, Callable[..., Any]] | Callable[[str], Any],
    generations: int,
    steps: int,
    batch_size: int | None,
    fraction: float = 0.2,
    score: Callable[..., Any] = LEAST_LOSS,
) -> Population:
    """Train a population and its hyperparameters together (Jaderberg et al. 2017).

    trainers: n stacked ones, `vmap(build)(points)`. Each of the generations trains all members for
    `steps` batches and scores them on `validation`, least being best (`score` is a function of the
    metrics, such as `greatest("accuracy")`). Before the next, each of the worst `fraction` of them,
    at least one, takes over parameters, optimizer's state and all numbers of a random one of as
    many best (truncation selection), and then each number that `explore` names is given to its
    rule: `{"learning_rate.value": perturb(1e-4, 1.0)}`, where a rule is any function
    `(key, value) -> value` and a name one of `hyperparameters(trainers)`, or an end of it that is
    no other's; or a function of the name, None for what stays. Scores that are not finite are
    worst. A member keeps its own order of the data.

    One scan over the generations: a pure function of (trainers, data, key).
    """
    members = count_members(trainers)
    check_key(key)
    generations, steps = check_count("generations", generations, 1), check_count("steps", steps, 1)
    share = round(number("fraction", fraction, 0.0, 0.5) * members, 6)  # 0.07 * 100 is above 7
    count = min(math.ceil(share), members // 2)
    rules = named("explore", explore, trainers)
    init_key, search_key = jax.random.split(key)

    def train(trainer, state):
        result = resume(trainer, data, state, steps=steps, batch_size=batch_size)
        metrics = evaluate(trainer, result.state, validation)
        return result.state, score(metrics), metrics, result.loss.mean()

    def generation(carry, index):
        trainers, states, scores = carry
        exploit_key, explore_key = jax.random.split(jax.random.fold_in(search_key, index))
        everyone = jnp.arange(members, dtype=jnp.int32)
        # The first has nobody to copy.
        source = jnp.where(index == 0, everyone, exploited(exploit_key, scores, count))
        states = replaced(gathered(states, source), key=states.key)
        trainers = explored(explore_key, gathered(trainers, source), rules, source != everyone)
        states, scores, metrics, loss = jax.vmap(train)(trainers, states)
        tried = {k: v for k, v in hyperparameters(trainers).items() if k in rules}
        return (trainers, states, scores), (source, tried, scores, metrics, loss)

    trainers = jax.tree.map(jnp.asarray, trainers)
    states = jax.vmap(lambda t, k: t.init(k))(trainers, jax.random.split(init_key, members))
    scores = jax.eval_shape(jax.vmap(train), trainers, states)[1]
    start = (trainers, states, jnp.zeros(scores.shape, scores.dtype))
    start = varied(start, (data, validation, key))
    (trainers, states, _), history = lax.scan(generation, start, jnp.arange(generations))
    return Population(trainers, states, *history)


def ancestors(lineage, member):
    """[generations], in whose place the weights were that `member` has in the end, from a
    population's lineage: `hyperparameters[name][range(generations), ancestors]` is the schedule
    that trained them."""
    return lax.scan(lambda place, row: (row[place], place), member, lineage, reverse=True)[1]
