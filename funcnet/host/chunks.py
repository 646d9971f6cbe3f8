"""The compiled part of `fit`: chunks of the pure run, of data in memory or of batches that come."""

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.evaluation import evaluate
from funcnet.pairs import Trainer, check_count
from funcnet.training import Result, check_data, resume, resume_batches

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


def parts(data) -> list[Any]:
    """The arrays of a tree, or whatever else data are."""
    return jax.tree.leaves(data, is_leaf=lambda node: isinstance(node, Iterator))


def in_memory(data: Any) -> bool:
    """Whether data are arrays that are to be on the device as a whole."""
    return all(
        isinstance(part, np.ndarray | jax.Array) and not isinstance(part, np.memmap)
        for part in parts(data)
    )


def count_examples(data) -> int:
    """Of arrays, wherever they are, or of a source."""
    if in_memory(data):
        return check_data(data)[1]
    lengths = {part.shape[0] for part in parts(data) if hasattr(part, "shape")}
    # A loader has a length too, but that of its batches.
    lookup = hasattr(data, "__getitem__") and not hasattr(data, "__iter__")
    if not lengths and not (hasattr(data, "__len__") and (hasattr(data, "take") or lookup)):
        raise ValueError(f"epochs are of data that have a length: give steps for {data!r:.80}")
    return lengths.pop() if lengths else len(data)


def check_batch_size(data: Any, batch_size: int | None) -> None:
    if batch_size is not None:
        check_count("batch_size", batch_size, 1)
    elif not in_memory(data):
        from funcnet.data.sources import Stream, as_source

        if not isinstance(as_source(data), Stream):
            raise ValueError(
                "batch_size=None, all of the data at once, is for arrays in memory and for streams "
                f"of batches, got {type(data).__name__}: give a number"
            )


def count_steps(data, batch_size, steps, epochs) -> int:
    check_batch_size(data, batch_size)
    if (steps is None) == (epochs is None):
        raise ValueError(f"fit expects steps or epochs, got steps={steps} and epochs={epochs}")
    if steps is not None:
        return check_count("steps", steps, 0)
    if not (math.isfinite(epochs) and epochs >= 0):
        raise ValueError(f"epochs must be a finite number of at least 0, got {epochs}")
    length = count_examples(data)
    return math.ceil(epochs * length / (length if batch_size is None else batch_size))


@contextlib.contextmanager
def leaving(given: Generator[Any, None, None]) -> Iterator[Any]:
    """`closing`, but the generator is told of an interrupt, and so does not wait for its data."""
    try:
        yield given
    except KeyboardInterrupt as interrupt:
        with contextlib.suppress(KeyboardInterrupt):
            given.throw(interrupt)
        raise
    finally:
        given.close()


def chunks(
    trainer: Trainer,
    data: Any,
    state: Any,
    heard: Sequence[str],
    *,
    steps: int,
    every: int,
    batch_size: int | None,
) -> Generator[tuple[int, int, Any], None, None]:
    """(its steps, the examples in each, the program) of each chunk from the state's step on.

    Of data in memory they end at multiples of `every`, wherever they begin, so that a run which
    continues has those that it would have had. Once a signal is heard no data are waited for, and
    an empty one comes.
    """
    step = int(state.step)
    if in_memory(data):
        data, length = check_data(data)
        while step < steps:
            size = min(every - step % every, steps - step)

            def advance(state, size=size):
                return train(trainer, data, state, steps=size, batch_size=batch_size)

            yield size, length if batch_size is None else batch_size, advance
            step += size
        return
    if step >= steps:
        return
    from funcnet import data as sources

    given = sources.chunks(
        data,
        copy(state.key),  # the first chunk consumes the state
        start=step,
        steps=steps - step,
        every=every,
        batch_size=batch_size,
    )
    with given:
        while not heard:
            if not given.ready(0.1):
                continue
            batches = next(given, None)
            if batches is None:
                return

            def advance_on(state, batches=batches):
                return train_on_batches(trainer, state, batches)

            yield *jax.tree.leaves(batches)[0].shape[:2], advance_on
        yield 0, 0, None
