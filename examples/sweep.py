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

    learning_rate  dropout  validation_loss        ±  test_accuracy         ±  members  failed
    ------------------------------------------------------------------------------------------
          0.01389      0.2           0.1021  0.03018         0.9654  0.008868        8       0
         0.005179      0.2           0.1024  0.01243         0.9727  0.005847        8       0
          0.01389      0.4           0.1038  0.01774         0.9679  0.006294        8       0
          0.01389        0           0.1094  0.02329         0.9656  0.003779        8       0
         0.005179      0.4           0.1099  0.01732         0.9702  0.002741        8       0
         0.005179        0           0.1109  0.01633         0.9645  0.007236        8       0

    Losses: sweep.png
"""

import time

import jax
import numpy as np

import funcnet as fn

LEARNING_RATES = np.geomspace(1e-4, 0.1, 8)
DROPOUTS = np.array([0.0, 0.2, 0.4, 0.6])
SEEDS = 8
STEPS, BATCH = 600, 32


def build(learning_rate, dropout, seed):
    net = fn.serial(fn.dense(64, 64), fn.relu, fn.dropout(dropout), fn.dense(64, 10))
    task = fn.supervised(net, fn.cross_entropy, metrics={"accuracy": fn.accuracy})
    return fn.trainer(task, fn.adam(learning_rate)), jax.random.key(seed)


def trial_of(steps):
    def trial(member, train, validation, test):
        trainer, key = member
        state = fn.run(trainer, train, key, steps=steps, batch_size=BATCH).state
        loss = fn.evaluate(trainer, state, validation)["loss"]
        return loss, fn.evaluate(trainer, state, test)["accuracy"]

    return trial


def split_data():
    """(train, validation, test): every sixth of the training images is kept to choose by."""
    (x, y), test = fn.datasets.digits()
    kept = np.arange(len(y)) % 6 == 0
    return (x[~kept], y[~kept]), (x[kept], y[kept]), test


def draw(table, path):
    """The mean loss of each rate and dropout."""
    try:
        fn.plot_heat_map(table, "learning_rate", "dropout").savefig(path, dpi=110)
    except ModuleNotFoundError as missing:
        print(f"\nNo picture: {missing}")
    else:
        print(f"\nLosses: {path}")


def main(rates=LEARNING_RATES, seeds=SEEDS, steps=STEPS, picture="sweep.png"):
    data = split_data()
    points = fn.grid(learning_rate=rates, dropout=DROPOUTS, seed=range(seeds))
    start = time.perf_counter()
    planned = fn.plan(build, points, trial_of(steps), *data)
    print(planned)
    middle = time.perf_counter()
    loss, accuracy = jax.block_until_ready(planned(*data))
    end = time.perf_counter()
    print(
        f"{len(points['seed'])} runs of {steps} steps in {end - middle:.1f} s, "
        f"compiled in {middle - start:.1f} s.\n"
    )
    table = fn.table(points, validation_loss=loss, test_accuracy=accuracy).mean_over("seed")
    print(table.lowest(6))
    draw(table, picture)
    return table


if __name__ == "__main__":
    main()
