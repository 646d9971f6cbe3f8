"""Layers that normalise. Statistics are taken in float32 at least, and in two passes: the mean of
squares less the square of the mean loses everything where the mean is large."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from funcnet.layers.linear import check_floating
from funcnet.numerics import widen
from funcnet.pairs import Network, check_count, fix, number


class Running(NamedTuple):
    """The state of `batch_norm`: moving averages, each [features]."""

    mean: Any
    variance: Any  # of the population, n / (n - 1) times a batch's


class Pooled(NamedTuple):
    """A state in its place that counts every row alike (see `population_statistics`)."""

    count: Any  # rows so far, a scalar
    mean: Any  # of them
    squares: Any  # the sum of their squared deviations from it


def affine_init(key, *, features):
    return {"scale": jnp.ones(features), "bias": jnp.zeros(features)}, ()


def scale_init(key, *, features):
    return {"scale": jnp.ones(features)}, ()


def batch_init(key, *, features):
    return affine_init(key, features=features)[0], Running(jnp.zeros(features), jnp.ones(features))


def check_features(name, x, features):
    check_floating(name, x)
    if x.ndim < 1 or x.shape[-1] != features:
        raise ValueError(
            f"{name} expects {features} features in the last axis, got x of shape {x.shape}"
        )


def standardised(x, axes, eps):
    """(x - mean) / sqrt(variance + eps) over `axes`, with the mean and variance."""
    mean = x.mean(axes, keepdims=True)
    variance = jnp.square(x - mean).mean(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + jnp.asarray(eps, x.dtype)), mean, variance


def affine(params, normal, dtype):
    """scale * normal + bias, in the input's dtype."""
    return (normal * params["scale"] + params["bias"]).astype(dtype)


def grouped(x, groups):
    """[n, ..., c] -> [n, positions, groups, c / groups]."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)


def layer_norm_apply(params, state, x, *, key=None, train=False, eps):
    check_features("layer_norm", x, params["scale"].size)
    return affine(params, standardised(widen(x), -1, eps)[0], x.dtype), state


def layer_norm(features: int, *, eps: float = 1e-5) -> Network:
    """scale * (x - mean) / sqrt(variance + eps) + bias over the last axis (Ba et al. 2016).

    x: [..., features]. The variance divides by `features`, as in PyTorch. A constant row gives
    the bias, up to its mean's rounding over sqrt(eps): in float32 centre numbers above 1e3 first.
    """
    init = Partial(fix(affine_init, features=check_count("features", features, 1)))
    return Network(init, Partial(layer_norm_apply, eps=number("eps", eps, 0.0)))


def rms_norm_apply(params, state, x, *, key=None, train=False, eps):
    check_features("rms_norm", x, params["scale"].size)
    wide = widen(x)
    square = jnp.square(wide).mean(-1, keepdims=True)
    normal = wide * lax.rsqrt(square + jnp.asarray(eps, wide.dtype))
    return (normal * params["scale"]).astype(x.dtype), state


def rms_norm(features: int, *, eps: float = 1e-6) -> Network:
    """scale * x / sqrt(mean(x^2) + eps) over the last axis (Zhang & Sennrich 2019).

    x: [..., features]. PyTorch's eps is by default the dtype's machine epsilon.
    """
    init = Partial(fix(scale_init, features=check_count("features", features, 1)))
    return Network(init, Partial(rms_norm_apply, eps=number("eps", eps, 0.0)))


def group_norm_apply(params, state, x, *, key=None, train=False, groups, eps):
    check_features("group_norm", x, params["scale"].size)
    if x.ndim < 2:
        raise ValueError(f"group_norm expects [n, ..., features], got x of shape {x.shape}")
    normal = standardised(grouped(widen(x), groups), (1, 3), eps)[0]
    return affine(params, normal.reshape(x.shape), x.dtype), state


def group_norm(groups: int, features: int, *, eps: float = 1e-5) -> Network:
    """Each example's features in `groups` groups, each standardised over its positions and
    features together; then scale and bias for each feature (Wu & He 2018).

    x: [n, ..., features]. One group is layer norm over all of an example.
    """
    groups, features = check_count("groups", groups, 1), check_count("features", features, 1)
    if features % groups:
        raise ValueError(f"group_norm expects groups to divide {features} features, got {groups}")
    apply = Partial(fix(group_norm_apply, groups=groups), eps=number("eps", eps, 0.0))
    return Network(Partial(fix(affine_init, features=features)), apply)


def instance_norm(features: int, *, eps: float = 1e-5) -> Network:
    """Each feature of each example standardised over its positions (Ulyanov et al. 2016): group
    norm with a group for each feature."""
    return group_norm(features, features, eps=eps)


def moved(state, mean, variance, rows, decay):
    """The state after a batch of so many rows with this mean and this variance, over the batch."""
    if rows == 0:
        return state
    if isinstance(state, Running):
        unbiased = variance * (rows / max(rows - 1, 1))
        after = tuple(
            decay * old + (1.0 - decay) * new
            for old, new in zip(state, (mean, unbiased), strict=True)
        )
    else:  # Chan et al. 1979
        count, step = state.count + rows, mean - state.mean
        squares = state.squares + rows * variance + step**2 * (state.count * rows / count)
        after = (count, state.mean + step * (rows / count), squares)
    return type(state)(*(new.astype(old.dtype) for old, new in zip(state, after, strict=True)))


def batch_norm_apply(params, state, x, *, key=None, train=False, decay, eps):
    check_features("batch_norm", x, params["scale"].size)
    wide = widen(x)
    if not train:
        factor = lax.rsqrt(state.variance + eps)
        return affine(params, (wide - state.mean) * factor, x.dtype), state
    axes = tuple(range(x.ndim - 1))
    normal, mean, variance = standardised(wide, axes, eps)
    state = moved(state, mean.ravel(), variance.ravel(), x.size // x.shape[-1], decay)
    return affine(params, normal, x.dtype), state


def batch_norm(features: int, *, decay: float = 0.9, eps: float = 1e-5) -> Network:
    """scale * (x - mean) / sqrt(variance + eps) + bias with the batch's statistics over all axes
    but the last in training, and with running ones otherwise (Ioffe & Szegedy 2015).

    x: [..., features]. The state's mean and variance move as decay * old + (1 - decay) * new;
    PyTorch's `momentum` is 1 - decay. The running variance is that of the population, n / (n - 1)
    times the batch's, as in the paper and in PyTorch. One row, or a constant column, is finite.
    `population_statistics` takes the state's numbers exactly, from a whole data set.
    """
    apply = Partial(
        batch_norm_apply, decay=number("decay", decay, 0.0, 1.0), eps=number("eps", eps, 0.0)
    )
    return Network(Partial(fix(batch_init, features=check_count("features", features, 1))), apply)
