"""Networks whose parameters are kept, or whose arithmetic is done, in a dtype of one's choice."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.pairs import Network, check_network, fix, partial


def cast(tree, dtype):
    """The floating-point leaves in a dtype; others as they are."""

    def one(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def floating(name, dtype):
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} expects a floating-point dtype, got {dtype}")
    return dtype


def param_dtype_init(key, *, init, dtype):
    params, state = init(key)
    return cast(params, dtype), state


def param_dtype(network: Network, dtype: Any) -> Network:
    """The same network with its parameters kept in a dtype, such as `jnp.bfloat16`; the state keeps
    its own."""
    check_network("param_dtype", network)
    init = fix(param_dtype_init, dtype=floating("param_dtype", dtype))
    return Network(Partial(init, init=partial(network.init)), network.apply)


def compute_dtype_apply(params, state, x, *, key=None, train=False, layer, dtype):
    return layer(cast(params, dtype), state, cast(x, dtype), key=key, train=train)


def compute_dtype(network: Network, dtype: Any) -> Network:
    """The same network computing in a dtype: parameters and x are cast to it on the way in, y
    stays in it, and gradients come back in the dtype of what they are gradients of.

    Parameters and state keep their dtypes, so `compute_dtype(net, jnp.bfloat16)` is the customary
    mixed precision: 16-bit products, float32 weights and updates. Norms, softmax and losses take
    their sums in float32 at least. In float16 small gradients vanish: put `loss_scaled` around the
    trainer.
    """
    check_network("compute_dtype", network)
    apply = fix(compute_dtype_apply, dtype=floating("compute_dtype", dtype))
    return Network(partial(network.init), Partial(apply, layer=partial(network.apply)))
