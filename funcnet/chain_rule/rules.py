"""The table of rules."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import augment, combine, losses, precision, task
from funcnet.chain_rule import activations as act
from funcnet.chain_rule import attention as by_attention
from funcnet.chain_rule import combine as by_combination
from funcnet.chain_rule import conv as by_conv
from funcnet.chain_rule import layers as by_layer
from funcnet.chain_rule import norm as by_norm
from funcnet.chain_rule import recurrent as by_recurrence
from funcnet.chain_rule import task as by_task
from funcnet.chain_rule.losses import classification as by_class
from funcnet.chain_rule.losses import likelihood as by_likelihood
from funcnet.chain_rule.losses import margin as by_margin
from funcnet.chain_rule.losses import regression as by_error
from funcnet.chain_rule.losses import sequence as by_lattice
from funcnet.chain_rule.losses import similarity as by_similarity
from funcnet.layers import (
    activation,
    attention,
    conv,
    dropout,
    embedding,
    linear,
    norm,
    pool,
    position,
    recurrent,
    sequence,
    shape,
)


class Recursive(NamedTuple):
    """A rule that calls other rules: it gets `vjp=`, with the table in use."""

    rule: Callable[..., Any]


RULES: dict[Any, Any] = {
    linear.dense_apply: by_layer.dense,
    dropout.dropout_apply: by_layer.dropout,
    augment.normalise_apply: by_layer.normalise,
    shape.flatten_apply: by_layer.flatten,
    shape.identity_apply: by_layer.identity,
    shape.shaped_apply: by_layer.shaped,
    activation.activation_apply: Recursive(by_layer.activation),
    dropout.drop_path_apply: by_layer.drop_path,
    conv.conv_apply: by_conv.conv,
    conv.conv_transpose_apply: by_conv.conv_transpose,
    pool.max_pool_apply: by_conv.max_pool,
    pool.average_pool_apply: by_conv.average_pool,
    pool.average_pool_inside_apply: by_conv.average_pool_inside,
    pool.subsample_apply: by_conv.subsample,
    shape.tokens_apply: by_layer.tokens,
    pool.global_max_pool_apply: by_conv.global_max_pool,
    pool.global_average_pool_apply: by_conv.global_average_pool,
    embedding.embedding_apply: by_layer.embedding,
    shape.add_apply: by_layer.add,
    shape.multiply_apply: by_layer.multiply,
    shape.concatenate_apply: by_layer.concatenate,
    norm.layer_norm_apply: by_norm.layer_norm,
    norm.rms_norm_apply: by_norm.rms_norm,
    norm.group_norm_apply: by_norm.group_norm,
    norm.batch_norm_apply: by_norm.batch_norm,
    attention.attention_apply: Recursive(by_attention.attention),
    attention.dot_product: by_attention.dot_product,
    attention.plain_dot_product: by_attention.dot_product,
    position.sinusoidal_apply: by_attention.sinusoidal,
    position.learned_positions_apply: by_attention.learned_positions,
    recurrent.drive_of: by_recurrence.project,
    recurrent.zeros: by_recurrence.zeros,
    recurrent.two_zeros: by_recurrence.two_zeros,
    recurrent.rnn_step: Recursive(by_recurrence.rnn_step),
    recurrent.lstm_step: by_recurrence.lstm_step,
    recurrent.gru_step: by_recurrence.gru_step,
    recurrent.over_time_apply: Recursive(by_recurrence.over_time),
    recurrent.carried_apply: Recursive(by_recurrence.carried),
    sequence.last_step_apply: by_recurrence.last_step,
    combine.serial_apply: Recursive(by_combination.serial),
    combine.residual_apply: Recursive(by_combination.residual),
    combine.masked_apply: Recursive(by_combination.masked),
    combine.parallel_apply: Recursive(by_combination.parallel),
    combine.bidirectional_apply: Recursive(by_combination.bidirectional),
    combine.repeat_apply: Recursive(by_combination.repeat),
    combine.remat_apply: Recursive(by_combination.remat),
    combine.named_apply: Recursive(by_combination.named),
    combine.tied_embedding_apply: Recursive(by_combination.tied_embedding),
    precision.compute_dtype_apply: Recursive(by_combination.compute_dtype),
    combine.frozen_apply: Recursive(by_combination.frozen),
    jax.nn.relu: act.relu,
    activation.leaky: act.leaky,
    jnp.tanh: act.tanh,
    jax.nn.sigmoid: act.sigmoid,
    jax.nn.softplus: act.softplus,
    jax.nn.silu: act.silu,
    jax.nn.elu: act.elu,
    jax.nn.gelu: act.gelu,
    losses.mean_squared_error: by_error.mean_squared_error,
    losses.mean_absolute_error: by_error.mean_absolute_error,
    losses.huber: by_error.huber,
    losses.log_cosh: by_error.log_cosh,
    losses.binary_cross_entropy: by_class.binary_cross_entropy,
    losses.cross_entropy: by_class.cross_entropy,
    losses.focal: by_class.focal,
    losses.binary_focal: by_class.binary_focal,
    losses.dice: by_class.dice,
    losses.hinge: by_margin.hinge,
    losses.multiclass_hinge: by_margin.multiclass_hinge,
    losses.multi_margin: by_margin.multi_margin,
    losses.kl_divergence: by_likelihood.kl_divergence,
    losses.poisson_nll: by_likelihood.poisson_nll,
    losses.gaussian_nll: by_likelihood.gaussian_nll,
    losses.cosine_distance: by_similarity.cosine_distance,
    losses.triplet: by_similarity.triplet,
    losses.info_nce: by_similarity.info_nce,
    losses.ctc: by_lattice.ctc,
    task.supervised_loss: Recursive(by_task.supervised),
    augment.augmented_loss: Recursive(by_task.augmented),
}
