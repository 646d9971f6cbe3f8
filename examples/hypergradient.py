"""A learning-rate schedule for each layer, learnt by differentiating whole training runs.

    pip install ".[plot]" && python examples/hypergradient.py

A network of three layers has 100 steps to learn the digits. Each layer has a rate of its own at six
moments, with lines in between: 18 numbers, too many for a grid. They begin at the best constant
rate and descend the loss on the validation images, by its exact derivative through every step of
four runs, anew for each of 40 outer steps. Rivals are that constant and a cosine from a rate to 0,
each the best of 13 by the same validation loss. Test images and the keys of the table choose
nothing; all three train the same networks on the same batches. Values are means ± standard
deviations over 20 seeds.

It prints (times vary, and with other versions the numbers a little) and draws `hypergradient.png`:

OUTPUT
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn

STEPS, BATCH_SIZE, OUTER_STEPS, SEEDS = 100, 32, 40, 20
GRID = np.geomspace(0.01, 1.0, 13)
LAYERS = {"0": "first", "2": "second", "4": "third"}
KNOTS = tuple(np.linspace(0, STEPS - 1, 6))
task = fn.supervised(
    fn.mlp((64, 64, 64, 10), fn.silu), fn.cross_entropy, metrics={"accuracy": fn.accuracy}
)


class Scores(NamedTuple):
    """Of a run, or of many with a leading axis each."""

    validation_loss: Any
    test_loss: Any
    test_accuracy: Any


def constant(rate):
    return fn.trainer(task, fn.momentum(rate))


def cosine(rate):
    return fn.trainer(task, fn.momentum(fn.cosine(rate, STEPS)))


def layerwise(rates):
    """The trainer with rates [layers][knots]."""
    optimizers = {
        layer: fn.momentum(fn.piecewise_linear(KNOTS, own))
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
    """(train, validation, test): every third of the training images is kept to learn rates by."""
    (x, y), test = fn.datasets.digits()
    kept = np.arange(len(y)) % 3 == 0
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


def best_of_grid(build, data, key):
    """The rate whose mean validation loss is the least, and that loss."""
    scores = trials(jax.vmap(build)(jnp.array(GRID)), data, jax.random.split(key, 8))
    losses = np.asarray(scores.validation_loss.mean(axis=1))
    best = np.where(np.isfinite(losses), losses, np.inf).argmin()
    return float(GRID[best]), float(losses[best])


def descend(rate, data, key, outer_steps):
    """The rates of each layer, from the same constant for all of them."""
    train, validation, _ = data
    start = jax.tree.map(jnp.asarray, layerwise([[rate] * len(KNOTS)] * len(LAYERS)))
    size = fn.linear(0.2, 0.02, outer_steps)
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


def row(name, trainer, data, keys):
    """A line of the table, and the scores [keys]."""
    one = jax.tree.map(lambda a: jnp.asarray(a)[None], trainer)
    scores = jax.tree.map(lambda a: np.asarray(a[0]), trials(one, data, keys))
    accuracy = 100 * scores.test_accuracy
    print(
        f"{name:30}{scores.validation_loss.mean():8.3f} ± {scores.validation_loss.std():.3f}"
        f"{scores.test_loss.mean():10.3f} ± {scores.test_loss.std():.3f}"
        f"{accuracy.mean():9.1f} ± {accuracy.std():.1f} %"
    )
    return scores


def draw(descent, constants, path):
    """The schedules at the beginning and the end of the descent, and its loss."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print('\nNo picture, as matplotlib is missing: pip install ".[plot]"')
        return
    rate, peak, loss = constants
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
    right.plot(descent.loss, color="#222222", label="four runs, anew at each outer step")
    right.axhline(loss, color="#999999", linestyle="--", label="best constant")
    right.set(xlabel="outer step", ylabel="validation loss", title="hypergradient descent")
    for panel in (left, right):
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    print(f"\nSchedules and validation loss: {path}")


def main(outer_steps=OUTER_STEPS, seeds=SEEDS, picture="hypergradient.png"):
    start = time.perf_counter()
    data = split_data()
    sizes = [len(y) for _, y in data]
    print("{} images to train on, {} to learn the rates by, {} to test on.".format(*sizes))
    grid_key, descent_key, test_key = jax.random.split(jax.random.key(0), 3)
    rate, loss = best_of_grid(constant, data, grid_key)
    peak, _ = best_of_grid(cosine, data, grid_key)
    middle = time.perf_counter()
    print(f"Two grids of {len(GRID)} rates with 8 seeds each: {middle - start:.0f} s.")
    descent = descend(rate, data, descent_key, outer_steps)
    print(
        f"{outer_steps} outer steps of 4 runs: {time.perf_counter() - middle:.0f} s, "
        f"{int(descent.skipped)} of them skipped.\n"
    )
    print(f"{'schedule':30}{'validation loss':>16}{'test loss':>18}{'test accuracy':>17}")
    keys = jax.random.split(test_key, seeds)
    by_constant = row(f"constant, {rate:.3g}", constant(rate), data, keys)
    row(f"cosine, {peak:.3g} to 0", cosine(peak), data, keys)
    by_layers = row("per layer, by hypergradients", descent.trainer, data, keys)
    gain = 100 * (by_layers.test_accuracy - by_constant.test_accuracy)
    print(
        f"\nOf each seed's constant and learnt run, the learnt one's test accuracy is higher by\n"
        f"{gain.mean():.1f} ± {gain.std():.1f} points; it is higher for {(gain > 0).sum()} of "
        f"{seeds} seeds and lower for {(gain < 0).sum()}.\n\nstep  "
        + "".join(f"{knot:8.0f}" for knot in KNOTS)
    )
    for name, own in zip(LAYERS.values(), rates_of(fn.hyperparameters(descent.trainer)), strict=True):
        print(f"{name:6}" + "".join(f"{value:8.3f}" for value in own))
    draw(descent, (rate, peak, loss), picture)
    return by_constant, by_layers


if __name__ == "__main__":
    main()
