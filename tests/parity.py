"""Every optimizer beside PyTorch's and Optax's: which keywords give their numbers, and how nearly.

`PYTHONPATH=. python tests/parity.py` prints a table of optimizers and sources: the worst deviation
from the golden trajectories, over three problems and 50 steps in float64, relative to the distance
moved.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from golden.problems import PROBLEMS, SNAPSHOTS, STEPS

import funcnet as fn

GOLDEN = np.load(Path(__file__).parent / "golden" / "optimizers.npz")
FALLING = fn.warmup_cosine(0.05, 5, 40, start=0.01, end=0.002)
L2 = fn.add_decayed_weights(0.1)


def parameters(state, params):
    return params


def average(state, params):
    return state.average


class Case(NamedTuple):
    name: str  # as in the golden file
    optimizer: fn.Optimizer
    shown: Callable[[Any, Any], Any] = parameters  # what of (state, params) is compared
    scope: str = "number"  # what an update looks at: its own "number", "array" or the whole "tree"


def rise(low, high):
    """From low to high in a straight line of 30 steps, and on at high."""
    return fn.warmup_cosine(high, 30, 1e9, start=low, end=high)


EPS = float(np.finfo(np.float64).eps)
SGD = [
    Case("torch/sgd", fn.sgd(0.05)),
    Case("torch/sgd-momentum", fn.momentum(0.02)),
    Case("torch/sgd-dampening", fn.momentum(0.05, dampening=0.3)),
    Case("torch/sgd-nesterov", fn.nesterov(0.02)),
    Case("torch/sgd-weight_decay", fn.chain(L2, fn.sgd(0.05))),
    Case("torch/sgd-momentum-changing_rate", fn.momentum(FALLING, 0.8)),
    Case("torch/sgd-nesterov-changing_rate", fn.nesterov(FALLING, 0.8)),
    Case("optax/sgd", fn.sgd(0.05)),
    Case("optax/sgd-momentum", fn.momentum(0.02)),
    Case("optax/sgd-nesterov", fn.nesterov(0.02)),
]
ADAPTIVE = [
    Case("torch/adagrad", fn.adagrad(0.1)),
    Case("torch/adagrad-lr_decay", fn.adagrad(fn.inverse_time(0.1, 0.05))),
    Case(
        "torch/adagrad-initial_accumulator_value",
        fn.adagrad(0.1, initial_accumulator=0.5, eps=1e-3),
    ),
    Case("optax/adagrad", fn.adagrad(0.1, eps=1e-7, initial_accumulator=0.1, eps_in_root=True)),
    Case("torch/adadelta", fn.adadelta()),
    Case("torch/adadelta-rho-eps", fn.chain(L2, fn.adadelta(0.5, 0.8, eps=1e-3))),
    Case("optax/adadelta", fn.adadelta()),
    Case("torch/rmsprop", fn.rmsprop(0.01, 0.99)),
    Case("torch/rmsprop-centered", fn.rmsprop(0.01, 0.99, centered=True)),
    Case("torch/rmsprop-momentum", fn.rmsprop(0.002, 0.95, momentum=0.9, eps=1e-4)),
    Case(
        "torch/rmsprop-momentum-centered-changing_rate",
        fn.rmsprop(FALLING, 0.99, momentum=0.7, centered=True),
    ),
    Case("optax/rmsprop", fn.rmsprop(0.015, eps_in_root=True)),
    Case("optax/rmsprop-centered", fn.rmsprop(0.015, centered=True, eps_in_root=True)),
    Case(
        "optax/rmsprop-momentum-changing_rate",
        fn.rmsprop(FALLING, momentum=0.7, eps_in_root=True, rate_in_velocity=True),
    ),
    Case("torch/adam", fn.adam(0.05)),
    Case("torch/adam-betas-eps", fn.adam(0.05, 0.7, 0.95, eps=1e-3)),
    Case("torch/adam-b1_zero", fn.adam(0.02, b1=0)),
    Case("torch/adam-weight_decay", fn.chain(L2, fn.adam(0.05))),
    Case("optax/adam", fn.adam(0.05)),
    Case(
        "optax/adam-clip_by_global_norm",
        fn.chain(fn.clip_by_global_norm(0.5), fn.adam(0.05)),
        scope="tree",
    ),
    Case("optax/adam-warmup_cosine", fn.adam(FALLING)),
]
MOMENTS = [
    Case("torch/adamw", fn.adamw(0.05)),
    Case("torch/adamw-weight_decay", fn.adamw(0.05, weight_decay=0.3)),
    Case("torch/adamw-changing_rate", fn.adamw(FALLING, weight_decay=0.3)),
    Case("optax/adamw", fn.adamw(0.05, weight_decay=1e-4)),
    Case("optax/adamw-changing_rate", fn.adamw(FALLING, weight_decay=0.3)),
    Case("torch/adamax", fn.adamax(0.05)),
    Case("torch/adamax-weight_decay", fn.chain(L2, fn.adamax(0.05, 0.8, 0.95, eps=1e-3))),
    Case("optax/adamax", fn.adamax(0.05)),
    Case("optax/adamaxw", fn.decoupled_decay(fn.adamax(0.05, 0.8), 0.1)),
    Case("torch/nadam", fn.nadam(0.05)),
    Case("torch/nadam-weight_decay", fn.chain(L2, fn.nadam(0.05, momentum_decay=0.5))),
    Case(
        "torch/nadam-decoupled_weight_decay",
        fn.decoupled_decay(fn.nadam(0.05, 0.8, 0.99), 0.1),
    ),
    Case("optax/nadam", fn.nadam(0.05, momentum_decay=None)),
    Case("optax/nadamw", fn.decoupled_decay(fn.nadam(0.05, 0.8, 0.99, momentum_decay=None), 0.1)),
    Case("torch/amsgrad", fn.amsgrad(0.05)),
    Case("torch/amsgrad-betas", fn.amsgrad(0.05, 0.8, 0.7)),
    Case("optax/amsgrad", fn.amsgrad(0.05, 0.8, 0.7, correct_first=True)),
    Case("optax/amsgrad-uncorrected", fn.amsgrad(0.01, 0.8, 0.97, corrected=False)),
    Case("torch/radam", fn.radam(0.05, eps_before_correction=True)),
    Case("torch/radam-betas-eps", fn.radam(0.05, 0.8, 0.97, eps=1e-3, eps_before_correction=True)),
    Case("torch/radam-short", fn.radam(0.01, 0.9, 0.5)),
    Case(
        "torch/radam-decoupled_weight_decay",
        fn.decoupled_decay(fn.radam(0.05, eps_before_correction=True), 0.1),
    ),
    Case("optax/radam", fn.radam(0.05)),
    Case("optax/radam-betas-eps", fn.radam(0.05, 0.8, 0.97, eps=1e-3)),
]
SIGN = [
    Case("torch/rprop", fn.rprop()),
    Case(
        "torch/rprop-etas-step_sizes",
        fn.rprop(0.3, shrink=0.3, grow=1.5, min_step_size=1e-3, max_step_size=0.4),
    ),
    Case("optax/lion", fn.lion(0.01)),
    Case("optax/lion-weight_decay", fn.lion(FALLING, 0.8, 0.95, weight_decay=0.3)),
    Case("optax/sign_sgd", fn.sign_sgd(0.02)),
    Case("optax/signum", fn.signum(0.02)),
    Case("optax/signum-changing_rate", fn.signum(FALLING, 0.7)),
]
SUCCESSORS = [
    Case("optax/adan", fn.adan(0.05, look_ahead=1 - 0.92, eps_root=1e-8)),
    Case(
        "optax/adan-weight_decay",
        fn.adan(
            0.03, 0.9, 0.8, 0.95, look_ahead=1 - 0.8, eps=1e-3, eps_root=1e-2, weight_decay=0.3
        ),
    ),
    Case("optax/adopt", fn.adopt(0.05)),
    Case("optax/adopt-unclipped", fn.adopt(0.02, 0.8, 0.99, eps=1e-3, clip_power=None)),
    Case("optax/ademamix", fn.ademamix(0.01)),
    Case(
        "optax/ademamix-rising",
        fn.ademamix(0.01, 0.8, b3=rise(0.9, 0.999), alpha=rise(0.0, 4.0), weight_decay=0.3),
    ),
]
LAYERWISE = [
    Case("optax/lamb", fn.lamb(0.03), scope="array"),
    Case(
        "optax/lamb-weight_decay",
        fn.lamb(FALLING, 0.8, 0.95, eps=1e-3, weight_decay=0.3),
        scope="array",
    ),
    Case(
        "torch/adafactor",
        fn.adafactor(fn.relative_step(1e-2), eps=0.0, floor=EPS),
        scope="array",
    ),
    Case(
        "torch/adafactor-capped",
        fn.adafactor(fn.relative_step(0.3), 0.6, eps=0.0, floor=1e-3, clip=1.5, min_scale=0.3),
        scope="array",
    ),
    Case(
        "torch/adafactor-weight_decay",
        fn.adafactor(fn.relative_step(0.4), eps=0.0, floor=EPS, weight_decay=0.4 * 0.1),
        scope="array",
    ),
    Case("optax/adafactor", fn.adafactor(0.02), scope="array"),
    Case("optax/adafactor-whole", fn.adafactor(0.02, min_size=128), scope="array"),
    Case(
        "optax/adafactor-weight_decay",
        fn.adafactor(0.02, 0.6, eps=1e-3, weight_decay=0.01, min_size=2),
        scope="array",
    ),
]
AVERAGED = [
    Case("torch/asgd", fn.averaged_sgd()),
    Case("torch/asgd-average", fn.averaged_sgd(0.1, decay=0.05, power=0.6, start=8), average),
    Case("torch/asgd-weight_decay", fn.chain(L2, fn.averaged_sgd(0.1, decay=0.05))),
    Case("optax/schedule_free_sgd", fn.schedule_free_sgd(0.05)),
    Case("optax/schedule_free_sgd-average", fn.schedule_free_sgd(0.05, 0.7), fn.schedule_free_eval),
    Case("optax/schedule_free_adamw", fn.schedule_free_adamw(0.05)),
    Case(
        "optax/schedule_free_adamw-average",
        fn.schedule_free_adamw(0.05, 0.95, 0.99, eps=1e-3, weight_decay=0.3),
        fn.schedule_free_eval,
    ),
]
FREE = [
    Case("optax/prodigy", fn.prodigy(), scope="tree"),
    Case(
        "optax/prodigy-changing_rate",
        fn.prodigy(
            fn.warmup_cosine(1.0, 5, 40, start=0.2, end=0.04),
            0.8,
            0.99,
            initial_distance=1e-2,
            growth=0.7,
        ),
        scope="tree",
    ),
    Case(
        "optax/prodigy-safeguard",
        fn.prodigy(
            0.7,
            b3=0.9,
            eps=1e-3,
            initial_distance=1e-3,
            weight_decay=0.3,
            safeguard_warmup=True,
        ),
        scope="tree",
    ),
]
CASES = [*SGD, *ADAPTIVE, *MOMENTS, *SIGN, *SUCCESSORS, *LAYERWISE, *AVERAGED, *FREE]


def descent(optimizer, gradient, start, steps=STEPS, shown=parameters):
    """What is shown of the state and the parameters after each step, each leaf [steps, ...]."""

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(gradient(params), state, params)
        params = fn.apply_updates(params, updates)
        return (params, state), shown(state, params)

    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]


descend = jax.jit(descent, static_argnames=("gradient", "steps", "shown"))
"""With one trace for each tree structure."""
START = {name: list(map(np.asarray, PROBLEMS[name].start)) for name in sorted(PROBLEMS)}


def total(params):
    """The sum of several problems' losses, so that each moves as it would alone."""
    return sum(PROBLEMS[name].loss(params[name], jnp) for name in params)


