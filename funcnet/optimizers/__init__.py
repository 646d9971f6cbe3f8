"""Optimizers, one file a family: each rule is its equations, its numbers are leaves.

Weight decay that PyTorch calls `weight_decay` (in `SGD`, `Adagrad`, `RMSprop`, `Adam`) is L2,
inside the gradient: `chain(add_decayed_weights(rate), adam(...))`.
"""

from funcnet.optimizers.adaptive import adagrad, adam, rmsprop
from funcnet.optimizers.descent import momentum, nesterov, sgd
from funcnet.optimizers.grafting import graft
from funcnet.optimizers.matrix import flattened, muon
from funcnet.optimizers.shampoo import shampoo, soap
from funcnet.optimizers.transforms import (
    add_decayed_weights,
    apply_updates,
    chain,
    clip_by_global_norm,
    global_norm,
)

__all__ = [
    "adagrad",
    "adam",
    "add_decayed_weights",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "flattened",
    "global_norm",
    "graft",
    "momentum",
    "muon",
    "nesterov",
    "rmsprop",
    "sgd",
    "shampoo",
    "soap",
]
