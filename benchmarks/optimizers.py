"""What an optimizer's update costs, against the memory it must move and against its peers.

    pip install -e . optax torch && python benchmarks/optimizers.py [--json FILE] [--only NAME ...]

16.8 M float32 parameters as 4 and as 256 leaves, two CPU threads. An update is the jitted
`(grads, state, params) -> (state, params)` with state and parameters donated; Optax's is the same
with its own pair, PyTorch's is `optimizer.step()`, fused where it has that on a CPU and else
foreach. The limit is the time in which the same machine copies as many bytes as an elementwise
update must read and write: gradients once, parameters and each slot of the state twice; it is
measured in turn with the contestants, on the same leaves. All are first shown to make the same
first step. Quoted are each round's ratios; to compile is timed once, for 256 leaves.
"""

import argparse
import functools
import json
import math
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import funcnet as fn

LEAVES = {4: (2048, 2048), 256: (256, 256)}
RATE = 1e-3
T = torch.optim


def fused(make, **options):
    return functools.partial(make, lr=RATE, fused=True, **options)


def foreach(make, **options):
    return functools.partial(make, lr=RATE, foreach=True, **options)


# name: (ours, slots of the state, Optax's, PyTorch's); None where a peer has none or another one.
CONTESTANTS = {
    "sgd": (fn.sgd(RATE), 0, optax.sgd(RATE), fused(T.SGD)),
    "momentum": (fn.momentum(RATE), 1, optax.sgd(RATE, 0.9), fused(T.SGD, momentum=0.9)),
    "nesterov": (
        fn.nesterov(RATE),
        1,
        optax.sgd(RATE, 0.9, nesterov=True),
        fused(T.SGD, momentum=0.9, nesterov=True),
    ),
    "adagrad": (fn.adagrad(RATE), 1, None, fused(T.Adagrad)),
    "rmsprop": (fn.rmsprop(RATE, 0.99), 1, None, foreach(T.RMSprop)),
    "adadelta": (fn.adadelta(RATE), 2, optax.adadelta(RATE), foreach(T.Adadelta)),
    "adam": (fn.adam(RATE), 2, optax.adam(RATE), fused(T.Adam)),
    "adamw": (
        fn.adamw(RATE, weight_decay=1e-2),
        2,
        optax.adamw(RATE, weight_decay=1e-2),
        fused(T.AdamW),
    ),
    "amsgrad": (fn.amsgrad(RATE), 3, None, fused(T.Adam, amsgrad=True)),
    "adamax": (fn.adamax(RATE), 2, None, foreach(T.Adamax)),
    "nadam": (fn.nadam(RATE), 2, None, foreach(T.NAdam)),
    "radam": (fn.radam(RATE), 2, optax.radam(RATE), foreach(T.RAdam)),
    "rprop": (fn.rprop(RATE), 2, None, foreach(T.Rprop)),
    "lion": (fn.lion(RATE, weight_decay=1e-3), 1, optax.lion(RATE), None),
    "signum": (fn.signum(RATE), 1, None, None),
    "adan": (fn.adan(RATE), 4, optax.adan(RATE), None),
    "adopt": (fn.adopt(RATE), 2, optax.contrib.adopt(RATE), None),
    "ademamix": (fn.ademamix(RATE), 3, optax.contrib.ademamix(RATE), None),
    "lamb": (fn.lamb(RATE), 2, optax.lamb(RATE), None),
    "adafactor": (fn.adafactor(RATE), 0, optax.adafactor(RATE), None),
    "schedule-free adamw": (
        fn.schedule_free_adamw(RATE),
        2,
        optax.contrib.schedule_free_adamw(RATE),
        None,
    ),
    "clip + adamw": (
        fn.chain(fn.clip_by_global_norm(1.0), fn.adamw(RATE, weight_decay=1e-2)),
        2,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(RATE, weight_decay=1e-2)),
        None,
    ),
}
WHOLE = ("lamb", "adafactor", "clip + adamw")
"""Not elementwise: what they move more is theirs to answer for."""


def arrays(count, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(LEAVES[count], np.float32) for _ in range(count)]


def step_of(pair):
    def step(grads, state, params):
        updates, state = pair.update(grads, state, params)
        return state, jax.tree.map(jnp.add, params, updates)

    return jax.jit(step, donate_argnums=(1, 2))


