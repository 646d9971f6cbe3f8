"""Optimizers, one file a family: each rule is its equations, its numbers are leaves.

Weight decay that PyTorch calls `weight_decay` (in `SGD`, `Adagrad`, `RMSprop`, `Adam`) is L2,
inside the gradient: `chain(add_decayed_weights(rate), adam(...))`.

What acts on updates alone (clipping, noise, decay, plateaus) is an optimizer to `chain`; what
decides when another runs or what becomes of its updates takes it as an argument, and these nest:
`ema(accumulate(skip_non_finite(chain(clip_by_global_norm(1.0), adam(1e-3))), 4))`.
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
from funcnet.optimizers.partition import freeze, partition
from funcnet.optimizers.plateau import reduce_on_plateau
from funcnet.optimizers.rounding import kahan, state_dtype, stochastic_rounding
from funcnet.optimizers.transforms import (
    add_decayed_weights,
    add_noise,
    apply_updates,
    centralise,
    chain,
    hand_on,
)
from funcnet.optimizers.wrappers import accumulate, cautious, skip_non_finite

__all__ = [
    "accumulate",
    "adagrad",
    "adam",
    "adaptive_clip",
    "add_decayed_weights",
    "add_noise",
    "apply_updates",
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
    "lookahead",
    "momentum",
    "nesterov",
    "partition",
    "reduce_on_plateau",
    "rmsprop",
    "sgd",
    "skip_non_finite",
    "state_dtype",
    "stochastic_rounding",
    "swa",
]
