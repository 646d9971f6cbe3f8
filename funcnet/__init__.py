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
from funcnet.layers.attention import attention, plain_dot_product
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
from funcnet.losses import (
    binary_cross_entropy,
    binary_focal,
    cosine_distance,
    cross_entropy,
    ctc,
    dice,
    focal,
    gaussian_nll,
    hinge,
    huber,
    info_nce,
    kl_divergence,
    log_cosh,
    mean_absolute_error,
    mean_squared_error,
    multi_margin,
    multiclass_hinge,
    poisson_nll,
    triplet,
)
from funcnet.metrics import accuracy, binary_accuracy
from funcnet.networks import gpt, lenet, resnet, vit
from funcnet.optimizers import (
    adagrad,
    adam,
    add_decayed_weights,
    apply_updates,
    chain,
    clip_by_global_norm,
    flattened,
    global_norm,
    graft,
    momentum,
    muon,
    nesterov,
    rmsprop,
    sgd,
    shampoo,
    soap,
)
from funcnet.overview import Summary, summary
from funcnet.pairs import Network, Optimizer, Task, Trainer, fix, hyperparameters
from funcnet.population import population_statistics
from funcnet.precision import compute_dtype, param_dtype
from funcnet.schedules import (
    constant,
    cosine,
    cosine_restarts,
    cosine_wave,
    cyclic,
    exponential,
    inverse_square_root,
    inverse_time,
    join,
    linear,
    linear_one_cycle,
    one_cycle,
    piecewise,
    piecewise_cosine,
    piecewise_linear,
    polynomial,
    step_decay,
    warmup_cosine,
    warmup_stable_decay,
)
from funcnet.shuffle import batch_indices
from funcnet.task import supervised
from funcnet.training import Result, RunState, evaluate, resume, run, trainer
from funcnet.transformer import swiglu, transformer_block
from funcnet.version import __version__

if TYPE_CHECKING:
    from funcnet import chain_rule, datasets
    from funcnet.verify import GradientErrors, check_gradients

LATE = {
    "chain_rule": "chain_rule",
    "datasets": "datasets",
    "GradientErrors": "verify",
    "check_gradients": "verify",
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
    "Result",
    "RunState",
    "Summary",
    "Task",
    "Trainer",
    "__version__",
    "accuracy",
    "activation",
    "adagrad",
    "adam",
    "add",
    "add_decayed_weights",
    "apply_updates",
    "attention",
    "average_pool",
    "batch_indices",
    "batch_norm",
    "bidirectional",
    "binary_accuracy",
    "binary_cross_entropy",
    "binary_focal",
    "chain",
    "chain_rule",
    "check_gradients",
    "clip_by_global_norm",
    "compute_dtype",
    "concatenate",
    "constant",
    "conv",
    "conv_transpose",
    "cosine",
    "cosine_distance",
    "cosine_restarts",
    "cosine_wave",
    "cross_entropy",
    "ctc",
    "cyclic",
    "datasets",
    "dense",
    "dice",
    "drop_path",
    "dropout",
    "elu",
    "embedding",
    "evaluate",
    "exponential",
    "fix",
    "flatten",
    "flattened",
    "focal",
    "frozen",
    "gaussian_nll",
    "gelu",
    "generate",
    "global_average_pool",
    "global_max_pool",
    "global_norm",
    "gpt",
    "graft",
    "group_norm",
    "gru",
    "gru_cell",
    "hinge",
    "huber",
    "hyperparameters",
    "identity",
    "info_nce",
    "instance_norm",
    "inverse_square_root",
    "inverse_time",
    "join",
    "kl_divergence",
    "last_step",
    "layer_norm",
    "leaky_relu",
    "learned_positions",
    "lenet",
    "linear",
    "linear_one_cycle",
    "log_cosh",
    "lstm",
    "lstm_cell",
    "masked",
    "max_pool",
    "mean_absolute_error",
    "mean_squared_error",
    "mlp",
    "momentum",
    "multi_margin",
    "multiclass_hinge",
    "multiply",
    "muon",
    "named",
    "nesterov",
    "one_cycle",
    "over_time",
    "parallel",
    "param_dtype",
    "piecewise",
    "piecewise_cosine",
    "piecewise_linear",
    "plain_dot_product",
    "poisson_nll",
    "polynomial",
    "population_statistics",
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
    "serial",
    "sgd",
    "shampoo",
    "sigmoid",
    "silu",
    "sinusoidal",
    "soap",
    "softplus",
    "step_decay",
    "subsample",
    "summary",
    "supervised",
    "swiglu",
    "tanh",
    "tied_embedding",
    "tokens",
    "trainer",
    "transformer_block",
    "triplet",
    "vit",
    "warmup_cosine",
    "warmup_stable_decay",
]
