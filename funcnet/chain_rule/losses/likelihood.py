"""Rules of losses of distributions."""

import jax.numpy as jnp

from funcnet.chain_rule.losses.regression import per_output
from funcnet.losses.common import inner, per_example, probabilities, same_shape
from funcnet.numerics import widen


def kl_divergence(logits, targets):
    """sum_k T_k (log T_k - log p_k), p = softmax(z): dz = p sum_k T_k - T."""
    z, t = probabilities("kl_divergence", logits, targets)
    z = z - z.max(axis=-1, keepdims=True)
    log_p = z - jnp.log(jnp.exp(z).sum(axis=-1, keepdims=True))
    values = jnp.where(t == 0.0, 0.0, t * jnp.log(t)).sum(axis=-1) - inner(t, log_p)

    def pullback(dvalues):
        dz = jnp.exp(log_p) * t.sum(axis=-1, keepdims=True) - t
        return ((dz * dvalues[..., None]).astype(logits.dtype),)

    return values, pullback


def poisson_nll(log_rate, target):
    """exp(z) - t z: dz = (exp(z) - t) / k."""
    z, t = same_shape("poisson_nll", log_rate, target)
    rate = jnp.exp(z)

    def pullback(dvalues):
        return (((rate - t) * per_output(dvalues, z)).astype(log_rate.dtype),)

    return per_example(rate - jnp.where(t == 0.0, 0.0, t * z)), pullback


def gaussian_nll(prediction, target, *, eps=1e-6):
    """(v + e^2 exp(-v)) / 2, e = m - t: dm = e exp(-v) / k, dv = (1 - e^2 exp(-v)) / 2k, the bound
    on v being passed over."""
    m, v = jnp.split(widen(prediction), 2, axis=-1)
    v = jnp.maximum(v, jnp.log(jnp.asarray(eps, v.dtype)))
    precision = jnp.exp(-v)
    e = m - target.reshape(m.shape).astype(m.dtype)

    def pullback(dvalues):
        both = [e * precision, 0.5 * (1.0 - e**2 * precision)]
        dprediction = jnp.concatenate([d * per_output(dvalues, m) for d in both], axis=-1)
        return (dprediction.astype(prediction.dtype),)

    return per_example(0.5 * (v + e**2 * precision)), pullback
