"""Rules of convolution and pooling, tap by tap: window i has element i * stride + k * dilation of
the padded input at its tap k, whether that is gathered into an output or an output into it."""

import itertools
import math

import jax.numpy as jnp
from jax import lax

from funcnet.layers.conv import spread_shape
from funcnet.layers.window import placed
from funcnet.numerics import widen


class Taps:
    """Where the taps of all windows lie, over axes of a spatial shape."""

    def __init__(self, shape, window, stride, dilation, padding):
        self.shape, self.stride = shape, stride
        self.places = placed("rule", shape, window, stride, dilation, padding)
        self.counts = tuple(count for count, _, _ in self.places)
        self.starts = [
            tuple(k * gap for k, gap in zip(tap, dilation, strict=True))
            for tap in itertools.product(*map(range, window))
        ]

    def padded(self, x, fill=0.0):
        pads = [(low, high, 0) for _, low, high in self.places]
        return lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])

    def read(self, x, start):
        """The elements of the padded x [n, *spatial, f] at one tap: [n, *windows, f]."""
        last = [
            s + (count - 1) * step + 1
            for s, count, step in zip(start, self.counts, self.stride, strict=True)
        ]
        return lax.slice(x, (0, *start, 0), (len(x), *last, x.shape[-1]), (1, *self.stride, 1))

    def written(self, values, start):
        """Its transpose: [n, *windows, f] where they were read, and 0 elsewhere."""
        pads = []
        for s, count, step, n, (_, low, high) in zip(
            start, self.counts, self.stride, self.shape, self.places, strict=True
        ):
            after = n + low + high - s - (count - 1) * step - 1
            pads.append((s - low, after - high, step - 1))
        return lax.pad(values, jnp.zeros((), values.dtype), [(0, 0, 0), *pads, (0, 0, 0)])


def by_group(x, groups):
    """[..., f] -> [..., groups, f / groups]."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def merged(x):
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def gather(taps, x, weight, groups):
    """y[i] = sum_k x[i s + k d] W_k."""
    padded = taps.padded(x)
    y = sum(
        merged(jnp.einsum("...gi,igo->...go", by_group(taps.read(padded, start), groups), tap))
        for start, tap in zip(taps.starts, widen(weight), strict=True)
    )
    return y.astype(jnp.result_type(x, weight))


def scatter(taps, y, weight, groups):
    """x[i s + k d] += y[i] W_k', the transpose of `gather` in x."""
    x = sum(
        taps.written(merged(jnp.einsum("...go,igo->...gi", by_group(y, groups), tap)), start)
        for start, tap in zip(taps.starts, widen(weight), strict=True)
    )
    return x.astype(jnp.result_type(y, weight))


def outer(taps, x, y, groups):
    """W_k = sum_i x[i s + k d]' y[i], the transpose of `gather` in W."""
    padded, deltas = taps.padded(x), by_group(y, groups)
    return jnp.stack(
        [
            jnp.einsum("...gi,...go->igo", by_group(taps.read(padded, start), groups), deltas)
            for start in taps.starts
        ]
    )


def with_bias(params, dy, dweight):
    """The parameters' gradients, the bias's the sum over all positions."""
    grads = {"weight": dweight.astype(params["weight"].dtype)}
    if "bias" in params:
        bias = params["bias"]
        grads["bias"] = dy.sum(axis=tuple(range(dy.ndim - 1))).astype(bias.dtype)
    return grads


def conv(params, state, x, *, stride, padding, dilation, groups, key=None, train=False):
    """y = gather(x, W) + b: dx = scatter(dy, W), dW = outer(x, dy), db = sum dy."""
    weight = params["weight"]
    taps = Taps(x.shape[1:-1], weight.shape[:-2], stride, dilation, padding)
    matrices = by_group(weight.reshape(-1, *weight.shape[-2:]), groups)
    y = gather(taps, x, matrices, groups)

    def pullback(dy):
        dx = scatter(taps, dy, matrices, groups)
        dweight = outer(taps, x, dy, groups).reshape(weight.shape)
        return with_bias(params, dy, dweight), dx.astype(x.dtype)

    return (y + params["bias"] if "bias" in params else y), pullback, state


