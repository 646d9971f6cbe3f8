"""Rules of losses with a margin; max(0, x) has the derivative 1 for x > 0."""

import jax.numpy as jnp

from funcnet.chain_rule.losses.regression import per_output
from funcnet.losses.common import inner, per_example, same_shape, scored


def hinge(scores, targets, *, margin=1.0):
    """max(0, margin - t z): dz = -t / k where it is positive."""
    z, t = same_shape("hinge", scores, targets)
    short = jnp.asarray(margin, z.dtype) - t * z

    def pullback(dvalues):
        dz = jnp.where(short > 0.0, -t, 0.0) * per_output(dvalues, z)
        return (dz.astype(scores.dtype),)

    return per_example(jnp.maximum(short, 0.0)), pullback


def multiclass_hinge(scores, labels, *, margin=1.0):
    """max(0, margin + z_b - z_y), b the best other class: dz_b = 1 and dz_y = -1 where it is
    positive."""
    z, hot, factor = scored("multiclass_hinge", scores, labels)
    others = jnp.where(hot, -jnp.inf, z)
    best = jnp.arange(z.shape[-1]) == others.argmax(axis=-1)[..., None]
    short = jnp.asarray(margin, z.dtype) + others.max(axis=-1) - inner(hot, z)

    def pullback(dvalues):
        dshort = jnp.where(short > 0.0, dvalues, 0.0) * factor
        dz = (best.astype(z.dtype) - hot) * dshort[..., None]
        return (dz.astype(scores.dtype),)

    return jnp.maximum(short, 0.0), pullback


def multi_margin(scores, labels, *, margin=1.0):
    """(1/K) sum_{j != y} max(0, margin + z_j - z_y): dz_j = 1/K where the term is positive, and
    dz_y = -sum_j dz_j."""
    z, hot, factor = scored("multi_margin", scores, labels)
    short = jnp.asarray(margin, z.dtype) + z - inner(hot, z)[..., None]
    active = ((short > 0.0) & ~hot).astype(z.dtype)

    def pullback(dvalues):
        dz = active - jnp.where(hot, active.sum(axis=-1, keepdims=True), 0.0)
        return ((dz * (factor * dvalues)[..., None] / z.shape[-1]).astype(scores.dtype),)

    values = jnp.where(hot, 0.0, jnp.maximum(short, 0.0)).sum(axis=-1)
    return factor * values / z.shape[-1], pullback
