"""The geometry that convolution and pooling share: where windows lie, and views of the input.

An axis of length n, padded by `low` and `high`, has windows of `size` taps, `dilation` apart, that
begin every `stride`: tap k of window i is element i * stride + k * dilation - low.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from funcnet.numerics import whole

Padding = str | int | Sequence[int | tuple[int, int]]
"""`"same"`, `"valid"`, or an integer or a pair (low, high) for each axis."""


def sizes(name, what, value, axes):
    """`value` as a tuple of one positive integer an axis; a single integer counts for each."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * axes
    if len(values) != axes or not all(map(whole, values)) or min(values) < 1:
        raise ValueError(
            f"{name} expects {what} to be a positive integer or {axes} of them, got {value!r}"
        )
    return tuple(int(v) for v in values)


def paddings(name, value, axes):
    """`value` as "same", "valid" or one pair (low, high) an axis."""
    if isinstance(value, str) and value in ("same", "valid"):
        return value
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * axes
    pairs = [tuple(v) if isinstance(v, tuple | list) else (v, v) for v in values]
    if len(pairs) != axes or not all(len(p) == 2 and all(map(whole, p)) for p in pairs):
        raise ValueError(
            f'{name} expects padding to be "same", "valid", an integer, or for each of {axes} axes '
            f"an integer or a pair (low, high), got {value!r}"
        )
    return tuple((int(low), int(high)) for low, high in pairs)


def span(size, dilation):
    """How many elements a window reaches over."""
    return (size - 1) * dilation + 1


def placed(name, shape, window, stride, dilation, padding):
    """(windows, low, high) of each axis. "same" makes ceil(n / stride) windows, the odd element of
    padding at the end; "valid" makes no padding."""
    places = []
    for axis, (n, size, step, gap) in enumerate(zip(shape, window, stride, dilation, strict=True)):
        if padding == "same":
            count = -(-n // step)
            both = max((count - 1) * step + span(size, gap) - n, 0)
            low, high = both // 2, both - both // 2
        else:
            low, high = (0, 0) if padding == "valid" else padding[axis]
            count = (n + low + high - span(size, gap)) // step + 1
        if count < 1 or n < 1:
            raise ValueError(
                f"{name} expects at least {span(size, gap)} elements in each window's axis, "
                f"got {n + low + high} in spatial axis {axis} of {tuple(shape)}, padding included"
            )
        places.append((count, low, high))
    return places


def phases(x, axis, step):
    """Every step-th element along an axis, for each of the `step` starts.

    By `split`, whose transpose is one concatenation: that of a strided slice is a padded copy of
    the whole, for each slice.
    """
    count = x.shape[axis] // step
    parts = lax.split(x.reshape(*x.shape[:axis], count, step, *x.shape[axis + 1 :]), (1,) * step,
                      axis + 1)  # fmt: skip
    return [part.reshape(*x.shape[:axis], count, *x.shape[axis + 1 :]) for part in parts]


def interleaved(parts, axis):
    """The inverse of `phases`."""
    shape = parts[0].shape
    whole = jnp.stack(parts, axis + 1)
    return whole.reshape(*shape[:axis], shape[axis] * len(parts), *shape[axis + 1 :])


def taps(x, axis, size, step, gap, place, fill=0.0):
    """For each of a window's `size` taps along an axis, its elements in all windows."""
    count, low, _ = place
    starts = [k * gap for k in range(size)]
    length = step * (count + starts[-1] // step)
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (low, length - low - x.shape[axis], 0)
    parts = phases(lax.pad(x, jnp.asarray(fill, x.dtype), pads), axis, step)
    return [
        lax.slice_in_dim(parts[start % step], start // step, start // step + count, axis=axis)
        for start in starts
    ]


def windows(x, window, stride, dilation, places):
    """For each tap of a window over x [n, *spatial, features], in row-major order, its elements in
    all windows: prod(window) arrays [n, *windows, features]."""
    views = [x]
    for axis, spec in enumerate(zip(window, stride, dilation, places, strict=True), start=1):
        views = [part for view in views for part in taps(view, axis, *spec)]
    return views
