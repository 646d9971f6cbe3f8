"""A population learns its schedule of learning rates while it trains, on MNIST-1D.

    pip install ".[plot]" && python examples/population.py

Sixteen networks train at once with rates from 0.001 to 0.3. After every 200 steps each of the four
with the greatest loss on the validation signals (every fifth of the training ones) takes over
weights, momentum and rate of one of the four best, and changes the rate by a fifth, up or down
(population-based training, Jaderberg et al. 2017). The budget's other uses: sixteen constant rates,
and sixteen peaks of a cosine schedule. Of each sixteen the validation loss chooses one, and the
test signals are met once. Means ± standard deviations over three seeds.

It prints (times vary, and with other versions the last digits) and draws `population.png`, the
rates of all members and those that led to the best:

                         validation loss         test loss     test accuracy
    population-based       0.988 ± 0.005     1.034 ± 0.006     61.5 ± 0.8 %
    the best constant      1.059 ± 0.008     1.107 ± 0.004     58.8 ± 0.7 %
    the best cosine        0.953 ± 0.006     0.988 ± 0.015     64.2 ± 1.2 %

    Rates that led to the last seed's best, every other generation or so:
    0.046, 0.03, 0.03, 0.019, 0.012, 0.012, 0.012, 0.0078, 0.0078, 0.0062
    Its best constant: 0.015. 24 s in all.

    Rates: population.png

So it learns to lower the rate, and is better than every constant. It is no better than a schedule
of the right shape, where one is known.
"""

import functools
import time

import jax
import numpy as np
from mnist1d_data import mnist1d

import funcnet as fn

MEMBERS, GENERATIONS, STEPS, SEEDS = 16, 20, 200, 3
RATES = np.logspace(-3, -0.5, MEMBERS).astype(np.float32)
RATE = "step.update.learning_rate.value"

network = fn.serial(fn.dense(40, 100), fn.relu, fn.dropout(0.25), fn.dense(100, 10))
task = fn.supervised(network, fn.cross_entropy, metrics={"accuracy": fn.accuracy})


def build(learning_rate):
    return fn.trainer(task, fn.momentum(learning_rate))


def split_data():
    """(train, validation, test): every fifth of the training signals is kept to choose by."""
    (x, y), test = mnist1d()
    kept = np.arange(len(y)) % 5 == 0
    return (x[~kept], y[~kept]), (x[kept], y[kept]), test


def scores(trainers, states, data):
    """The validation and test scores of all members."""
    both = jax.vmap(lambda t, s: [fn.evaluate(t, s, part) for part in data[1:]])
    return both(trainers, states)


def evolve(data, key, *, generations, steps):
    """Population-based training: the population, and its members' scores."""
    population = fn.population_based(
        jax.vmap(build)(RATES),
        data[0],
        data[1],
        key,
        explore={RATE: fn.perturb(1e-5, 1.0)},
        generations=generations,
        steps=steps,
        batch_size=16,
    )
    return population, scores(population.trainers, population.state, data)


def grid(make, data, key, *, steps):
    """The scores of members that share nothing, one for each rate."""
    trainers = jax.vmap(lambda rate: build(make(rate)))(RATES)
    run = functools.partial(fn.run, steps=steps, batch_size=16)
    keys = jax.random.split(key, MEMBERS)
    states = jax.vmap(lambda trainer, key: run(trainer, data[0], key).state)(trainers, keys)
    return scores(trainers, states, data)


def chosen(both):
    """(member, validation loss, test loss, test accuracy in percent) of least validation loss."""
    validation, test = jax.tree.map(np.asarray, both)
    losses = np.where(np.isfinite(validation["loss"]), validation["loss"], np.inf)
    best = int(losses.argmin())
    return best, losses[best], test["loss"][best], 100 * test["accuracy"][best]


def paths(population):
    """(rates [generations, members], whose each was before, the place of the best's ancestors)."""
    place = fn.ancestors(population.lineage, population.best)
    return [np.asarray(a) for a in (population.hyperparameters[RATE], population.lineage, place)]


def draw(population, constant, picture):
    """The rates and validation losses of all members, and those that led to the best."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print('For the picture: pip install ".[plot]"')
        return
    rates, lineage, place = paths(population)
    generations = np.arange(len(rates))
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis, values in ((left, rates), (right, np.asarray(population.scores))):
        for index in generations[1:]:
            axis.plot(
                [index - 1, index], [values[index - 1][lineage[index]], values[index]], "0.7", lw=1
            )
        axis.plot(generations, values[generations, place], color="#d55e00", lw=2.5)
        axis.set(yscale="log", xlabel="generation", xticks=generations[:: 1 + len(rates) // 8])
    left.axhline(constant, color="#0072b2", ls="--", label="the best constant")
    left.plot([], [], color="#d55e00", lw=2.5, label="what led to the best member")
    left.set(title="learning rate")
    left.legend()
    right.set(title="validation loss")
    figure.savefig(picture, dpi=110)
    print(f"\nRates: {picture}")


def main(generations=GENERATIONS, steps=STEPS, seeds=SEEDS, picture="population.png"):
    data, start, horizon = split_data(), time.perf_counter(), float(generations * steps)
    grids = {
        "the best constant": lambda rate: rate,
        "the best cosine": lambda rate: fn.cosine(rate, horizon),
    }
    jitted = {
        name: jax.jit(functools.partial(grid, make, steps=generations * steps))
        for name, make in grids.items()
    }
    search = jax.jit(functools.partial(evolve, generations=generations, steps=steps))
    found = {name: [] for name in ("population-based", *grids)}
    for seed in range(seeds):
        key = jax.random.key(seed)
        population, both = search(data, key)
        found["population-based"].append(chosen(both))
        for name, trial in jitted.items():
            found[name].append(chosen(trial(data, key)))
    print(f"{'':18}{'validation loss':>18}{'test loss':>18}{'test accuracy':>18}")
    for name, rows in found.items():
        mean, spread = np.mean(rows, axis=0)[1:], np.std(rows, axis=0)[1:]
        cells = [f"{m:9.3f} ± {s:.3f}" for m, s in zip(mean[:2], spread[:2], strict=True)]
        print(f"{name:18}{cells[0]:>18}{cells[1]:>18}{mean[2]:9.1f} ± {spread[2]:.1f} %")
    rates, _, place = paths(population)
    led = rates[np.arange(generations), place]
    shown = ", ".join(f"{rate:.2g}" for rate in led[:: max(1, generations // 7)])
    print(f"\nRates that led to the last seed's best, every other generation or so:\n{shown}")
    constant = RATES[found["the best constant"][-1][0]]
    print(f"Its best constant: {constant:.2g}. {time.perf_counter() - start:.0f} s in all.")
    draw(population, constant, picture)
    return found, led


if __name__ == "__main__":
    main()
