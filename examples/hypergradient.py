"""A learning-rate schedule for each layer, learnt by differentiating whole training runs.

    pip install ".[plot]" && python examples/hypergradient.py

A network of three layers has 200 steps of Adam to learn MNIST-1D. Each layer has a rate of its own
at five moments, with lines in between: 15 numbers, too many for a grid. They begin at the best
constant rate and descend the loss of the validation signals, by its exact derivative through every
step of four runs, drawn anew for each of 24 outer steps. Their rivals are that constant and a
cosine from a rate to 0, each the best of nine by the same validation loss. Neither the test signals
nor the seeds of the table choose anything, and all three train the same networks on the same
batches. Values are means ± standard deviations over 20 seeds.

It prints (times vary, and with other versions the numbers a little) and draws `hypergradient.png`:

OUTPUT
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from mnist1d_data import mnist1d

import funcnet as fn

STEPS, BATCH_SIZE, OUTER_STEPS, SEEDS = 200, 50, 24, 20
GRID = np.geomspace(0.001, 0.1, 9)
LAYERS = {"0": "first", "2": "second", "4": "third"}
KNOTS = tuple(np.linspace(0, STEPS, 5))
task = fn.supervised(
    fn.mlp((40, 64, 64, 10), fn.silu), fn.cross_entropy, metrics={"accuracy": fn.accuracy}
)


class Scores(NamedTuple):
    """Of a run, or of many with a leading axis each."""

    validation_loss: Any
    test_loss: Any
    test_accuracy: Any


def cosine(rate, end):
    """From a rate to another, which may be the same."""
    return fn.trainer(task, fn.adam(fn.cosine(rate, STEPS, end=end)))


def layerwise(rates):
    """The trainer with rates [layers][knots]."""
    optimizers = {
        layer: fn.adam(fn.piecewise_linear(KNOTS, own))
        for layer, own in zip(LAYERS, rates, strict=True)
    }
    return fn.trainer(task, fn.partition({layer: layer for layer in LAYERS}, optimizers))


def rates_of(numbers):
    """[layers, knots, ...] of a layerwise trainer's numbers by name."""
    path = "step.update.updates.{}.learning_rate.values.{}".format
    return np.array(
        [[numbers[path(layer, knot)] for knot in range(len(KNOTS))] for layer in LAYERS]
    )


def learnt(name):
    return fn.log_space if ".learning_rate.values." in name else None


def split_data():
    """(train, validation, test): every fourth training signal is kept to learn rates by."""
    (x, y), test = mnist1d()
    kept = np.arange(len(y)) % 4 == 0
    return (x[~kept], y[~kept]), (x[kept], y[kept]), test


def trial(trainer, data, key):
    train, validation, test = data
    state = fn.run(trainer, train, key, steps=STEPS, batch_size=BATCH_SIZE).state
    scores = fn.evaluate(trainer, state, test)
    loss = fn.evaluate(trainer, state, validation)["loss"]
    return Scores(loss, scores["loss"], scores["accuracy"])


@jax.jit
def trials(trainers, data, keys):
    """Each of the trainers with each of the keys: scores [trainers, keys]."""
    grid = jax.vmap(jax.vmap(trial, in_axes=(None, None, 0)), in_axes=(0, None, None))
    return grid(trainers, data, keys)


def best_of_grid(data, key):
    """The constant rate, and the one from which to fall to 0, of least mean validation loss."""
    rates, ends = np.tile(GRID, 2), np.append(GRID, 0 * GRID)
    scores = trials(jax.vmap(cosine)(rates, ends), data, jax.random.split(key, 6))
    losses = np.asarray(scores.validation_loss.mean(axis=1)).reshape(2, -1)
    return GRID[np.where(np.isfinite(losses), losses, np.inf).argmin(axis=1)]


def descend(rate, data, key, outer_steps):
    """The rates of each layer, from the same constant for all of them."""
    train, validation, _ = data
    start = jax.tree.map(jnp.asarray, layerwise([[rate] * len(KNOTS)] * len(LAYERS)))
    size = fn.linear(0.15, 0.015, outer_steps)
    optimizer = fn.chain(fn.clip_by_global_norm(1.0), fn.adam(size))
    descent = functools.partial(
        fn.hypergradient_descent,
        learnt=learnt,
        outer_steps=outer_steps,
        steps=STEPS,
        batch_size=BATCH_SIZE,
        seeds=4,
    )
    return jax.block_until_ready(jax.jit(descent)(start, optimizer, train, validation, key))


