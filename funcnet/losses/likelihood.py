"""Losses of distributions: divergences and negative log-likelihoods."""

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.losses.common import inner, per_example, probabilities, same_shape
from funcnet.numerics import widen
from funcnet.pairs import number


def kl_divergence(logits, targets):
    """sum_k T_k (log T_k - log softmax(z)_k): the Kullback-Leibler divergence of the softmax of the
    logits from the distribution T, summed over the last axis.

    logits: [..., K], log-probabilities among them, whose log-softmax they are themselves; targets:
    probabilities [..., K], 0 and 1 included; returns [...]. It is `cross_entropy` less the targets'
    entropy and has its gradient. As Optax's `kl_divergence` of log-probabilities; PyTorch's
    `kl_div` is elementwise: its sum over the last axis, of which "batchmean" is the mean.
    """
    logits, targets = probabilities("kl_divergence", logits, targets)
    log_t = jnp.log(jnp.where(targets == 0.0, 1.0, targets))
    return (targets * log_t).sum(axis=-1) - inner(targets, jax.nn.log_softmax(logits))


def poisson_nll(log_rate, target):
    """exp(z) - t z, averaged over an example's outputs: the negative log-likelihood of counts t at
    rates exp(z), less log t!, which does not depend on z.

    log_rate: [n, ...], target: the same shape, of any dtype; returns [n]. As PyTorch's
    `poisson_nll_loss` with its defaults; `log_input=False` there is this of the rate's logarithm,
    and `full=True` adds Stirling's formula for log t!.
    """
    log_rate, target = same_shape("poisson_nll", log_rate, target)
    return per_example(jnp.exp(log_rate) - jnp.where(target == 0.0, 0.0, target * log_rate))


def gaussian_nll(prediction, target, *, eps=1e-6):
    """(v + (t - m)^2 exp(-v)) / 2 with the log-variance v at least log eps, averaged over an
    example's outputs: the negative log-likelihood of a normal distribution, less log(2 pi) / 2.

    prediction: [n, ..., 2k], in the last axis the k means m and then the k log-variances; target:
    [n, ..., k], or [n, ...] where k is 1; returns [n]. As PyTorch's `gaussian_nll_loss`, which
    takes variances and so exp(v). As there, the bound is passed over in the gradient, so that a
    variance below it can grow again.
    """
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    outputs = (*prediction.shape[:-1], prediction.shape[-1] // 2) if prediction.ndim > 1 else ()
    if target.shape == outputs[:-1] and outputs[-1:] == (1,):
        target = target[..., None]
    if not outputs or prediction.shape[-1] % 2 or target.shape != outputs:
        raise ValueError(
            "gaussian_nll expects means and log-variances in the last axis, [n, ..., 2k], and a "
            f"target [n, ..., k], got {prediction.shape} and {target.shape}"
        )
    mean, log_variance = jnp.split(widen(prediction), 2, axis=-1)
    eps = jnp.asarray(number("eps", eps, 0.0), mean.dtype)
    least = jnp.where(eps > 0.0, jnp.log(jnp.where(eps > 0.0, eps, 1.0)), -jnp.inf)
    passed = log_variance - lax.stop_gradient(log_variance)
    log_variance = jnp.where(log_variance < least, least + passed, log_variance)
    error = (target.astype(mean.dtype) - mean) * jnp.exp(-0.5 * log_variance)
    return per_example(0.5 * (log_variance + jnp.square(error)))
