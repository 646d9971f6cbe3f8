"""Being told to stop: a signal only raises a flag, which is looked at between chunks."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils


def to_stderr(text: str) -> None:
    """Write a line, also in a handler, which may have interrupted a `print`."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def flag(heard: list[str], say: Callable[[str], Any] | None):
    """A handler that notes the signal's name; a Ctrl-C after that raises at once."""

    def handle(number, frame):
        if heard and number == signal.SIGINT:
            raise KeyboardInterrupt
        heard.append(signal.Signals(number).name)
        if say is not None:
            again = ", again to end at once" if number == signal.SIGINT else ""
            say(f"told to stop by {heard[-1]}: ends with this chunk{again}")

    return handle


@contextlib.contextmanager
def listening(say: Callable[[str], Any] | None = None) -> Iterator[list[str]]:
    """Within it SIGINT and SIGTERM append their names to the list, and say so.

    Handlers belong to the main thread: in another none is installed. SIGTERM is JAX's own where
    `jax.distributed` is initialised. The handlers from before come back in the end.
    """
    heard: list[str] = []
    numbers = [signal.SIGINT]
    if not jax.distributed.is_initialized():
        numbers.append(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.signal(number, flag(heard, say)) for number in numbers}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            # None is a handler that was not installed from Python, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def told_to_stop(heard: list[str], turn: int) -> str | None:
    """By what the run is to stop, if by anything. `turn` counts the calls: of several processes all
    are told so in the same turn."""
    if jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(turn):
        return "preemption"
    return heard[0] if heard else None
