"""What the shell costs: `fit` in chunks of a tenth of a second against the pure run in one program.

    pip install . && python benchmarks/fit.py [--json FILE]

An MLP on the digits, batch 32, Adam. The contestants make the same steps and are first shown to end
with the same bits; then they are timed in turn, and quoted are each round's ratios to the pure run.
"Alone" is `fit` with its line, which dispatches a chunk before it has fetched the last one's
metrics; "logged" has a CSV log too, for which each chunk waits; "saved" writes a checkpoint after
each chunk besides. The processor's time, of all threads, is what a busy machine tells best. In each
ratio there is a share of a call's fixed costs (starting, the handlers, joining the history); below
is what a chunk costs the host by itself, in chunks of one step.
"""

import argparse
import io
import json
import platform
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn

BATCH, CHUNK_SECONDS, CHUNKS, ROUNDS = 32, 0.1, 10, 15
trainer = fn.trainer(fn.supervised(fn.mlp((64, 128, 128, 10)), fn.cross_entropy), fn.adam(1e-3))
data, _ = fn.datasets.digits()
key = jax.random.key(0)
run = jax.jit(fn.run, static_argnames=("steps", "batch_size"))


def timed(function):
    """(seconds, seconds of the processor's in all threads, result)."""
    start = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start[0], time.process_time() - start[1], result


def steps_in_a_chunk():
    """As many as take the processor a tenth of a second, by the fastest of three."""
    seconds = [
        timed(lambda: run(trainer, data, key, steps=1000, batch_size=BATCH).loss)[1]
        for _ in range(4)
    ]
    return max(1, round(CHUNK_SECONDS / min(seconds[1:]) * 1000))


def fit(steps, every, **how):
    """The shell, with a line that nobody sees."""
    line = fn.progress_line(io.StringIO())
    fitted = fn.fit(
        trainer, data, key, steps=steps, batch_size=BATCH, every=every, report=line, **how
    )
    return fitted.state.params, fitted.loss


def pure(steps, every):
    result = run(trainer, data, key, steps=steps, batch_size=BATCH)
    return result.state.params, result.loss


def logged(steps, every):
    return fit(steps, every, callbacks=[fn.log_csv(tempfile.mkdtemp() + "/log.csv")])


def saved(steps, every):
    log = fn.log_csv(tempfile.mkdtemp() + "/log.csv")
    return fit(steps, every, callbacks=[log], checkpoints=tempfile.mkdtemp())


def compared(every):
    """{"alone, time": ratios, ...} to the pure run, one a round."""
    contestants = {"pure": pure, "alone": fit, "logged": logged, "saved": saved}
    steps = CHUNKS * every
    ends = [contestant(steps, every) for contestant in contestants.values()]
    for end in ends[1:]:
        for a, b in zip(*map(jax.tree.leaves, (ends[0], end)), strict=True):
            np.testing.assert_array_equal(a, b)
    seconds = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            seconds[name].append(timed(lambda c=contestant: c(steps, every))[:2])
    own = np.array(seconds.pop("pure"))
    return {
        f"{name}, {kind}": np.array(pairs)[:, place] / own[:, place]
        for name, pairs in seconds.items()
        for place, kind in enumerate(("time", "processor time"))
    }


def one_by_one(count=300, rounds=5):
    """Milliseconds of the processor's for a chunk of one step: the least of the rounds."""
    resume = jax.jit(fn.resume, static_argnames=("steps", "batch_size"), donate_argnames=("state",))

    def loop(count, every):
        state = jax.jit(trainer.init)(key)
        for _ in range(count):
            state, loss, _ = resume(trainer, arrays, state, steps=1, batch_size=BATCH)
            loss.block_until_ready()
        return state.params

    arrays = jax.tree.map(jnp.asarray, data)
    contestants = {"a loop of the compiled chunk": loop, "alone": fit, "logged": logged}
    seconds = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, contestant in contestants.items():
            seconds[name].append(timed(lambda c=contestant: c(count, 1))[1])
    return {name: 1e3 * min(found[1:]) / count for name, found in seconds.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    options = parser.parse_args()
    every = steps_in_a_chunk()
    print(f"jax {jax.__version__}, {platform.machine()}, {ROUNDS} rounds of {CHUNKS} chunks")
    print(f"of {every} steps each; to the pure run:")
    table = compared(every)
    for name, ratios in table.items():
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        print(f"  {name:23} median {middle:.3f}, middle half {low:.3f} to {high:.3f}")
    alone = one_by_one()
    print("a chunk of one step, milliseconds of the processor's:")
    for name, milliseconds in alone.items():
        print(f"  {name:28} {milliseconds:.2f}")
    if options.json:
        lists = {name: list(ratios) for name, ratios in table.items()}
        Path(options.json).write_text(json.dumps({"every": every, **lists, "one": alone}))


if __name__ == "__main__":
    main()
