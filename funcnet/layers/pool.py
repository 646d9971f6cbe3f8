"""Pooling over one or more spatial axes, channels last: one axis after the other."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from funcnet.layers.linear import check_floating, check_inexact
from funcnet.layers.shape import stateless
from funcnet.layers.window import Padding, paddings, placed, sizes, taps
from funcnet.numerics import widen
from funcnet.pairs import Network, fix


def first_larger(a, b):
    """max(a, b), whose derivative goes to a where they are equal; NaN if either is."""
    return jnp.where((a >= b) | (a != a), a, b)


def check_pooled(name, x, axes=None):
    check_inexact(name, x)
    if x.ndim < 3 or (axes is not None and x.ndim != axes + 2):
        raise ValueError(
            f"{name} expects [n, {axes or 'one or more'} spatial axes, features], "
            f"got x of shape {x.shape}"
        )
    if axes is None and 0 in x.shape[1:-1]:
        raise ValueError(f"{name} expects one or more positions, got x of shape {x.shape}")


def places_of(name, x, window, stride, padding):
    check_pooled(name, x, len(window))
    return placed(name, x.shape[1:-1], window, stride, (1,) * len(window), padding)


def max_pool_apply(params, state, x, *, key=None, train=False, window, stride, padding):
    check_floating("max_pool", x)
    places = places_of("max_pool", x, window, stride, padding)
    # The last axis first: the first of equal elements is then the first in row-major order.
    for axis in range(len(window), 0, -1):
        size, step, place = window[axis - 1], stride[axis - 1], places[axis - 1]
        parts = taps(x, axis, size, step, 1, place, -jnp.inf)
        x = parts[0]
        for part in parts[1:]:
            x = first_larger(x, part)
    return x, state


def average_pool_apply(params, state, x, *, key=None, train=False, window, stride, padding):
    places, dtype, x = places_of("average_pool", x, window, stride, padding), x.dtype, widen(x)
    for axis, spec in enumerate(zip(window, stride, places, strict=True), start=1):
        size, step, place = spec
        x = sum(taps(x, axis, size, step, 1, place))
    return (x / math.prod(window)).astype(dtype), state


def inside(n, size, step, place):
    """How many of a window's taps lie on the n elements themselves, for each window."""
    count, low, _ = place
    starts = np.arange(count) * step - low
    return np.minimum(starts + size, n) - np.maximum(starts, 0)


def average_pool_inside_apply(params, state, x, *, key=None, train=False, window, stride, padding):
    places, dtype, x = places_of("average_pool", x, window, stride, padding), x.dtype, widen(x)
    for axis, spec in enumerate(zip(window, stride, places, strict=True), start=1):
        size, step, place = spec
        counts = inside(x.shape[axis], size, step, place)
        shape = [len(counts) if a == axis else 1 for a in range(x.ndim)]
        x = sum(taps(x, axis, size, step, 1, place)) / counts.reshape(shape).astype(x.dtype)
    return x.astype(dtype), state


def pool(name, apply, window, stride, padding):
    axes = len(window) if isinstance(window, tuple | list) else 0
    if not axes:
        raise ValueError(f"{name} expects a window of one size a spatial axis, got {window!r}")
    window = sizes(name, "window", window, axes)
    padding = paddings(name, padding, axes)
    if isinstance(padding, tuple):
        for size, pair in zip(window, padding, strict=True):
            if not 0 <= min(pair) <= max(pair) < size:
                raise ValueError(
                    f"{name} expects padding of less than the window {window}, got {padding}"
                )
    stride = window if stride is None else sizes(name, "stride", stride, axes)
    return stateless(Partial(fix(apply, window=window, stride=stride, padding=padding)))


def max_pool(
    window: Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "valid",
) -> Network:
    """The largest element of each window, y[i] = max_k x[i * stride + k - low].

    x: [n, *spatial, features], y: [n, *windows, features]; `stride` is the window unless given,
    padding as in `conv`, and never the largest. The derivative goes to the first of equal elements
    in row-major order; a NaN stays one.
    """
    return pool("max_pool", max_pool_apply, window, stride, padding)


def average_pool(
    window: Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    count_padding: bool = True,
) -> Network:
    """The mean of each window, y[i] = (1/K) sum_k x[i * stride + k - low].

    x: [n, *spatial, features], y: [n, *windows, features]; `stride` is the window unless given. K
    is the window's size or, without `count_padding` (PyTorch's and Flax's `count_include_pad`), the
    number of its elements that are not padding.
    """
    apply = average_pool_apply if count_padding else average_pool_inside_apply
    return pool("average_pool", apply, window, stride, padding)


def global_max_pool_apply(params, state, x, *, key=None, train=False):
    check_floating("global_max_pool", x)
    check_pooled("global_max_pool", x)
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    return jnp.take_along_axis(rows, jnp.argmax(rows, axis=1)[:, None], axis=1)[:, 0], state


global_max_pool = stateless(global_max_pool_apply)
"""The largest over all positions, [n, *spatial, features] -> [n, features]; the derivative goes to
the first of equal ones."""


def global_average_pool_apply(params, state, x, *, key=None, train=False):
    check_pooled("global_average_pool", x)
    return x.mean(axis=tuple(range(1, x.ndim - 1))), state


global_average_pool = stateless(global_average_pool_apply)
"""The mean over all positions, [n, *spatial, features] -> [n, features]."""


def subsample_apply(params, state, x, *, key=None, train=False, stride, features):
    check_pooled("subsample", x)
    if x.shape[-1] > features:
        raise ValueError(f"subsample expects at most {features} features, got x of shape {x.shape}")
    step = (slice(None), *(slice(None, None, stride),) * (x.ndim - 2))
    return jnp.pad(x[step], [(0, 0)] * (x.ndim - 1) + [(0, features - x.shape[-1])]), state


def subsample(stride: int, features: int) -> Network:
    """Every stride-th position along each spatial axis, with zeros for what x lacks of `features`:
    [n, *spatial, f] -> [n, *ceil(spatial / stride), features]. The shortcut without parameters of
    residual networks (He et al. 2016, option A).
    """
    stride, features = sizes("subsample", "stride and features", (stride, features), 2)
    return stateless(Partial(fix(subsample_apply, stride=stride, features=features)))
