"""What a training run costs: funcnet's `run` against plain JAX with Optax, and PyTorch eager.

    pip install -e . optax torch && python benchmarks/run_cost.py [--json FILE]

An MLP 64-64-10 on all 1,797 digits, Adam, batch 32, two CPU threads. The JAX peer is the customary
whole run: a scan over epochs, each of which sorts a fresh permutation and scans over its batches.
The PyTorch peer is the customary loop. Contestants are first shown to compute the same losses from
the same parameters and batches, then timed in turn; quoted are each round's ratios to funcnet.
"""

import argparse
import functools
import json
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import funcnet as fn
from funcnet.training import run_keys

BATCH, RATE, STEPS, TORCH_STEPS, ROUNDS = 32, 1e-3, 4000, 1000, 9
net = fn.mlp((64, 64, 10))
trainer = fn.trainer(fn.supervised(net, fn.cross_entropy), fn.adam(RATE))


def plain_loss(params, batch):
    features, labels = batch
    hidden = jax.nn.relu(features @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


adam = optax.adam(RATE)


def plain_step(carry, batch):
    params, state = carry
    value, grads = jax.value_and_grad(plain_loss)(params, batch)
    updates, state = adam.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), value


def plain_run(params, data, key):
    """Epochs of a sorted permutation; the examples beyond the last whole batch are dropped."""
    examples = len(data[0])
    batches = examples // BATCH

    def epoch(carry, epoch_key):
        order = jax.random.permutation(epoch_key, examples)[: batches * BATCH].reshape(-1, BATCH)
        return jax.lax.scan(
            lambda c, i: plain_step(c, jax.tree.map(lambda a: a[i], data)), carry, order
        )

    keys = jax.random.split(key, STEPS // batches)
    return jax.lax.scan(epoch, (params, adam.init(params)), keys)


def torch_net(params):
    layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        for layer, number in ((layers[0], "1"), (layers[2], "2")):
            layer.weight.copy_(torch.tensor(np.asarray(params["w" + number]).T))
            layer.bias.copy_(torch.tensor(np.asarray(params["b" + number])))
    return layers


def torch_run(params, data, batches):
    """The losses of eager training on each batch of indices in turn."""
    features, labels = torch.tensor(data[0]), torch.tensor(data[1]).long()
    model, losses = torch_net(params), []
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for index in batches:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(features[index]), labels[index])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def plain_params(state):
    (first, _, second) = state.params
    return {
        "w1": first["weight"],
        "b1": first["bias"],
        "w2": second["weight"],
        "b2": second["bias"],
    }


def check_same_losses(data, key, steps=100):
    state = trainer.init(key)
    data_key, _ = run_keys(state.key)
    order = jax.vmap(lambda k: fn.batch_indices(data_key, k, len(data[0]), BATCH))(
        jnp.arange(steps)
    )
    ours = fn.resume(trainer, data, state, steps=steps, batch_size=BATCH).loss
    params = plain_params(state)
    _, plain = jax.lax.scan(
        lambda c, i: plain_step(c, jax.tree.map(lambda a: jnp.asarray(a)[i], data)),
        (params, adam.init(params)),
        order,
    )
    eager = torch_run(params, data, torch.tensor(np.asarray(order)).long())
    np.testing.assert_allclose(plain, ours, rtol=1e-4)
    np.testing.assert_allclose(eager, ours, rtol=1e-4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=1797, help="train on the first so many")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    key = jax.random.key(0)
    parts = fn.datasets.digits()
    host = jax.tree.map(lambda *a: np.concatenate(a)[: arguments.examples], *parts)
    examples = len(host[0])
    check_same_losses(host, key)
    state = trainer.init(key)
    run = jax.jit(functools.partial(fn.run, steps=STEPS, batch_size=BATCH))

    @jax.jit
    def loss_only(*args):
        result = run(*args)
        return result.state.params, result.loss

    plain = jax.jit(plain_run)
    data = jax.device_put(host)

    def eager():
        order = torch.randperm(examples).repeat(TORCH_STEPS * BATCH // examples + 1)
        return torch_run(plain_params(state), host, order[: TORCH_STEPS * BATCH].reshape(-1, BATCH))

    whole = STEPS // (examples // BATCH) * (examples // BATCH)
    contestants = {
        "funcnet run": (lambda: run(trainer, data, key), STEPS),
        "funcnet, loss as only history": (lambda: loss_only(trainer, data, key), STEPS),
        "JAX + Optax, sorted epochs": (lambda: plain(plain_params(state), data, key), whole),
        "PyTorch eager": (eager, TORCH_STEPS),
    }
    times = {name: [] for name in contestants}
    for repetition in range(ROUNDS + 1):
        for name, (contestant, steps) in contestants.items():
            start = time.perf_counter()
            jax.block_until_ready(contestant())
            if repetition:
                times[name].append((time.perf_counter() - start) / steps * 1e6)
    print(
        f"jax {jax.__version__}, optax {optax.__version__}, torch {torch.__version__}, "
        f"{platform.machine()} CPU, 2 threads; {ROUNDS} rounds, median (min to max)"
    )
    print(f"{'':28}{'us a step':>10}   time relative to funcnet's")
    rows = {}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times["funcnet run"], strict=True)]
        rows[name] = {"microseconds": values, "ratios": ratios}
        print(
            f"{name:28}{statistics.median(values):10.1f}   {statistics.median(ratios):5.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"jax": jax.__version__, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
