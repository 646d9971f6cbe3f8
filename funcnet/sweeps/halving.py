"""Successive halving and Hyperband: many runs begin, and the best of them go on."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet.evaluation import evaluate
from funcnet.pairs import Trainer, Tree, check_count
from funcnet.sweeps.members import LEAST_LOSS, count_members, gathered, ranking
from funcnet.training import resume


class Rungs(NamedTuple):
    """How many members train up to how many steps: both are static, an entry for each rung."""

    sizes: tuple[int, ...]
    steps: tuple[int, ...]  # in all, from the run's beginning


class Halved(NamedTuple):
    """What became of n members. A rung's arrays are in the order in which its members came in,
    which is from the best of the rung before to the worst."""

    state: Any  # run states, [sizes[-1], ...]: those of the members that reached the last rung
    members: tuple[Any, ...]  # for each rung, int32 [size], who took part
    scores: tuple[Any, ...]  # for each rung, [size]
    metrics: tuple[dict[str, Any], ...]  # for each rung, each [size]
    rung: Any  # int32 [n], the last that each member reached, 0 the first
    steps: Any  # int32 [n], how many each made
    score: Any  # [n], the last of each

    @property
    def best(self):
        """The best member of the last rung, an index below n."""
        return self.members[-1][ranking(self.scores[-1])[0]]

    @property
    def best_state(self):
        """That member's run state."""
        return gathered(self.state, ranking(self.scores[-1])[0])


def geometric_rungs(
    members: int, *, steps: int, factor: int = 3, count: int | None = None
) -> Rungs:
    """The rungs of n, n // factor, n // factor^2, ... members, as many as there are or `count`; the
    last trains up to `steps` and each before it to a `factor`-th of the next, rounded. The first
    needs a step: `steps` of at least `factor` to the number of rungs but one."""
    members, factor = check_count("members", members, 1), check_count("factor", factor, 2)
    steps = check_count("steps", steps, 1)
    most = 1
    while members >= factor**most:
        most += 1
    count = most if count is None else check_count("count", count, 1)
    if count > most:
        raise ValueError(f"{members} members make at most {most} rungs by {factor}, got {count}")
    if steps < factor ** (count - 1):
        raise ValueError(
            f"{count} rungs by {factor} need at least {factor ** (count - 1)} steps, got {steps}: "
            "a lower count makes fewer"
        )
    return Rungs(
        tuple(members // factor**rung for rung in range(count)),
        tuple(round(steps / factor ** (count - 1 - rung)) for rung in range(count)),
    )


def check_rungs(plan: Rungs, members: int) -> None:
    sizes, steps = plan
    if not sizes or len(sizes) != len(steps):
        raise ValueError(f"rungs need as many sizes as steps, got {sizes} and {steps}")
    for name, values in (("sizes", sizes), ("steps", steps)):
        for value in values:
            check_count(name, value, 1)
    if sizes[0] != members or any(a < b for a, b in itertools.pairwise(sizes)):
        raise ValueError(f"sizes must fall from the {members} members, got {sizes}")
    if any(a >= b for a, b in itertools.pairwise(steps)):
        raise ValueError(f"steps count from the beginning and must rise, got {steps}")


def successive_halving(
    trainers: Trainer,
    data: Tree,
    validation: Tree,
    keys,
    *,
    rungs: Rungs,
    batch_size: int | None,
    score: Callable[..., Any] = LEAST_LOSS,
) -> Halved:
    """Train all members for a few steps, the better of them for more, and so on (Karnin et al.
    2013, Jamieson & Talwalkar 2016).

    trainers: n stacked ones, `vmap(build)(points)`; keys [n]. In rung i, `rungs.sizes[i]` members
    train on to step `rungs.steps[i]` and are evaluated on `validation`; the members with the least
    finite scores go on, from the states they have. `score` is a function of the metrics, such as
    `greatest("accuracy")`. Survivors are gathered, so that a rung costs what its own members cost;
    each rung is a program of its own within the compiled one, and trains as a sweep of them alone.
    """
    members = count_members(trainers)
    check_rungs(rungs, members)

    def train(trainer, state, *, steps):
        state = resume(trainer, data, state, steps=steps, batch_size=batch_size).state
        metrics = evaluate(trainer, state, validation)
        return state, metrics, score(metrics)

    alive, made = jnp.arange(members, dtype=jnp.int32), 0
    states = jax.vmap(lambda trainer, key: trainer.init(key))(trainers, keys)
    rung, spent = jnp.zeros_like(alive), jnp.zeros_like(alive)
    history: list[Any] = []
    last = None
    for index, (size, steps) in enumerate(zip(*rungs, strict=True)):
        if index:
            kept = ranking(history[-1][2])[:size]
            alive, trainers, states = gathered((alive, trainers, states), kept)
        on = functools.partial(train, steps=steps - made)
        states, metrics, scores = jax.vmap(on)(trainers, states)
        made = steps
        history.append((alive, metrics, scores))
        rung, spent = rung.at[alive].set(index), spent.at[alive].set(steps)
        last = scores if last is None else last.at[alive].set(scores)
    everyone, metrics, scores = zip(*history, strict=True)
    return Halved(states, everyone, scores, metrics, rung, spent, last)
