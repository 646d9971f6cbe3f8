"""Optimizers side by side: their paths on four landscapes, and the digits at each one's best rate.

    pip install ".[plot]" && python examples/optimizers.py

Every optimizer descends each landscape at 15 rates, one compiled program in all, and counts the
steps until it is, for good, within a thousandth of the first height above the minimum; the table
has the best rate's. Then each trains a network on the digits at 8 rates, again as one program; the
rate is chosen on every sixth training image, and the test images are met once, at that rate.

It prints (times vary, and with other versions the last digits) and draws `optimizers.png`, the
classics' paths at their best rates:

    steps needed on       Rosenbrock       Beale      saddle      valley   digits, rate  accuracy
    gradient descent            1536          82          15         181              1    97.0 %
    momentum                     154          65          70          61            0.1    96.7 %
    Nesterov                     297          49          15          56            0.1    96.3 %
    AdaGrad                      659          61          12           8            0.1    96.2 %
    RMSprop                     1120         126          77         207          0.032    96.8 %
    Adam                         346          59          52          56          0.032    97.2 %
    AdaDelta                       -         764         480        1079              1    96.2 %
    AdaMax                       535          54          43          46            0.1    96.5 %
    AdamW                        453          49          51          55          0.032    97.7 %
    AMSGrad                      203          59          52          56          0.032    97.2 %
    NAdam                       1472          93          56          85          0.032    97.0 %
    RAdam                          -        1569          74         144          0.032    95.5 %
    Adan                         386         225         104         267           0.01    96.3 %
    ADOPT                         91          64          63          58           0.01    96.0 %
    AdEMAMix                     477          59          56          56          0.032    96.8 %
    LAMB                           -         550         234          42           0.01    95.2 %
    Adafactor                      -         288          67          12          0.032    96.7 %
    Lion                         908         485         175         688          0.001    96.0 %
    sign descent                   -         157          78         207         0.0032    95.7 %
    Signum                      1336         179         200         897         0.0032    96.0 %
    Rprop                        532          21          15          11         0.0032    86.0 %
    schedule-free SGD            671          83          13          61              1    96.3 %
    schedule-free AdamW         1770          46          42         131           0.01    96.3 %
    Prodigy                      382          99          96          87              1    96.7 %

    24 optimizers in 52 s.

    Paths: optimizers.png
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn


class Landscape(NamedTuple):
    """A function of a point, where to begin, its least value, and a box to draw."""

    height: Callable[..., Any]
    start: tuple[float, float]
    least: float
    box: tuple[float, float, float, float]


def rosenbrock(x, y):
    return (1.0 - x) ** 2 + 100.0 * (y - x**2) ** 2


def beale(x, y):
    return sum((c - x + x * y**k) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625)))


def saddle(x, y):
    """Flat where it begins, a hair beside the ridge that leads to the saddle at 0."""
    return x**2 - y**2 + 0.25 * y**4


def valley(x, y):
    """A bowl a hundred times as steep across as along."""
    return 0.5 * (0.1 * x**2 + 10.0 * y**2)


LANDSCAPES = {
    "Rosenbrock": Landscape(rosenbrock, (-1.2, 1.0), 0.0, (-1.7, 1.5, -0.6, 1.7)),
    "Beale": Landscape(beale, (1.0, 1.6), 0.0, (-0.2, 3.8, -0.8, 2.0)),
    "saddle": Landscape(saddle, (1.2, 1e-3), -1.0, (-1.0, 1.6, -0.6, 1.9)),
    "valley": Landscape(valley, (-8.0, 1.0), 0.0, (-9.0, 2.0, -1.6, 1.6)),
}
OPTIMIZERS = {
    "gradient descent": fn.sgd,
    "momentum": fn.momentum,
    "Nesterov": fn.nesterov,
    "AdaGrad": fn.adagrad,
    "RMSprop": fn.rmsprop,
    "Adam": fn.adam,
    "AdaDelta": fn.adadelta,
    "AdaMax": fn.adamax,
    "AdamW": fn.adamw,
    "AMSGrad": fn.amsgrad,
    "NAdam": fn.nadam,
    "RAdam": fn.radam,
    "Adan": fn.adan,
    "ADOPT": fn.adopt,
    "AdEMAMix": fn.ademamix,
    "LAMB": fn.lamb,
    "Adafactor": fn.adafactor,
    "Lion": fn.lion,
    "sign descent": fn.sign_sgd,
    "Signum": fn.signum,
    "Rprop": fn.rprop,
    "schedule-free SGD": fn.schedule_free_sgd,
    "schedule-free AdamW": fn.schedule_free_adamw,
    "Prodigy": fn.prodigy,
}
CLASSICS = {
    "gradient descent": "#222222",
    "momentum": "#e69f00",
    "Nesterov": "#0072b2",
    "AdaGrad": "#009e73",
    "RMSprop": "#cc79a7",
    "Adam": "#d55e00",
}
STEPS, TOLERANCE = 2000, 1e-3
RATES = np.logspace(-4, 0.5, 15)
DIGITS_STEPS, DIGITS_RATES = 400, np.logspace(-3.5, 0, 8)


def descend(optimizer):
    """The path of an optimizer on each landscape, {name: [STEPS + 1, 2]}."""
    paths = {}
    for name, landscape in LANDSCAPES.items():
        start = jnp.array(landscape.start)
        slope = jax.grad(lambda point, height=landscape.height: height(*point))

        def step(carry, _, slope=slope):
            point, state = carry
            updates, state = optimizer.update(slope(point), state, point)
            point = fn.apply_updates(point, updates)
            return (point, state), point

        _, path = jax.lax.scan(step, (start, optimizer.init(start)), length=STEPS)
        paths[name] = jnp.concatenate([start[None], path])
    return paths


def steps_needed(landscape, paths):
    """[rates], how many steps until the height stays within the tolerance; infinite for never."""
    with np.errstate(over="ignore", invalid="ignore"):  # at the highest rates they fly off
        heights = landscape.height(paths[..., 0], paths[..., 1]) - landscape.least
    outside = ~(heights <= TOLERANCE * heights[:, :1])
    last = outside.shape[1] - np.argmax(outside[:, ::-1], axis=1)
    return np.where(last < outside.shape[1], last, np.inf)


def digits():
    """(train, validation, test): every sixth of the training images is kept to choose by."""
    (x, y), test = fn.datasets.digits()
    kept = np.arange(len(y)) % 6 == 0
    return (x[~kept], y[~kept]), (x[kept], y[kept]), test


def train(make, data):
    """The best of the rates on the digits, and its test accuracy in percent."""
    task = fn.supervised(fn.mlp((64, 64, 10)), fn.cross_entropy, metrics={"accuracy": fn.accuracy})
    trainers = jax.vmap(lambda rate: fn.trainer(task, make(rate)))(jnp.asarray(DIGITS_RATES))

    def trial(trainer, key):
        state = fn.run(trainer, data[0], key, steps=DIGITS_STEPS, batch_size=32).state
        return [fn.evaluate(trainer, state, part) for part in data[1:]]

    validation, test = jax.jit(jax.vmap(trial, (0, None)))(trainers, jax.random.key(0))
    losses = np.asarray(validation["loss"])
    best = int(np.where(np.isfinite(losses), losses, np.inf).argmin())
    return DIGITS_RATES[best], 100 * float(test["accuracy"][best])


def draw(paths, picture):
    """Contours of each landscape, and the classics' paths; a dot at every tenth step."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print('For the picture: pip install ".[plot]"')
        return
    figure = Figure(figsize=(11, 9), layout="constrained")
    for axis, (name, landscape) in zip(figure.subplots(2, 2).flat, LANDSCAPES.items(), strict=True):
        left, right, low, high = landscape.box
        x, y = np.meshgrid(np.linspace(left, right, 300), np.linspace(low, high, 300))
        relief = np.log10(landscape.height(x, y) - landscape.least + 1e-3)
        axis.contourf(x, y, relief, 30, cmap="Greys", alpha=0.5)
        for label, colour in CLASSICS.items():
            if label in paths:
                rate, path = paths[label][name]
                axis.plot(*path.T, color=colour, lw=1.3, label=f"{label}, {rate:.2g}")
                axis.plot(*path[::10].T, ".", color=colour, ms=4)
        axis.plot(*landscape.start, "k*", ms=9)
        axis.set(title=name, xlim=(left, right), ylim=(low, high))
        axis.legend(fontsize="x-small", loc="upper right")
    figure.savefig(picture, dpi=100)
    print(f"\nPaths: {picture}")


