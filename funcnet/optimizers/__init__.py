"""Optimizers, one file a family: each rule is its equations, its numbers are leaves.

Weight decay that PyTorch calls `weight_decay` (in `SGD`, `Adagrad`, `RMSprop`, `Adam`) is L2,
inside the gradient: `chain(add_decayed_weights(rate), adam(...))`.
"""

from funcnet.optimizers.adaptive import adagrad, adam, rmsprop
from funcnet.optimizers.averaging import averaged_params, ema, lookahead, swa
from funcnet.optimizers.clipping import (
    adaptive_clip,
    clip_by_block_norm,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
)
from funcnet.optimizers.descent import momentum, nesterov, sgd
from funcnet.optimizers.lbfgs import lbfgs, lbfgs_direction
from funcnet.optimizers.partition import freeze, partition
from funcnet.optimizers.plateau import reduce_on_plateau
from funcnet.optimizers.rounding import kahan, state_dtype, stochastic_rounding
from funcnet.optimizers.sharpness import as_engine, asam, sam
from funcnet.optimizers.sophia import sophia
from funcnet.optimizers.transforms import (
    Known,
    add_decayed_weights,
    add_noise,
    apply_updates,
    centralise,
    chain,
    hand_on,
)
from funcnet.optimizers.wrappers import accumulate, cautious, skip_non_finite

__all__ = [
    "Known",
    "accumulate",
    "adagrad",
    "adam",
    "adaptive_clip",
    "add_decayed_weights",
    "add_noise",
    "apply_updates",
    "as_engine",
    "asam",
    "averaged_params",
    "cautious",
    "centralise",
    "chain",
    "clip_by_block_norm",
    "clip_by_global_norm",
    "clip_by_value",
    "ema",
    "freeze",
    "global_norm",
    "hand_on",
    "kahan",
    "lbfgs",
    "lbfgs_direction",
    "lookahead",
    "momentum",
    "nesterov",
    "partition",
    "reduce_on_plateau",
    "rmsprop",
    "sam",
    "sgd",
    "skip_non_finite",
    "sophia",
    "state_dtype",
    "stochastic_rounding",
    "swa",
]
