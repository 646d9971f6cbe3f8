"""Batches on the host, and chunks of them on the device, made in a thread ahead of their use."""

import atexit
import functools
import itertools
import queue
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.data.sources import Stream, as_source
from funcnet.pairs import check_count
from funcnet.shuffle import batch_indices
from funcnet.training import run_keys

END = object()
PLANNED = 64
"""Steps whose indices are computed at once where batches are taken one by one."""
NAP = 0.1
"""Seconds to wait at a time: an interrupt that comes just before a wait, or on Windows any, is not
heeded before its end."""
THREADS: weakref.WeakKeyDictionary[threading.Thread, Any] = weakref.WeakKeyDictionary()
"""The orders of each thread that is to be waited for before Python ends."""


@atexit.register
def end_threads():
    """As an executor does, but not for those that were left behind, whose data may never come."""
    for thread, orders in list(THREADS.items()):
        orders.put(None)
        thread.join()


def work(items, orders, x64, device):
    """Have each future that is ordered become the next item."""
    # JAX's contexts are a thread's own.
    with jax.enable_x64(x64), jax.default_device(device):
        while (future := orders.get()) is not None:
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(next(items, END))
            except BaseException as error:
                future.set_exception(error)
            del future  # nor its item be kept


class Ahead:
    """The items of an iterable, in order, computed in a thread, `ahead` of them before their use.

    Use it in a `with` statement, or `close` it: no thread is left behind, nor is one after the last
    item, or where it is dropped. An error in the thread is raised in its item's place. An interrupt
    while waiting loses no item; one that ends the `with` statement, or `close`, does not wait for
    the item under way, which may never come.
    """

    def __init__(self, items: Iterable[Any], ahead: int = 2):
        ahead = check_count("ahead", ahead, 1)
        context = [getattr(jax.config, name) for name in ("jax_enable_x64", "jax_default_device")]
        self.orders: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()
        arguments = (iter(items), self.orders, *context)
        self.thread = threading.Thread(target=work, args=arguments, name="data", daemon=True)
        self.pending: deque[Future[Any]] = deque()
        THREADS[self.thread] = self.orders
        self.thread.start()
        weakref.finalize(self, self.orders.put, None)
        for _ in range(ahead):
            self._order()

    def _order(self):
        self.pending.append(Future())
        self.orders.put(self.pending[-1])

    def __iter__(self) -> Iterator[Any]:
        return self

    def ready(self, seconds: float) -> bool:
        """Whether the next item is there, or the end, after at most so many seconds."""
        return not self.pending or bool(wait_for([self.pending[0]], seconds).done)

    def __next__(self) -> Any:
        while not self.ready(NAP):
            pass
        if not self.pending:
            raise StopIteration
        future = self.pending.popleft()
        if (error := future.exception()) is not None:
            self.close()
            raise error
        if future.result() is END:
            self.close()
            raise StopIteration
        self._order()
        return future.result()

    def close(self) -> None:
        """Stop, once the item under way is done; nothing more comes."""
        self._leave()
        while self.thread.is_alive():
            self.thread.join(NAP)

    def _leave(self):
        """Stop without waiting."""
        THREADS.pop(self.thread, None)
        while self.pending:
            self.pending.pop().cancel()
        self.orders.put(None)

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is KeyboardInterrupt:
            self._leave()
        else:
            self.close()


@functools.partial(jax.jit, static_argnames=("every", "n", "batch_size"))
def indices_from(first, data_key, *, every, n, batch_size):
    """int32 [every, batch_size]: `batch_indices` of the steps from `first` on."""
    steps = first + jnp.arange(every, dtype=jnp.uint32)
    return jax.vmap(lambda step: batch_indices(data_key, step, n, batch_size))(steps)


