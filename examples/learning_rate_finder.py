"""A learning rate in seconds, held against the best one of a sweep of whole runs.

    pip install ".[plot]" && python examples/learning_rate_finder.py

Of each optimizer, 37 rates with three seeds train for 100 steps on the digits, all in one compiled
program, and the rate whose worst seed is the best is suggested. Then a sweep of whole runs, 1,500
steps with five seeds each, at this rate and at 13 others, ranks them by their errors on every sixth
training image, kept out of the training. The test images choose nothing.

It prints (times vary, and with other versions the numbers a little) and draws
`learning_rate_finder.png`, what was found for Adam:

    SGD: 0.681 suggested in 2.1 s. By whole runs:

    learning_rate  validation_error       ±  test_error       ±  members  failed
    ----------------------------------------------------------------------------
           0.5732               2.2  0.8367       2.938  0.2532        5       0
           0.6813               2.2  0.7583       2.838  0.3123        5       0
            1.069               2.5  0.6124       2.538  0.2986        5       0
           0.3073               3.5  0.6124       3.072  0.3843        5       0

    momentum: 0.147 suggested in 2.1 s. By whole runs:

    learning_rate  validation_error       ±  test_error       ±  members  failed
    ----------------------------------------------------------------------------
           0.1647                 2  0.6124       2.705  0.2476        5       0
           0.1468               2.2  0.5701       2.905  0.2532        5       0
           0.3073               2.8  0.9083       2.738  0.4952        5       0
          0.04732               3.1  0.2236       3.239  0.4952        5       0

    Adam: 0.0316 suggested in 2.1 s. By whole runs:

    learning_rate  validation_error       ±  test_error       ±  members  failed
    ----------------------------------------------------------------------------
          0.03162               2.8  0.4472       3.139   0.448        5       0
          0.02536               2.9  0.4183       3.038  0.2743        5       0
          0.04732                 3   1.541       2.905  0.8642        5       0
         0.007286               3.1   1.194       3.773  0.4511        5       0

                suggested   test error           best   test error
    SGD             0.681    2.8 ± 0.3 %          0.573    2.9 ± 0.3 %
    momentum        0.147    2.9 ± 0.3 %          0.165    2.7 ± 0.2 %
    Adam           0.0316    3.1 ± 0.4 %         0.0316    3.1 ± 0.4 %

    What was found for the last: learning_rate_finder.png
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn

RATES = jnp.logspace(-5, 1, 37)
GRID = np.logspace(-2.95, 0.3, 13)
SEEDS = range(5)
OPTIMIZERS = {"SGD": fn.sgd, "momentum": fn.momentum, "Adam": fn.adam}
STEPS = 1500

task = fn.supervised(fn.mlp((64, 64, 10)), fn.cross_entropy, metrics={"accuracy": fn.accuracy})


def digits():
    """(train, validation, test): every sixth of the training images is kept to choose by."""
    (x, y), test = fn.datasets.digits()
    kept = np.arange(len(y)) % 6 == 0
    return (x[~kept], y[~kept]), (x[kept], y[kept]), test


def find(build, train):
    """What short runs say, and the seconds that they took, compilation included."""
    start = time.perf_counter()
    finder = functools.partial(fn.find_learning_rate, build, rates=RATES, steps=100, batch_size=32)
    found = jax.jit(finder)(train, jax.random.split(jax.random.key(0), 3))
    return jax.tree.map(np.asarray, found), time.perf_counter() - start


def sweep(build, data, points, steps):
    """The table of whole runs, errors in percent."""
    train, *others = data

    def member(learning_rate, seed):
        trainer = build(learning_rate)
        state = fn.run(trainer, train, jax.random.key(seed), steps=steps, batch_size=32).state
        return [100 - 100 * fn.evaluate(trainer, state, part)["accuracy"] for part in others]

    validation, test = jax.jit(jax.vmap(member))(**points)
    return fn.table(points, validation_error=validation, test_error=test)


def draw(finding, picture):
    try:
        fn.plot_learning_rates(finding).savefig(picture, dpi=100)
    except ModuleNotFoundError as error:
        print(error)
    else:
        print(f"\nWhat was found for the last: {picture}")


def main(optimizers=OPTIMIZERS, grid=GRID, seeds=SEEDS, picture="learning_rate_finder.png"):
    data, rows = digits(), {}
    for name, make in optimizers.items():

        def build(rate, make=make):
            return fn.trainer(task, make(rate))

        finding, seconds = find(build, data[0])
        suggestion = float(finding.suggestion)
        print(f"{name}: {suggestion:.3g} suggested in {seconds:.1f} s. By whole runs:\n")
        points = fn.grid(learning_rate=[*grid, suggestion], seed=seeds)
        results = sweep(build, data, points, STEPS).mean_over("seed")
        print(f"{results.lowest(4)}\n")
        rows[name] = results.rows([-1]), results.lowest(1)
    print(f"{'':12}{'suggested':>9}   test error      {'best':>9}   test error")
    for name, found in rows.items():
        cells = [
            f"{one.points['learning_rate'][0]:9.3g}"
            f"{one.scores['test_error'][0]:7.1f} ± {one.stds['test_error'][0]:.1f} %"
            for one in found
        ]
        print(f"{name:12}{'      '.join(cells)}")
    draw(finding, picture)
    return rows


if __name__ == "__main__":
    main()
