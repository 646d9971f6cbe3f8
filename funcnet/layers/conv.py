"""Convolutions in one, two or three dimensions, channels last.

On CPU a convolution is a sum of matrix products, since XLA's own is many times slower inside `scan`
and under `vmap`; elsewhere it is `lax.conv_general_dilated`. All forms are the same function, and
each is plain `jax.numpy`, so derivatives of any order and mode exist.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import initializers
from jax.tree_util import Partial

from funcnet.layers.linear import Initializer, biased, check_inexact, lecun_normal
from funcnet.layers.window import (
    Padding,
    interleaved,
    paddings,
    phases,
    placed,
    sizes,
    span,
    windows,
)
from funcnet.numerics import widen, zeros_beside
from funcnet.pairs import Network, fix, partial

LAYOUTS = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}
WINOGRAD_FEATURES = 8
"""From so many features on either side the minimal algorithm is the faster one."""


def by_xla(x, weight, *, stride, dilation, groups, places):
    return lax.conv_general_dilated(
        x,
        weight,
        stride,
        [(low, high) for _, low, high in places],
        rhs_dilation=dilation,
        dimension_numbers=LAYOUTS[len(stride)],
        feature_group_count=groups,
    )


def by_patches(x, weight, *, stride, dilation, groups, places):
    """The elements of each window side by side, times the weights as a matrix; where each group is
    one feature, the weighted sum of the taps."""
    window, (fan_in, fan_out) = weight.shape[:-2], weight.shape[-2:]
    # Wide until they are multiplied, so that what goes back into x is added up wide too.
    views = windows(widen(x), window, stride, dilation, places)
    if fan_in == 1 and groups > 1:
        each = fan_out // groups
        rows = widen(weight.reshape(-1, fan_out))
        terms = (jnp.repeat(v, each, axis=-1) * row for v, row in zip(views, rows, strict=True))
        return sum(terms).astype(x.dtype)
    positions = views[0].shape[:-1]
    split = [v.astype(x.dtype).reshape(math.prod(positions), groups, fan_in) for v in views]
    patches = jnp.concatenate(split, axis=-1)
    matrix = weight.reshape(-1, groups, fan_out // groups)
    if groups == 1:
        return (patches[:, 0] @ matrix[:, 0]).reshape(*positions, fan_out)
    return jnp.einsum("pgi,igo->pgo", patches, matrix).reshape(*positions, fan_out)


def spread(parts):
    """B' d of Winograd's F(2, 3), on a list of four."""
    a, b, c, d = parts
    return [a - c, b + c, c - b, b - d]


def gathered(parts):
    """A' m of Winograd's F(2, 3), on a list of four."""
    a, b, c, d = parts
    return [a + b + c, b - c - d]


WEIGHTS = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
"""G of Winograd's F(2, 3)."""


def tiles(x, axis, count):
    """The four elements of each of `count` tiles that begin every second element."""
    even, odd = phases(x, axis, 2)
    return [
        lax.slice_in_dim(part, start, start + count, axis=axis)
        for start in (0, 1)
        for part in (even, odd)
    ]


def by_winograd(x, weight, *, places, **_):
    """A' ((G w) (B' d)) along each axis: two outputs of a window of three by four products rather
    than six (Winograd 1980; Lavin & Gray 2016)."""
    axes, fan_out = len(places), weight.shape[-1]
    halves = [-(-count // 2) for count, _, _ in places]
    pads = [
        (low, 2 * half + 2 - low - n, 0)
        for (_, low, _), half, n in zip(places, halves, x.shape[1:-1], strict=True)
    ]
    parts = [lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])]
    for axis, half in enumerate(halves):
        parts = [v for part in parts for v in spread(tiles(part, axis + 1, half))]
        weight = jnp.moveaxis(
            jnp.tensordot(jnp.asarray(WEIGHTS, x.dtype), weight, (1, axis)), 0, axis
        )
    matrices = weight.reshape(len(parts), *weight.shape[-2:])
    shape = (*parts[0].shape[:-1], fan_out)
    parts = [
        (part.reshape(-1, x.shape[-1]) @ matrix).reshape(shape)
        for part, matrix in zip(parts, matrices, strict=True)
    ]
    for axis in range(axes, 0, -1):
        parts = [interleaved(gathered(parts[i : i + 4]), axis) for i in range(0, len(parts), 4)]
    return parts[0][(slice(None), *(slice(count) for count, _, _ in places))]