def main(optimizers=OPTIMIZERS, picture="optimizers.png"):
    data, start = digits(), time.perf_counter()
    heads = [f"{name:>12}" for name in LANDSCAPES]
    print(f"{'steps needed on':20}{''.join(heads)}{'digits, rate':>15}{'accuracy':>10}")
    needed, paths, accuracies = {}, {}, {}
    for name, make in optimizers.items():
        grid = jax.jit(lambda rates, make=make: jax.vmap(lambda r: descend(make(r)))(rates))
        found = jax.tree.map(np.asarray, grid(jnp.asarray(RATES)))
        needed[name], paths[name] = [], {}
        for place, landscape in LANDSCAPES.items():
            counts = steps_needed(landscape, found[place])
            best = int(counts.argmin())
            needed[name].append(counts[best])
            shown = int(min(counts[best], 300))
            paths[name][place] = RATES[best], found[place][best, : shown + 1]
        rate, accuracies[name] = train(make, data)
        cells = [f"{c:12.0f}" if np.isfinite(c) else f"{'-':>12}" for c in needed[name]]
        print(f"{name:20}{''.join(cells)}{rate:15.2g}{accuracies[name]:8.1f} %", flush=True)
    print(f"\n{len(optimizers)} optimizers in {time.perf_counter() - start:.0f} s.")
    draw(paths, picture)
    return needed, accuracies


if __name__ == "__main__":
    main()
