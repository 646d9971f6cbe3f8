"""A learning-rate schedule for each layer, learnt by differentiating whole training runs.

    pip install ".[plot]" && python examples/hypergradient.py

A network of three layers has 200 steps of Adam to learn MNIST-1D. Each layer has a rate of its own
at four moments, with lines in between: 12 numbers, too many for a grid. They begin at the best
constant rate and descend the loss of the validation signals, by its exact derivative through every
step of four runs, drawn anew for each of 20 outer steps. Their rivals are that constant and a
cosine from a rate to 0, each the best of seven by the same validation loss. Neither test signals
nor the seeds of the table choose anything, and all three train the same networks on the same
batches. Values are means ± standard deviations over 20 seeds.

It prints (times vary, and with other versions the numbers a little; here the two cores had other
work too, and 43 s of processor time were its own) and draws `hypergradient.png`:

    3,000 signals to train on, 1,000 to learn the rates by, 1,000 to test on.
    14 schedules with 20 seeds each: 9 s
    20 outer steps, 0 of them skipped: 13 s

    schedule                       validation loss         test loss    test accuracy
    constant, 0.0100                 1.196 ± 0.045     1.247 ± 0.043     51.1 ± 2.1 %
    cosine, 0.0215 to 0              1.193 ± 0.017     1.240 ± 0.015     50.5 ± 1.1 %
    per layer, by hypergradients     1.118 ± 0.037     1.162 ± 0.042     54.7 ± 2.3 %

    The learnt schedule's test accuracy against another's with the same seed:
    constant, 0.0100                 +3.6 ± 2.2 points, higher for 19 of 20 seeds
    cosine, 0.0215 to 0              +4.2 ± 2.1 points, higher for 20 of 20 seeds

    step               0      67     133     200
    first layer   0.0122  0.0214  0.0194  0.0029
    second layer  0.0133  0.0301  0.0207  0.0032
    third layer   0.0062  0.0089  0.0133  0.0026

    Schedules and validation loss: hypergradient.png
    27 s in all
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from mnist1d_data import mnist1d

import funcnet as fn

STEPS, BATCH_SIZE, OUTER_STEPS, SEEDS = 200, 50, 20, 20
GRID = np.geomspace(0.001, 0.1, 7)
LAYERS = {"0": "first", "2": "second", "4": "third"}
KNOTS = tuple(np.linspace(0, STEPS, 4))
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
def trials(trainer, data, keys):
    """The scores, each [keys], of a run with each of the keys."""
    return jax.vmap(trial, in_axes=(None, None, 0))(trainer, data, keys)


def best_of_grid(end, data, keys):
    """The rate whose mean validation loss is the least, with a cosine to `end` times itself."""
    losses = [trials(cosine(rate, end * rate), data, keys)[0].mean() for rate in GRID]
    return GRID[np.where(np.isfinite(losses), losses, np.inf).argmin()]


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
    values = rates_of(fn.hyperparameters(descent.trainer))
    for name, own in zip(LAYERS.values(), values, strict=True):
        left.plot(KNOTS, own, "o-", label=f"{name} layer")
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
    grid_keys = jax.random.split(grid_key, seeds)
    rate, peak = (best_of_grid(end, data, grid_keys) for end in (1.0, 0.0))
    middle = time.perf_counter()
    print(f"{2 * len(GRID)} schedules with {seeds} seeds each: {middle - start:.0f} s")
    descent = descend(rate, data, descent_key, outer_steps)
    end = time.perf_counter()
    print(f"{outer_steps} outer steps, {descent.skipped} of them skipped: {end - middle:.0f} s\n")

    keys = jax.random.split(test_key, seeds)
    trainers = [cosine(rate, rate), cosine(peak, 0.0), descent.trainer]
    scores = [jax.tree.map(np.asarray, trials(trainer, data, keys)) for trainer in trainers]
    names = [f"constant, {rate:.4f}", f"cosine, {peak:.4f} to 0", "per layer, by hypergradients"]
    print(f"{'schedule':28}{'validation loss':>18}{'test loss':>18}{'test accuracy':>17}")
    for name, own in zip(names, scores, strict=True):
        print_row(name, own)
    print("\nThe learnt schedule's test accuracy against another's with the same seed:")
    for name, own in zip(names[:2], scores[:2], strict=True):
        gain = 100 * (scores[2].test_accuracy - own.test_accuracy)
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
