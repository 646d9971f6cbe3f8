"""Schedules, `step -> value`, the first step being 0; their numbers, lengths too, are leaves."""

import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.pairs import number, partial


def constant_value(step, *, value):
    return value


def constant(value: float) -> Partial:
    """The same value at every step."""
    return Partial(constant_value, value=number("value", value))


def warmup_cosine_value(step, *, peak, warmup_steps, total_steps, start, end):
    step = jnp.asarray(step, float)
    warm = start + (peak - start) * step / jnp.maximum(warmup_steps, 1.0)
    progress = (step - warmup_steps) / jnp.maximum(total_steps - warmup_steps, 1.0)
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
    return jnp.where(step < warmup_steps, warm, end + (peak - end) * cosine)


def warmup_cosine(
    peak: float, warmup_steps: float, total_steps: float, *, start: float = 0.0, end: float = 0.0
) -> Partial:
    """A straight line from `start` to `peak` over `warmup_steps`, then half a cosine down to `end`
    at `total_steps`, warm-up included, and `end` from there on (Loshchilov & Hutter 2017).

    With `warmup_steps=0` it is the cosine alone. As Optax's `warmup_cosine_decay_schedule`;
    PyTorch's `CosineAnnealingLR` rises again past its horizon.
    """
    return Partial(
        warmup_cosine_value,
        peak=number("peak", peak),
        warmup_steps=number("warmup_steps", warmup_steps, 0.0),
        total_steps=number("total_steps", total_steps, 0.0),
        start=number("start", start),
        end=number("end", end),
    )


def inverse_time_value(step, *, value, decay):
    return value / (1.0 + decay * jnp.asarray(step, float))


def inverse_time(value: float, decay: float) -> Partial:
    """value / (1 + decay * step) (Robbins & Monro 1951): PyTorch's `lr_decay` of Adagrad."""
    return Partial(
        inverse_time_value, value=number("value", value), decay=number("decay", decay, 0.0)
    )


def as_schedule(name, value) -> Partial:
    """A number becomes a constant schedule, a function of the step is one already."""
    if callable(value):
        return partial(value)
    return Partial(constant_value, value=number(name, value))
