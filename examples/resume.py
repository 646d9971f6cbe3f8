"""Killed at random and continued: the parameters are those of a run that nothing disturbed.

    pip install . && python examples/resume.py

A child process trains a network on the digits and saves a checkpoint every 1,000 steps. After a
random time it is killed by SIGKILL, which no program can catch, wherever it is: in the middle of an
epoch, of a step or of writing a file. The same call in another process continues from the newest
checkpoint that is whole. Three times, then it may finish. Last, the pure run, `fn.run`, makes all
steps at once in one compiled program, and every bit of both ends is compared.

It prints (the moments are random, the last line is not):

    killed after 0.1 s: the newest of 3 checkpoints is of step 4,000
    killed after 0.4 s: the newest of 3 checkpoints is of step 19,000
    killed after 1.0 s: the newest of 3 checkpoints is of step 45,000
    continued from step 45,000 to 60,000: accuracy 0.967
    all 16 arrays of parameters, optimizer and key are equal, bit for bit: True
"""

import contextlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import funcnet as fn

STEPS, EVERY, BATCH_SIZE, KILLS = 60_000, 1_000, 32, 3
network = fn.serial(fn.dense(64, 32), fn.relu, fn.dropout(0.1), fn.dense(32, 10))
task = fn.supervised(network, fn.cross_entropy, metrics={"accuracy": fn.accuracy})


def train(folder, steps=STEPS, report=None):
    """From the newest checkpoint in the folder, or from scratch."""
    trainer = fn.trainer(task, fn.adam(fn.warmup_cosine(1e-3, 1000.0, float(steps))))
    data, _ = fn.datasets.digits()
    return trainer, fn.fit(
        trainer, data, jax.random.key(0), steps=steps, batch_size=BATCH_SIZE, every=EVERY,
        checkpoints=folder, report=report,
    )  # fmt: skip


def saved(folder):
    """The steps that have a checkpoint."""
    return sorted(int(path.stem.split("-")[1]) for path in Path(folder).glob("step-*.safetensors"))


def killed(folder, steps, patience):
    """Train in a child until it has saved once more, and up to `patience` seconds longer."""
    before = saved(folder)
    child = subprocess.Popen([sys.executable, __file__, folder, str(steps)])
    while saved(folder) == before and child.poll() is None:
        time.sleep(0.01)
    waited = random.uniform(0.0, patience)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(waited)
    child.kill()
    child.wait()
    found = saved(folder)
    print(
        f"killed after {waited:.1f} s: the newest of {len(found)} checkpoints is of step "
        f"{found[-1]:,}"
    )
    return found[-1]


def bits(state):
    state = state._replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def main(steps=STEPS, kills=KILLS, patience=1.5):
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(kills):
            last = killed(folder, steps, patience)
        trainer, fitted = train(folder, steps)
    data, test = fn.datasets.digits()
    accuracy = fn.evaluate(trainer, fitted.state, test)["accuracy"]
    print(f"continued from step {last:,} to {steps:,}: accuracy {accuracy:.3f}")
    run = jax.jit(fn.run, static_argnames=("steps", "batch_size"))
    whole = run(trainer, data, jax.random.key(0), steps=steps, batch_size=BATCH_SIZE)
    equal = bits(fitted.state) == bits(whole.state)
    count = len(bits(whole.state))
    print(f"all {count} arrays of parameters, optimizer and key are equal, bit for bit: {equal}")
    return equal


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(sys.argv[1], int(sys.argv[2]))
    else:
        main()
