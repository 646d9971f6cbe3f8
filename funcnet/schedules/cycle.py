"""Schedules that rise and fall."""

import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.pairs import number
from funcnet.schedules.cosine import fall
from funcnet.schedules.decay import periods, power, progress, since_start


def one_cycle_ends(peak, div_factor, final_div_factor):
    start = peak / div_factor
    return start, start / final_div_factor


def one_cycle_value(step, *, peak, warmup_steps, total_steps, div_factor, final_div_factor):
    start, end = one_cycle_ends(peak, div_factor, final_div_factor)
    up = fall(progress(step, 0.0, warmup_steps))
    down = fall(progress(step, warmup_steps, total_steps - warmup_steps))
    rising = jnp.asarray(step, float) < warmup_steps
    return jnp.where(rising, peak + (start - peak) * up, end + (peak - end) * down)


def linear_one_cycle_value(step, *, peak, warmup_steps, total_steps, div_factor, final_div_factor):
    start, end = one_cycle_ends(peak, div_factor, final_div_factor)
    up = progress(step, 0.0, warmup_steps)
    down = progress(step, warmup_steps, total_steps - warmup_steps)
    rising = jnp.asarray(step, float) < warmup_steps
    return jnp.where(rising, start + (peak - start) * up, peak + (end - peak) * down)


def one_cycle_numbers(peak, warmup_steps, total_steps, div_factor, final_div_factor):
    return {
        "peak": number("peak", peak),
        "warmup_steps": number("warmup_steps", warmup_steps, 0.0),
        "total_steps": number("total_steps", total_steps, 0.0),
        "div_factor": number("div_factor", div_factor),
        "final_div_factor": number("final_div_factor", final_div_factor),
    }


def one_cycle(
    peak: float,
    warmup_steps: float,
    total_steps: float,
    *,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Partial:
    """Half a cosine from peak / div_factor up to `peak` at the step `warmup_steps`, and another
    down to that start over final_div_factor at `total_steps` (Smith & Topin 2018).

    Optax's `cosine_onecycle_schedule` is this with warmup_steps = int(pct_start * total_steps).
    PyTorch's `OneCycleLR` peaks a step sooner and ends at its last step: warmup_steps =
    pct_start * total - 1 and total_steps = total - 1; its `three_phase` is `piecewise_cosine`.
    """
    numbers = one_cycle_numbers(peak, warmup_steps, total_steps, div_factor, final_div_factor)
    return Partial(one_cycle_value, **numbers)


def linear_one_cycle(
    peak: float,
    warmup_steps: float,
    total_steps: float,
    *,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Partial:
    """`one_cycle` along straight lines: PyTorch's with `anneal_strategy="linear"`. With three
    phases, as PyTorch's `three_phase` and Optax's `linear_onecycle_schedule`, it is
    `piecewise_linear`."""
    numbers = one_cycle_numbers(peak, warmup_steps, total_steps, div_factor, final_div_factor)
    return Partial(linear_one_cycle_value, **numbers)


def cyclic_value(step, *, low, high, up_steps, down_steps, cycle_decay, step_decay):
    step = since_start(step)
    whole = jnp.maximum(jnp.asarray(up_steps, float) + down_steps, 1e-3)
    cycle = periods(step, whole)
    inside = jnp.maximum(step - cycle * whole, 0.0)
    up, down = progress(inside, 0.0, up_steps), progress(inside, up_steps, down_steps)
    height = jnp.where(inside < up_steps, up, 1.0 - down)
    return low + (high - low) * height * power(cycle_decay, cycle) * power(step_decay, step)


def cyclic(
    low: float,
    high: float,
    up_steps: float,
    down_steps: float | None = None,
    *,
    cycle_decay: float = 1.0,
    step_decay: float = 1.0,
) -> Partial:
    """Straight lines from `low` to `high` in `up_steps` and back in `down_steps` (as many if None),
    again and again, the height being multiplied by `cycle_decay` each cycle and by `step_decay`
    each step (Smith 2017).

    As PyTorch's `CyclicLR`: "triangular" with both decays 1, "triangular2" with cycle_decay 0.5,
    "exp_range" with its gamma as step_decay.
    """
    return Partial(
        cyclic_value,
        low=number("low", low),
        high=number("high", high),
        up_steps=number("up_steps", up_steps, 0.0),
        down_steps=number("down_steps", up_steps if down_steps is None else down_steps, 0.0),
        cycle_decay=number("cycle_decay", cycle_decay, 0.0),
        step_decay=number("step_decay", step_decay, 0.0),
    )
