"""Layers that regularise by noise."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.layers.linear import check_inexact
from funcnet.layers.shape import stateless
from funcnet.pairs import Network, number


def kept(key, rate, x, shape):
    """Which elements stay, bool of a shape, and the factor 1 / (1 - rate), in float32 at least as
    its gradient, a sum over all elements, then is.

    The draw is the same whatever x's precision. At rate 1 nothing stays and the factor is 1, so
    that no infinity is formed.
    """
    real = jnp.finfo(x.dtype).dtype
    keep = 1.0 - jnp.asarray(rate, jnp.promote_types(real, jnp.float32))
    probability = jax.lax.stop_gradient(keep).astype(jnp.float32)
    factor = 1.0 / jnp.where(keep > 0.0, keep, 1.0)
    return jax.random.bernoulli(key, probability, shape), factor


def dropout_apply(params, state, x, *, key=None, train=False, rate):
    check_inexact("dropout", x)
    if not train:
        return x, state
    if key is None:
        raise ValueError("dropout draws a mask in training: pass key=, or train=False")
    mask, factor = kept(key, rate, x, x.shape)
    return jnp.where(mask, factor * x, 0.0).astype(x.dtype), state


def dropout(rate: float) -> Network:
    """In training each element is 0 with probability `rate`, the others are divided by 1 - rate;
    otherwise y = x (Srivastava et al. 2014, in the inverted form).

    `rate` is the fraction dropped, in [0, 1], and a leaf. A derivative with respect to it holds
    the drawn mask fixed. Raises `ValueError` for `train=True` without a key.
    """
    return stateless(Partial(dropout_apply, rate=number("rate", rate, 0.0, 1.0)))


def drop_path_apply(params, state, x, *, key=None, train=False, rate):
    check_inexact("drop_path", x)
    if not train:
        return x, state
    if key is None:
        raise ValueError("drop_path draws a mask in training: pass key=, or train=False")
    mask, factor = kept(key, rate, x, x.shape[:1] + (1,) * (x.ndim - 1))
    return jnp.where(mask, factor * x, 0.0).astype(x.dtype), state


def drop_path(rate: float) -> Network:
    """In training an example as a whole is 0 with probability `rate`, the others are divided by
    1 - rate; otherwise y = x (Huang et al. 2016). For the branch of a `residual`.
    """
    return stateless(Partial(drop_path_apply, rate=number("rate", rate, 0.0, 1.0)))
