"""Transformer blocks, composed of layers and combinators."""

from collections.abc import Callable
from typing import Any

from jax.nn import initializers

from funcnet.combine import masked, mlp, parallel, residual, serial
from funcnet.layers.activation import gelu, silu
from funcnet.layers.attention import attention, dot_product
from funcnet.layers.dropout import dropout as dropout_layer
from funcnet.layers.linear import Initializer, dense, lecun_normal
from funcnet.layers.norm import layer_norm
from funcnet.layers.shape import multiply
from funcnet.pairs import Network


def swiglu(
    features: int,
    hidden: int,
    *,
    weight_init: Initializer = lecun_normal,
    bias_init: Initializer | None = None,
) -> Network:
    """W_2 (silu(W_1 x) * W_3 x), a gated feed-forward network (Shazeer 2020).

    x: [..., features], the inner width is `hidden`. The parameters are those of
    `serial(parallel(serial(dense, silu), dense), multiply, dense)`.
    """

    def layer(fan_in, fan_out):
        return dense(fan_in, fan_out, weight_init=weight_init, bias_init=bias_init)

    gate, linear = serial(layer(features, hidden), silu), layer(features, hidden)
    return serial(parallel(gate, linear), multiply, layer(hidden, features))


def transformer_block(
    features: int,
    heads: int,
    *,
    feed_forward: Network | None = None,
    norm: Network | None = None,
    dropout: float | None = None,
    kv_heads: int | None = None,
    causal: bool = False,
    rotary_base: float | None = None,
    bias_init: Initializer | None = initializers.zeros,
    product: Callable[..., Any] = dot_product,
    cache: tuple[int, int] | None = None,
) -> Network:
    """x + attend(norm(x)), and of that x + feed_forward(norm(x)) (Vaswani et al. 2017; the norm
    before each branch, not after the sum, as in Radford et al. 2019).

    x: [n, T, features], or `Masked`. `feed_forward` is by default
    `mlp((features, 4 * features, features), gelu)`, `norm` is `layer_norm(features)`, and each
    branch ends in a dropout where there is a rate. Those it has in common with `attention` are
    passed on to it. A stack is `repeat(transformer_block(...), count)`, followed by a norm.
    """
    norm = layer_norm(features) if norm is None else norm
    if feed_forward is None:
        feed_forward = mlp((features, 4 * features, features), gelu)
    noise = () if dropout is None else (dropout_layer(dropout),)
    attend = attention(
        features,
        heads,
        kv_heads=kv_heads,
        causal=causal,
        rotary_base=rotary_base,
        bias_init=bias_init,
        product=product,
        cache=cache,
    )
    return serial(
        residual(serial(masked(norm), attend, *map(masked, noise))),
        residual(masked(serial(norm, feed_forward, *noise))),
    )
