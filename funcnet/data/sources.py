"""Where examples come from: arrays, indexed at will, and streams of batches, read in order."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from funcnet.data.files import Rows, piece_of
from funcnet.numerics import check_kinds, kinds, native
from funcnet.pairs import Tree
from funcnet.training import count_examples


@dataclass(frozen=True)
class Arrays:
    """Examples in a pytree of arrays with a common leading axis: in memory, memory-mapped
    (`numpy.load(file, mmap_mode="r")`) or sharded (`sharded`), in any mixture.

    Rows of files, also of mapped ones, are read by the file's name when they are taken, and no page
    of them stays in the process's memory; but for mapped arrays whose rows are not whole in the
    file, or that may have changes of their own (mode "c"). Anything else with `len(source)` and
    `source.take(indices)`, the examples at indices [k] as a pytree of new NumPy arrays [k, ...], is
    a source too, and so is what has `len(dataset)` and `dataset[index]`, one example, as PyTorch's
    `Dataset`: its examples are looked up one by one, and stacked.
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
        return jax.tree.map(native, rows)


@dataclass(frozen=True)
class Items:
    """Examples that are looked up one by one, as in PyTorch's `Dataset`, and stacked."""

    items: Any

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Any) -> Tree:
        """The examples at `indices`, int [k]: arrays [k, ...]."""
        examples = [self.items[int(index)] for index in indices]
        return jax.tree.map(lambda *leaves: native(np.stack(leaves)), *examples)


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
            batch = in_numpy(batch)
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


def in_numpy(batch):
    """A stream's batch as arrays of NumPy that nothing else holds."""
    batch = jax.tree.map(lambda leaf: native(np.array(leaf)), batch)
    check_kinds(batch)
    return batch


def described(batch):
    """What batches that are stacked have in common."""
    return ", ".join(kind for kind, _ in kinds(batch))


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
    """`data` if it is a source, or the source of its arrays, of the examples that it holds by
    number, or of the batches that it yields."""
    array = hasattr(data, "dtype")
    if isinstance(data, Stream):
        return data
    if hasattr(data, "take") and not array:
        return tried(data)
    if not array and (isinstance(data, Iterator) or jax.tree_util.all_leaves([data])):
        lookup = hasattr(data, "__len__") and hasattr(data, "__getitem__")
        if lookup and not isinstance(data, Iterable):
            return tried(Items(data))
        return stream(data)
    data = jax.tree.map(as_rows, data)
    count_examples(data)
    check_kinds(data)
    return Arrays(data)


def as_examples(data: Any) -> Any:
    """The source of `data` that gives examples by their indices."""
    source = as_source(data)
    if isinstance(source, Stream):
        raise TypeError(f"expected arrays or another source of examples, got a stream: {data!r}")
    return source


def tried(source):
    """A source, once it has given its first example."""
    if isinstance(source, Arrays):
        return source
    if len(source) == 0:
        raise ValueError(f"data must hold at least one example, got none in {source!r}")
    leaves = jax.tree.leaves(first := source.take(np.arange(1)))
    if wrong := [x for x in leaves or [first] if not isinstance(x, np.ndarray | jax.Array)]:
        raise TypeError(
            "a source's take(indices), int [k], must return a pytree of NumPy arrays [k, ...], "
            f"got {type(wrong[0]).__name__} from {type(source).__name__}"
        )
    if any(leaf.shape[:1] != (1,) for leaf in leaves):
        raise ValueError(f"take of 1 index must return arrays [1, ...], got {described(first)}")
    check_kinds(first)
    return source


def as_rows(leaf):
    """An array that gives rows in memory by their indices."""
    if isinstance(leaf, np.ndarray):
        return in_file(leaf)
    if isinstance(leaf, Rows):
        return leaf
    # What has its numbers in memory, such as PyTorch's tensors; those of a file might not fit.
    if hasattr(leaf, "__dlpack__"):
        return np.asarray(leaf)
    raise TypeError(
        f"data must be arrays of NumPy or JAX, got {type(leaf).__name__}; stack lists of "
        "examples, and make arrays of columns by numpy.asarray; anything else is read by an object "
        "with __len__ and take(indices), or as a stream of batches"
    )


def in_file(array):
    """The rows of a mapped array, where they can be read from its file; or the array."""
    piece = piece_of(array) if isinstance(array, np.memmap) and array.ndim else None
    return array if piece is None else Rows([piece])