def print_row(name, scores):
    accuracy = 100 * scores.test_accuracy
    print(
        f"{name:28}{scores.validation_loss.mean():10.3f} ± {scores.validation_loss.std():.3f}"
        f"{scores.test_loss.mean():10.3f} ± {scores.test_loss.std():.3f}"
        f"{accuracy.mean():9.1f} ± {accuracy.std():.1f} %"
    )


def draw(descent, rate, peak, path):
    """The schedules at the end of the descent, and its loss."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print('\nNo picture, as matplotlib is missing: pip install ".[plot]"')
        return
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(STEPS)
    colours = ("#0072b2", "#d55e00", "#009e73")
    values = rates_of(fn.hyperparameters(descent.trainer))
    for name, own, colour in zip(LAYERS.values(), values, colours, strict=True):
        left.plot(KNOTS, own, "o-", color=colour, label=f"{name} layer")
    left.axhline(rate, color="#999999", linestyle="--", label="best constant")
    left.plot(steps, fn.cosine(peak, STEPS)(steps), color="#999999", label="best cosine")
    left.set(xlabel="step", ylabel="learning rate", ylim=(0, None), title="learnt schedules")
    right.plot(descent.loss, color="#222222")
    right.set(xlabel="outer step", ylabel="validation loss of four runs", title="descent")
    for panel in (left, right):
        panel.grid(alpha=0.3)
    left.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    print(f"\nSchedules and validation loss: {path}")


def main(outer_steps=OUTER_STEPS, seeds=SEEDS, picture="hypergradient.png"):
    start = time.perf_counter()
    data = split_data()
    sizes = [f"{len(y):,}" for _, y in data]
    print("{} signals to train on, {} to learn the rates by, {} to test on.".format(*sizes))
    grid_key, descent_key, test_key = jax.random.split(jax.random.key(0), 3)
    rate, peak = best_of_grid(data, grid_key)
    middle = time.perf_counter()
    print(f"{2 * len(GRID)} schedules with 6 seeds each: {middle - start:.0f} s")
    descent = descend(rate, data, descent_key, outer_steps)
    end = time.perf_counter()
    print(f"{outer_steps} outer steps, {descent.skipped} of them skipped: {end - middle:.0f} s\n")

    keys = jax.random.split(test_key, seeds)
    rivals = trials(jax.vmap(cosine)(np.array([rate, peak]), np.array([rate, 0.0])), data, keys)
    learnt = trials(jax.tree.map(lambda a: a[None], descent.trainer), data, keys)
    scores = jax.tree.map(lambda a, b: np.concatenate([a, b]), rivals, learnt)
    names = [f"constant, {rate:.4f}", f"cosine, {peak:.4f} to 0", "per layer, by hypergradients"]
    print(f"{'schedule':28}{'validation loss':>18}{'test loss':>18}{'test accuracy':>17}")
    for index, name in enumerate(names):
        print_row(name, jax.tree.map(lambda a, i=index: a[i], scores))
    gains = 100 * (scores.test_accuracy[2] - scores.test_accuracy[:2])
    print("\nThe learnt schedule's test accuracy against another's with the same seed:")
    for name, gain in zip(names, gains, strict=False):
        wins = f"higher for {(gain > 0).sum()} of {seeds} seeds"
        print(f"{name:28}{gain.mean():+9.1f} ± {gain.std():.1f} points, {wins}")

    rates = rates_of(fn.hyperparameters(descent.trainer))
    print("\nstep        " + "".join(f"{knot:8.0f}" for knot in KNOTS))
    for name, own in zip(LAYERS.values(), rates, strict=True):
        print(f"{name + ' layer':12}" + "".join(f"{value:8.4f}" for value in own))
    draw(descent, rate, peak, picture)
    print(f"{time.perf_counter() - start:.0f} s in all")
    return scores


if __name__ == "__main__":
    main()
