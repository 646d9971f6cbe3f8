"""What convolution costs on CPU: in a step loop, inside `scan`, and under `vmap` over weights.

    pip install -e . flax torch && python benchmarks/conv.py [--json FILE]

A CNN (1, 32 and 64 channels, 3x3 windows, max pool, dense) on 28x28 images, batch 128, Adam, two
CPU threads. The Flax contestant differs from ours in the network alone, its `Conv` and `max_pool`
in the same trainer, loop, scan and vmap; PyTorch's is the eager loop with channels last. All
contestants are first shown to compute the same losses from the same weights, then timed in turn;
quoted are each round's ratios. A second table (two rounds) takes the second convolution
alone: each form's forward pass, and that with the gradient of the input or of the weights.
"""

import argparse
import functools
import json
import platform
import statistics
import time

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from jax.tree_util import Partial

import funcnet as fn
from funcnet.layers import conv

BATCH, MEMBERS, RATE = 128, 8, 1e-3


class FlaxNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        for channels in (32, 64):
            x = nn.max_pool(nn.relu(nn.Conv(channels, (3, 3))(x)), (2, 2), strides=(2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


def flax_apply(params, state, x, *, key=None, train=False):
    return FlaxNet().apply(params, x), state


ours = fn.serial(
    *(fn.conv(1, 32, (3, 3)), fn.relu, fn.max_pool((2, 2))),
    *(fn.conv(32, 64, (3, 3)), fn.relu, fn.max_pool((2, 2))),
    *(fn.flatten, fn.dense(3136, 10)),
)
theirs = fn.Network(ours.init, Partial(flax_apply))


def as_flax(params):
    layers = {"Conv_0": params[0], "Conv_1": params[3], "Dense_0": params[7]}
    named = {k: {"kernel": v["weight"], "bias": v["bias"]} for k, v in layers.items()}
    return {"params": named}


def trainer_of(network):
    return fn.trainer(fn.supervised(network, fn.cross_entropy), fn.adam(RATE))


def starts(network, key):
    """A run's first state, with the same weights in either network's layout."""
    optimizer = fn.adam(RATE)
    state = trainer_of(ours).init(key)
    params = state.params if network is ours else as_flax(state.params)
    state = state._replace(params=params, opt_state=optimizer.init(params))
    return state if network is ours else state._replace(state=())


class TorchNet(torch.nn.Module):
    def __init__(self, params):
        super().__init__()
        self.first = torch.nn.Conv2d(1, 32, 3, padding=1)
        self.second = torch.nn.Conv2d(32, 64, 3, padding=1)
        self.last = torch.nn.Linear(3136, 10)
        with torch.no_grad():
            for layer, index in ((self.first, 0), (self.second, 3)):
                weight = np.array(params[index]["weight"])
                layer.weight.copy_(torch.tensor(weight).permute(3, 2, 0, 1))
                layer.bias.copy_(torch.tensor(np.array(params[index]["bias"])))
            dense = np.array(params[7]["weight"]).reshape(7, 7, 64, 10)
            self.last.weight.copy_(torch.tensor(dense).permute(3, 2, 0, 1).reshape(10, -1))
            self.last.bias.copy_(torch.tensor(np.array(params[7]["bias"])))

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(torch.relu(self.first(x)), 2)
        x = torch.nn.functional.max_pool2d(torch.relu(self.second(x)), 2)
        return self.last(x.flatten(1))


def torch_run(params, data):
    """The losses of eager training, channels last."""
    net = TorchNet(params).to(memory_format=torch.channels_last)
    optimizer, losses = torch.optim.Adam(net.parameters(), RATE), []
    for images, labels in zip(*data, strict=True):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def scan_of(network):
    trainer = trainer_of(network)

    def run(state, data):
        state, metrics = lax.scan(trainer.step, state, data)
        return metrics["loss"], state.params

    return run


def loop_of(network):
    step = jax.jit(trainer_of(network).step)

    def run(state, data):
        losses = []
        for batch in zip(*data, strict=True):
            state, metrics = step(state, batch)
            losses.append(metrics["loss"])
        return jnp.stack(losses), state.params

    return run


def interleaved(contestants, rounds):
    """Seconds per unit of each contestant (function, units) in each round, after a first one."""
    times = {name: [] for name in contestants}
    for repetition in range(rounds + 1):
        for name, (contestant, units) in contestants.items():
            start = time.perf_counter()
            jax.block_until_ready(contestant())
            if repetition:
                times[name].append((time.perf_counter() - start) / units)
    return times


def spread(ratios):
    return f"{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def training(rounds):
    """Milliseconds a step, or a member's step, and each one's time relative to ours."""
    key, steps = jax.random.key(0), 4
    rng = np.random.default_rng(0)
    data = (
        rng.normal(size=(steps, BATCH, 28, 28, 1)).astype(np.float32),
        rng.integers(0, 10, (steps, BATCH)),
    )
    eager = (
        [torch.tensor(x).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
         for x in data[0]],
        list(torch.tensor(data[1])),
    )  # fmt: skip
    data = jax.device_put((data[0], data[1].astype(np.int32)))
    few = jax.tree.map(lambda a: a[:2], data)
    params = trainer_of(ours).init(key).params

    contestants, losses = {}, {}
    for name, network in (("funcnet", ours), ("Flax", theirs)):
        state, scan, loop = starts(network, key), jax.jit(scan_of(network)), loop_of(network)
        members = jax.vmap(functools.partial(starts, network))(jax.random.split(key, MEMBERS))
        many = jax.jit(jax.vmap(scan_of(network), (0, None)))
        losses[name] = scan(state, data)[0]
        contestants |= {
            f"{name}, step loop": (functools.partial(loop, state, data), steps),
            f"{name}, scan": (functools.partial(scan, state, data), steps),
            f"{name}, vmap over {MEMBERS}": (functools.partial(many, members, few), 2 * MEMBERS),
        }
    np.testing.assert_allclose(losses["Flax"], losses["funcnet"], rtol=1e-3)
    np.testing.assert_allclose(torch_run(params, eager), losses["funcnet"], rtol=1e-3)

    # PyTorch apart from Flax, whose seconds and gigabytes would slow down whoever comes next.
    peer = {"PyTorch, step loop": (lambda: torch_run(params, eager), steps)}
    groups = [
        {n: c for n, c in contestants.items() if "Flax" not in n} | peer,
        contestants,
    ]
    print(f"{'training step':24}{'ms':>8}   time relative to funcnet's in the same mode")
    rows = {}
    for group in groups:
        rows |= relative(interleaved(group, rounds), skip=rows)
    return rows


def relative(times, skip):
    """A line for each contestant, its time over ours in the same mode, round by round."""
    rows = {}
    for name, values in times.items():
        mode = name.split(", ")[1]
        against = [mode] if "PyTorch" not in name else ["step loop", "scan", f"vmap over {MEMBERS}"]
        for other in against:
            base = times[f"funcnet, {other}"]
            ratios = [a / b for a, b in zip(values, base, strict=True)]
            if f"{name} / funcnet, {other}" in skip:
                continue
            rows[f"{name} / funcnet, {other}"] = ratios
            label = name if len(against) == 1 else f"PyTorch / our {other}"
            print(f"{label:24}{statistics.median(values) * 1e3:8.1f}   {spread(ratios)}")
    return rows


GEOMETRY = {"stride": (1, 1), "dilation": (1, 1), "groups": 1, "places": ((14, 1, 1), (14, 1, 1))}
FORMS = {"Winograd": conv.by_winograd, "patches": conv.by_patches, "XLA": conv.by_xla}


MODES = ("step loop", "scan", f"vmap over {MEMBERS}")


def alone(form, wanted, mode):
    """A form's forward pass with one of its gradients, and how many of them one call makes."""
    form = functools.partial(form, **GEOMETRY)

    def once(x, weight, dy):
        y, pullback = jax.vjp(form, x, weight)
        return y, dict(zip(("x", "W"), pullback(dy), strict=True)).get(wanted, ())

    def several(x, weight, dy):
        def body(carry, _):  # each evaluation needs the one before
            x, weight = carry
            y, grad = once(x, weight, dy)
            x = x + 1e-9 * (grad if wanted == "x" else y[..., :1])
            return (x, weight + 1e-9 * (grad if wanted == "W" else y[0, 0, 0])), None

        return lax.scan(body, (x, weight), None, length=2)[0]

    if mode == "scan":
        return jax.jit(several), 2
    if mode == "step loop":
        return jax.jit(once), 1
    return jax.jit(jax.vmap(once, (None, 0, None))), MEMBERS


def single_layer(rounds):
    rng = np.random.default_rng(0)
    x, weight, dy = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((BATCH, 14, 14, 32), (3, 3, 32, 64), (BATCH, 14, 14, 64))
    )
    rows = {}
    print(f"\n{'second convolution alone':40}{'ms':>8}   time relative to Winograd's")
    for wanted in ("y", "x", "W"):
        for mode in MODES:
            weights = jnp.stack([weight] * MEMBERS) if mode.startswith("vmap") else weight
            contestants = {}
            for name, form in FORMS.items():
                run, units = alone(form, wanted, mode)
                contestants[name] = (functools.partial(run, x, weights, dy), units)
            times = interleaved(contestants, rounds)
            for name, values in times.items():
                label = f"{'y' if wanted == 'y' else f'y and d{wanted}'}, {mode}, {name}"
                rows[label] = [a / b for a, b in zip(values, times["Winograd"], strict=True)]
                print(f"{label:40}{statistics.median(values) * 1e3:8.1f}   {spread(rows[label])}")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print(
        f"jax {jax.__version__}, flax {flax.__version__}, torch {torch.__version__}, "
        f"{platform.machine()} CPU, 2 threads; {arguments.rounds} rounds, median (min to max)"
    )
    rows = {**training(arguments.rounds), **single_layer(2)}
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"jax": jax.__version__, "ratios": rows}, file, indent=1)


if __name__ == "__main__":
    main()
