"""Networks made of networks; each result is again a `Network`."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jax.tree_util import Partial

from funcnet.layers.activation import relu
from funcnet.layers.embedding import embedding_apply, unit_normal
from funcnet.layers.linear import Initializer, dense, lecun_normal
from funcnet.layers.sequence import check_mask, check_pairs, cleared, join, split
from funcnet.numerics import varied
from funcnet.pairs import Network, check_count, check_network, check_networks, fix, partial


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
    check_networks("serial", networks)
    return Network(
        Partial(serial_init, inits=tuple(partial(network.init) for network in networks)),
        Partial(serial_apply, layers=tuple(partial(network.apply) for network in networks)),
    )


def residual_apply(params, state, x, *, key=None, train=False, branch):
    y, state = branch(params, state, x, key=key, train=train)
    (values, mask), (moved, _) = split(x), split(y)
    if moved.shape != values.shape:
        raise ValueError(
            f"residual expects its branch to keep the shape {values.shape}, got {moved.shape}"
        )
    return join(values + moved, mask), state


def residual(network: Network) -> Network:
    """y = x + f(x) (He et al. 2016); the parameters are the network's."""
    check_network("residual", network)
    return Network(partial(network.init), Partial(residual_apply, branch=partial(network.apply)))


def masked_apply(params, state, x, *, key=None, train=False, layer):
    values, mask = split(x)
    check_pairs("masked", values, mask)
    y, state = layer(params, state, cleared(values, mask), key=key, train=train)
    if mask is not None and y.shape[:2] != values.shape[:2]:
        raise ValueError(
            f"masked expects its network to keep the steps {values.shape[:2]}, "
            f"got an output of shape {y.shape}"
        )
    return join(y, mask), state


def masked(network: Network) -> Network:
    """The network on the values of a `Masked` sequence, with 0 where nothing is, whose mask is
    handed on; on anything else the network itself.

    For layers that treat each step alone: `dense`, `embedding`, `layer_norm`, `rms_norm`,
    activations, dropout. Batch, group and instance norm would count the zeros, and of two
    convolutions each needs a `masked` of its own, since the first one's bias fills them.
    """
    check_network("masked", network)
    return Network(partial(network.init), Partial(masked_apply, layer=partial(network.apply)))


def parallel_apply(params, state, x, *, key=None, train=False, branches):
    keys = layer_keys(key, len(branches))
    pairs = [
        branch(branch_params, branch_state, x, key=branch_key, train=train)
        for branch, branch_params, branch_state, branch_key in zip(
            branches, params, state, keys, strict=True
        )
    ]
    return tuple(y for y, _ in pairs), tuple(state for _, state in pairs)


def parallel(*networks: Network) -> Network:
    """The tuple of the networks' outputs for the same input. Follow it by `add` or `concatenate`
    for one array: `serial(parallel(f, g), add)` is f(x) + g(x)."""
    check_networks("parallel", networks)
    return Network(
        Partial(serial_init, inits=tuple(partial(network.init) for network in networks)),
        Partial(parallel_apply, branches=tuple(partial(n.apply) for n in networks)),
    )


def flipped(x):
    """A sequence, and its mask, in the opposite order."""
    values, mask = split(x)
    return join(jnp.flip(values, 1), None if mask is None else jnp.flip(mask, 1))


def bidirectional_apply(params, state, x, *, key=None, train=False, forward, backward):
    values, mask = split(x)
    if values.ndim < 3:
        raise ValueError(f"bidirectional expects [n, T, features], got x of shape {values.shape}")
    check_mask("bidirectional", values, mask)
    keys = layer_keys(key, 2)
    ahead, ahead_state = forward(params[0], state[0], x, key=keys[0], train=train)
    back, back_state = backward(params[1], state[1], flipped(x), key=keys[1], train=train)
    parts = (split(ahead)[0], split(flipped(back))[0])
    return join(jnp.concatenate(parts, axis=-1), mask), (ahead_state, back_state)


def bidirectional(forward: Network, backward: Network) -> Network:
    """One network from the first step on and one from the last step back, their outputs joined at
    each step (Schuster & Paliwal 1997): [n, T, ...] -> [n, T, a + b].

    Parameters and state are pairs. Both must leave a masked step alone, as `over_time` does. Of
    the last step the second half has seen that step alone: pool over time rather than `last_step`.
    """
    check_networks("bidirectional", (forward, backward))
    return Network(
        Partial(serial_init, inits=(partial(forward.init), partial(backward.init))),
        Partial(
            bidirectional_apply, forward=partial(forward.apply), backward=partial(backward.apply)
        ),
    )


