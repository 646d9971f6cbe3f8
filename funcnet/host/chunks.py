"""The compiled part of `fit`: chunks of the pure run, of data in memory or of batches that come."""

import contextlib
import math
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.pairs import Trainer, Tree, check_count
from funcnet.training import Result, check_data, evaluate, resume, resume_batches

Advance = Callable[[Any], tuple[Result, dict[str, Any]]]
"""A run's state, which it consumes, to the result of a chunk and `notes` of its last state."""


def copied(tree):
    """Arrays that nothing else holds, so that they can be donated."""
    return jax.tree.map(jnp.copy, tree)


def notes(state) -> dict[str, Any]:
    """What a guarded state counts, wherever it is among the wrappers."""
    names = ("skipped", "failed_at") if hasattr(state, "failed_at") else ()
    own = {name: jnp.copy(getattr(state, name)) for name in names}
    return {**(notes(state.run) if hasattr(state, "run") else {}), **own}


def begun(trainer, key):
    return copied(trainer.init(key))


def run_key(trainer, key):
    return jax.random.key_data(trainer.init(key).key)


def chunk(trainer, data, state, *, steps, batch_size):
    result = resume(trainer, data, state, steps=steps, batch_size=batch_size)
    return result, notes(result.state)


def chunk_of_batches(trainer, state, batches):
    result = resume_batches(trainer, state, batches)
    return result, notes(result.state)


begin = jax.jit(begun)
key_of = jax.jit(run_key)
copy = jax.jit(copied)
score_of = jax.jit(evaluate)
train = jax.jit(chunk, static_argnames=("steps", "batch_size"), donate_argnames="state")
train_on_batches = jax.jit(chunk_of_batches, donate_argnames="state")


def in_memory(data: Tree) -> bool:
    """Whether data are arrays that are to be on the device as a whole."""
    leaves = jax.tree.leaves(data)
    return all(
        isinstance(leaf, np.ndarray | jax.Array) and not isinstance(leaf, np.memmap)
        for leaf in leaves
    )


def count_steps(data, batch_size, steps, epochs) -> tuple[int, int]:
    """(steps, examples in each)."""
    if (steps is None) == (epochs is None):
        raise ValueError(f"fit expects steps or epochs, got steps={steps} and epochs={epochs}")
    if batch_size is not None:
        batch_size = check_count("batch_size", batch_size, 1)
    elif not in_memory(data):
        raise ValueError("batch_size=None is of data in memory, got a source of batches")
    if steps is not None and batch_size is not None:
        return check_count("steps", steps, 0), batch_size
    if in_memory(data):
        length = check_data(data)[1]
    elif hasattr(data, "__len__"):
        length = len(data)
    else:
        raise ValueError(f"epochs are of data that have a length: give steps for {data!r}")
    size = length if batch_size is None else batch_size
    if steps is not None:
        return check_count("steps", steps, 0), size
    return math.ceil(epochs * length / size), size


def chunks(
    trainer: Trainer, data: Any, state: Any, *, steps: int, every: int, batch_size: int | None
) -> Generator[tuple[int, Advance], None, None]:
    """(its steps, the program) of each chunk from the state's step on. They end at multiples of
    `every`, wherever they begin, so that a run which continues has those it would have had."""
    step = int(state.step)
    if in_memory(data):
        data = jax.tree.map(jnp.asarray, data)
        while step < steps:
            size = min(every - step % every, steps - step)

            def advance(state, size=size):
                return train(trainer, data, state, steps=size, batch_size=batch_size)

            yield size, advance
            step += size
        return
    from funcnet import data as sources  # type: ignore[attr-defined]

    left = steps - step
    given = sources.chunks(
        data, state.key, start=step, steps=left, every=every, batch_size=batch_size
    )
    with contextlib.closing(given):
        for batches in given:

            def advance_on(state, batches=batches):
                return train_on_batches(trainer, state, batches)

            yield len(jax.tree.leaves(batches)[0]), advance_on
