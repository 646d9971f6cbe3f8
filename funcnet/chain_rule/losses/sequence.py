"""The rule of connectionist temporal classification: forwards and backwards through the lattice."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcnet.layers.sequence import join, split
from funcnet.losses.sequence import lattice


def later(a, count):
    """Each state's value `count` states further on, log 0 at the first."""
    return jnp.pad(a, ((0, 0), (count, 0)), constant_values=-jnp.inf)[:, : a.shape[1]]


def earlier(a, count):
    """Each state's value `count` states before, log 0 at the last."""
    return jnp.pad(a, ((0, 0), (0, count)), constant_values=-jnp.inf)[:, count:]


def ctc(logits, labels, *, blank=0):
    """-log P, P = sum_s alpha_t(s) beta_t(s) at any t, alpha_t(s) being the probability of all ways
    to state s at step t and beta_t(s) of all from there on: state s holds a share
    alpha_t(s) beta_t(s) / P, and dz_t = softmax(z_t) - the shares of each class's states."""
    _, mask = split(logits)
    z, there, states, skip, ends, factor = lattice(logits, labels, blank)
    z = z - z.max(axis=-1, keepdims=True)
    log_p = z - jnp.log(jnp.exp(z).sum(axis=-1, keepdims=True))
    emitted = jnp.take_along_axis(log_p, states[:, None], axis=2).swapaxes(0, 1)
    never = jnp.full(states.shape, -jnp.inf, z.dtype)

    def forward(alpha, inputs):
        emitted, there = inputs
        two = jnp.where(skip, later(alpha, 2), never)
        after = emitted + jnp.logaddexp(jnp.logaddexp(alpha, later(alpha, 1)), two)
        alpha = jnp.where(there[:, None], after, alpha)
        return alpha, alpha

    def backward(beta, inputs):
        emitted, there = inputs
        ahead = beta + emitted
        two = earlier(jnp.where(skip, ahead, never), 2)
        before = jnp.logaddexp(jnp.logaddexp(ahead, earlier(ahead, 1)), two)
        return jnp.where(there[:, None], before, beta), beta

    steps = (emitted, there.T)
    first = jnp.arange(states.shape[1]) == 0
    last, alphas = lax.scan(forward, jnp.where(first, 0.0, never), steps)
    _, betas = lax.scan(backward, jnp.where(ends, 0.0, never), steps, reverse=True)
    reached = jnp.where(ends, last, never)
    top = jnp.maximum(reached.max(axis=1), jnp.finfo(z.dtype).min)
    log_total = top + jnp.log(jnp.exp(reached - top[:, None]).sum(axis=1))

    def pullback(dvalues):
        possible = jnp.where(jnp.isneginf(log_total), 0.0, log_total)
        shares = jnp.exp(alphas + betas - possible[:, None])
        of_class = states[..., None] == jnp.arange(z.shape[-1])
        dz = jnp.exp(log_p) - jnp.einsum("tns,nsk->ntk", shares, of_class.astype(z.dtype))
        counts = there & ~jnp.isneginf(log_total)[:, None]
        dz = jnp.where(counts[..., None], dz * (factor * dvalues)[:, None, None], 0.0)
        nothing = None if mask is None else np.zeros(mask.shape, jax.dtypes.float0)
        return (join(dz.astype(split(logits)[0].dtype), nothing),)

    return -log_total, pullback