def conv_transpose(params, state, x, *, stride, padding, dilation, groups, key=None, train=False):
    """y = scatter(x, W) + b: dx = gather(dy, W), dW = outer(dy, x), db = sum dy."""
    weight = params["weight"]
    window = weight.shape[:-2]
    shape = spread_shape(x.shape[1:-1], window, stride, dilation, padding)
    taps = Taps(shape, window, stride, dilation, padding)
    matrices = by_group(jnp.swapaxes(weight, -1, -2).reshape(-1, *weight.shape[:-3:-1]), groups)
    y = scatter(taps, x, matrices, groups)

    def pullback(dy):
        dx = gather(taps, dy, matrices, groups)
        dmatrices = merged(outer(taps, dy, x, groups))
        dweight = jnp.swapaxes(dmatrices, -1, -2).reshape(weight.shape)
        return with_bias(params, dy, dweight), dx.astype(x.dtype)

    return (y + params["bias"] if "bias" in params else y), pullback, state


def max_pool(params, state, x, *, window, stride, padding, key=None, train=False):
    """y[i] = x at the first of the taps that are largest: dy goes there."""
    taps = Taps(x.shape[1:-1], window, stride, (1,) * len(window), padding)
    padded = taps.padded(x, -jnp.inf)
    parts = jnp.stack([taps.read(padded, start) for start in taps.starts])
    first = jnp.argmax(parts, axis=0)

    def pullback(dy):
        dx = sum(
            taps.written(jnp.where(first == tap, dy, 0.0), start)
            for tap, start in enumerate(taps.starts)
        )
        return (), dx

    return parts.max(axis=0), pullback, state


def mean_of_taps(x, taps, counts):
    """y[i] = sum_k x[i s + k] / counts[i]: each tap gets dy[i] / counts[i]."""
    padded = taps.padded(widen(x))

    def pullback(dy):
        each = widen(dy) / counts
        return (), sum(taps.written(each, start) for start in taps.starts).astype(x.dtype)

    y = sum(taps.read(padded, start) for start in taps.starts) / counts
    return y.astype(x.dtype), pullback


def average_pool(params, state, x, *, window, stride, padding, key=None, train=False):
    taps = Taps(x.shape[1:-1], window, stride, (1,) * len(window), padding)
    return *mean_of_taps(x, taps, math.prod(window)), state


def average_pool_inside(params, state, x, *, window, stride, padding, key=None, train=False):
    taps = Taps(x.shape[1:-1], window, stride, (1,) * len(window), padding)
    ones = taps.padded(widen(jnp.ones((1, *x.shape[1:-1], 1), x.dtype)))
    return *mean_of_taps(x, taps, sum(taps.read(ones, start) for start in taps.starts)), state


def global_max_pool(params, state, x, *, key=None, train=False):
    """dy goes to the first of the largest positions."""
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    first = jnp.argmax(rows, axis=1)

    def pullback(dy):
        here = jnp.arange(rows.shape[1])[:, None] == first[:, None]
        return (), jnp.where(here, dy[:, None], 0.0).reshape(x.shape)

    return rows.max(axis=1), pullback, state


def global_average_pool(params, state, x, *, key=None, train=False):
    """Each of m positions gets dy / m."""
    axes = tuple(range(1, x.ndim - 1))
    count = math.prod(x.shape[1:-1])

    def pullback(dy):
        return (), jnp.broadcast_to(jnp.expand_dims(dy / count, axes), x.shape)

    return (widen(x).sum(axis=axes) / count).astype(x.dtype), pullback, state


def subsample(params, state, x, *, stride, features, key=None, train=False):
    """Every stride-th position, the new features constant: dy back to where it was read."""
    window = (1,) * (x.ndim - 2)
    taps = Taps(x.shape[1:-1], window, (stride,) * len(window), window, "same")
    (start,) = taps.starts
    y = taps.read(x, start)
    new = jnp.zeros((*y.shape[:-1], features - x.shape[-1]), x.dtype)

    def pullback(dy):
        return (), taps.written(dy[..., : x.shape[-1]], start)

    return jnp.concatenate([y, new], axis=-1), pullback, state