def repeat_init(key, *, init, count):
    return jax.vmap(init)(jax.random.split(key, count))


def repeat_apply(params, state, x, *, key=None, train=False, layer, count):
    def step(x, layer_inputs):
        layer_params, layer_state, index = layer_inputs
        layer_key = None if key is None else jax.random.fold_in(key, index)
        y, layer_state = layer(layer_params, layer_state, x, key=layer_key, train=train)
        given, got = (jax.tree.map(lambda a: (a.shape, a.dtype.name), tree) for tree in (x, y))
        if given != got:
            raise ValueError(f"repeat expects an output like its input {given}, got {got}")
        return y, layer_state

    x = varied(x, (params, state, key, layer))
    return lax.scan(step, x, (params, state, jnp.arange(count, dtype=jnp.uint32)))


def repeat(network: Network, count: int) -> Network:
    """The network `count` times in a row, each time with parameters of its own, as one scan: the
    time to compile does not grow with the depth.

    Each parameter and state has a first axis of `count`. The output must be like the input.
    """
    check_network("repeat", network)
    count = check_count("count", count, 1)
    return Network(
        Partial(fix(repeat_init, count=count), init=partial(network.init)),
        Partial(fix(repeat_apply, count=count), layer=partial(network.apply)),
    )


def remat_apply(params, state, x, *, key=None, train=False, layer):
    def apply(params, state, x, key):
        return layer(params, state, x, key=key, train=train)

    return jax.checkpoint(apply)(params, state, x, key)


def remat(network: Network) -> Network:
    """The same network, whose inner values are computed again in the backward pass rather than
    kept: less memory for about one more forward pass."""
    check_network("remat", network)
    return Network(partial(network.init), Partial(remat_apply, layer=partial(network.apply)))


def named_init(key, *, init, name):
    params, state = init(key)
    return {name: params}, {name: state}


def named_apply(params, state, x, *, key=None, train=False, layer, name):
    y, after = layer(params[name], state[name], x, key=key, train=train)
    return y, {name: after}


def named(name: str, network: Network) -> Network:
    """The same network with its parameters and state under a name: `{name: params}`."""
    check_network("named", network)
    return Network(
        Partial(fix(named_init, name=name), init=partial(network.init)),
        Partial(fix(named_apply, name=name), layer=partial(network.apply)),
    )


def frozen_apply(params, state, x, *, key=None, train=False, layer):
    return layer(lax.stop_gradient(params), state, x, key=key, train=train)


def frozen(network: Network) -> Network:
    """The same network with parameters whose gradient is 0.

    What an optimizer does without a gradient, such as decaying weights, it still does: exempt them
    by path (`add_decayed_weights(rate, mask)`, or `partition` with `freeze()`). Running statistics
    move in training as ever.
    """
    check_network("frozen", network)
    return Network(partial(network.init), Partial(frozen_apply, layer=partial(network.apply)))


def tied_embedding_init(key, *, vocabulary, features, table_init, body):
    table_key, body_key = jax.random.split(key)
    params, state = body(body_key)
    return {"table": table_init(table_key, (vocabulary, features)), "body": params}, state


def tied_embedding_apply(params, state, x, *, key=None, train=False, body):
    table = params["table"]
    inner, _ = embedding_apply(params, (), x)
    inner, state = body(params["body"], state, inner, key=key, train=train)
    if inner.shape[-1:] != table.shape[1:]:
        raise ValueError(
            f"tied_embedding expects its body to give {table.shape[1]} features, "
            f"got an output of shape {inner.shape}"
        )
    return inner @ table.T, state


def tied_embedding(
    vocabulary: int, features: int, body: Network, *, table_init: Initializer = unit_normal
) -> Network:
    """y = body(table[x]) table': one table to embed ids and to score each of them (Press & Wolf
    2017).

    x: integers [...], y: [..., vocabulary], table: [vocabulary, features]; the body maps features
    to features. The parameters are {"table", "body"}, the state the body's. An id out of range
    gives NaN, as in `embedding`; GPT-2's table begins with a deviation of 0.02.
    """
    check_network("tied_embedding", body)
    sizes = {
        "vocabulary": check_count("vocabulary", vocabulary, 1),
        "features": check_count("features", features, 1),
    }
    return Network(
        Partial(
            fix(tied_embedding_init, **sizes),
            table_init=partial(table_init),
            body=partial(body.init),
        ),
        Partial(tied_embedding_apply, body=partial(body.apply)),
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
