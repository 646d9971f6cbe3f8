"""What an epoch over a memory-mapped set costs, against the same set in memory.

    pip install -e . && python benchmarks/data.py [--gib 8] [--hidden 1024] [--folder DIR] [--warm]
        [--json FILE]

A file of random bytes, images of 64x64x3, and one of their labels are written, dropped from the
system's cache and in the end deleted. An MLP is trained for a whole epoch by chunks from the file
(`data.chunks` of the mapped arrays). To have a row of 12 KiB from a disk takes the system about 12
us of a processor, so the wider the network the less of it is seen where both share one. Now and
then two runs on the part that fits in memory have their turn, one fed the same way and one pure,
`resume`; quoted are the ratios of speed in these turns, each including the chunks that it makes
ahead, by the clock and by the processors' time, which others on the machine disturb less. The
file's run also reports the part of its time that it waits for a chunk, and the resident memory that
it takes beyond what the process has once all is compiled and the small set loaded: the kernel's own
greatest value (VmHWM, reset through clear_refs), in which mapped pages of the file count.
"""

import argparse
import contextlib
import functools
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from concurrent.futures import wait
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn

SHAPE, CLASSES, BATCH, EVERY, TURN = (64, 64, 3), 10, 128, 16, 16
WIDTH, GIB = int(np.prod(SHAPE)), 2**30
IN_MEMORY = 1 << 14
"""Examples of the small set, 192 MiB."""


def normalised(x):
    return x.reshape(len(x), WIDTH).astype(jnp.float32) / 127.5 - 1.0


def classifier(hidden):
    network = fn.serial(fn.activation(normalised), fn.mlp((WIDTH, hidden, CLASSES)))
    return fn.trainer(fn.supervised(network, fn.cross_entropy), fn.adam(1e-3))


def write(folder, examples):
    """A file of images, written block by block so that none of it is a hole, and one of labels."""
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(folder / "x.npy", "w+", np.uint8, (examples, *SHAPE))
    for first in range(0, examples, 1 << 14):
        block = images[first : first + (1 << 14)]
        block[...] = np.frombuffer(rng.bytes(block.size), np.uint8).reshape(block.shape)
    images.flush()
    np.save(folder / "y.npy", rng.integers(0, CLASSES, examples, np.int32))


def forget(folder):
    """Have the system drop the files from its cache."""
    os.sync()
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def status(*names):
    """Bytes of these entries of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return [1024 * int(values[name].split()[0]) for name in names]


@functools.partial(jax.jit, donate_argnames="state")
def follow(trainer, state, chunk):
    state, metrics = jax.lax.scan(trainer.step, state, chunk)
    return state, metrics["loss"]


@functools.partial(jax.jit, donate_argnames="state")
def pure(trainer, state, data):
    result = fn.resume(trainer, data, state, steps=EVERY, batch_size=BATCH)
    return result.state, result.loss


class Fed:
    """A run that is fed chunks, and how long it has waited for them."""

    def __init__(self, trainer, data, chunks):
        self.trainer, self.state = trainer, trainer.init(jax.random.key(0))
        self.chunks = fn.data.chunks(
            data, self.state.key, steps=chunks * EVERY, every=EVERY, batch_size=BATCH
        )
        self.waited, self.losses = 0.0, []

    def advance(self):
        start = time.perf_counter()
        chunk = next(self.chunks)
        self.waited += time.perf_counter() - start
        self.state, loss = follow(self.trainer, self.state, chunk)
        self.losses.append(np.asarray(loss))

    def settle(self):
        """Have the chunks that are under way made in one's own time."""
        wait(self.chunks.pending)


class Pure:
    """The pure run, in calls of as many steps."""

    def __init__(self, trainer, data):
        self.trainer, self.state = trainer, trainer.init(jax.random.key(0))
        self.data = jax.device_put(data)
        self.losses = []

    def advance(self):
        self.state, loss = pure(self.trainer, self.state, self.data)
        self.losses.append(np.asarray(loss))

    def settle(self):
        pass


class Turn(NamedTuple):
    seconds: float
    processors: float  # their seconds
    waited: float  # for chunks, of the seconds


def turn(run):
    waited, start, used = getattr(run, "waited", 0.0), time.perf_counter(), time.process_time()
    for _ in range(TURN):
        run.advance()
    run.settle()
    return Turn(
        time.perf_counter() - start,
        time.process_time() - used,
        getattr(run, "waited", 0.0) - waited,
    )


