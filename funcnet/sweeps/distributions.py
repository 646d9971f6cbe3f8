"""What a hyperparameter is drawn from: its quantiles, whatever then spreads the probabilities."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from funcnet.numerics import whole
from funcnet.pairs import fix, number
from funcnet.sweeps.points import at, column


@dataclass(frozen=True)
class Distribution:
    """`quantile(u)`: the inverse of the cumulative distribution, for u in (0, 1), float64 [n] on
    the host, to a column of n values."""

    quantile: Callable[[np.ndarray], Any]


def check_interval(name, low, high):
    low, high = number("low", low), number("high", high)
    if not (isinstance(low, float) and isinstance(high, float)):
        raise TypeError(f"{name} expects numbers known in advance, got {low!r} and {high!r}")
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"{name} expects finite low < high, got {low:g} and {high:g}")
    return low, high


def uniform_quantile(u, *, low, high):
    return low + u * (high - low)


def uniform(low: float, high: float) -> Distribution:
    """Every number from `low` to `high` alike."""
    low, high = check_interval("uniform", low, high)
    return Distribution(fix(uniform_quantile, low=low, high=high))


def log_uniform_quantile(u, *, low, high):
    return np.clip(np.exp(math.log(low) + u * (math.log(high) - math.log(low))), low, high)


def log_uniform(low: float, high: float) -> Distribution:
    """Every order of magnitude from `low`, above 0, to `high` alike: the logarithm is uniform."""
    low, high = check_interval("log_uniform", low, high)
    if low <= 0.0:
        raise ValueError(f"log_uniform expects low > 0, got {low:g}")
    return Distribution(fix(log_uniform_quantile, low=low, high=high))


def normal_quantile(u, *, mean, std):
    standard = NormalDist().inv_cdf
    return mean + std * np.array([standard(probability) for probability in u])


def normal(mean: float, std: float) -> Distribution:
    """The normal distribution, of standard deviation `std` above 0."""
    mean, std = number("mean", mean), number("std", std)
    if not (math.isfinite(mean) and 0.0 < std < math.inf):
        raise ValueError(f"normal expects a finite mean and std > 0, got {mean:g} and {std:g}")
    return Distribution(fix(normal_quantile, mean=mean, std=std))


def integers_quantile(u, *, low, high):
    return low + np.floor(u * (high - low)).astype(int)


def integers(low: int, high: int) -> Distribution:
    """`low`, ..., `high - 1`, each alike, as in `range(low, high)`; at most 2^53 of them, which a
    float64 tells apart."""
    if not all(map(whole, (low, high))):
        raise TypeError(f"integers expects integers, got {low!r} and {high!r}")
    low, high = int(low), int(high)
    if not low < high:
        raise ValueError(f"integers expects low < high, got {low} and {high}")
    if high - low > 2**53:
        raise ValueError(f"integers expects at most 2^53 of them, got {low} to {high}")
    return Distribution(fix(integers_quantile, low=low, high=high))


def choice_quantile(u, *, values, edges):
    return at(column("choice", values), np.searchsorted(edges, u, side="right"))


def choice(values: Sequence[Any], weights: Sequence[float] | None = None) -> Distribution:
    """One of `values`, numbers or choices such as functions, each alike or as `weights` say,
    which need not sum to 1. Values must be hashable."""
    values = tuple(values)
    column("choice", values)
    shares = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    if shares.shape != (len(values),) or not (shares >= 0.0).all() or not 0 < shares.sum() < np.inf:
        raise ValueError(f"choice expects a weight >= 0 for each of {len(values)}, got {weights!r}")
    edges = np.cumsum(shares) / shares.sum()
    return Distribution(fix(choice_quantile, values=values, edges=tuple(edges[:-1].tolist())))
