"""A search along a line for the strong Wolfe conditions."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from funcnet.numerics import varied
from funcnet.optimizers.arithmetic import safe_sqrt
from funcnet.optimizers.wrappers import chosen


class Point(NamedTuple):
    """A point on the line."""

    length: Any  # alpha, how far
    value: Any  # f(alpha), the loss there
    slope: Any  # f'(alpha)


class Search(NamedTuple):
    low: Point  # the lowest point so far that has the sufficient decrease, or the start
    high: Point  # the interval's other end, infinitely far until there is one
    trial: Any  # the length to evaluate next
    aux: Any  # what was evaluated at the low point beside value and slope
    used: Any  # int32, evaluations
    done: Any  # whether the low point satisfies the conditions


def cubic_minimum(a, b):
    """Where the cubic of the values and slopes at two points has its minimum (equation 3.59), and
    NaN where it has none."""
    d1 = a.slope + b.slope - 3.0 * (a.value - b.value) / (a.length - b.length)
    square = d1 * d1 - a.slope * b.slope
    d2 = jnp.sign(b.length - a.length) * jnp.where(square < 0.0, jnp.nan, safe_sqrt(square))
    share = (b.slope + d2 - d1) / (b.slope - a.slope + 2.0 * d2)
    return b.length - (b.length - a.length) * share


def beyond(last, trial):
    """The next trial while all slopes are still downward: 1.1 to 10 times as far."""
    guess = cubic_minimum(last, trial)
    near, far = 1.1 * trial.length, 10.0 * trial.length
    return jnp.where(jnp.isnan(guess) | (guess < trial.length), far, jnp.clip(guess, near, far))


def between(low, high):
    """The next trial in the interval, a tenth of it away from either end at least; where the far
    end is not finite, near the low one."""
    width = high.length - low.length
    share = (cubic_minimum(low, high) - low.length) / width
    share = jnp.where(jnp.isnan(share), 0.5, jnp.clip(share, 0.1, 0.9))
    finite = jnp.isfinite(high.value) & jnp.isfinite(high.slope)
    return low.length + jnp.where(finite, share, 0.1) * width


def wolfe_search(evaluate, start, aux, *, decrease, curvature, evaluations):
    """(the point found, what was evaluated there, evaluations used).

    `evaluate(length)` gives a Point and anything beside it, `aux` at the start. One loop of one
    evaluation a turn is both of algorithms 3.5 and 3.6: the interval's far end is infinite until a
    point is too high or has an upward slope.
    """
    dtype = jnp.result_type(start.value, start.slope, jnp.float32)

    def cast(point):
        return Point(*(jnp.asarray(x, dtype) for x in point))

    start = cast(start)
    c1, c2 = (lax.stop_gradient(jnp.asarray(c, dtype)) for c in (decrease, curvature))
    rounding = 10.0 * jnp.finfo(dtype).eps * jnp.abs(start.value)

    def wanted(search):
        return ~search.done & (search.used < evaluations) & (start.slope < 0.0)

    def turn(search):
        low, high = search.low, search.high
        trial, beside = evaluate(search.trial)
        trial = cast(trial)
        finite = jnp.isfinite(trial.value) & jnp.isfinite(trial.slope)
        lower = trial.value <= start.value + c1 * trial.length * start.slope
        # The same by the slopes, for where the values differ by no more than rounding.
        nearly = (trial.value <= start.value + rounding) & (
            trial.slope <= (2.0 * c1 - 1.0) * start.slope
        )
        flat = jnp.abs(trial.slope) <= -c2 * start.slope
        done = finite & (lower | nearly) & flat
        too_high = ~done & (~finite | ~lower | (trial.value >= low.value))
        turned = trial.slope * (high.length - low.length) >= 0.0

        new_high = chosen(too_high, trial, chosen(turned, low, high))
        new_low, aux = chosen(too_high, (low, search.aux), (trial, beside))
        following = jnp.where(
            jnp.isinf(new_high.length), beyond(low, trial), between(new_low, new_high)
        )
        return Search(new_low, new_high, following, aux, search.used + 1, done)

    far = Point(*(jnp.full_like(x, jnp.inf) for x in start))
    first = jnp.ones((), dtype)
    none = jnp.zeros((), jnp.int32)
    search = varied(Search(start, far, first, aux, none, jnp.zeros((), bool)), ())
    search = lax.while_loop(wanted, turn, search)
    return search.low, search.aux, search.used