def parts_of(steps, every):
    """The range `steps` in parts that end at multiples of `every`, wherever it begins."""
    cuts = range(steps.start // every * every + every, steps.stop, every)
    bounds = [steps.start, *cuts, steps.stop]
    return [range(*pair) for pair in itertools.pairwise(bounds) if steps]


def planned(source, data_key, steps, batch_size, every):
    """The indices, int32 [steps, batch_size], of each part of the steps."""
    size = {"every": every, "n": len(source), "batch_size": batch_size}
    for part in parts_of(steps, every):
        # A shorter part is computed in the others' length, as that is compiled.
        yield np.asarray(indices_from(np.uint32(part.start), data_key, **size))[: len(part)]


def host_batches(source, data_key, steps, batch_size):
    if isinstance(source, Stream):
        yield from source.read(steps, batch_size)
    else:
        for indices in planned(source, data_key, steps, batch_size, PLANNED):
            yield from map(source.take, indices)


def host_chunks(source, data_key, steps, batch_size, every):
    if isinstance(source, Stream):
        batches = source.read(steps, batch_size)
        for part in parts_of(steps, every):
            chunk = list(itertools.islice(batches, len(part)))
            yield jax.tree.map(lambda *leaves: np.stack(leaves), *chunk)
    else:
        for indices in planned(source, data_key, steps, batch_size, every):
            examples = source.take(indices.reshape(-1))
            yield jax.tree.map(lambda a, s=indices.shape: a.reshape(*s, *a.shape[1:]), examples)


def checked(data, key, start, steps, batch_size):
    """The source of `data`, the key of its order, the range of the steps, and the batch size."""
    source, start = as_source(data), check_count("start", start, 0)
    steps = range(start, start + check_count("steps", steps, 0))
    if isinstance(source, Stream):
        if batch_size is not None:
            batch_size = check_count("batch_size", batch_size, 1)
        return source, None, steps, batch_size
    batch_size = check_count("batch_size", batch_size, 1)
    if batch_size > len(source):
        raise ValueError(f"batch_size must be at most the {len(source)} examples, got {batch_size}")
    try:  # On the host, since a GPU would compute indices after the steps that it has yet to do.
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        host = jax.local_devices()[0]
    # Now, since the key may be donated before the thread comes to it.
    return source, jax.device_put(run_keys(key)[0], host), steps, batch_size


def batches(
    data: Any, key: Any, *, steps: int, batch_size: int | None, start: int = 0, ahead: int = 2
) -> Ahead:
    """The batches of `steps` steps from `start` on, pytrees of NumPy arrays, each exactly the one
    that the pure run (`resume`) takes whose state has that `key`.

    data: a pytree of arrays with a common leading axis, in memory or memory-mapped, any source
    (`sharded`) or stream of batches (`stream`); of a stream `key` is not used and `batch_size` may
    be None. They are read in a thread, `ahead` of them before their use: close what is returned, as
    a `with` statement does.
    """
    source, data_key, steps, batch_size = checked(data, key, start, steps, batch_size)
    return Ahead(host_batches(source, data_key, steps, batch_size), ahead)


def chunks(
    data: Any,
    key: Any,
    *,
    steps: int,
    batch_size: int | None,
    every: int,
    start: int = 0,
    ahead: int = 2,
    device: Any = None,
) -> Ahead:
    """The `batches` of `every` steps at a time, stacked: arrays [every, batch_size, ...] on the
    device, of which `lax.scan(trainer.step, state, chunk)` makes what `resume` does, bit for bit.

    Chunks end at multiples of `every`, so the first may be shorter, and the last. They are gathered
    and sent to the device in a thread, `ahead` of them before their use, so that about `ahead` + 2
    are in memory at once. `device` is a device, or a sharding of such arrays.
    """
    source, data_key, steps, batch_size = checked(data, key, start, steps, batch_size)
    stacked = host_chunks(source, data_key, steps, batch_size, check_count("every", every, 1))
    return Ahead((jax.device_put(chunk, device) for chunk in stacked), ahead)