def total_of_numbers(numbers):
    """The same of all the problems' numbers in one array, which compiles in half the time."""
    return total(unravelled(numbers, START))


def ravelled(tree, axes=0):
    """A tree's numbers in one array, but for the leading axes."""
    return np.concatenate([np.reshape(x, (*x.shape[:axes], -1)) for x in jax.tree.leaves(tree)], -1)


def unravelled(numbers, like):
    """The last axis of an array in the shapes of a tree."""
    leaves, structure = jax.tree.flatten(like)
    parts = jnp.split(numbers, np.cumsum([leaf.size for leaf in leaves])[:-1], -1)
    shaped = [p.reshape(*p.shape[:-1], *a.shape) for p, a in zip(parts, leaves, strict=True)]
    return structure.unflatten(shaped)


OF_TREE, OF_NUMBERS = jax.grad(total), jax.grad(total_of_numbers)


def path_of(case):
    """What is shown after each step on all the problems, [steps, numbers]; float64 must be on."""
    if case.scope == "number":
        return descend(case.optimizer, OF_NUMBERS, ravelled(START), shown=case.shown)
    if case.scope == "array":
        return ravelled(descend(case.optimizer, OF_TREE, START, shown=case.shown), axes=1)
    alone = [{name: start} for name, start in START.items()]
    paths = [descend(case.optimizer, OF_TREE, start, shown=case.shown) for start in alone]
    return np.concatenate([ravelled(path, axes=1) for path in paths], -1)


def deviations(case):
    """For each problem the worst deviation from the golden trajectory, relative to the distance
    moved."""
    path, worst, first = np.asarray(path_of(case))[np.array(SNAPSHOTS) - 1], {}, 0
    for name, start in START.items():
        golden, origin = GOLDEN[f"{case.name}/{name}"], ravelled(start)
        error = np.linalg.norm(path[:, first : first + origin.size] - golden, axis=1)
        moved = np.linalg.norm(golden - origin, axis=1)
        worst[name] = float((error / np.where(error == 0.0, 1.0, moved)).max())
        first += origin.size
    return worst


def main():
    table = {}
    for case in CASES:
        source, _, variant = case.name.partition("/")
        row = table.setdefault(variant.partition("-")[0], {"torch": [], "optax": []})
        row[source].append(max(deviations(case).values()))
    print(f"{'worst deviation':22}{'PyTorch':>10}{'cases':>6}{'Optax':>10}{'cases':>6}")
    for name, row in table.items():
        cells = (f"{max(found):10.1e}{len(found):6}" if found else "" for found in row.values())
        print(f"{name:22}" + "".join(f"{cell:16}" for cell in cells))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
