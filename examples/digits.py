"""Seven ways to train one network on handwritten digits: which learns best, and at which rate?

    pip install ".[plot]" && python examples/digits.py

Each optimizer trains the same networks from the same starts, with each of six learning rates and
three seeds at once: one compiled program for all of them. Batch gradient descent takes each step
over all images, stochastic over one, mini-batch over 32; all get about the same time. The best
rate has the least loss, averaged over the seeds, on every sixth training image, kept out of the
training for that; the test images choose nothing. Accuracies are means ± standard deviations over
the seeds at that rate, steps/s those of all runs together, without compiling.

It prints (times vary, and with other versions the accuracies a little) and draws `digits.png`:

    998 images to train on, 200 to choose the rates by, 599 to test on.

    gradient descent batch      18 runs of   100 steps in  1.2 s, compiled in 0.8 s    4 s in all
    momentum         batch      18 runs of   100 steps in  1.0 s, compiled in 0.6 s    5 s in all
    Nesterov         batch      18 runs of   100 steps in  1.1 s, compiled in 0.6 s    7 s in all
    Adam             batch      18 runs of   100 steps in  1.0 s, compiled in 0.8 s    9 s in all
    SGD              mini-batch 18 runs of 1,500 steps in  0.9 s, compiled in 1.3 s   11 s in all
    momentum         mini-batch 18 runs of 1,500 steps in  0.8 s, compiled in 1.2 s   13 s in all
    Nesterov         mini-batch 18 runs of 1,500 steps in  0.9 s, compiled in 1.2 s   15 s in all
    AdaGrad          mini-batch 18 runs of 1,500 steps in  1.1 s, compiled in 1.4 s   18 s in all
    RMSprop          mini-batch 18 runs of 1,500 steps in  1.1 s, compiled in 1.5 s   21 s in all
    Adam             mini-batch 18 runs of 1,500 steps in  1.1 s, compiled in 1.4 s   23 s in all
    SGD              stochastic 18 runs of 6,000 steps in  0.4 s, compiled in 1.1 s   25 s in all
    Adam             stochastic 18 runs of 6,000 steps in  0.8 s, compiled in 1.3 s   27 s in all

    optimizer        regime      best rate     test accuracy     steps/s
    gradient descent batch               1      97.1 ± 0.1 %       1,491
    momentum         batch             0.3      96.1 ± 0.1 %       1,877
    Nesterov         batch             0.3      96.4 ± 0.2 %       1,584
    Adam             batch             0.1      95.9 ± 0.4 %       1,747
    SGD              mini-batch          1      97.5 ± 0.3 %      30,644
    momentum         mini-batch        0.3      97.2 ± 0.6 %      31,767
    Nesterov         mini-batch        0.3      97.4 ± 0.1 %      29,495
    AdaGrad          mini-batch        0.1      96.9 ± 0.1 %      24,883
    RMSprop          mini-batch      0.001      96.9 ± 0.2 %      23,915
    Adam             mini-batch       0.01      96.7 ± 0.2 %      25,513
    SGD              stochastic        0.1      95.7 ± 1.8 %     275,862
    Adam             stochastic      0.001      96.3 ± 0.9 %     129,894

    Least validation loss: momentum, mini-batch. By the hand-written rule and by
    jax.grad, its gradients differ by at most 2.8e-13 of their norm, in float64.

    Loss and accuracy curves: digits.png
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn

SIZES = (64, 128, 10)
SEEDS = 3
GRID = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])  # of rates, times a contestant's highest
BATCH_SIZES = {"batch": None, "mini-batch": 32, "stochastic": 1}
STEPS = {"batch": 100, "mini-batch": 1500, "stochastic": 6000}
CONTESTANTS = (  # name, constructor, regime, highest rate
    ("gradient descent", fn.sgd, "batch", 10.0),
    ("momentum", fn.momentum, "batch", 1.0),
    ("Nesterov", fn.nesterov, "batch", 1.0),
    ("Adam", fn.adam, "batch", 1.0),
    ("SGD", fn.sgd, "mini-batch", 10.0),
    ("momentum", fn.momentum, "mini-batch", 1.0),
    ("Nesterov", fn.nesterov, "mini-batch", 1.0),
    ("AdaGrad", fn.adagrad, "mini-batch", 1.0),
    ("RMSprop", fn.rmsprop, "mini-batch", 0.1),
    ("Adam", fn.adam, "mini-batch", 0.1),
    ("SGD", fn.sgd, "stochastic", 1.0),
    ("Adam", fn.adam, "stochastic", 0.1),
)
COLOURS = {
    "gradient descent": "#222222",
    "SGD": "#222222",
    "momentum": "#e69f00",
    "Nesterov": "#0072b2",
    "AdaGrad": "#009e73",
    "RMSprop": "#cc79a7",
    "Adam": "#d55e00",
}

task = fn.supervised(fn.mlp(SIZES), fn.cross_entropy, metrics={"accuracy": fn.accuracy})


class Trial(NamedTuple):
    """A run and its scores; of a whole grid, each array begins with the axes [rates, seeds]."""

    params: Any
    loss: Any  # [steps], each of its batch
    validation_loss: Any
    test_accuracy: Any


class Row(NamedTuple):
    """What became of one contestant."""

    name: str
    regime: str
    rates: np.ndarray
    trials: Trial
    best: int  # index of the rate
    speed: float  # steps a second, those of all runs together


def split_data():
    """(train, validation, test): every sixth of the training images is kept to choose by."""
    (x, y), test = fn.datasets.digits()
    kept = np.arange(len(y)) % 6 == 0
    return (x[~kept], y[~kept]), (x[kept], y[kept]), test


def trial(trainer, state, data, *, steps, batch_size):
    """One run from its start, and its scores."""
    train, validation, test = data
    result = fn.resume(trainer, train, state, steps=steps, batch_size=batch_size)
    return Trial(
        result.state.params,
        result.loss,
        fn.evaluate(trainer, result.state, validation)["loss"],
        fn.evaluate(trainer, result.state, test)["accuracy"],
    )


def train_grid(optimizer, rates, keys, data, *, steps, batch_size):
    """All rates with all keys in one compiled program: (trials, seconds to compile, to run)."""
    trainers = jax.vmap(lambda rate: fn.trainer(task, optimizer(rate)))(rates)
    # Drawn out here, as random numbers take longer to compile than training does.
    states = jax.vmap(trainers.init)(keys)
    run = functools.partial(trial, steps=steps, batch_size=batch_size)
    grid = jax.vmap(jax.vmap(run, in_axes=(None, 0, None)), in_axes=(0, None, None))
    start = time.perf_counter()
    compiled = jax.jit(grid).lower(trainers, states, data).compile()
    middle = time.perf_counter()
    trials = jax.block_until_ready(compiled(trainers, states, data))
    end = time.perf_counter()
    return jax.tree.map(np.asarray, trials), middle - start, end - middle


def validation_losses(trials):
    """[rates], the mean over the seeds; infinite where a seed diverged."""
    losses = trials.validation_loss.mean(axis=1)
    return np.where(np.isfinite(losses), losses, np.inf)


def train_all(data, steps, seeds):
    """A row for each contestant, with a line of progress."""
    keys, rows = jax.random.split(jax.random.key(0), seeds), []
    runs, start = len(GRID) * seeds, time.perf_counter()
    for name, optimizer, regime, highest in CONTESTANTS:
        count, rates = steps[regime], highest * GRID
        print(f"{name:17}{regime:11}", end="", flush=True)
        trials, compiling, running = train_grid(
            optimizer, rates, keys, data, steps=count, batch_size=BATCH_SIZES[regime]
        )
        print(
            f"{runs} runs of {count:5,} steps in {running:4.1f} s, compiled in {compiling:.1f} s"
            f"{time.perf_counter() - start:5.0f} s in all"
        )
        best = int(validation_losses(trials).argmin())
        rows.append(Row(name, regime, rates, trials, best, count * runs / running))
    return rows


def print_table(rows):
    print(f"\n{'optimizer':17}{'regime':11}{'best rate':>10}{'test accuracy':>18}{'steps/s':>12}")
    for row in rows:
        accuracy = 100 * row.trials.test_accuracy[row.best]
        print(
            f"{row.name:17}{row.regime:11}{row.rates[row.best]:10g}"
            f"{accuracy.mean():10.1f} ± {accuracy.std():3.1f} %{row.speed:12,.0f}"
        )


@jax.jit
def gradient_error(params, state, batch):
    """The worst |by hand - by jax.grad| / |by jax.grad| over the leaves."""
    _, by_hand = fn.chain_rule.value_and_grad(task)(params, state, batch)
    _, by_jax = jax.value_and_grad(task.loss, has_aux=True)(params, state, batch)
    norm = jnp.linalg.norm
    errors = jax.tree.map(lambda h, j: norm(h - j) / norm(j), by_hand, by_jax)
    return jnp.stack(jax.tree.leaves(errors)).max()


def check_gradients(row, data):
    """The gradient error of a row's first network at its best rate, in float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: a[row.best, 0].astype(np.float64), row.trials.params)
        _, state = task.init(jax.random.key(0))
        x, y = data
        return float(gradient_error(params, state, (x.astype(np.float64), y)))


