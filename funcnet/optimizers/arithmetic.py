"""Arithmetic over parameter trees that keeps each leaf's dtype, whatever the coefficient's."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.pairs import number


def one_minus(name, decay):
    """1 - decay, in double precision for a host number, which must lie in [0, 1)."""
    fraction = 1.0 - number(name, decay, 0.0, 1.0)
    if isinstance(fraction, float) and fraction == 0.0:
        raise ValueError(f"{name} must be less than 1: an average with decay 1 takes nothing in")
    return fraction


def wide(tree):
    """The leaves in float32 at least: sums and averages of many steps are kept so, since in 16
    bits a small addition to a large number, or a slow decay of it, is rounded away."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32)), tree)


def wide_zeros(params):
    """0 for each parameter, in float32 at least."""
    return jax.tree.map(jnp.zeros_like, wide(params))


def wide_copies(tree):
    """The leaves in float32 at least, in memory of their own, so that both can be donated."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.promote_types(x.dtype, jnp.float32)), tree)


def narrowed(tree, like):
    """The leaves in the dtypes of their counterparts."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def magnitude_squared(x):
    """|x|^2, a real number also where x is complex."""
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)


def squared(tree):
    """|x|^2 for each leaf x, in float32 at least."""
    return jax.tree.map(magnitude_squared, wide(tree))


def square_zeros(params):
    """0 for the square of each parameter: real, in float32 at least."""
    return jax.tree.map(lambda x: jnp.zeros_like(x.real), wide(params))


def in_dtype(coefficient):
    """dtype -> the coefficient in it, made once: a large tree is traced faster."""
    return functools.cache(functools.partial(jnp.asarray, coefficient))


def scaled(coefficient, tree):
    """coefficient * x for each leaf x."""
    factor = in_dtype(coefficient)
    return jax.tree.map(lambda x: factor(x.dtype) * x, tree)


def plus_scaled(tree, coefficient, other):
    """x + coefficient * y for each leaf x and its counterpart y, in the dtype of x."""
    factor = in_dtype(coefficient)
    return jax.tree.map(lambda x, y: x + factor(x.dtype) * y.astype(x.dtype), tree, other)


def dot(tree, other):
    """The real inner product of two trees."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return sum((jnp.vdot(x, y).real for x, y in pairs), jnp.zeros(()))


def moving_average(average, fraction, tree):
    """average + fraction * (x - average): decay 1 - fraction, in the dtype of the average.

    Unlike decay * average + fraction * x it has no drift where the decay rounds to 1. Above 1/2 it
    starts from the other end, where an x far smaller than the average would be lost. An average of
    inf, as of squares that overflowed, is NaN from then on: it does not stand still unseen.
    """
    recent = jnp.asarray(fraction > 0.5)
    share = in_dtype(jnp.where(recent, fraction - 1.0, fraction))

    def step(a, x):
        x = x.astype(a.dtype)
        return lax.select(recent, x, a) + share(a.dtype) * (x - a)

    return jax.tree.map(step, average, tree)


def maximum(tree, other):
    """The larger of x and y for each leaf x and its counterpart y."""
    return jax.tree.map(jnp.maximum, tree, other)


def signs(tree):
    """-1, 0 or 1 for each number."""
    return jax.tree.map(jnp.sign, tree)


def along(x, y):
    """Re(x y*), number by number: the product where both are real."""
    return (x * jnp.conj(y)).real


def inner(tree, other):
    """sum Re(x y*) over all numbers of two trees, a scalar."""
    products = jax.tree.map(lambda x, y: jnp.sum(along(x, y)), tree, other)
    return sum(jax.tree.leaves(products), jnp.zeros(()))


def norm(x):
    """sqrt(sum |x|^2) of one array, whose derivative at 0 is 0."""
    return safe_sqrt(jnp.sum(magnitude_squared(x)))


def root_mean_square(x):
    """sqrt(mean |x|^2) of one array, whose derivative at 0 is 0; 0 of none."""
    return safe_sqrt(jnp.sum(magnitude_squared(x)) / max(x.size, 1))


def counted(count):
    """count + 1, but for the largest integer, which stays: no run turns back to a count of 0."""
    return jnp.minimum(count, jnp.iinfo(count.dtype).max - 1) + 1


def bias_correction(fraction, count):
    """1 - (1 - fraction)^count: the weight that a moving average from 0 has after `count` steps.

    Through expm1 and log1p where the fraction is small, which keeps it exact to rounding.
    """
    count = count.astype(jnp.result_type(float))
    small = jnp.minimum(fraction, 0.5)
    slow = -jnp.expm1(count * jnp.log1p(-small))
    return jnp.where(fraction < 0.5, slow, 1.0 - (1.0 - fraction) ** count)


def safe_sqrt(x):
    """sqrt(x) whose derivative at 0 is 0, not infinite; 0 for x below 0, NaN for NaN."""
    zero = x <= 0.0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def root_plus_eps(square, eps):
    """sqrt(square) + eps."""
    return safe_sqrt(square) + jnp.asarray(eps, square.dtype)


def root_with_eps(square, eps):
    """sqrt(square + eps)."""
    return safe_sqrt(square + jnp.asarray(eps, square.dtype))


def over_root(tree, square, unbias, eps):
    """x / (sqrt(unbias v) + eps) for each leaf x and the average v of its square."""

    factor = in_dtype(unbias)
    return jax.tree.map(lambda x, v: x / root_plus_eps(factor(v.dtype) * v, eps), tree, square)
