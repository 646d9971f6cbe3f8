"""Losses that ask of scores to differ by a margin; at a kink their gradient is 0."""

import jax
import jax.numpy as jnp

from funcnet.losses.common import inner, per_example, same_shape, scored
from funcnet.pairs import number


def hinge(scores, targets, *, margin=1.0):
    """max(0, margin - t z), averaged over an example's outputs (Cortes & Vapnik 1995).

    scores: [n, ...], targets: the same shape, -1 or +1; returns [n]. As Optax's `hinge_loss`, whose
    gradient at the kink is -t / 2; in PyTorch `margin_ranking_loss` of z and 0.
    """
    scores, targets = same_shape("hinge", scores, targets)
    margin = jnp.asarray(number("margin", margin), scores.dtype)
    return per_example(jax.nn.relu(margin - targets * scores))


def multiclass_hinge(scores, labels, *, margin=1.0):
    """max(0, margin + max_{j != y} z_j - z_y): the label's score against the best other one
    (Crammer & Singer 2001).

    scores: [..., K]; labels: integers [...]; returns [...]. Of equal scores the first counts. As
    Optax's `multiclass_hinge_loss`; PyTorch's `multi_margin_loss` is `multi_margin`. A label that
    is no class raises `ValueError` on the host and gives NaN where it is traced.
    """
    scores, hot, _ = scored("multiclass_hinge", scores, labels)
    margin = jnp.asarray(number("margin", margin), scores.dtype)
    others = jnp.where(hot, -jnp.inf, scores)
    best = jnp.arange(scores.shape[-1]) == others.argmax(-1, keepdims=True)
    return jax.nn.relu(margin + inner(best, others) - inner(hot, scores))


def multi_margin(scores, labels, *, margin=1.0):
    """(1/K) sum_{j != y} max(0, margin + z_j - z_y): the label's score against every other one
    (Weston & Watkins 1999).

    scores: [..., K]; labels: integers [...]; returns [...]. As PyTorch's `multi_margin_loss` with
    p = 1; against the best other score alone it is `multiclass_hinge`. A label that is no class
    raises `ValueError` on the host and gives NaN where it is traced.
    """
    scores, hot, factor = scored("multi_margin", scores, labels)
    margin = jnp.asarray(number("margin", margin), scores.dtype)
    gaps = jax.nn.relu(margin + scores - inner(hot, scores)[..., None])
    return factor * jnp.where(hot, 0.0, gaps).sum(axis=-1) / scores.shape[-1]
