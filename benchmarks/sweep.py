"""What a sweep costs: 64 members in one program against one after another, PyTorch, scikit-learn.

    pip install -e . optax torch scikit-learn && python benchmarks/sweep.py [--json FILE]

An MLP 64-64-10 on all 1,797 digits, batch 32, Adam, 64 learning rates, two CPU threads: the sweep
on one device, and spread over the processor's two cores (JAX is told of two devices, `fn.plan` does
the rest); our own compiled run, one member after another; PyTorch's eager loop on tensors, with
losses kept, as ours are; scikit-learn's `MLPClassifier`. All are first shown to compute the same
losses from the same parameters and batches, then timed in turn; quoted are each round's ratios to
the sweep. Those that train one member at a time train few members or steps, and their time is
multiplied, as it is the same for each.

Then: the time to compile, against that of a single run; the time against the number of members
(`--picture FILE` draws it); successive halving over 256 members against training them all; and,
with `--conv`, which takes minutes, the CNN of `benchmarks/conv.py` under `vmap` over 8 members
against Flax's layers (needs flax).
"""

import argparse
import functools
import json
import platform
import statistics
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import run_cost
import sklearn
import torch
from sklearn.neural_network import MLPClassifier

import funcnet as fn
from funcnet.training import run_keys

jax.config.update("jax_num_cpu_devices", 2)

MEMBERS, BATCH, STEPS = 64, 32, 500
SOLO_MEMBERS, PEER_STEPS = 8, 285  # 5 epochs
COUNTS = (1, 4, 16, 64, 256, 1024)
run = functools.partial(fn.run, steps=STEPS, batch_size=BATCH)


def build(learning_rate):
    return fn.trainer(fn.supervised(run_cost.net, fn.cross_entropy), fn.adam(learning_rate))


def rates(count):
    return {"learning_rate": np.geomspace(1e-4, 1e-2, count)}


def whole_digits():
    return jax.tree.map(lambda *a: np.concatenate(a), *fn.datasets.digits())


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


def table(times, base, unit, scale):
    """A line for each contestant, and its times over the base's, round by round."""
    rows = {}
    for name, values in times.items():
        rows[name] = [a / b for a, b in zip(values, times[base], strict=True)]
        print(f"{name:44}{statistics.median(values) * scale:9.2f} {unit}  {spread(rows[name])}")
    return rows


def sklearn_net(rate, epochs):
    return MLPClassifier(
        (64,), alpha=0.0, batch_size=BATCH, learning_rate_init=rate, max_iter=epochs, tol=0.0,
        n_iter_no_change=epochs + 1,
    )  # fmt: skip


def sklearn_losses(params, data, batches, rate):
    """The losses on each batch in turn, from our parameters."""
    model, losses = sklearn_net(rate, 1), []
    model.partial_fit(*(a[batches[0]] for a in data), classes=np.arange(10))
    for mine, name in zip(model.coefs_, ("w1", "w2"), strict=True):
        mine[...] = params[name]
    for mine, name in zip(model.intercepts_, ("b1", "b2"), strict=True):
        mine[...] = params[name]
    adam = model._optimizer
    adam.t, adam.ms, adam.vs = 0, [0 * m for m in adam.ms], [0 * v for v in adam.vs]
    for batch in batches:
        model.partial_fit(*(a[batch] for a in data))
        losses.append(model.loss_)
    return losses


def check_same_losses(data, key, steps=50):
    """The sweep, the run alone, PyTorch and scikit-learn from one start on the same batches."""
    short = functools.partial(fn.run, steps=steps, batch_size=BATCH)
    points = {"learning_rate": np.array([run_cost.RATE / 3, run_cost.RATE])}
    swept = fn.sweep(build, points, short, data, key).loss[1]
    state = run_cost.trainer.init(key)
    draw = functools.partial(fn.batch_indices, n=len(data[0]), batch_size=BATCH)
    order = np.asarray(jax.vmap(lambda k: draw(run_keys(state.key)[0], k))(jnp.arange(steps)))
    params = run_cost.plain_params(state)
    alone = jax.jit(short)(build(run_cost.RATE), data, key).loss
    np.testing.assert_allclose(alone, swept, rtol=1e-4)
    eager = run_cost.torch_run(params, data, torch.tensor(order).long())
    np.testing.assert_allclose(eager, swept, rtol=1e-4)
    wide = (data[0].astype(np.float64), data[1])
    np.testing.assert_allclose(sklearn_losses(params, wide, order, run_cost.RATE), swept, rtol=1e-3)


