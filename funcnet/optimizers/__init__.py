"""Optimizers, one file a family: each rule is its equations, its numbers are leaves.

Weight decay that PyTorch calls `weight_decay` (in `SGD`, `Adagrad`, `RMSprop`, `Adam`) is L2,
inside the gradient: `chain(add_decayed_weights(rate), adam(...))`.
"""

from funcnet.optimizers.adaptive import adadelta, adagrad, adam, rmsprop
from funcnet.optimizers.averaged import (
    averaged_sgd,
    schedule_free_adamw,
    schedule_free_eval,
    schedule_free_sgd,
)
from funcnet.optimizers.decay import decoupled_decay
from funcnet.optimizers.descent import momentum, nesterov, sgd
from funcnet.optimizers.free import prodigy
from funcnet.optimizers.layerwise import adafactor, lamb, relative_step
from funcnet.optimizers.moments import adamax, adamw, amsgrad, nadam, radam
from funcnet.optimizers.sign import lion, rprop, sign_sgd, signum
from funcnet.optimizers.successors import adan, ademamix, adopt
from funcnet.optimizers.transforms import (
    add_decayed_weights,
    apply_updates,
    chain,
    clip_by_global_norm,
    global_norm,
)

__all__ = [
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "add_decayed_weights",
    "ademamix",
    "adopt",
    "amsgrad",
    "apply_updates",
    "averaged_sgd",
    "chain",
    "clip_by_global_norm",
    "decoupled_decay",
    "global_norm",
    "lamb",
    "lion",
    "momentum",
    "nadam",
    "nesterov",
    "prodigy",
    "radam",
    "relative_step",
    "rmsprop",
    "rprop",
    "schedule_free_adamw",
    "schedule_free_eval",
    "schedule_free_sgd",
    "sgd",
    "sign_sgd",
    "signum",
]
