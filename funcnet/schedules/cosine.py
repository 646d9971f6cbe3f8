"""Schedules along half a cosine (Loshchilov & Hutter 2017)."""

import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.pairs import number
from funcnet.schedules.decay import periods, power, progress, since_start


def fall(progress):
    """Half a cosine, from 1 at 0 to 0 at 1."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def cosine_value(step, *, value, steps, end):
    return end + (value - end) * fall(progress(step, 0.0, steps))


def cosine(value: float, steps: float, *, end: float = 0.0) -> Partial:
    """Half a cosine from `value` down to `end` at the step `steps`, and `end` from there on.

    As Optax's `cosine_decay_schedule` with alpha = end / value; PyTorch's `CosineAnnealingLR` is
    `cosine_wave`; with a warm-up it is `warmup_cosine`.
    """
    return Partial(
        cosine_value,
        value=number("value", value),
        steps=number("steps", steps, 0.0),
        end=number("end", end),
    )


def cosine_wave_value(step, *, value, steps, end):
    return end + (value - end) * fall(jnp.asarray(step, float) / jnp.maximum(steps, 1e-3))


def cosine_wave(value: float, steps: float, *, end: float = 0.0) -> Partial:
    """A cosine that falls from `value` to `end` in `steps`, rises again in as many, and so on.

    PyTorch's `CosineAnnealingLR`, which is this past its horizon too; `cosine` stays at `end`.
    """
    return Partial(
        cosine_wave_value,
        value=number("value", value),
        steps=number("steps", steps, 0.0),
        end=number("end", end),
    )


def warmup_cosine_value(step, *, peak, warmup_steps, total_steps, start, end):
    step = jnp.asarray(step, float)
    warm = start + (peak - start) * step / jnp.maximum(warmup_steps, 1.0)
    cooled = (step - warmup_steps) / jnp.maximum(total_steps - warmup_steps, 1.0)
    cosine = fall(jnp.clip(cooled, 0.0, 1.0))
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


def periods_before(count, growth):
    """1 + m + m^2 + ..., `count` terms, m = 1 + growth."""
    even = jnp.abs(growth) < 1e-6
    safe = jnp.where(even, 1.0, growth)
    nearly = count + 0.5 * count * (count - 1.0) * growth
    return jnp.where(even, nearly, jnp.expm1(count * jnp.log1p(safe)) / safe)


def restart_value(step, *, value, steps, multiplier, decay, end):
    """At x periods from the start, k restarts are past: 1 + ... + m^(k - 1) <= x."""
    step, steps = since_start(step), jnp.maximum(steps, 1e-3)
    x = step / steps
    growth = jnp.asarray(multiplier - 1.0, float)
    even = jnp.abs(growth) < 1e-6
    safe = jnp.where(even, 1.0, growth)
    count = jnp.floor(jnp.log1p(safe * x) / jnp.log1p(safe))
    # The logarithms, rounded, may be one short where a period begins.
    count += x >= periods_before(count + 1.0, growth) * (1.0 - 1e-6)
    count = jnp.where(even, periods(step, steps), count)
    inside = (x - periods_before(count, growth)) / multiplier**count
    return end + (value * power(decay, count) - end) * fall(jnp.clip(inside, 0.0, 1.0))


def cosine_restarts(
    value: float,
    steps: float,
    *,
    multiplier: float = 1.0,
    decay: float = 1.0,
    end: float = 0.0,
) -> Partial:
    """Half a cosine from `value` down to `end` in `steps`, then anew from the top, each time
    `multiplier` times as long and from `decay` times as high: warm restarts.

    As PyTorch's `CosineAnnealingWarmRestarts`, whose multiplier is an integer and decay 1; Optax's
    `sgdr_schedule` takes each period's numbers.
    """
    return Partial(
        restart_value,
        value=number("value", value),
        steps=number("steps", steps, 0.0),
        multiplier=number("multiplier", multiplier, 1.0),
        decay=number("decay", decay, 0.0),
        end=number("end", end),
    )