def members_at_once(data, key, rounds):
    """Microseconds a member's step of all contestants."""
    examples = len(data[0])
    trainers = [build(rate) for rate in rates(SOLO_MEMBERS)["learning_rate"]]
    solo = jax.jit(run)
    given = jax.device_put(data)
    start = run_cost.plain_params(run_cost.trainer.init(key))
    epochs = PEER_STEPS // -(-examples // BATCH)

    def eager():
        order = torch.randperm(examples).repeat(PEER_STEPS * BATCH // examples + 1)
        batches = order[: PEER_STEPS * BATCH].reshape(-1, BATCH)
        return run_cost.torch_run(start, data, batches)

    plans = {
        count: fn.plan(build, rates(MEMBERS), run, given, key, devices=jax.local_devices()[:count])
        for count in (1, 2)
    }
    for plan in plans.values():
        print(plan)
    one = f"sweep of {MEMBERS}, one device"
    contestants = {
        one: (lambda: plans[1](given, key), MEMBERS * STEPS),
        f"sweep of {MEMBERS}, two devices": (lambda: plans[2](given, key), MEMBERS * STEPS),
        "funcnet, one after another": (
            lambda: [solo(trainer, given, key) for trainer in trainers],
            SOLO_MEMBERS * STEPS,
        ),
        "PyTorch eager, one after another": (eager, PEER_STEPS),
        "scikit-learn, one after another": (
            lambda: sklearn_net(run_cost.RATE, epochs).fit(*data).loss_,
            epochs * -(-examples // BATCH),
        ),
    }
    times = interleaved(contestants, rounds)
    print(f"{'a step of a member':44}{'':9} us  time relative to the sweep's on one device")
    rows = {"relative to one device": table(times, one, "us", 1e6)}
    print(f"{'':44}{'':9} us  relative to the sweep's on two devices")
    rows["relative to two devices"] = table(times, f"sweep of {MEMBERS}, two devices", "us", 1e6)
    return rows


def compiling(data, key, rounds):
    """Seconds to lower and compile, each time from a fresh function."""

    def compile_solo():
        jax.jit(lambda *args: run(*args)).lower(build(1e-3), data, key).compile()
        return ()

    def compile_sweep(devices):
        fn.plan(
            build, rates(MEMBERS), lambda *args: run(*args), data, key,
            devices=jax.local_devices()[:devices],
        )  # fmt: skip
        return ()

    contestants = {
        "a single run": (compile_solo, 1),
        f"sweep of {MEMBERS}, one device": (lambda: compile_sweep(1), 1),
        f"sweep of {MEMBERS}, two devices": (lambda: compile_sweep(2), 1),
    }
    print(f"\n{'to compile':44}{'':9}  s  time relative to a single run's")
    return table(interleaved(contestants, rounds), "a single run", " s", 1.0)


def by_members(data, key, rounds, picture):
    """Seconds of whole sweeps of 1 to 1,024 members, and what a member's step takes in them."""
    given = jax.device_put(data)
    plans = {count: fn.plan(build, rates(count), run, given, key) for count in COUNTS}
    contestants = {
        f"{count} members": (functools.partial(plan, given, key), count * STEPS)
        for count, plan in plans.items()
    }
    times = interleaved(contestants, rounds)
    print(f"\n{f'{STEPS} steps, two devices':44}{'':9} us  a member's step relative to one alone")
    rows = table(times, "1 members", "us", 1e6)
    if picture:
        draw(times, picture)
    return rows


def draw(times, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    seconds = [
        statistics.median(v) * c * STEPS for c, v in zip(COUNTS, times.values(), strict=True)
    ]
    axes.plot(COUNTS, seconds, "o-", label="one sweep")
    axes.plot(COUNTS, [seconds[0] * c for c in COUNTS], "--", label="one after another")
    axes.set(xlabel="members", ylabel=f"seconds for {STEPS} steps", xscale="log", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    print(f"Time against members: {path}")


def halving(key, rounds, members=256, steps=2000):
    """All members to the end, against successive halving, and the best accuracies found."""
    train, validation = fn.datasets.digits()
    task = fn.supervised(run_cost.net, fn.cross_entropy, metrics={"accuracy": fn.accuracy})
    trainers = jax.vmap(lambda rate: fn.trainer(task, fn.adam(rate)))(
        jnp.asarray(rates(members)["learning_rate"], jnp.float32)
    )
    keys = jnp.repeat(key[None], members)
    rungs = fn.sweeps.Rungs((members, members // 4, members // 16), (250, 750, steps))

    @jax.jit
    def all_of_them():
        def one(trainer):
            result = fn.run(trainer, train, key, steps=steps, batch_size=BATCH)
            return fn.evaluate(trainer, result.state, validation)["accuracy"]

        return jax.vmap(one)(trainers)

    @jax.jit
    def halved():
        return fn.successive_halving(
            trainers, train, validation, keys, rungs=rungs, batch_size=BATCH,
            score=fn.greatest("accuracy"),
        )  # fmt: skip

    contestants = {"successive halving": (halved, 1), "all members to the end": (all_of_them, 1)}
    print(f"\n{f'{members} members, {steps} steps':44}{'':9}  s  relative to halving")
    rows = table(interleaved(contestants, rounds), "successive halving", " s", 1.0)
    best = 100 * jnp.array([jnp.max(-halved().scores[-1]), jnp.nanmax(all_of_them())])
    print("best validation accuracy: {:.2f} % by halving, {:.2f} % of all".format(*best))
    return rows


def convolution(rounds):
    """A step of the CNN under `vmap` over 8 members, with our layers and with Flax's."""
    import conv

    rng = np.random.default_rng(0)
    images = rng.normal(size=(1, conv.BATCH, 28, 28, 1)).astype(np.float32)
    data = jax.device_put((images, rng.integers(0, 10, (1, conv.BATCH)).astype(np.int32)))
    contestants, losses = {}, {}
    for name, network in (("funcnet", conv.ours), ("Flax", conv.theirs)):
        keys = jax.random.split(jax.random.key(0), conv.MEMBERS)
        members = jax.vmap(functools.partial(conv.starts, network))(keys)
        many = jax.jit(jax.vmap(conv.scan_of(network), (0, None)))
        losses[name] = many(members, data)[0]
        contestants[name] = (functools.partial(many, members, data), conv.MEMBERS)
    np.testing.assert_allclose(losses["Flax"], losses["funcnet"], rtol=1e-3)
    print(f"\n{f'CNN, vmap over {conv.MEMBERS}':44}{'':9} ms  a member's step relative to ours")
    return table(interleaved(contestants, rounds), "funcnet", "ms", 1e3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--conv", action="store_true", help="also the CNN against Flax")
    parser.add_argument("--picture", help="draw time against members into this file")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    warnings.filterwarnings("ignore", module="sklearn")  # of not having converged
    data, key, rounds = whole_digits(), jax.random.key(0), arguments.rounds
    check_same_losses(data, key)
    print(
        f"jax {jax.__version__}, torch {torch.__version__}, scikit-learn {sklearn.__version__}, "
        f"{platform.machine()} CPU, 2 threads; {rounds} rounds, median (min to max)"
    )
    rows = {
        "step": members_at_once(data, key, rounds),
        "compile": compiling(data, key, min(rounds, 3)),
        "members": by_members(data, key, min(rounds, 3), arguments.picture),
        "halving": halving(key, min(rounds, 3)),
    }
    if arguments.conv:
        rows["convolution"] = convolution(2)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"jax": jax.__version__, "ratios": rows}, file, indent=1)


if __name__ == "__main__":
    main()
