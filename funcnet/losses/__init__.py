"""Losses: one value per example; `supervised` takes their weighted mean.

Values are computed in float32 at least. Bind options by keyword, numbers with `Partial` (leaves)
and choices with `fix`: `Partial(fix(cross_entropy, ignore_label=-1), label_smoothing=0.1)`.
"""

from typing import Any

from funcnet.losses.classification import (
    binary_cross_entropy,
    binary_focal,
    cross_entropy,
    cross_entropy_weights,
    dice,
    focal,
)
from funcnet.losses.likelihood import gaussian_nll, kl_divergence, poisson_nll
from funcnet.losses.margin import hinge, multi_margin, multiclass_hinge
from funcnet.losses.regression import huber, log_cosh, mean_absolute_error, mean_squared_error
from funcnet.losses.sequence import ctc
from funcnet.losses.similarity import cosine_distance, info_nce, triplet
from funcnet.pairs import unbind

__all__ = [
    "WEIGHTS",
    "binary_cross_entropy",
    "binary_focal",
    "cosine_distance",
    "cross_entropy",
    "ctc",
    "dice",
    "focal",
    "gaussian_nll",
    "hinge",
    "huber",
    "info_nce",
    "kl_divergence",
    "label_weights",
    "log_cosh",
    "mean_absolute_error",
    "mean_squared_error",
    "multi_margin",
    "multiclass_hinge",
    "poisson_nll",
    "triplet",
]

WEIGHTS = {cross_entropy: cross_entropy_weights}
"""The losses that weigh examples themselves, and by how much."""


def label_weights(loss, target) -> Any:
    """The weight that `loss`, with what is bound to it, gives each target; None for 1 each."""
    function, bound = unbind(loss)
    return WEIGHTS[function](target, **bound) if function in WEIGHTS else None
