"""Training networks in JAX as pure functions: one run, jitted, vmapped, differentiated."""

import importlib
from typing import TYPE_CHECKING

from funcnet.combine import (
    bidirectional,
    frozen,
    masked,
    mlp,
    named,
    parallel,
    remat,
    repeat,
    residual,
    serial,
    tied_embedding,
)
from funcnet.generate import generate
from funcnet.layers.activation import (
    activation,
    elu,
    gelu,
    leaky_relu,
    relu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from funcnet.layers.attention import attention
from funcnet.layers.conv import conv, conv_transpose
from funcnet.layers.dropout import drop_path, dropout
from funcnet.layers.embedding import embedding
from funcnet.layers.linear import dense
from funcnet.layers.norm import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from funcnet.layers.pool import (
    average_pool,
    global_average_pool,
    global_max_pool,
    max_pool,
    subsample,
)
from funcnet.layers.position import learned_positions, sinusoidal
from funcnet.layers.recurrent import (
    Cell,
    gru,
    gru_cell,
    lstm,
    lstm_cell,
    over_time,
    rnn,
    rnn_cell,
)
from funcnet.layers.sequence import Masked, last_step
from funcnet.layers.shape import add, concatenate, flatten, identity, multiply, tokens
from funcnet.losses import binary_cross_entropy, cross_entropy, mean_squared_error
from funcnet.metrics import accuracy, binary_accuracy
from funcnet.networks import gpt, lenet, resnet, vit
from funcnet.optimizers import (
    accumulate,
    adagrad,
    adam,
    adaptive_clip,
    add_decayed_weights,
    add_noise,
    apply_updates,
    asam,
    averaged_params,
    cautious,
    centralise,
    chain,
    clip_by_block_norm,
    clip_by_global_norm,
    clip_by_value,
    ema,
    freeze,
    global_norm,
    kahan,
    lbfgs,
    lbfgs_direction,
    lookahead,
    momentum,
    nesterov,
    partition,
    reduce_on_plateau,
    rmsprop,
    sam,
    sgd,
    skip_non_finite,
    sophia,
    state_dtype,
    stochastic_rounding,
    swa,
)
from funcnet.pairs import Network, Optimizer, Task, Trainer, fix, hyperparameters
from funcnet.precision import compute_dtype, param_dtype
from funcnet.schedules import constant, inverse_time, warmup_cosine
from funcnet.shuffle import batch_indices
from funcnet.task import supervised
from funcnet.training import Result, RunState, evaluate, resume, run, trainer
from funcnet.transformer import swiglu, transformer_block
from funcnet.version import __version__

if TYPE_CHECKING:
    from funcnet import chain_rule, datasets
    from funcnet.verify import GradientErrors, check_gradients
    from funcnet.verify_optimizer import OptimizerReport, check_optimizer

LATE = {
    "chain_rule": "chain_rule",
    "datasets": "datasets",
    "GradientErrors": "verify",
    "OptimizerReport": "verify_optimizer",
    "check_gradients": "verify",
    "check_optimizer": "verify_optimizer",
}
"""What training does not need, and so is imported at its first use only."""


def __getattr__(name: str):
    if name not in LATE:
        raise AttributeError(f"module 'funcnet' has no attribute {name!r}")
    module = importlib.import_module(f"funcnet.{LATE[name]}")
    return module if LATE[name] == name else getattr(module, name)


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "Cell",
    "GradientErrors",
    "Masked",
    "Network",
    "Optimizer",
    "OptimizerReport",
    "Result",
    "RunState",
    "Task",
    "Trainer",
    "__version__",
    "accumulate",
    "accuracy",
    "activation",
    "adagrad",
    "adam",
    "adaptive_clip",
    "add",
    "add_decayed_weights",
    "add_noise",
    "apply_updates",
    "asam",
    "attention",
    "average_pool",
    "averaged_params",
    "batch_indices",
    "batch_norm",
    "bidirectional",
    "binary_accuracy",
    "binary_cross_entropy",
    "cautious",
    "centralise",
    "chain",
    "chain_rule",
    "check_gradients",
    "check_optimizer",
    "clip_by_block_norm",
    "clip_by_global_norm",
    "clip_by_value",
    "compute_dtype",
    "concatenate",
    "constant",
    "conv",
    "conv_transpose",
    "cross_entropy",
    "datasets",
    "dense",
    "drop_path",
    "dropout",
    "elu",
    "ema",
    "embedding",
    "evaluate",
    "fix",
    "flatten",
    "freeze",
    "frozen",
    "gelu",
    "generate",
    "global_average_pool",
    "global_max_pool",
    "global_norm",
    "gpt",
    "group_norm",
    "gru",
    "gru_cell",
    "hyperparameters",
    "identity",
    "instance_norm",
    "inverse_time",
    "kahan",
    "last_step",
    "layer_norm",
    "lbfgs",
    "lbfgs_direction",
    "leaky_relu",
    "learned_positions",
    "lenet",
    "lookahead",
    "lstm",
    "lstm_cell",
    "masked",
    "max_pool",
    "mean_squared_error",
    "mlp",
    "momentum",
    "multiply",
    "named",
    "nesterov",
    "over_time",
    "parallel",
    "param_dtype",
    "partition",
    "reduce_on_plateau",
    "relu",
    "remat",
    "repeat",
    "residual",
    "resnet",
    "resume",
    "rms_norm",
    "rmsprop",
    "rnn",
    "rnn_cell",
    "run",
    "sam",
    "serial",
    "sgd",
    "sigmoid",
    "silu",
    "sinusoidal",
    "skip_non_finite",
    "softplus",
    "sophia",
    "state_dtype",
    "stochastic_rounding",
    "subsample",
    "supervised",
    "swa",
    "swiglu",
    "tanh",
    "tied_embedding",
    "tokens",
    "trainer",
    "transformer_block",
    "vit",
    "warmup_cosine",
]
