"""Networks made of networks; each result is again a `Network`."""

import itertools
from collections.abc import Sequence

import jax
from jax.nn import initializers
from jax.tree_util import Partial

from funcnet.layers.activation import relu
from funcnet.layers.linear import Initializer, dense, lecun_normal
from funcnet.pairs import Network, partial


def serial_init(key, *, inits):
    keys = jax.random.split(key, len(inits))
    pairs = [init(layer_key) for init, layer_key in zip(inits, keys, strict=True)]
    return tuple(params for params, _ in pairs), tuple(state for _, state in pairs)


def layer_keys(key, count):
    """One key for each of `count` layers; folded, so that a layer without noise costs nothing."""
    return [None if key is None else jax.random.fold_in(key, index) for index in range(count)]


def serial_apply(params, state, x, *, key=None, train=False, layers):
    for name, part in (("params", params), ("state", state)):
        if len(part) != len(layers):
            raise ValueError(f"serial has {len(layers)} layers, got {name} for {len(part)}")
    states = []
    for layer, layer_params, layer_state, layer_key in zip(
        layers, params, state, layer_keys(key, len(layers)), strict=True
    ):
        x, layer_state = layer(layer_params, layer_state, x, key=layer_key, train=train)
        states.append(layer_state)
    return x, tuple(states)


def serial(*networks: Network) -> Network:
    """The networks one after another, y = f_k(... f_2(f_1(x))).

    Parameters and state are tuples with one entry a network. No network at all is the identity.
    """
    for index, network in enumerate(networks):
        if not isinstance(network, Network):
            raise TypeError(f"serial expects networks, got {network!r} at position {index}")
    return Network(
        Partial(serial_init, inits=tuple(partial(network.init) for network in networks)),
        Partial(serial_apply, layers=tuple(partial(network.apply) for network in networks)),
    )


def mlp(
    sizes: Sequence[int],
    activation: Network = relu,
    *,
    weight_init: Initializer = lecun_normal,
    bias_init: Initializer | None = initializers.zeros,
) -> Network:
    """A multilayer perceptron: dense layers between successive `sizes`, the activation between
    them and none after the last. `mlp((64, 128, 10))` has one hidden layer of 128 units.
    """
    if len(sizes) < 2:
        raise ValueError(f"mlp expects at least an input and an output size, got {sizes!r}")
    layers: list[Network] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [dense(fan_in, fan_out, weight_init=weight_init, bias_init=bias_init), activation]
    return serial(*layers[:-1])
