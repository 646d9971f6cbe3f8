"""Losses, and the mean of the supervised task."""

import numpy as np
from jax.tree_util import Partial

import funcnet as fn
from cases.base import Case
from funcnet.chain_rule import task
from funcnet.chain_rule.losses import (
    classification,
    likelihood,
    margin,
    regression,
    sequence,
    similarity,
)

LABELS = np.array([2, 0, 1, 2, 2, 1, 0])
CLASS_WEIGHT = np.array([0.5, 1.5, 2.0])


def _distributions(rows, columns):
    values = np.random.default_rng(5).random((rows, columns))
    values[0, :-1] = 0.0
    return values / values.sum(axis=1, keepdims=True)


WAVE = np.sin(np.arange(30.0)).reshape(5, 6)
READ = np.array([[2, 2], [0, 3], [-1, -1]])
SIGNS = np.where(WAVE > 0.0, 1.0, -1.0)
STEPS = np.array([[True] * 5, [True, True, False, True, True], [True, False, False, False, False]])

CASES = [
    Case("mse", fn.mean_squared_error, (5, 3), np.arange(15.0).reshape(5, 3) / 7),
    Case("mse-vector", fn.mean_squared_error, (7,), np.arange(7.0)),
    Case("mse-grid", fn.mean_squared_error, (1, 2, 3), np.ones((1, 2, 3))),
    Case("bce", fn.binary_cross_entropy, (7, 2), (np.arange(14) % 3 == 0).reshape(7, 2)),
    Case("bce-soft", fn.binary_cross_entropy, (5,), np.array([0.0, 0.2, 0.5, 0.9, 1.0])),
    Case("ce", fn.cross_entropy, (7, 3), LABELS),
    Case("ce-sequence", fn.cross_entropy, (1, 7, 3), LABELS[None]),
    Case("ce-one-class", fn.cross_entropy, (2, 1), np.zeros(2, int)),
    Case("ce-soft", fn.cross_entropy, (5, 3), _distributions(5, 3)),
    Case("ce-weight", Partial(fn.cross_entropy, weight=CLASS_WEIGHT), (7, 3), LABELS),
    Case("ce-smooth", Partial(fn.cross_entropy, label_smoothing=0.2), (7, 3), LABELS),
    Case("ce-ignore", fn.fix(fn.cross_entropy, ignore_label=2), (7, 3), LABELS),
    Case(
        "ce-all-options",
        Partial(
            fn.fix(fn.cross_entropy, ignore_label=-1), weight=CLASS_WEIGHT, label_smoothing=0.1
        ),
        (7, 3),
        np.where(LABELS == 1, -1, LABELS),
    ),
    Case("mae", fn.mean_absolute_error, (5, 6), WAVE),
    Case("huber", Partial(fn.huber, delta=0.8), (5, 6), WAVE),
    Case("log_cosh", fn.log_cosh, (5, 6), 3.0 * WAVE),
    Case("hinge", Partial(fn.hinge, margin=0.7), (5, 6), SIGNS),
    Case("multiclass_hinge", Partial(fn.multiclass_hinge, margin=0.1), (7, 3), LABELS),
    Case("multi_margin", Partial(fn.multi_margin, margin=0.1), (7, 3), LABELS),
    Case("focal", Partial(fn.focal, gamma=1.5), (7, 3), LABELS),
    Case("binary_focal", Partial(fn.binary_focal, gamma=1.5, alpha=0.3), (5, 6), WAVE**2),
    Case("dice", Partial(fn.dice, smooth=0.5), (5, 2, 3), WAVE.reshape(5, 2, 3) ** 2),
    Case("kl", fn.kl_divergence, (5, 3), _distributions(5, 3)),
    Case("poisson", fn.poisson_nll, (5, 6), np.arange(30.0).reshape(5, 6) % 4),
    Case("gaussian", fn.gaussian_nll, (5, 6), WAVE[:, :3]),
    Case("cosine", fn.cosine_distance, (5, 6), WAVE),
    Case("triplet", Partial(fn.triplet, margin=0.1, eps=0.2), (5, 3, 4)),
    Case("info_nce", Partial(fn.info_nce, temperature=0.5), (4, 2, 3)),
    Case("ctc", fn.fix(fn.ctc, blank=1), (3, 5, 4), READ, mask=STEPS),
]