def by_products(x, weight, **geometry):
    """The faster of the two forms in matrix products, chosen from the shapes."""
    small = set(weight.shape[:-2]) == {3} and len(weight.shape) < 5
    plain = geometry["groups"] == 1 and {*geometry["stride"], *geometry["dilation"]} == {1}
    enough = min(weight.shape[-2:]) >= WINOGRAD_FEATURES
    exact = jnp.promote_types(x.dtype, weight.dtype) in (jnp.float32, jnp.float64)
    return (by_winograd if small and plain and enough and exact else by_patches)(
        x, weight, **geometry
    )


def convolve(x, weight, **geometry):
    dtype = jnp.result_type(x, weight)
    return lax.platform_dependent(
        x.astype(dtype),
        weight.astype(dtype),
        cpu=functools.partial(by_products, **geometry),
        default=functools.partial(by_xla, **geometry),
    )


def regrouped_init(key, shape, *, initial, groups):
    """Drawn as of a convolution, whose fan_in is that of one group, and rearranged."""
    *window, fan_in, fan_out = shape  # fan_out of one group
    drawn = initial(key, (*window, fan_in // groups, fan_out * groups))
    parts = drawn.reshape(*window, fan_in // groups, groups, fan_out)
    return jnp.moveaxis(parts, -2, -3).reshape(shape)


def conv_init(key, *, shape, fan_out, weight_init, bias_init):
    weight_key, bias_key = jax.random.split(key)
    params = {"weight": weight_init(weight_key, shape)}
    if bias_init is not None:
        params["bias"] = bias_init(bias_key, (fan_out,))
    return params, ()


def check_images(name, x, axes, features):
    check_inexact(name, x)
    if x.ndim != axes + 2 or x.shape[-1] != features:
        raise ValueError(
            f"{name} expects [n, {axes} spatial axes, {features} features], "
            f"got x of shape {x.shape}"
        )


def conv_apply(params, state, x, *, key=None, train=False, stride, padding, dilation, groups):
    weight = params["weight"]
    check_images("conv", x, len(stride), weight.shape[-2] * groups)
    places = placed("conv", x.shape[1:-1], weight.shape[:-2], stride, dilation, padding)
    y = convolve(x, weight, stride=stride, dilation=dilation, groups=groups, places=places)
    return biased(params, y), state


def geometry(name, fan_in, fan_out, window, stride, padding, dilation, groups):
    """The checked choices of a convolution: its window, and those that its apply binds."""
    axes = len(window) if isinstance(window, tuple | list) else 0
    if not 1 <= axes <= 3:
        raise ValueError(f"{name} expects a window of 1, 2 or 3 sizes, got {window!r}")
    sizes(name, "fan_in, fan_out and groups", (fan_in, fan_out, groups), 3)
    if fan_in % groups or fan_out % groups:
        raise ValueError(
            f"{name} expects groups to divide fan_in and fan_out, "
            f"got {groups} for {fan_in} and {fan_out}"
        )
    return sizes(name, "window", window, axes), {
        "stride": sizes(name, "stride", stride, axes),
        "padding": paddings(name, padding, axes),
        "dilation": sizes(name, "dilation", dilation, axes),
        "groups": int(groups),
    }


def conv(
    fan_in: int,
    fan_out: int,
    window: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    weight_init: Initializer = lecun_normal,
    bias_init: Initializer | None = initializers.zeros,
) -> Network:
    """y[i] = b + sum_k x[i * stride + k * dilation - low] W[k]: a window of weights moved over one,
    two or three spatial axes (a correlation, as everywhere in this field).

    x: [n, *spatial, fan_in], W: [*window, fan_in / groups, fan_out], b: [fan_out],
    y: [n, *windows, fan_out]; `window` is `(3,)`, `(3, 3)` or `(3, 3, 3)`. `padding` is "same"
    (ceil(n / stride) windows), "valid" (none), or an integer or pair (low, high) for each axis.
    `groups=fan_in` is a depthwise convolution. `bias_init=None` leaves b out. PyTorch's weight
    [fan_out, fan_in / groups, *window] is W with its last two axes in front, the last first; its
    padding is symmetric, which differs from "same" where the stride exceeds 1.

    Raises `ValueError` for choices that do not fit and, at trace time, for x of another shape.
    """
    window, choices = geometry("conv", fan_in, fan_out, window, stride, padding, dilation, groups)
    init = Partial(
        fix(conv_init, shape=(*window, fan_in // groups, fan_out), fan_out=int(fan_out)),
        weight_init=partial(weight_init),
        bias_init=None if bias_init is None else partial(bias_init),
    )
    return Network(init, Partial(fix(conv_apply, **choices)))


def spread_shape(shape, window, stride, dilation, padding):
    """The spatial shape whose convolution has a given shape."""
    if padding == "same":
        return tuple(n * step for n, step in zip(shape, stride, strict=True))
    pads = [(0, 0)] * len(shape) if padding == "valid" else padding
    return tuple(
        (n - 1) * step + span(size, gap) - low - high
        for n, size, step, gap, (low, high) in zip(
            shape, window, stride, dilation, pads, strict=True
        )
    )


def conv_transpose_apply(
    params, state, x, *, key=None, train=False, stride, padding, dilation, groups
):
    weight = params["weight"]
    check_images("conv_transpose", x, len(stride), weight.shape[-2])
    choices = (weight.shape[:-2], stride, dilation, padding)
    spatial = spread_shape(x.shape[1:-1], *choices)
    places = placed("conv_transpose", spatial, *choices)
    dtype = jnp.result_type(x, weight)
    kernel = jnp.swapaxes(weight, -1, -2).astype(dtype)
    forward = functools.partial(
        convolve, weight=kernel, stride=stride, dilation=dilation, groups=groups, places=places
    )
    # In shard_map each device's own where the kernel is: else the transpose adds the devices up.
    x = x.astype(dtype) + jnp.zeros_like(kernel, shape=())
    primal = zeros_beside(x, *spatial, weight.shape[-1] * groups, dtype=dtype)
    (y,) = jax.linear_transpose(forward, primal)(x)
    return biased(params, y), state


def conv_transpose(
    fan_in: int,
    fan_out: int,
    window: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    weight_init: Initializer = lecun_normal,
    bias_init: Initializer | None = initializers.zeros,
) -> Network:
    """The transpose of a convolution from fan_out to fan_in features, plus b: each x[i] W[k] is
    added to y[i * stride + k * dilation - low].

    x: [n, *spatial, fan_in], W: [*window, fan_in, fan_out / groups], b: [fan_out],
    y: [n, *larger, fan_out]. The larger size is n * stride for "same", and
    (n - 1) * stride + (window - 1) * dilation + 1, less what explicit padding takes off, otherwise.
    PyTorch's padding p with its output_padding q is the pair (p, p - q); its weight
    [fan_in, fan_out / groups, *window] is W with its last two axes in front. W is drawn as that of
    a convolution with as many taps, of which a stride s leaves each output one in s^axes.
    """
    window, choices = geometry(
        "conv_transpose", fan_in, fan_out, window, stride, padding, dilation, groups
    )
    init = Partial(
        fix(conv_init, shape=(*window, fan_in, fan_out // groups), fan_out=int(fan_out)),
        weight_init=Partial(
            fix(regrouped_init, groups=choices["groups"]), initial=partial(weight_init)
        ),
        bias_init=None if bias_init is None else partial(bias_init),
    )
    return Network(init, Partial(fix(conv_transpose_apply, **choices)))