class Jax:
    """An update that goes on from where it was."""

    def __init__(self, pair, count):
        self.params = [jnp.array(a) for a in arrays(count, 0)]
        self.grads = [jnp.array(a) for a in arrays(count, 1)]
        self.state = jax.tree.map(jnp.array, pair.init(self.params))  # nothing shared, to donate
        start = time.perf_counter()
        lowered = step_of(pair).lower(self.grads, self.state, self.params)
        self.step = lowered.compile()
        self.compiling = time.perf_counter() - start

    def __call__(self):
        self.state, self.params = self.step(self.grads, self.state, self.params)
        jax.block_until_ready(self.params)

    def first(self):
        return np.asarray(self.params[0])


class Torch:
    def __init__(self, make, count):
        self.params = [torch.nn.Parameter(torch.tensor(a)) for a in arrays(count, 0)]
        for parameter, gradient in zip(self.params, arrays(count, 1), strict=True):
            parameter.grad = torch.tensor(gradient)
        self.optimizer = make(self.params)

    def __call__(self):
        self.optimizer.step()

    def first(self):
        return self.params[0].detach().numpy()


class Copy:
    """Reads and writes `units` halves of so many parameters' bytes: the limit. As many arrays as
    that takes, lest they stay in a cache that the optimizer's would not."""

    def __init__(self, units, count):
        sets = math.ceil(units / 2)
        self.values = [jnp.array(a) for seed in range(sets) for a in arrays(count, seed)]
        step = jax.jit(lambda values: [1.0000001 * v for v in values], donate_argnums=0)
        self.step = step.lower(self.values).compile()
        self.units = units / 2 / sets

    def __call__(self):
        self.values = self.step(self.values)
        jax.block_until_ready(self.values)


def timed(contestants, rounds, repeats=3):
    """Seconds a call of each contestant in each round, the least of a few."""
    times = {name: [] for name in contestants}
    for repetition in range(rounds + 1):
        for name, contestant in contestants.items():
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                contestant()
                seconds.append(time.perf_counter() - start)
            if repetition:
                times[name].append(min(seconds))
    return times


def spread(above, below, factor=1.0):
    ratios = [a / (factor * b) for a, b in zip(above, below, strict=True)]
    return ratios, f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def row(name, count, rounds):
    ours, slots, theirs, torchs = CONTESTANTS[name]
    contestants = {"ours": Jax(ours, count)}
    if theirs is not None:
        contestants["Optax"] = Jax(theirs, count)
    if torchs is not None:
        contestants["PyTorch"] = Torch(torchs, count)
    copy = Copy(3 + 2 * slots, count)
    firsts = []
    for contestant in contestants.values():
        before = contestant.first().copy()
        contestant()
        firsts.append(contestant.first() - before)
    for other in firsts[1:]:  # defaults differ where gradients are hardly there
        error = np.linalg.norm(other - firsts[0]) / (np.linalg.norm(firsts[0]) + 1e-9)
        if not error < 0.02:
            raise AssertionError(f"{name}: first steps differ by {error:.2g}")
    times = timed({**contestants, "copy": copy}, rounds)
    figures, cells = {}, []
    for label, above, below, factor in (
        ("limit", "ours", "copy", copy.units),
        ("Optax", "Optax", "ours", 1.0),
        ("PyTorch", "PyTorch", "ours", 1.0),
    ):
        if above not in times or (label == "limit" and name in WHOLE and name != "clip + adamw"):
            cells.append(f"{'-':>22}")
            continue
        figures[label], text = spread(times[above], times[below], factor)
        cells.append(f"{text:>22}")
    compiling = {k: c.compiling for k, c in contestants.items() if isinstance(c, Jax)}
    shown = " / ".join(f"{seconds:.1f}" for seconds in compiling.values())
    milliseconds = 1e3 * statistics.median(times["ours"])
    print(f"{name:20}{milliseconds:8.1f}{''.join(cells)}   {shown}", flush=True)
    return {**figures, "compile": compiling, "milliseconds": milliseconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--leaves", type=int, nargs="*", default=list(LEAVES), choices=LEAVES)
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS))
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print(
        f"jax {jax.__version__}, optax {optax.__version__}, torch {torch.__version__}, "
        f"{platform.machine()} CPU, 2 threads; {arguments.rounds} rounds, median (min to max)"
    )
    found = {}
    for count in arguments.leaves:
        print(
            f"\n{f'{count} leaves':20}{'ms':>8}{'ours / limit':>22}{'Optax / ours':>22}"
            f"{'PyTorch / ours':>22}   compile, s: ours / Optax"
        )
        for name in arguments.only:
            found[f"{name}, {count} leaves"] = row(name, count, arguments.rounds)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"jax": jax.__version__, "rows": found}, file, indent=1)


if __name__ == "__main__":
    main()
