"""Schedules in pieces, and a number as a schedule."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.pairs import number, partial
from funcnet.schedules.cosine import fall
from funcnet.schedules.decay import constant_value, progress


def numbers(name, values, low=-jnp.inf):
    """A sequence of numbers as a tuple of float leaves."""
    return tuple(number(f"{name}[{index}]", value, low) for index, value in enumerate(values))


def piecewise_value(step, *, value, boundaries, factors):
    step = jnp.asarray(step, float)
    for boundary, factor in zip(boundaries, factors, strict=True):
        value = value * jnp.where(step < boundary, 1.0, factor)
    return value


def piecewise(
    value: float, boundaries: Sequence[float], factors: float | Sequence[float]
) -> Partial:
    """`value` at first, multiplied by a factor from each boundary on; one factor may serve all.

    As PyTorch's `MultiStepLR` and Optax's `piecewise_constant_schedule`. The gradient with respect
    to the boundaries is 0.
    """
    bounds = numbers("boundaries", boundaries)
    each = tuple(factors) if isinstance(factors, Sequence) else (factors,) * len(bounds)
    if len(each) != len(bounds):
        raise ValueError(f"piecewise expects a factor a boundary, got {len(each)}, {len(bounds)}")
    return Partial(
        piecewise_value,
        value=number("value", value),
        boundaries=bounds,
        factors=numbers("factors", each),
    )


def piecewise_linear_value(step, *, steps, values):
    value = values[0]
    for index in range(1, len(steps)):
        share = progress(step, steps[index - 1], steps[index] - steps[index - 1])
        value = value + (values[index] - values[index - 1]) * share
    return value


def piecewise_cosine_value(step, *, steps, values):
    value = values[0]
    for index in range(1, len(steps)):
        share = 1.0 - fall(progress(step, steps[index - 1], steps[index] - steps[index - 1]))
        value = value + (values[index] - values[index - 1]) * share
    return value


def points(name, steps, values):
    if len(steps) != len(values) or not steps:
        raise ValueError(f"{name} expects a value a step, got {len(values)} and {len(steps)}")
    return {"steps": numbers("steps", steps), "values": numbers("values", values)}


def piecewise_linear(steps: Sequence[float], values: Sequence[float]) -> Partial:
    """Straight lines through the points (step, value), in the order of the steps; level before the
    first and behind the last.

    Optax's `linear_onecycle_schedule` and PyTorch's `OneCycleLR` with `three_phase` are lines
    through four points.
    """
    return Partial(piecewise_linear_value, **points("piecewise_linear", steps, values))


def piecewise_cosine(steps: Sequence[float], values: Sequence[float]) -> Partial:
    """As `piecewise_linear`, with half a cosine from each point to the next: Optax's
    `piecewise_interpolate_schedule`, whose values are products of scales."""
    return Partial(piecewise_cosine_value, **points("piecewise_cosine", steps, values))


def join_value(step, *, schedules, boundaries):
    step = jnp.asarray(step, float)
    value = schedules[0](step)
    for schedule, boundary in zip(schedules[1:], boundaries, strict=True):
        value = jnp.where(step < boundary, value, schedule(jnp.maximum(step - boundary, 0.0)))
    return value


def join(schedules: Sequence[Callable[[Any], Any]], boundaries: Sequence[float]) -> Partial:
    """One schedule after another, each from its boundary on and counting steps from there; numbers
    are constant schedules. As Optax's `join_schedules` and PyTorch's `SequentialLR`."""
    parts = tuple(as_schedule("schedules", schedule) for schedule in schedules)
    if len(parts) != len(boundaries) + 1:
        raise ValueError(
            f"join expects a boundary between each two schedules, got {len(parts)} schedules and "
            f"{len(boundaries)} boundaries"
        )
    return Partial(join_value, schedules=parts, boundaries=numbers("boundaries", boundaries))


def as_schedule(name, value) -> Partial:
    """A number becomes a constant schedule, a function of the step is one already."""
    if callable(value):
        return partial(value)
    return Partial(constant_value, value=number(name, value))