MUTANTS = [
    (regression, "mean_squared_error", "2.0 * (p - t)", "(p - t)"),
    (regression, "mean_squared_error", "(p - t) *", "(t - p) *"),
    (regression, "mean_squared_error", "per_output(dvalues, p)", "per_output(dvalues, p[..., :1])"),
    (classification, "binary_cross_entropy", "logistic(z) - t", "1.001 * (logistic(z) - t)"),
    (classification, "binary_cross_entropy", "logistic(z) - t", "logistic(z)"),
    (
        classification,
        "cross_entropy",
        "* targets.sum(axis=-1, keepdims=True) - targets",
        "- targets",
    ),
    (classification, "cross_entropy", "factor * dvalues", "factor * dvalues.mean()"),
    (classification, "cross_entropy", "factor * dvalues", "dvalues"),
    (classification, "cross_entropy", "targets.sum(axis=-1", "targets.sum(axis=0"),
    (task, "supervised", "share.loss * delta", "delta"),
    (task, "supervised", "share.loss * delta", "share.metric * delta"),
    (regression, "mean_absolute_error", "jnp.sign(p - t)", "jnp.sign(t - p)"),
    (regression, "huber", "(held *", "(e *"),
    (regression, "log_cosh", "(jnp.tanh(e)", "(1.001 * jnp.tanh(e)"),
    (margin, "hinge", "jnp.where(short > 0.0, -t, 0.0)", "-t"),
    (margin, "multiclass_hinge", "- hot", ""),
    (margin, "multiclass_hinge", "jnp.where(short > 0.0, dvalues, 0.0)", "dvalues"),
    (margin, "multi_margin", "(short > 0.0) & ~hot", "~hot"),
    (margin, "multi_margin", " - jnp.where(hot, active.sum(axis=-1, keepdims=True), 0.0)", ""),
    (classification, "focused", "logistic(-u) + gamma * product", "logistic(-u)"),
    (classification, "focal", "jnp.where(hot, 1.0, -parts", "jnp.where(hot, 1.0, 0.0 * parts"),
    (classification, "binary_focal", "weighed(dtrue, -dfalse)", "weighed(dtrue, dfalse)"),
    (classification, "dice", "(ratio - 2.0 * t)", "(-2.0 * t)"),
    (likelihood, "kl_divergence", "- t\n", "- 1.001 * t\n"),
    (likelihood, "poisson_nll", "(rate - t)", "rate"),
    (likelihood, "gaussian_nll", "0.5 * (1.0 - e**2 * precision)]", "0.5 * (1.0 + 0.0 * e)]"),
    (likelihood, "gaussian_nll", "[e * precision", "[e"),
    (similarity, "unit", "dy - jnp.where(length > eps, along, 0.0)", "dy"),
    (similarity, "cosine_distance", "-t * dvalues", "t * dvalues"),
    (similarity, "triplet", "u - v, -u, v", "u - v, -u, -v"),
    (similarity, "triplet", "jnp.where(short > 0.0, dvalues, 0.0)", "dvalues"),
    (similarity, "info_nce", "k_back(ds.T @ q)", "k_back(ds @ q)"),
    (similarity, "info_nce", " - jnp.eye(len(q), dtype=q.dtype)", ""),
    (sequence, "ctc", "alphas + betas", "alphas"),
    (sequence, "ctc", "jnp.where(skip, ahead, never)", "ahead"),
    (sequence, "ctc", "jnp.where(counts[..., None], dz * ", "jnp.where(True, dz * "),
    (sequence, "ctc", "jnp.where(there[:, None], before, beta)", "before"),
]

STEMS = {
    "mean_squared_error": "mse",
    "mean_absolute_error": "mae",
    "binary_cross_entropy": "bce",
    "cross_entropy": "ce",
    "focused": "focal",
    "kl_divergence": "kl",
    "poisson_nll": "poisson",
    "gaussian_nll": "gaussian",
    "unit": "cosine",
    "cosine_distance": "cosine",
}
