"""Optimizers, one file a family: each rule is its equations, its numbers are leaves.

| optimizer | PyTorch's is | Optax's is |
|---|---|---|
| sgd, nesterov | the same | the same |
| momentum | `dampening` as there | the same |
| adagrad | the same | `eps=1e-7, initial_accumulator=0.1, eps_in_root=True` |
| adadelta | the same | the same |
| rmsprop | `decay=0.99` | `eps_in_root=True, rate_in_velocity=True` |
| adam | the same | the same |
| adamw | the same | `weight_decay=1e-4` |
| adamax | the same | the same |
| nadam | the same | `momentum_decay=None` |
| amsgrad | the same | `correct_first=True` or `corrected=False` |
| radam | `eps_before_correction=True` | the same |
| averaged_sgd | the same, `ASGD` | - |
| rprop | the same | (a step late) |
| adafactor | `adafactor(relative_step(lr), eps=0.0, floor=eps1)` | `min_size=128` |
| lion | - | `weight_decay=1e-3` |
| lamb, sign_sgd, signum | - | the same |
| adan | - | `look_ahead=1 - b2, eps_root=1e-8` |
| adopt, ademamix, prodigy | - | the same, in `contrib` |
| muon | `clamp_norm=True, iterate_in=jnp.bfloat16` | `bias_correction=True, eps=1e-8` |
| sophia | - | in `contrib`, with h refreshed after its use and bias-corrected |
| sam (an engine) | - | the same, in `contrib` |
| lbfgs_direction | - | `scale_by_lbfgs` |
| schedule_free_sgd, _adamw | - | the same at a constant rate, in `contrib` |

Weight decay that PyTorch calls `weight_decay` (in all but `AdamW` and `Adafactor`, and unless
`decoupled_weight_decay=True`) is L2, inside the gradient: `chain(add_decayed_weights(rate),
adam(...))`. Beside the step, times the rate, it is `decoupled_decay(adam(...), rate)`: AdamW, and
Optax's `adamaxw` and `nadamw`.

What acts on updates alone (clipping, noise, decay, plateaus) is an optimizer to `chain`; what
decides when another runs or what becomes of its updates takes it as an argument, and these nest:
`ema(accumulate(skip_non_finite(chain(clip_by_global_norm(1.0), adam(1e-3))), 4))`.
"""

from funcnet.optimizers.adaptive import adadelta, adagrad, adam, rmsprop
from funcnet.optimizers.averaged import (
    averaged_sgd,
    schedule_free_adamw,
    schedule_free_eval,
    schedule_free_sgd,
)
from funcnet.optimizers.averaging import averaged_params, ema, lookahead, swa
from funcnet.optimizers.clipping import (
    adaptive_clip,
    clip_by_block_norm,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
)
from funcnet.optimizers.decay import decoupled_decay
from funcnet.optimizers.descent import momentum, nesterov, sgd
from funcnet.optimizers.free import prodigy
from funcnet.optimizers.grafting import graft
from funcnet.optimizers.layerwise import adafactor, lamb, relative_step
from funcnet.optimizers.lbfgs import lbfgs, lbfgs_direction
from funcnet.optimizers.matrix import flattened, muon
from funcnet.optimizers.moments import adamax, adamw, amsgrad, nadam, radam
from funcnet.optimizers.partition import freeze, partition
from funcnet.optimizers.plateau import reduce_on_plateau
from funcnet.optimizers.rounding import kahan, state_dtype, stochastic_rounding
from funcnet.optimizers.shampoo import shampoo, soap
from funcnet.optimizers.sharpness import as_engine, asam, sam
from funcnet.optimizers.sign import lion, rprop, sign_sgd, signum
from funcnet.optimizers.sophia import sophia
from funcnet.optimizers.spikes import skip_spikes
from funcnet.optimizers.successors import adan, ademamix, adopt
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
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "adaptive_clip",
    "add_decayed_weights",
    "add_noise",
    "ademamix",
    "adopt",
    "amsgrad",
    "apply_updates",
    "as_engine",
    "asam",
    "averaged_params",
    "averaged_sgd",
    "cautious",
    "centralise",
    "chain",
    "clip_by_block_norm",
    "clip_by_global_norm",
    "clip_by_value",
    "decoupled_decay",
    "ema",
    "flattened",
    "freeze",
    "global_norm",
    "graft",
    "hand_on",
    "kahan",
    "lamb",
    "lbfgs",
    "lbfgs_direction",
    "lion",
    "lookahead",
    "momentum",
    "muon",
    "nadam",
    "nesterov",
    "partition",
    "prodigy",
    "radam",
    "reduce_on_plateau",
    "relative_step",
    "rmsprop",
    "rprop",
    "sam",
    "schedule_free_adamw",
    "schedule_free_eval",
    "schedule_free_sgd",
    "sgd",
    "shampoo",
    "sign_sgd",
    "signum",
    "skip_non_finite",
    "skip_spikes",
    "soap",
    "sophia",
    "state_dtype",
    "stochastic_rounding",
    "swa",
]
