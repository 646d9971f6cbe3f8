"""Runs whose batch size is a number, so that a sweep has members of different sizes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.layers.norm import Pooled, Running
from funcnet.losses import info_nce
from funcnet.numerics import varied
from funcnet.pairs import Trainer, Tree, check_count, check_trainer, unbind
from funcnet.shuffle import padded_indices
from funcnet.task import supervised_loss
from funcnet.training import Result, bound_loss, check_data, check_state, run_keys, take


def check_weighted(trainer, state):
    """`ValueError` for a run in which an example of weight 0 would still count."""
    loss, bound = unbind(bound_loss(trainer.step))
    if loss is not supervised_loss:
        raise ValueError(
            "padded batches need a loss that a weight of 0 takes an example out of, as "
            f"supervised's does, got {loss}"
        )
    if unbind(bound["loss"])[0] is info_nce:
        raise ValueError("info_nce compares the examples of a batch, padding included")
    statistics = (Running, Pooled)
    parts = jax.tree.leaves(state.state, is_leaf=lambda part: isinstance(part, statistics))
    if any(isinstance(part, statistics) for part in parts):
        raise ValueError(
            "batch_norm averages over the padding of a batch too: use layer_norm or group_norm, "
            "or a sweep for each batch size"
        )


def run_padded(
    trainer: Trainer, data: Tree, key, batch_size: Any, *, steps: int, largest: int
) -> Result:
    """`run` whose `batch_size` is a number, of at most `largest`: `resume_padded` from the start.

    `vmap` it over batch sizes; `steps` and `largest` are static.
    """
    check_trainer(trainer)
    return resume_padded(trainer, data, trainer.init(key), batch_size, steps=steps, largest=largest)


def resume_padded(
    trainer: Trainer, data: Tree, state: Any, batch_size: Any, *, steps: int, largest: int
) -> Result:
    """`resume` whose `batch_size` is a number, from 1 to `largest`, and equal to it up to rounding.

    Each batch has `largest` examples, of which the first `batch_size` are those of `resume` and the
    others have weight 0, so a step costs as much as one of the largest size. For tasks made by
    `supervised`, data (x, y) or (x, y, weight); noise such as dropout's is drawn alike. Raises
    `ValueError` where examples of weight 0 count: for `batch_norm` (population statistics),
    `info_nce`, and a task of your own. A layer of your own must not mix examples. `batch_size` is
    not looked at: one out of range is taken for the nearest in range.
    """
    check_state(state, "step", "key", "state")
    check_weighted(trainer, state)
    data, length = check_data(data)
    steps, largest = check_count("steps", steps, 0), check_count("largest", largest, 1)
    if largest > length:
        raise ValueError(f"largest must be at most the {length} examples, got {largest}")
    data_key, _ = run_keys(state.key)
    size = jnp.clip(jnp.asarray(batch_size, jnp.int32), 1, largest)

    def step(state, _):
        indices = padded_indices(data_key, state.step, length, size, largest)
        x, target, *weight = take(data, indices)
        valid = (jnp.arange(largest) < size).astype(jnp.float32)
        for given in weight:
            within = valid.reshape(-1, *[1] * (given.ndim - 1))
            valid = jnp.where(within == 0.0, 0.0, given)
        return trainer.step(state, (x, target, valid))

    state = varied(state, (trainer, data, size))
    state, metrics = lax.scan(step, state, length=steps)
    return Result(state, metrics.pop("loss"), metrics)