def smooth(curve, window):
    """The mean over a sliding window, shorter at the start."""
    sums = np.cumsum(curve, dtype=np.float64)
    sums[window:] -= sums[:-window].copy()
    return sums / np.minimum(np.arange(1, len(curve) + 1), window)


def draw(rows, path):
    """Loss against step and accuracy against rate, a column for each regime."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print('\nNo picture, as matplotlib is missing: pip install ".[plot]"')
        return
    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, len(BATCH_SIZES), sharey="row")
    for (upper, lower), regime in zip(axes.T, BATCH_SIZES, strict=True):
        for row in (row for row in rows if row.regime == regime):
            colour, best, accuracy = COLOURS[row.name], row.best, row.trials.test_accuracy
            mean, spread = accuracy.mean(axis=1), accuracy.std(axis=1)
            loss = row.trials.loss[best].mean(axis=0)
            label = f"{row.name}, rate {row.rates[best]:g}"
            upper.plot(smooth(loss, 1 + len(loss) // 25), color=colour, label=label)
            lower.plot(row.rates, mean, color=colour)
            lower.fill_between(row.rates, mean - spread, mean + spread, color=colour, alpha=0.15)
            lower.plot(row.rates[best], mean[best], "o", color=colour)
        size = BATCH_SIZES[regime] or "all"
        upper.set(title=f"{regime} ({size} a step)", xlabel="step", yscale="log")
        lower.set(xlabel="learning rate", xscale="log", ylim=(0.86, 0.985))
        if upper.lines:
            upper.legend(fontsize="small")
        for panel in (upper, lower):
            panel.grid(alpha=0.3)
    axes[0, 0].set_ylabel("training loss at the best rate")
    axes[1, 0].set_ylabel("test accuracy (dot: the best rate)")
    figure.savefig(path, dpi=110)
    print(f"\nLoss and accuracy curves: {path}")


def main(steps=STEPS, seeds=SEEDS, picture="digits.png"):
    data = split_data()
    sizes = [len(y) for _, y in data]
    print("{} images to train on, {} to choose the rates by, {} to test on.\n".format(*sizes))
    rows = train_all(data, steps, seeds)
    print_table(rows)
    winner = min(rows, key=lambda row: validation_losses(row.trials).min())
    error = check_gradients(winner, data[0])
    print(
        f"\nLeast validation loss: {winner.name}, {winner.regime}. By the hand-written rule and by"
        f"\njax.grad, its gradients differ by at most {error:.1e} of their norm, in float64."
    )
    draw(rows, picture)
    return rows


if __name__ == "__main__":
    main()
