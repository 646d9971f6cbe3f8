"""Where examples come from: arrays, indexed at will, and streams of batches, read in order."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from funcnet.data.files import Rows, piece_of
from funcnet.pairs import Tree, leaf_names
from funcnet.training import count_examples


@dataclass(frozen=True)
class Arrays:
    """Examples in a pytree of arrays with a common leading axis: in memory, memory-mapped
    (`numpy.load(file, mmap_mode="r")`) or sharded (`sharded`), in any mixture.

    Rows of files, also of mapped ones, are read by the file's name when they are taken, and no page
    of them stays in the process's memory; but for mapped arrays whose rows are not whole in the
    file, or that may have changes of their own (mode "c"). Anything else with `len(source)` and
    `source.take(indices)`, the examples at indices [k] as a pytree of new NumPy arrays [k, ...], is
    a source too.
    """

    data: Tree

    def __len__(self) -> int:
        return count_examples(self.data)

    @property
    def spec(self) -> Tree:
        """The shape and dtype of one example, as `jax.ShapeDtypeStruct`s."""
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), self.data)

    def take(self, indices: Any) -> Tree:
        """The examples at `indices`, int [k], which must be in range: arrays [k, ...]."""
        rows = jax.tree.map(lambda leaf: np.asarray(leaf[np.asarray(indices)]), self.data)
        return jax.tree.map(lambda a: a.astype(a.dtype.newbyteorder("="), copy=False), rows)


@dataclass(frozen=True)
class Stream:
    """Batches in an order of their own."""

    batches: Iterable[Tree] | Callable[[int], Tree]

    def read(self, steps: Iterable[int], batch_size: int | None = None) -> Iterator[Tree]:
        """The batches of the steps, as copies in NumPy, all alike."""
        if isinstance(self.batches, Iterable):
            batches = iter(self.batches)
        else:
            batches = map(self.batches, steps)
        end, first = object(), None
        for count, step in enumerate(steps):
            batch = next(batches, end)
            if batch is end:
                raise ValueError(f"the stream ended before step {step}, after {count} batches")
            # A copy, for whoever yields a batch may fill the same arrays again.
            batch = jax.tree.map(np.array, batch)
            kind = described(batch)
            first = first or kind
            if kind != first:
                raise ValueError(
                    f"batches must be alike, got {kind} at step {step} after {first}; have a "
                    "loader drop its last, smaller batch"
                )
            lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(batch)}
            if batch_size is not None and lengths != {(batch_size,)}:
                raise ValueError(f"batches must be of {batch_size} examples, got {kind}")
            yield batch


def described(batch):
    """What batches that are stacked have in common."""
    leaves = zip(leaf_names(batch), jax.tree.leaves(batch), strict=True)
    return ", ".join(
        f"{name or 'an array'} {leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves
    )


def stream(batches: Iterable[Tree] | Callable[[int], Tree]) -> Stream:
    """Batches from any iterable, one a step, in its order: a generator, PyTorch's `DataLoader`,
    Grain's loader; or from a function step -> batch.

    A batch is a pytree of what NumPy makes arrays of, such as PyTorch's tensors on the host. It is
    read in a thread, a few steps ahead, and copied. A function is asked for the batch of step n, so
    its runs resume by themselves. The batches of an iterable are taken as they come: to resume at
    step n, give one that begins there. A generator goes on where it was, a loader begins again with
    each run, and `itertools.chain.from_iterable(itertools.repeat(loader))` never ends; one that
    ends before the run raises `ValueError`, which names the step.
    """
    if isinstance(batches, str) or not isinstance(batches, Iterable | Callable):
        raise TypeError(f"stream expects an iterable or a function of the step, got {batches!r}")
    return Stream(batches)


def as_source(data: Any) -> Any:
    """`data` if it is a source, or the source of its arrays or of the batches that it yields."""
    array = hasattr(data, "dtype")
    if isinstance(data, Stream) or (hasattr(data, "take") and not array):
        return data
    if not array and (isinstance(data, Iterator) or jax.tree_util.all_leaves([data])):
        return stream(data)
    data = jax.tree.map(as_rows, data)
    count_examples(data)
    return Arrays(data)


def as_rows(leaf):
    """An array that gives rows in memory by their indices."""
    if isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    if not isinstance(leaf, np.ndarray | Rows):
        raise TypeError(
            f"data must be arrays of NumPy or JAX, got {type(leaf).__name__}; anything else is "
            "read by an object with __len__ and take(indices), or as a stream"
        )
    piece = piece_of(leaf) if isinstance(leaf, np.memmap) and leaf.ndim else None
    return leaf if piece is None else Rows([piece])