def epoch(trainer, folder, examples, warm, between):
    """The turns of each run in an epoch of the file's, and the memory that it took."""
    file = tuple(np.load(folder / name, mmap_mode="r") for name in ("x.npy", "y.npy"))
    few = tuple(np.array(array[:IN_MEMORY]) for array in file)
    turns = -(-examples // (BATCH * EVERY * TURN))
    with contextlib.ExitStack() as stack:
        names = ("in memory, chunks", "in memory, pure run")
        runs = dict(
            zip(names, (Fed(trainer, few, (turns + 1) * TURN), Pure(trainer, few)), strict=True)
        )
        stack.callback(runs[names[0]].chunks.close)
        for run in runs.values():
            turn(run)
        np.testing.assert_array_equal(*(run.losses for run in runs.values()))
        with fn.data.chunks(file, jax.random.key(0), steps=1, every=EVERY, batch_size=BATCH) as one:
            next(one)  # compiles the indices of so many examples
        if not warm:
            forget(folder)
        Path("/proc/self/clear_refs").write_text("5")
        (before,) = status("VmRSS")
        runs = {"from the file": Fed(trainer, file, turns * TURN), **runs}
        stack.callback(runs["from the file"].chunks.close)
        times = {name: [] for name in runs}
        for number in range(turns):
            for name, run in runs.items():
                if run.state is runs["from the file"].state or number % between == 0:
                    times[name].append(turn(run))
        peak, resident, mapped = status("VmHWM", "VmRSS", "RssFile")
    return times, {"before": before, "peak": peak, "resident": resident, "of files": mapped}


def ratios(times, name, between, what):
    """The other's seconds by the file's, in the turns that both had."""
    pairs = zip(times["from the file"][::between], times[name], strict=True)
    return [getattr(other, what) / getattr(own, what) for own, other in pairs]


def spread(values):
    return f"{statistics.median(values):.3f} ({min(values):.2f} to {max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, help="of the file; else half of what is free, up to 8")
    parser.add_argument("--hidden", type=int, default=1024, help="width of the network")
    parser.add_argument("--folder", type=Path, help="where to write it; else the temporary folder")
    parser.add_argument("--warm", action="store_true", help="leave the file in the system's cache")
    parser.add_argument("--between", type=int, default=4, help="the others' turn every so many")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="funcnet-", dir=arguments.folder))
    try:
        free = shutil.disk_usage(folder).free / GIB
        gib = min(free / 2, 8.0) if arguments.gib is None else arguments.gib
        if gib > 0.9 * free:
            raise SystemExit(f"{folder} has {free:.1f} GiB free, too few for {gib:g}")
        examples = int(gib * GIB) // WIDTH
        write(folder, examples)
        times, memory = epoch(
            classifier(arguments.hidden), folder, examples, arguments.warm, arguments.between
        )
    finally:
        shutil.rmtree(folder)
    print(
        f"jax {jax.__version__}, numpy {np.__version__}, {platform.machine()} CPU, "
        f"{os.cpu_count()} cores; {gib:g} GiB, {examples} examples, "
        f"{'in' if arguments.warm else 'not in'} the cache; width {arguments.hidden}, "
        f"batch {BATCH}, chunks of {EVERY}"
    )
    print(
        f"{'':20}{'us an example':>14}{'waiting':>9}   the file's speed relative to it: clock, CPU"
    )
    rows = {}
    for name, turns in times.items():
        seconds, waited = (sum(getattr(t, what) for t in turns) for what in ("seconds", "waited"))
        rows[name] = {"turns": turns}
        each = seconds / (len(turns) * TURN * EVERY * BATCH) * 1e6
        line = f"{name:20}{each:14.1f}{waited / seconds:9.1%}"
        if name != "from the file":
            for what in ("seconds", "processors"):
                rows[name][what] = ratios(times, name, arguments.between, what)
                line += "   " + spread(rows[name][what])
        print(line)
    mib = {name: value / 2**20 for name, value in memory.items()}
    print(
        f"resident: {mib['before']:.0f} MiB before, at most {mib['peak']:.0f}, that is "
        f"{mib['peak'] - mib['before']:.0f} more; in the end {mib['resident']:.0f}, "
        f"of which {mib['of files']:.0f} are pages of files"
    )
    if arguments.json:
        figures = {"jax": jax.__version__, "gib": gib, "rows": rows, "memory": memory}
        Path(arguments.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
