"""Losses of real numbers: the mean over an example's outputs of a function of their errors."""

import jax.numpy as jnp

from funcnet.losses.common import per_example, same_shape
from funcnet.pairs import number


def mean_squared_error(prediction, target):
    """(1/k) sum_j (prediction_j - target_j)^2 over an example's k outputs.

    prediction, target: [n, ...] of equal shape; returns [n]. As PyTorch's `mse_loss`; Optax's
    `l2_loss` has a factor 1/2. Raises `ValueError` for shapes that differ, broadcastable or not.
    """
    prediction, target = same_shape("mean_squared_error", prediction, target)
    return per_example(jnp.square(prediction - target))


def magnitude(error):
    """|e|, with gradient 0 at 0, where that of `jnp.abs` is 1."""
    return jnp.sign(error) * error


def mean_absolute_error(prediction, target):
    """(1/k) sum_j |prediction_j - target_j| over an example's k outputs.

    prediction, target: [n, ...] of equal shape; returns [n]. The gradient at the kink is 0. As
    PyTorch's `l1_loss`.
    """
    prediction, target = same_shape("mean_absolute_error", prediction, target)
    return per_example(magnitude(prediction - target))


def huber(prediction, target, *, delta=1.0):
    """e^2 / 2 where the error is |e| <= delta and delta (|e| - delta / 2) beyond, averaged over an
    example's outputs (Huber 1964).

    prediction, target: [n, ...] of equal shape; returns [n]. As PyTorch's and Optax's `huber_loss`;
    PyTorch's `smooth_l1_loss` with `beta` is this, with delta = beta, over beta.
    """
    prediction, target = same_shape("huber", prediction, target)
    error = prediction - target
    delta = jnp.asarray(number("delta", delta, 0.0), error.dtype)
    near = jnp.clip(error, -delta, delta)  # signed, so that the second derivative at 0 is 1
    beyond = magnitude(error) - magnitude(near)
    return per_example(0.5 * jnp.square(near) + delta * beyond)


def log_cosh(prediction, target):
    """log cosh(prediction - target), averaged over an example's outputs: e^2 / 2 for small errors
    and |e| - log 2 for large ones.

    prediction, target: [n, ...] of equal shape; returns [n]. As Optax's `log_cosh`, and exact also
    for errors near 0, where that loses all digits; PyTorch has none.
    """
    prediction, target = same_shape("log_cosh", prediction, target)
    error = prediction - target
    size = magnitude(error)
    # cosh e = 1 + 2 sinh^2(e / 2), and exp|e| (1 + exp(-2|e|)) / 2 where that overflows.
    near = jnp.log1p(2.0 * jnp.square(jnp.sinh(0.5 * jnp.clip(error, -1.0, 1.0))))
    far = size + jnp.log1p(jnp.exp(-2.0 * size)) - jnp.log(2.0).astype(error.dtype)
    return per_example(jnp.where(size < 1.0, near, far))
