"""What the shell costs: `fit` in chunks of a tenth of a second against the pure run in one program.

    pip install . && python benchmarks/fit.py [--json FILE]

An MLP on the digits, batch 32, Adam. The contestants make the same steps and are first shown to end
with the same bits; then they are timed in turn, and quoted are each round's ratios to the pure run.
"Alone" is `fit` with its line, which dispatches a chunk before it has fetched the last one's
metrics; "logged" has a CSV log too, for which each chunk waits; "saved" writes a checkpoint after
each chunk besides. Of the fixed costs of a call (starting, the handlers, joining the history) there
is a share in each.
"""

import argparse
import io
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import funcnet as fn

BATCH, CHUNK_SECONDS, CHUNKS, ROUNDS = 32, 0.1, 20, 9
trainer = fn.trainer(fn.supervised(fn.mlp((64, 128, 128, 10)), fn.cross_entropy), fn.adam(1e-3))
data, _ = fn.datasets.digits()
key = jax.random.key(0)
run = jax.jit(fn.run, static_argnames=("steps", "batch_size"))


def timed(function):
    start = time.perf_counter()
    result = function()
    jax.block_until_ready(result)
    return time.perf_counter() - start, result


def steps_in_a_chunk():
    """As many as take a tenth of a second, by the fastest of three."""
    run(trainer, data, key, steps=1000, batch_size=BATCH)
    seconds = min(
        timed(lambda: run(trainer, data, key, steps=1000, batch_size=BATCH).loss)[0]
        for _ in range(3)
    )
    return max(1, round(CHUNK_SECONDS / seconds * 1000))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    options = parser.parse_args()
    every = steps_in_a_chunk()
    steps, line = CHUNKS * every, fn.progress_line(io.StringIO())
    folder = Path(tempfile.mkdtemp())

    def fit(**how):
        fitted = fn.fit(
            trainer, data, key, steps=steps, batch_size=BATCH, every=every, report=line, **how
        )
        return fitted.state.params, fitted.loss

    def pure():
        result = run(trainer, data, key, steps=steps, batch_size=BATCH)
        return result.state.params, result.loss

    contestants = {
        "pure": pure,
        "alone": fit,
        "logged": lambda: fit(callbacks=[fn.log_csv(folder / "log.csv")]),
        "saved": lambda: fit(
            callbacks=[fn.log_csv(folder / "log.csv")],
            checkpoints=tempfile.mkdtemp(dir=folder),
        ),
    }
    ends = [contestant() for contestant in contestants.values()]
    for end in ends[1:]:
        for a, b in zip(*map(jax.tree.leaves, (ends[0], end)), strict=True):
            np.testing.assert_array_equal(a, b)
    seconds = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            seconds[name].append(timed(contestant)[0])
    print(f"jax {jax.__version__}, {platform.processor() or platform.machine()}, {ROUNDS} rounds")
    print(f"{CHUNKS} chunks of {every} steps, pure {min(seconds['pure']):.2f} s; time / pure's:")
    table = {}
    for name in list(contestants)[1:]:
        ratios = [a / b for a, b in zip(seconds[name], seconds["pure"], strict=True)]
        table[name] = {
            "median": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "of the fastest": min(seconds[name]) / min(seconds["pure"]),
        }
        print(f"  {name:8}" + "  ".join(f"{k} {v:.3f}" for k, v in table[name].items()))
    if options.json:
        Path(options.json).write_text(json.dumps({"every": every, "seconds": seconds, **table}))


if __name__ == "__main__":
    main()
