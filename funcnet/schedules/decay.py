"""Schedules that go one way, and those that warm up before it."""

import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.pairs import number


def progress(step, begin, steps):
    """How far the step is from `begin` on the way of `steps`, from 0 to 1."""
    return jnp.clip((jnp.asarray(step, float) - begin) / jnp.maximum(steps, 1e-3), 0.0, 1.0)


def since_start(step):
    """The step as a float, and the first one's, 0, before it."""
    return jnp.maximum(jnp.asarray(step, float), 0.0)


def periods(step, steps):
    """floor(step / steps), which a compiler that multiplies by 1 / steps could take one off."""
    count = jnp.floor(step / steps)
    return count + (step >= (count + 1.0) * steps) - (step < count * steps)


def power(base, exponent):
    """base^exponent of numbers of at least 0, with 0^0 = 1 and a finite gradient at base 0."""
    there = base > 0.0
    of_zero = jnp.where(exponent == 0.0, 1.0, jnp.where(exponent == 1.0, base, 0.0))
    return jnp.where(there, jnp.where(there, base, 1.0) ** exponent, of_zero)


def constant_value(step, *, value):
    return value


def constant(value: float) -> Partial:
    """The same value at every step."""
    return Partial(constant_value, value=number("value", value))


def linear_value(step, *, start, end, steps, begin):
    return start + (end - start) * progress(step, begin, steps)


def linear(start: float, end: float, steps: float, *, begin: float = 0.0) -> Partial:
    """A straight line from `start`, at the step `begin`, to `end`, `steps` later; level before and
    behind it. As PyTorch's `LinearLR`, whose ends are factors, and Optax's `linear_schedule`."""
    return Partial(
        linear_value,
        start=number("start", start),
        end=number("end", end),
        steps=number("steps", steps, 0.0),
        begin=number("begin", begin),
    )


def polynomial_value(step, *, start, end, steps, power, begin):
    # Rounded, the progress could be short of 1 at the end, and a root of what is left is not small.
    past = jnp.asarray(step, float) - begin >= jnp.maximum(steps, 1e-3)
    left = jnp.where(past, 0.0, 1.0 - progress(step, begin, steps))
    share = jnp.where(left > 0.0, jnp.where(left > 0.0, left, 1.0) ** power, 0.0)
    return end + (start - end) * share


def polynomial(
    start: float, end: float, steps: float, power: float, *, begin: float = 0.0
) -> Partial:
    """end + (start - end) (1 - p)^power, where p goes from 0 at the step `begin` to 1, `steps`
    later. As Optax's `polynomial_schedule`; PyTorch's `PolynomialLR` has end 0."""
    return Partial(
        polynomial_value,
        start=number("start", start),
        end=number("end", end),
        steps=number("steps", steps, 0.0),
        power=number("power", power, 0.0),
        begin=number("begin", begin),
    )


def exponential_value(step, *, value, factor, steps, begin, end):
    count = jnp.maximum(jnp.asarray(step, float) - begin, 0.0) / jnp.maximum(steps, 1e-3)
    return jnp.maximum(value * power(factor, count), end)


def exponential(
    value: float, factor: float, *, steps: float = 1.0, begin: float = 0.0, end: float = 0.0
) -> Partial:
    """value * factor^((step - begin) / steps) from the step `begin` on, and `end` at least.

    As PyTorch's `ExponentialLR` and Optax's `exponential_decay`, whose `staircase` is `step_decay`.
    """
    return Partial(
        exponential_value,
        value=number("value", value),
        factor=number("factor", factor, 0.0),
        steps=number("steps", steps, 0.0),
        begin=number("begin", begin),
        end=number("end", end),
    )


def step_decay_value(step, *, value, factor, steps):
    return value * power(factor, periods(since_start(step), jnp.maximum(steps, 1e-3)))


def step_decay(value: float, factor: float, steps: float) -> Partial:
    """value * factor^floor(step / steps): multiplied by the factor every so many steps.

    As PyTorch's `StepLR` and Optax's `exponential_decay` with `staircase`. The gradient with
    respect to `steps` is 0; at steps of one's choice it is `piecewise`.
    """
    return Partial(
        step_decay_value,
        value=number("value", value),
        factor=number("factor", factor, 0.0),
        steps=number("steps", steps, 0.0),
    )


def inverse_time_value(step, *, value, decay):
    return value / (1.0 + decay * since_start(step))


def inverse_time(value: float, decay: float) -> Partial:
    """value / (1 + decay * step) (Robbins & Monro 1951): PyTorch's `lr_decay` of Adagrad."""
    return Partial(
        inverse_time_value, value=number("value", value), decay=number("decay", decay, 0.0)
    )


def inverse_square_root_value(step, *, peak, warmup_steps, start, shift):
    step, length = jnp.asarray(step, float) + shift, jnp.maximum(warmup_steps, 1.0)
    warm = start + (peak - start) * step / length
    return jnp.where(step < length, warm, peak * jnp.sqrt(length / jnp.maximum(step, length)))


def inverse_square_root(
    peak: float, warmup_steps: float, *, start: float = 0.0, shift: float = 0.0
) -> Partial:
    """A straight line from `start` to `peak` over `warmup_steps`, at least 1, and from there on
    peak * sqrt(warmup_steps / t), t = step + shift.

    The Transformer's (Vaswani et al. 2017) counts steps from 1 and has start 0: shift 1 and peak
    (features * warmup_steps)^-1/2. T5's (Raffel et al. 2020) is level at first: start = peak =
    warmup_steps^-1/2. PyTorch and Optax have neither.
    """
    return Partial(
        inverse_square_root_value,
        peak=number("peak", peak),
        warmup_steps=number("warmup_steps", warmup_steps, 0.0),
        start=number("start", start),
        shift=number("shift", shift),
    )


def warmup_stable_decay_value(step, *, peak, warmup_steps, stable_steps, decay_steps, start, end):
    warm = start + (peak - start) * progress(step, 0.0, warmup_steps)
    decayed = peak + (end - peak) * progress(step, warmup_steps + stable_steps, decay_steps)
    return jnp.where(jnp.asarray(step, float) < warmup_steps, warm, decayed)


def warmup_stable_decay(
    peak: float,
    warmup_steps: float,
    stable_steps: float,
    decay_steps: float,
    *,
    start: float = 0.0,
    end: float = 0.0,
) -> Partial:
    """A straight line from `start` to `peak` over `warmup_steps`, `peak` for `stable_steps`, and a
    straight line to `end` over `decay_steps` (Zhai et al. 2022; Hu et al. 2024). PyTorch and Optax
    join it from parts."""
    return Partial(
        warmup_stable_decay_value,
        peak=number("peak", peak),
        warmup_steps=number("warmup_steps", warmup_steps, 0.0),
        stable_steps=number("stable_steps", stable_steps, 0.0),
        decay_steps=number("decay_steps", decay_steps, 0.0),
        start=number("start", start),
        end=number("end", end),
    )
