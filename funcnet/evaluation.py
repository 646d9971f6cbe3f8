"""How good a run's state is, over data that fit in memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.pairs import Trainer, Tree, check_count, check_trainer
from funcnet.training import bound_loss, check_data, check_state


def evaluate(trainer: Trainer, state: Any, data: Tree, *, batch_size: int = 1024) -> dict[str, Any]:
    """The loss and metrics of a run's state over all of `data`, with `train=False`.

    In batches of at most `batch_size`, the last one smaller where n demands it; the result is
    that of a single batch of n, up to rounding. The loss is averaged by the batches' `"weight"`
    and the metrics by their `"count"`, or by their lengths where a task of your own reports
    neither; those two are summed.
    """
    check_trainer(trainer)
    loss = bound_loss(trainer.step)
    if loss is None:
        raise ValueError("evaluate needs a trainer made by trainer(task, optimizer)")
    check_state(state, "params", "state")
    data, length = check_data(data)
    size = min(check_count("batch_size", batch_size, 1), length)
    whole = length // size * size

    def score(batch):
        value, (_, metrics) = loss(state.params, state.state, batch)
        if wrong := {k: jnp.shape(v) for k, v in metrics.items() if jnp.ndim(v)}:
            raise ValueError(f"metrics must be scalars, got shapes {wrong}")
        return {**metrics, "loss": value}

    full = jax.tree.map(lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), data)
    scores, lengths = lax.map(score, full), jnp.full(length // size, float(size))
    if whole < length:
        last = score(jax.tree.map(lambda a: a[whole:], data))
        scores = jax.tree.map(lambda a, b: jnp.append(a, b), scores, last)
        lengths = jnp.append(lengths, float(length - whole))
    return merged(scores, lengths)


def merged(scores, lengths):
    """The scores of batches, each [batches], as those of all their examples."""

    def merge(name, values):
        if name in ("weight", "count"):
            return values.sum()
        weights = scores.get("weight" if name == "loss" else "count", lengths)
        total = weights.sum()
        return (weights * values).sum() / jnp.where(total == 0.0, 1.0, total)

    return {name: merge(name, values) for name, values in scores.items()}
