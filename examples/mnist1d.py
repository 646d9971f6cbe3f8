"""Four models on MNIST-1D, with the test accuracies of "Scaling down deep learning".

    pip install ".[plot]" && python examples/mnist1d.py [--choose]

Logistic regression, a residual multilayer perceptron, a convolutional network and a bidirectional
GRU as that paper has them (S. Greydanus & D. Kobak, ICML 2024), on 5,000 signals drawn by its
procedure (`mnist1d_data.py`): Adam with warm-up and cosine decay, batches of 100, the seeds of a
model as one compiled program. The test signals chose nothing: each learning rate was chosen by the
mean accuracy on every fifth training signal, kept out of the training for that, and the networks
were then trained on all. Accuracies are means ± standard deviations over the seeds.

It prints (times vary, and with other versions the accuracies a little) and draws `mnist1d.png`:

    4,000 signals to train on, 1,000 to test on; 3 seeds.

    model                parameters   steps   test accuracy   paper   compiled      ran
    logistic regression         410   1,000     32.4 ± 0.3 %    32 %      3.8 s    0.1 s
    MLP                      78,858   1,000     68.7 ± 1.1 %    68 %      4.5 s    2.6 s
    CNN                       5,210   2,000     95.7 ± 0.1 %    94 %      5.8 s    3.9 s
    GRU                       5,110   2,000     91.5 ± 0.2 %    91 %      7.0 s    8.4 s

    Signals and accuracies: mnist1d.png

With `--choose` it prints instead, in about two minutes, what the rates were chosen by:

    validation accuracy    rate 0.005   rate 0.01   rate 0.02   rate 0.04   rate 0.08
    logistic regression        31.0 %      32.1 %      32.8 %      32.4 %      33.0 %
    MLP                        64.4 %      67.2 %      67.1 %      66.6 %      65.7 %
    CNN                        84.8 %      88.1 %      92.7 %      93.4 %      89.8 %
    GRU                        82.4 %      86.7 %      88.3 %      89.8 %      76.1 %
"""

import argparse
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from mnist1d_data import mnist1d, templates

import funcnet as fn

SEEDS = 3
RATES = (0.005, 0.01, 0.02, 0.04, 0.08)


class Model(NamedTuple):
    """What is trained, how, and what the paper reports of it."""

    name: str
    network: fn.Network
    steps: int
    learning_rate: float
    paper: int  # test accuracy in percent


class Row(NamedTuple):
    """What became of a model."""

    name: str
    parameters: int
    accuracy: Any  # [seeds], in percent
    paper: int


def down(fan_in, window):
    """A convolution that halves the length, and a ReLU."""
    return fn.serial(fn.conv(fan_in, 25, (window,), stride=2, padding=1), fn.relu)


linear = fn.serial(fn.flatten, fn.dense(40, 10))
mlp = fn.serial(
    *(fn.flatten, fn.dense(40, 256), fn.relu),
    *(fn.residual(fn.serial(fn.dense(256, 256), fn.relu)), fn.dense(256, 10)),
)
cnn = fn.serial(down(1, 5), down(25, 3), down(25, 3), fn.flatten, fn.dense(125, 10))
gru = fn.serial(fn.bidirectional(fn.gru(1, 6), fn.gru(1, 6)), fn.flatten, fn.dense(480, 10))
MODELS = (
    Model("logistic regression", linear, 1000, 0.08, 32),
    Model("MLP", mlp, 1000, 0.01, 68),
    Model("CNN", cnn, 2000, 0.04, 94),
    Model("GRU", gru, 2000, 0.04, 91),
)


def build(model, learning_rate):
    task = fn.supervised(model.network, fn.cross_entropy, metrics={"accuracy": fn.accuracy})
    rate = fn.warmup_cosine(learning_rate, model.steps / 20, model.steps)
    return fn.trainer(task, fn.adam(rate))


