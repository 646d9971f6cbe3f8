"""The table of rules."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import combine, losses, task
from funcnet.chain_rule import activations as act
from funcnet.chain_rule import layers as by_layer
from funcnet.chain_rule import losses as by_loss
from funcnet.layers import activation, dropout, linear, shape


class Recursive(NamedTuple):
    """A rule that calls other rules: it gets `vjp=`, with the table in use."""

    rule: Callable[..., Any]


RULES: dict[Any, Any] = {
    linear.dense_apply: by_layer.dense,
    dropout.dropout_apply: by_layer.dropout,
    shape.flatten_apply: by_layer.flatten,
    shape.identity_apply: by_layer.identity,
    activation.activation_apply: Recursive(by_layer.activation),
    combine.serial_apply: Recursive(by_layer.serial),
    jax.nn.relu: act.relu,
    activation.leaky: act.leaky,
    jnp.tanh: act.tanh,
    jax.nn.sigmoid: act.sigmoid,
    jax.nn.softplus: act.softplus,
    jax.nn.silu: act.silu,
    jax.nn.elu: act.elu,
    jax.nn.gelu: act.gelu,
    losses.mean_squared_error: by_loss.mean_squared_error,
    losses.binary_cross_entropy: by_loss.binary_cross_entropy,
    losses.cross_entropy: by_loss.cross_entropy,
    task.supervised_loss: Recursive(by_loss.supervised),
}
