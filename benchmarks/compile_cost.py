"""What depth costs to compile: a transformer block in a row, and as one `repeat`.

    pip install -e . && python benchmarks/compile_cost.py [--json FILE]

A training step (loss, gradient and Adam) of n pre-norm transformer blocks (64 features, 4 heads)
on [8, 32, 64], lowered and compiled for CPU; both contestants are first shown to compute the same
losses from the same weights. Quoted are seconds, and each round's ratio to 4 blocks as a `repeat`.
"""

import argparse
import json
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn

FEATURES, DEPTHS, UNROLLED = 64, (4, 12, 24, 48), (4, 12)
BLOCK = fn.transformer_block(FEATURES, 4, causal=True)
X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, FEATURES)), jnp.float32)


def forms(depth):
    return {"repeat": fn.repeat(BLOCK, depth), "one by one": fn.serial(*[BLOCK] * depth)}


def step_of(network):
    """A fresh function, so that nothing is found compiled."""
    trainer = fn.trainer(fn.supervised(network, fn.mean_squared_error), fn.adam(1e-3))
    return trainer, jax.jit(lambda state: trainer.step(state, (X, X)))


def compile_seconds(network):
    trainer, step = step_of(network)
    state = jax.eval_shape(trainer.init, jax.random.key(0))
    start = time.perf_counter()
    step.lower(state).compile()
    return time.perf_counter() - start


def check(depth=2):
    """Equal losses, the stacked weights taken apart for the other form."""
    losses = []
    stacked, _ = forms(depth)["repeat"].init(jax.random.key(0))
    for name, network in forms(depth).items():
        trainer, step = step_of(network)
        state = trainer.init(jax.random.key(0))
        apart = tuple(jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(depth))
        state = state._replace(params=stacked if name == "repeat" else apart)
        losses.append(step(state)[1]["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    check()
    print(f"jax {jax.__version__}, {platform.machine()} CPU; {arguments.rounds} rounds")
    cases = [("repeat", n) for n in DEPTHS] + [("one by one", n) for n in UNROLLED]
    times = {case: [] for case in cases}
    for _ in range(arguments.rounds):
        for name, depth in cases:
            times[name, depth].append(compile_seconds(forms(depth)[name]))
    rows = {}
    print(f"{'compile time':20}{'s':>6}   relative to 4 blocks as one repeat")
    for (name, depth), seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times["repeat", 4], strict=True)]
        rows[f"{name}, {depth}"] = ratios
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{f'{name}, {depth} blocks':20}{statistics.median(seconds):6.1f}   {spread}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"jax": jax.__version__, "ratios": rows}, file, indent=1)


if __name__ == "__main__":
    main()