def trial(trainer, state, train, held_out, *, steps):
    """The accuracy, in percent, on signals that a run from this state does not see."""
    result = fn.resume(trainer, train, state, steps=steps, batch_size=100)
    return 100 * fn.evaluate(trainer, result.state, held_out)["accuracy"]


def trials(model, rates, train, held_out, seeds):
    """(accuracies [rates, seeds], seconds to compile, to run): all in one compiled program."""
    start = time.perf_counter()
    trainers = jax.vmap(functools.partial(build, model))(jnp.array(rates))
    states = jax.jit(jax.vmap(trainers.init))(jax.random.split(jax.random.key(0), seeds))
    run = functools.partial(trial, steps=model.steps)
    grid = jax.vmap(jax.vmap(run, in_axes=(None, 0, None, None)), in_axes=(0, None, None, None))
    compiled = jax.jit(grid).lower(trainers, states, train, held_out).compile()
    middle = time.perf_counter()
    accuracies = np.asarray(compiled(trainers, states, train, held_out))
    return accuracies, middle - start, time.perf_counter() - middle


def count(network):
    """How many parameters a network has."""
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    return sum(array.size for array in jax.tree.leaves(params))


def sequences(part):
    """The signals as sequences of one feature, [n, 40, 1]."""
    x, labels = part
    return x[..., None], labels


def choose(models=MODELS, rates=RATES, seeds=SEEDS):
    """Print each model's accuracy on every fifth training signal for each rate."""
    (x, labels), _ = map(sequences, mnist1d())
    kept = np.arange(len(labels)) % 5 == 0
    print("validation accuracy  " + "".join(f"{f'rate {rate:g}':>12}" for rate in rates))
    for model in models:
        parts = (x[~kept], labels[~kept]), (x[kept], labels[kept])
        means = trials(model, rates, *parts, seeds)[0].mean(axis=1)
        print(f"{model.name:21}" + "".join(f"{mean:10.1f} %" for mean in means))


def draw(rows, part, picture):
    """Three signals of each digit beside its template, and the accuracies."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print('\nNo picture, as matplotlib is missing: pip install ".[plot]"')
        return
    x, labels = part
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2, 1))
    for digit, axis in enumerate(left.subplots(2, 5).ravel()):
        axis.plot(np.linspace(14, 26, 12), 4 * templates()[digit], color="#222222", linewidth=2)
        for offset, signal in enumerate(x[labels == digit][:3], start=1):
            axis.plot(signal[:, 0] - 5 * offset, color="#0072b2", linewidth=1)
        axis.set_title(f"{digit}", fontsize=10)
        axis.axis("off")
    axis = right.subplots()
    for place, row in enumerate(rows):
        spread = row.accuracy.std(ddof=1)
        axis.bar(place, row.accuracy.mean(), yerr=spread, color="#0072b2", alpha=0.7)
        axis.plot([place - 0.4, place + 0.4], [row.paper] * 2, color="#d55e00")
    axis.set_xticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    axis.set(ylabel="test accuracy in % (line: the paper's)", ylim=(0, 100))
    figure.savefig(picture, dpi=110)
    print(f"\nSignals and accuracies: {picture}")


def main(models=MODELS, seeds=SEEDS, picture="mnist1d.png"):
    train, test = map(sequences, mnist1d())
    print(f"{len(train[1]):,} signals to train on, {len(test[1]):,} to test on; {seeds} seeds.\n")
    print("model                parameters   steps   test accuracy   paper   compiled      ran")
    rows = []
    for model in models:
        parameters = count(model.network)
        (accuracy,), compiling, running = trials(model, [model.learning_rate], train, test, seeds)
        print(
            f"{model.name:20}{parameters:11,}{model.steps:8,}"
            f"{accuracy.mean():9.1f} ± {accuracy.std(ddof=1):.1f} %{model.paper:6} %"
            f"{compiling:9.1f} s{running:7.1f} s"
        )
        rows.append(Row(model.name, parameters, accuracy, model.paper))
    draw(rows, train, picture)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choose", action="store_true", help="the learning rates by validation")
    choose() if parser.parse_args().choose else main()
