"""Where to look: grids of hyperparameters, and samples of their distributions.

All is done on the host. How u in (0, 1) is spread is one thing, a distribution's quantiles another,
so random, Latin hypercube and Sobol samples share the distributions.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from funcnet.pairs import check_count, check_key
from funcnet.sweeps.distributions import Distribution
from funcnet.sweeps.points import Points, column, crossed
from funcnet.sweeps.sobol_sequence import sobol_sequence


def is_constant(value) -> bool:
    """Whether a value is one, rather than several: a number, a string, a function, a pair."""
    if isinstance(value, str | type) or hasattr(value, "_fields"):
        return True
    return value.ndim == 0 if hasattr(value, "ndim") else not isinstance(value, Iterable)


def grid(**axes: Any) -> Points:
    """Every combination of the axes' values, the last axis changing fastest.

    An axis is a sequence of numbers, or of choices such as functions; what is not a sequence, or
    is a string, is a constant: `grid(learning_rate=[0.1, 0.01], seed=range(3), dropout=0.1)`. A
    choice that is several numbers is a tuple: `grid(widths=[(64, 64), (128,)])`.
    """
    for name, values in axes.items():
        if isinstance(values, Distribution):
            raise TypeError(f"grid expects the values of {name}; sample draws from a distribution")
    columns = {name: [v] if is_constant(v) else v for name, v in axes.items()}
    return crossed(*({name: column(name, values)} for name, values in columns.items()))


def bits_of(key, name, shape):
    """Random uint32 that depend on the key and the axis's name alone."""
    check_key(key)
    return np.asarray(jax.random.bits(jax.random.fold_in(key, zlib.crc32(name.encode())), shape))


def fraction(bits):
    """uint32 as the middle of its 2^-32 of the unit interval, never 0 or 1."""
    return (bits + 0.5) / 2**32


def fill(n: int, axes: Mapping[str, Any], probabilities: Mapping[str, np.ndarray]) -> Points:
    """Each distribution's quantiles at its probabilities, and the constants n times."""
    points = {}
    for name, axis in axes.items():
        if isinstance(axis, Distribution):
            points[name] = axis.quantile(probabilities[name])
        elif is_constant(axis):
            points[name] = column(name, [axis] * n)
        else:
            raise TypeError(
                f"{name} must be a distribution, such as choice([...]), or a constant, got {axis!r}"
            )
    return points


def drawn(axes):
    """The names of the axes that are distributions."""
    return [name for name, axis in axes.items() if isinstance(axis, Distribution)]


def sample(key, n: int, /, **distributions: Any) -> Points:
    """n independent points: `sample(key, 64, learning_rate=log_uniform(1e-4, 1e-1), dropout=0.1)`.

    What is not a distribution is a constant, the same in all points. The key is consumed; a
    column depends on it and on its own name, not on the other columns.
    """
    n = check_count("n", n, 1)
    u = {name: fraction(bits_of(key, name, (n,))) for name in drawn(distributions)}
    return fill(n, distributions, u)


def latin_hypercube(key, n: int, /, **distributions: Any) -> Points:
    """n points of which each distribution's n quantile bins hold one apiece, otherwise at random
    (McKay, Beckman & Conover 1979); the rest as in `sample`."""
    n = check_count("n", n, 1)

    def strata(name):
        order, inside = bits_of(key, name, (2, n))
        return np.minimum((np.argsort(order) + fraction(inside)) / n, 1.0 - 2.0**-53)

    return fill(n, distributions, {name: strata(name) for name in drawn(distributions)})


def sobol(key, n: int, /, **distributions: Any) -> Points:
    """The first n points of Sobol's sequence, scrambled by a random digital shift; the rest as in
    `sample`, but that a column depends on its place among the distributions too.

    Of 2^k points each distribution's 2^k quantile bins hold one apiece, and so does each box of
    2^i by 2^(k - i) bins of the first two; other n are less even. Each point by itself is
    uniform, as in `sample`. Up to 21 distributions.
    """
    n = check_count("n", n, 1)
    names = drawn(distributions)
    columns = sobol_sequence(n, len(names)).T
    u = {
        name: fraction(bits ^ bits_of(key, name, ()))
        for name, bits in zip(names, columns, strict=True)
    }
    return fill(n, distributions, u)
