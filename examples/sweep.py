"""256 runs in one call: eight learning rates, four dropout rates and eight seeds on the digits.

    pip install ".[plot]" && python examples/sweep.py

Every member is a trainer of its own with a key of its own. `fn.sweep` compiles one program for all
of them and says how many of them run at once. The best point has the least loss, averaged over the
seeds, on every sixth training image, kept out of the training for that; the test images choose
nothing. Accuracies are means ± standard deviations over the seeds.

It prints (times vary, and with other versions the accuracies a little) and draws `sweep.png`:

    256 members in 1 program on 1 device with 17.9 GiB:
      256 members, 24 times 11 at once, 4.9 MiB
    256 runs of 600 steps in 4.6 s, compiled in 12.6 s.

    learning rate  dropout   validation loss     test accuracy
          0.01389      0.2            0.1021      96.5 ± 0.8 %
         0.005179      0.2            0.1024      97.3 ± 0.5 %
          0.01389      0.4            0.1038      96.8 ± 0.6 %
          0.01389        0            0.1094      96.6 ± 0.4 %
         0.005179      0.4            0.1099      97.0 ± 0.3 %
         0.005179        0            0.1109      96.5 ± 0.7 %

    Losses: sweep.png
"""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

import funcnet as fn

LEARNING_RATES = np.geomspace(1e-4, 0.1, 8)
DROPOUTS = np.array([0.0, 0.2, 0.4, 0.6])
SEEDS = 8
STEPS, BATCH = 600, 32


class Trial(NamedTuple):
    """What is kept of a run; of all members, each array begins with their axis."""

    loss: Any  # [steps], each of its batch
    validation_loss: Any
    test_accuracy: Any


def product(**axes):
    """Each combination of the axes' values, as a dict of columns."""
    columns = np.meshgrid(*axes.values(), indexing="ij")
    return {name: column.ravel() for name, column in zip(axes, columns, strict=True)}


def build(learning_rate, dropout, seed):
    net = fn.serial(fn.dense(64, 64), fn.relu, fn.dropout(dropout), fn.dense(64, 10))
    task = fn.supervised(net, fn.cross_entropy, metrics={"accuracy": fn.accuracy})
    return fn.trainer(task, fn.adam(learning_rate)), jax.random.key(seed)


def trial_of(steps):
    def trial(member, train, validation, test):
        trainer, key = member
        result = fn.run(trainer, train, key, steps=steps, batch_size=BATCH)
        return Trial(
            result.loss,
            fn.evaluate(trainer, result.state, validation)["loss"],
            fn.evaluate(trainer, result.state, test)["accuracy"],
        )

    return trial


def split_data():
    """(train, validation, test): every sixth of the training images is kept to choose by."""
    (x, y), test = fn.datasets.digits()
    kept = np.arange(len(y)) % 6 == 0
    return (x[~kept], y[~kept]), (x[kept], y[kept]), test


def print_table(rates, losses, accuracies, rows=6):
    """The best points, losses and accuracies [rates, dropouts, seeds], by the mean loss."""
    means = losses.mean(axis=2)
    means = np.where(np.isfinite(means), means, np.inf)
    order = np.argsort(means, axis=None)
    print(f"{'learning rate':>13}{'dropout':>9}{'validation loss':>18}{'test accuracy':>18}")
    for place in order[:rows]:
        rate, dropout = np.unravel_index(place, means.shape)
        accuracy = 100 * accuracies[rate, dropout]
        print(
            f"{rates[rate]:13.4g}{DROPOUTS[dropout]:9g}{means[rate, dropout]:18.4f}"
            f"{accuracy.mean():10.1f} ± {accuracy.std():3.1f} %"
        )


def draw(rates, losses, curves, path):
    """The mean validation loss of each point, and the training loss of each rate."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print('\nNo picture, as matplotlib is missing: pip install ".[plot]"')
        return
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    image = left.imshow(np.log10(losses.mean(axis=2)).T, origin="lower", aspect="auto")
    left.set(
        title="validation loss, mean over the seeds (log10)",
        xlabel="learning rate",
        ylabel="dropout",
        xticks=range(len(rates)),
        xticklabels=[f"{rate:.1g}" for rate in rates],
        yticks=range(len(DROPOUTS)),
        yticklabels=[f"{rate:g}" for rate in DROPOUTS],
    )
    figure.colorbar(image, ax=left)
    for rate, curve in zip(rates, curves[:, 0].mean(axis=1), strict=True):
        blocks = curve[: len(curve) // 10 * 10].reshape(-1, 10).mean(axis=1)
        right.plot(10 * np.arange(len(blocks)), blocks, label=f"{rate:.2g}")
    right.set(title="training loss without dropout", xlabel="step", yscale="log")
    right.legend(title="learning rate", fontsize="small")
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    print(f"\nLosses: {path}")


def main(rates=LEARNING_RATES, seeds=SEEDS, steps=STEPS, picture="sweep.png"):
    data = split_data()
    points = product(learning_rate=rates, dropout=DROPOUTS, seed=np.arange(seeds))
    start = time.perf_counter()
    planned = fn.plan(build, points, trial_of(steps), *data)
    print(planned)
    middle = time.perf_counter()
    trials = jax.tree.map(np.asarray, planned(*data))
    end = time.perf_counter()
    print(
        f"{len(points['seed'])} runs of {steps} steps in {end - middle:.1f} s, "
        f"compiled in {middle - start:.1f} s.\n"
    )
    shape = len(rates), len(DROPOUTS), seeds
    trials = jax.tree.map(lambda a: a.reshape(shape + a.shape[1:]), trials)
    print_table(rates, trials.validation_loss, trials.test_accuracy)
    draw(rates, trials.validation_loss, trials.loss, picture)
    return trials


if __name__ == "__main__":
    main()
