"""Losses of the directions and distances between embeddings."""

import jax
import jax.numpy as jnp

from funcnet.losses.common import norm, same_shape
from funcnet.numerics import widen
from funcnet.pairs import number


def unit(x, eps):
    """x / max(|x|, eps) over the last axis."""
    eps = jnp.asarray(number("eps", eps, 0.0), x.dtype)
    return x / jnp.maximum(norm(x), eps)


def cosine_distance(prediction, target, *, eps=1e-8):
    """1 - p . t / (max(|p|, eps) max(|t|, eps)) over the last axis.

    prediction, target: [..., d] of equal shape; returns [...]. A zero vector has distance 1 and a
    finite gradient, the other's direction over -eps. As one less PyTorch's `cosine_similarity`;
    Optax's `cosine_distance` bounds the squared norms: its epsilon is eps squared, and by default
    0, which makes a zero vector NaN. PyTorch's gradient passes over the bound.
    """
    prediction, target = same_shape("cosine_distance", prediction, target)
    if prediction.ndim < 1:
        raise ValueError("cosine_distance expects vectors in the last axis, got a scalar")
    return 1.0 - (unit(prediction, eps) * unit(target, eps)).sum(axis=-1)


def embeddings(name, prediction, count, parts):
    """The prediction, widened, as its `count` parts, each [n, d]."""
    prediction = jnp.asarray(prediction)
    if prediction.ndim != 3 or prediction.shape[1] != count:
        raise ValueError(
            f"{name} expects embeddings of shape [n, {count}, d], {parts}, got {prediction.shape}"
        )
    prediction = widen(prediction)
    return [prediction[:, part] for part in range(count)]


def triplet(prediction, target=None, *, margin=1.0, shift=1e-6, eps=0.0):
    """max(0, |a - p| - |a - q| + margin): an anchor a nearer to its positive p than to a negative q
    (Balntas et al. 2016), where |x| = sqrt(sum (x + shift)^2 + eps).

    prediction: [n, 3, d], the anchor, the positive and the negative, as a network that acts on the
    last axis makes them of x [n, 3, features]; returns [n]. The target is not looked at: a batch is
    (x, None). As PyTorch's `triplet_margin_loss`, whose eps is the shift; Optax's has shift 0 and
    eps 1e-6. The gradient at a distance of 0 and at the kink is 0.
    """
    a, p, q = embeddings("triplet", prediction, 3, "anchor, positive and negative")
    margin = jnp.asarray(number("margin", margin), a.dtype)
    shift = jnp.asarray(number("shift", shift), a.dtype)
    eps = jnp.asarray(number("eps", eps, 0.0), a.dtype)
    near, far = norm(a - p + shift, eps)[:, 0], norm(a - q + shift, eps)[:, 0]
    return jax.nn.relu(near - far + margin)


def info_nce(prediction, target=None, *, temperature=0.1, eps=1e-8):
    """-log softmax_j(cos(q_i, k_j) / temperature)_i: each query's own key among the keys of the
    whole batch (van den Oord et al. 2018; with cosines as in He et al. 2020).

    prediction: [n, 2, d], the query and its key, as a network that acts on the last axis makes them
    of x [n, 2, features]; returns [n]. The target is not looked at: a batch is (x, None). An
    example of weight 0 still is a key among the others', of zeros, and `evaluate` compares within
    its own batches. The mean of it and of `info_nce(prediction[:, ::-1])` is CLIP's loss; in
    PyTorch it is `cross_entropy` of the similarities with labels 0, 1, ...; Optax's `ntxent` takes
    labels, and has the queries among the keys (Chen et al. 2020).
    """
    query, key = embeddings("info_nce", prediction, 2, "query and key")
    temperature = jnp.asarray(number("temperature", temperature, 0.0), query.dtype)
    similarity = unit(query, eps) @ unit(key, eps).T / temperature
    return -jnp.diagonal(jax.nn.log_softmax(similarity))
