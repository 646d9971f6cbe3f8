"""Hyperband: successive halvings that begin with many short runs, and with few long ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet.pairs import Trainer, Tree, check_count, check_key, hyperparameters
from funcnet.sweeps.halving import Halved, Rungs, geometric_rungs, successive_halving
from funcnet.sweeps.members import LEAST_LOSS, gathered, ranking


class Hyperband(NamedTuple):
    """What became of N members, those of all brackets one after another."""

    hyperparameters: dict[str, Any]  # every number of the trainers, [N, ...] each
    brackets: tuple[Halved, ...]
    bracket: Any  # int32 [N], the bracket of each member
    rung: Any  # int32 [N], the last that it reached
    steps: Any  # int32 [N], how many it made
    score: Any  # [N], its last
    state: Any  # run states, [M, ...], of those that reached their bracket's last rung
    finalists: Any  # int32 [M], who they are

    @property
    def best(self):
        """The best of all that made the most steps, an index below N."""
        return self.finalists[ranking(self.score[self.finalists])[0]]

    @property
    def best_state(self):
        """That member's run state."""
        return gathered(self.state, ranking(self.score[self.finalists])[0])


def brackets(*, steps: int, least_steps: int = 1, factor: int = 3) -> tuple[Rungs, ...]:
    """Hyperband's table: with s_max = floor(log_factor(steps / least_steps)), for each s from s_max
    down to 0 a bracket of s + 1 rungs that begins with

        n = ceil((s_max + 1) factor^s / (s + 1)) members, trained up to steps / factor^s

    so that all cost about (s_max + 1) steps (Li et al. 2018, algorithm 1).
    """
    steps, factor = check_count("steps", steps, 1), check_count("factor", factor, 2)
    highest = 0
    least_steps = check_count("least_steps", least_steps, 1)
    if least_steps > steps:
        raise ValueError(f"least_steps must be at most the {steps} steps, got {least_steps}")
    while least_steps * factor ** (highest + 1) <= steps:
        highest += 1

    def bracket(s):
        members = -(-(highest + 1) * factor**s // (s + 1))
        return geometric_rungs(members, steps=steps, factor=factor, count=s + 1)

    return tuple(bracket(s) for s in range(highest, -1, -1))


def hyperband(
    build: Callable[..., Trainer],
    data: Tree,
    validation: Tree,
    key,
    *,
    steps: int,
    batch_size: int | None,
    least_steps: int = 1,
    factor: int = 3,
    score: Callable[..., Any] = LEAST_LOSS,
) -> Hyperband:
    """`successive_halving` of each of `brackets(...)`, each with members of its own (Li et al.
    2018).

    `build(key, n)` makes n stacked trainers, such as `vmap(build_one)(points)` of n points drawn
    with the key (under `jit` by `jax.random`: `sample` and its like draw on the host). No run makes
    more than `steps`, none is dropped before `least_steps`; all brackets cost about the same. One
    compilation for each rung of each bracket.
    """
    check_key(key)
    halvings, tried = [], []
    for index, plan in enumerate(brackets(steps=steps, least_steps=least_steps, factor=factor)):
        build_key, run_key = jax.random.split(jax.random.fold_in(key, index))
        trainers = build(build_key, plan.sizes[0])
        tried.append(hyperparameters(trainers))
        halvings.append(
            successive_halving(
                trainers,
                data,
                validation,
                jax.random.split(run_key, plan.sizes[0]),
                rungs=plan,
                batch_size=batch_size,
                score=score,
            )
        )

    def joined(parts):
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)

    sizes = [len(halved.score) for halved in halvings]
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    finalists = [first + h.members[-1] for first, h in zip(firsts, halvings, strict=True)]
    return Hyperband(
        joined(tried),
        tuple(halvings),
        joined([jnp.full(size, index, jnp.int32) for index, size in enumerate(sizes)]),
        joined([halved.rung for halved in halvings]),
        joined([halved.steps for halved in halvings]),
        joined([halved.score for halved in halvings]),
        joined([halved.state for halved in halvings]),
        joined(finalists),
    )
