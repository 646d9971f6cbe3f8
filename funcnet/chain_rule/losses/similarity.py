"""Rules of losses of embeddings."""

import jax.numpy as jnp

from funcnet.losses.common import norm, same_shape
from funcnet.losses.similarity import embeddings


def unit(x, eps):
    """y = x / max(|x|, eps): dx = (dy - y (y . dy)) / |x|, or dy / eps."""
    length, eps = norm(x), jnp.asarray(eps, x.dtype)
    held = jnp.maximum(length, eps)
    y = x / held

    def back(dy):
        along = y * (y * dy).sum(axis=-1, keepdims=True)
        return (dy - jnp.where(length > eps, along, 0.0)) / held

    return y, back


def cosine_distance(prediction, target, *, eps=1e-8):
    """1 - p . t, both at length 1: dp = -t, through the rule of the length."""
    p, t = same_shape("cosine_distance", prediction, target)
    (p, back), (t, _) = unit(p, eps), unit(t, eps)

    def pullback(dvalues):
        return (back(-t * dvalues[..., None]).astype(prediction.dtype),)

    return 1.0 - (p * t).sum(axis=-1), pullback


def triplet(prediction, target=None, *, margin=1.0, shift=1e-6, eps=0.0):
    """max(0, |a - p| - |a - q| + margin): da = u - v, dp = -u and dq = v where it is positive, with
    u and v the directions of a - p and a - q."""
    a, p, q = embeddings("triplet", prediction, 3, "anchor, positive and negative")
    margin, shift, eps = (jnp.asarray(number, a.dtype) for number in (margin, shift, eps))
    near, far = norm(a - p + shift, eps), norm(a - q + shift, eps)
    u, v = (
        (a - other + shift) / jnp.where(length == 0.0, 1.0, length)
        for other, length in ((p, near), (q, far))
    )
    short = (near - far)[:, 0] + margin

    def pullback(dvalues):
        delta = jnp.where(short > 0.0, dvalues, 0.0)[:, None, None]
        dprediction = delta * jnp.stack([u - v, -u, v], axis=1)
        return (dprediction.astype(prediction.dtype),)

    return jnp.maximum(short, 0.0), pullback


def info_nce(prediction, target=None, *, temperature=0.1, eps=1e-8):
    """-log softmax(S)_ii, S = q k' / temperature: dS = softmax(S) - 1, dq = dS k / temperature,
    dk = dS' q / temperature, and through the rule of the lengths."""
    query, key = embeddings("info_nce", prediction, 2, "query and key")
    temperature = jnp.asarray(temperature, query.dtype)
    (q, q_back), (k, k_back) = unit(query, eps), unit(key, eps)
    s = q @ k.T / temperature
    s = s - s.max(axis=-1, keepdims=True)
    log_p = s - jnp.log(jnp.exp(s).sum(axis=-1, keepdims=True))

    def pullback(dvalues):
        ds = (jnp.exp(log_p) - jnp.eye(len(q), dtype=q.dtype)) * dvalues[:, None] / temperature
        dprediction = jnp.stack([q_back(ds @ k), k_back(ds.T @ q)], axis=1)
        return (dprediction.astype(prediction.dtype),)

    return -jnp.diagonal(log_p), pullback
