"""Problems for golden trajectories, in formulas that read the same in `jax.numpy` and `torch`.

A problem is where it starts, one nested list for each array of parameters, and
`loss(params, xp)`, where `xp` is either namespace. Data are closed formulas, so nothing is random.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Problem(NamedTuple):
    start: list[Any]
    loss: Callable[[list[Any], Any], Any]


def quadratic(params, xp):
    """sum_i c_i (x_i + x_{i-1} / 2 - t_i)^2 / 2: curvatures from 0.003 to 20, coupled."""
    (x,) = params
    curvature = xp.asarray([10.0, 3.0, 1.0, 0.1, 0.01], dtype=xp.float64)
    target = xp.asarray([1.0, -1.0, 0.5, 2.0, -0.5], dtype=xp.float64)
    return 0.5 * (curvature * (x + 0.5 * xp.roll(x, 1) - target) ** 2).sum()


def rosenbrock(params, xp):
    """((1 - x)^2 + 100 (y - x^2)^2) / 100: the valley, scaled so that common rates are stable."""
    (point,) = params
    x, y = point[0], point[1]
    return 0.01 * (1.0 - x) ** 2 + (y - x**2) ** 2


def regression(params, xp):
    """The mean squared error of a tanh network 2-4-1 over 8 examples."""
    hidden_weight, hidden_bias, weight, bias = params
    x = xp.sin(xp.arange(16, dtype=xp.float64)).reshape(8, 2)
    target = x[:, :1] * x[:, 1:] + 0.5 * x[:, :1]
    hidden = xp.tanh(x @ hidden_weight + hidden_bias)
    return ((hidden @ weight + bias - target) ** 2).mean()


PROBLEMS = {
    "quadratic": Problem([[0.0, 1.5, -1.0, 0.5, 2.0]], quadratic),
    "rosenbrock": Problem([[-1.2, 1.0]], rosenbrock),
    "regression": Problem(
        [
            [[0.9, -0.4, 0.3, -0.8], [0.2, 0.7, -0.6, -0.5]],
            [0.1, -0.2, 0.0, 0.3],
            [[0.6], [-0.9], [0.4], [0.5]],
            [0.05],
        ],
        regression,
    ),
}

STEPS = 50
SNAPSHOTS = (1, 2, 3, 5, 10, 20, 30, 40, 50)
"""The steps whose parameters are kept."""

SCHEDULES = {
    "plain": {"peak": 1.0, "warmup_steps": 10, "total_steps": 100, "start": 0.0, "end": 0.0},
    "no_warmup": {"peak": 0.3, "warmup_steps": 0, "total_steps": 120, "start": 0.2, "end": 0.0},
    "one_step": {"peak": 2.0, "warmup_steps": 1, "total_steps": 2, "start": 0.5, "end": 0.25},
    "all_numbers": {"peak": 0.1, "warmup_steps": 7, "total_steps": 61, "start": 0.02, "end": 1e-3},
    "rising": {"peak": 0.1, "warmup_steps": 20, "total_steps": 90, "start": 0.3, "end": 0.2},
}
SCHEDULE_STEPS = 121


def total_loss(params, xp):
    """All problems as one, {name: its parameters}, their losses summed."""
    return sum(problem.loss(params[name], xp) for name, problem in PROBLEMS.items())


def plateau(step):
    """What a reduction on plateaus is told: losses that fall at first, then do not."""
    return 2.0 + np.cos(0.7 * step) / (1.0 + step)


JOINT_STEPS = 30
JOINT_SNAPSHOTS = (1, 2, 3, 4, 5, 8, 12, 20, 30)

CURVATURES = (8.0, 2.0, 0.5, 0.01, -0.3)


def separate_bowls(x, xp):
    """sum_i c_i (x_i - i / 2)^2 / 2: a diagonal Hessian, of which one number is negative."""
    curvature = xp.asarray(CURVATURES, dtype=xp.float64)
    return 0.5 * (curvature * (x - 0.5 * xp.arange(5, dtype=xp.float64)) ** 2).sum()


separate = Problem([1.0, -1.0, 2.0, 0.5, 1.5], separate_bowls)
CURVATURE_STEPS = 20
SOPHIA = {  # by Optax's keywords
    "every": {"learning_rate": 0.1, "b1": 0.9, "b2": 0.8, "gamma": 0.3, "weight_decay": 0.0,
              "update_interval": 1},
    "every third": {"learning_rate": 0.1, "b1": 0.965, "b2": 0.99, "gamma": 2.0, "eps": 0.05,
                    "weight_decay": 0.2, "update_interval": 3},
}  # fmt: skip
GOALS = {"quadratic": 1e-10, "rosenbrock": 1e-12, "regression": 1e-5}
"""Losses that searches must come down to."""
