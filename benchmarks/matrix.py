"""What a step of Muon and of SOAP costs on CPU, for the matrices of a small transformer.

    pip install -e . optax torch
    OPENBLAS_NUM_THREADS=1 python benchmarks/matrix.py [--layers 12] [--json FILE]

A layer has matrices of [256, 1024], [1024, 256] and four of [256, 256]. Optax's Muon iterates in
the parameters' float32, PyTorch's in bfloat16, ours in either. PyTorch has no SOAP, so its
contestant is the authors' rule written out below. A step of SOAP is the mean over `EVERY`, one of
which takes new bases; and with `every=10_000` what it costs without. The contestants are first
shown to take the same steps, then timed in turn; quoted are each round's ratios. The variable is
for JAX's decompositions: where other programs run too, OpenBLAS's second thread has been seen to
make a QR of [256, 256] take 1.9 s in place of 1.5 ms.
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

SHAPES = [(256, 1024), (1024, 256), *[(256, 256)] * 4]
RATE, EVERY = 0.02, 10
B1 = B2 = 0.95


class Stepper:
    """A compiled step of either JAX library, and the parameters that it moves."""

    def __init__(self, optimizer, params, grads):
        self.params, self.grads = jax.tree.map(jnp.array, params), grads
        self.state = optimizer.init(self.params)

        def step(params, state, grads):
            updates, state = optimizer.update(grads, state, params)
            return fn.apply_updates(params, updates), state

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def run(self, steps):
        for i in range(steps):
            grads = self.grads[i % len(self.grads)]
            self.params, self.state = self.step(self.params, self.state, grads)
        return jax.block_until_ready(self.params)


def torch_copy(matrices):
    return [torch.tensor(np.asarray(w)).T.contiguous() for w in matrices]


class TorchMuon:
    def __init__(self, params, grads):
        self.params = [w.requires_grad_() for w in torch_copy(params)]
        self.grads = [torch_copy(g) for g in grads]
        self.optimizer = torch.optim.Muon(self.params, RATE, weight_decay=0.0)

    def run(self, steps):
        for i in range(steps):
            for w, g in zip(self.params, self.grads[i % len(self.grads)], strict=True):
                w.grad = g
            self.optimizer.step()
        return [w.detach().T.numpy() for w in self.params]


class TorchSoap:
    """SOAP in eager PyTorch, its first moment kept in the parameters' own basis."""

    def __init__(self, params, grads, every):
        self.params = [torch.tensor(np.asarray(w)) for w in params]
        self.grads = [[torch.tensor(np.asarray(w)) for w in g] for g in grads]
        self.memory = [None] * len(params)
        self.every, self.t = every, -1

    @torch.no_grad()
    def one(self, w, g, memory, t):
        sides = g @ g.T, g.T @ g
        if memory is None:
            grams = [(1 - B2) * side for side in sides]
            bases = [torch.linalg.eigh(gram)[1].flip(1) for gram in grams]
            return torch.zeros_like(g), torch.zeros_like(g), grams, bases
        m, v, grams, (left, right) = memory
        m.lerp_(g, 1 - B1)
        v.lerp_((left.T @ g @ right).square_(), 1 - B2)
        u = left @ (left.T @ m @ right / (v.sqrt() + 1e-8)) @ right.T
        w.sub_(u, alpha=RATE * math.sqrt(1 - B2**t) / (1 - B1**t))
        for gram, side in zip(grams, sides, strict=True):
            gram.lerp_(side, 1 - B2)
        if t % self.every:
            return m, v, grams, (left, right)
        bases = []
        for axis, (gram, q) in enumerate(zip(grams, (left, right), strict=True)):
            product = gram @ q
            order = torch.argsort((q * product).sum(0), descending=True)
            v = v.index_select(axis, order)
            bases.append(torch.linalg.qr(product[:, order])[0])
        return m, v, grams, bases

    def run(self, steps):
        for i in range(steps):
            self.t += 1
            for k, g in enumerate(self.grads[i % len(self.grads)]):
                self.memory[k] = self.one(self.params[k], g, self.memory[k], self.t)
        return [w.numpy() for w in self.params]


def contestants_of(params, grads):
    soap = functools.partial(fn.soap, RATE, B1, B2, shampoo_decay=B2, weight_decay=0.0)
    return {
        "Muon": {
            "funcnet": Stepper(fn.muon(RATE), params, grads),
            "Optax": Stepper(optax.contrib.muon(RATE), params, grads),
        },
        "Muon in bfloat16": {
            "funcnet": Stepper(fn.muon(RATE, iterate_in=jnp.bfloat16), params, grads),
            "PyTorch": TorchMuon(params, grads),
        },
        f"SOAP, every {EVERY}": {
            "funcnet": Stepper(soap(every=EVERY), params, grads),
            "PyTorch": TorchSoap(params, grads, EVERY),
        },
        "SOAP, no refresh": {
            "funcnet": Stepper(soap(every=10_000), params, grads),
            "PyTorch": TorchSoap(params, grads, 10_000),
        },
    }


def moved(contestant, start, steps):
    path = contestant.run(steps)
    return np.concatenate([np.ravel(w) - np.ravel(s) for w, s in zip(path, start, strict=True)])


def check(params, grads):
    """Each contestant's way relative to ours: of square matrices, since the longer side of others
    has eigenvectors of 0 that each library chooses for itself. Optax corrects Muon's bias, PyTorch
    rounds to bfloat16."""
    square = [[w for w in matrices if w.shape[0] == w.shape[1]] for matrices in (params, *grads)]
    for rule, named in contestants_of(square[0], square[1:]).items():
        ways = {name: moved(each, square[0], 4) for name, each in named.items()}
        for name, way in ways.items():
            error = np.linalg.norm(way - ways["funcnet"]) / np.linalg.norm(ways["funcnet"])
            assert error < (0.3 if "Muon" in rule else 0.02), (rule, name, error)
            print(f"{rule:18}{name:10}differs from funcnet by {error:.1e}")


def spread(ratios):
    return f"{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print(
        f"jax {jax.__version__}, optax {optax.__version__}, torch {torch.__version__}, "
        f"{platform.machine()} CPU, 2 threads; {arguments.layers} layers, "
        f"{arguments.rounds} rounds, median (min to max)"
    )
    rng = np.random.default_rng(0)
    params, *grads = (
        [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in SHAPES * arguments.layers]
        for _ in range(1 + EVERY)
    )
    check(params[: len(SHAPES)], [g[: len(SHAPES)] for g in grads])
    print(f"\n{'step':28}{'ms':>8}   time relative to funcnet's")
    rows = {}
    for rule, named in contestants_of(params, grads).items():
        steps = 2 if "Muon" in rule else EVERY
        times = {name: [] for name in named}
        for repetition in range(arguments.rounds + 1):
            for name, contestant in named.items():
                begin = time.perf_counter()
                contestant.run(steps)
                if repetition:
                    times[name].append((time.perf_counter() - begin) / steps)
        for name, values in times.items():
            ratios = [a / b for a, b in zip(values, times["funcnet"], strict=True)]
            rows[f"{rule}, {name}"] = ratios
            label = f"{rule}, {name}"
            print(f"{label:28}{statistics.median(values) * 1e3:8.1f}   {spread(ratios)}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"jax": jax.__version__, "ratios": rows}, file, indent=1)


if __name__ == "__main__":
    main()
