"""Attention: each step of a sequence takes from the others what it looks at."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jax.tree_util import Partial

from funcnet.layers.linear import Initializer, dense_apply, dense_init, lecun_normal
from funcnet.layers.position import check_cache, check_steps, next_steps, rotated, within
from funcnet.layers.sequence import join, split
from funcnet.pairs import Network, check_count, fix, number, partial


def seen(mask, is_causal, queries, keys):
    """A mask that no query sees past its own step by, where `is_causal`; None is all."""
    if not is_causal:
        return mask
    past = jnp.tril(jnp.ones((queries, keys), bool))
    return past if mask is None else mask & past


def plain_dot_product(query, key, value, *, mask=None, is_causal=False):
    """softmax(q k' / sqrt(d)) v for each head, the softmax in float32 at least.

    query: [n, T, heads, d]; key and value: [n, S, kv_heads, d], each for heads / kv_heads heads in
    a row; mask: bool [n or 1, heads or 1, T, S], true where a query may look. A query that may look
    at nothing gets the mean of all values.
    """
    n, queries, heads, size = query.shape
    keys, groups = key.shape[1:3]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    query = query.reshape(n, queries, groups, heads // groups, size)
    logits = jnp.einsum("ntgrd,nsgd->ngrts", query, key, preferred_element_type=wide)
    logits = logits / math.sqrt(size)
    mask = seen(mask, is_causal, queries, keys)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (n, heads, queries, keys)).reshape(logits.shape)
        logits = jnp.where(mask, logits, jnp.finfo(wide).min)
    weights = jax.nn.softmax(logits).astype(value.dtype)
    y = jnp.einsum("ngrts,nsgd->ntgrd", weights, value, preferred_element_type=wide)
    return y.reshape(n, queries, heads, size).astype(value.dtype)


def on_cuda():
    return "cuda" in jax.devices()[0].client.platform_version


def kernel_takes(query, mask):
    """Whether cuDNN's fused kernel is there and takes such queries."""
    sixteen_bits = query.dtype in (jnp.bfloat16, jnp.float16)
    fits = query.shape[-1] % 8 == 0 and query.shape[-1] <= 128
    return sixteen_bits and fits and mask is None and on_cuda()


def dot_product(query, key, value, *, mask=None, is_causal=False):
    """`plain_dot_product`, on an NVIDIA GPU by cuDNN's fused kernel where that takes it: 16-bit
    numbers in heads of at most 128, a multiple of 8, and no mask but the causal one. The kernel has
    a first derivative in reverse only."""
    plain = functools.partial(plain_dot_product, mask=mask, is_causal=is_causal)
    if not kernel_takes(query, mask):
        return plain(query, key, value)
    kernel = functools.partial(
        jax.nn.dot_product_attention, is_causal=is_causal, implementation="cudnn"
    )
    return lax.platform_dependent(query, key, value, cuda=kernel, default=plain)


def attention_init(key, *, features, kv_features, weight_init, bias_init):
    widths = {"query": features, "key": kv_features, "value": kv_features, "out": features}
    params = {}
    for part_key, (name, width) in zip(jax.random.split(key, 4), widths.items(), strict=True):
        fan_in, fan_out = (width, features) if name == "out" else (features, width)
        params[name], _ = dense_init(
            part_key, fan_in=fan_in, fan_out=fan_out, weight_init=weight_init, bias_init=bias_init
        )
    return params, ()


def pairs_of(mask, heads, x):
    """A mask as bool [n, heads or 1, T, T]; steps that are not there neither look nor are seen."""
    n, steps = x.shape[:2]
    shapes = ((n, steps), (n, steps, steps), (n, heads, steps, steps))
    if mask.shape not in shapes or mask.dtype != bool:
        raise ValueError(
            f"attention expects a mask of bool and one of the shapes {shapes}, "
            f"got {mask.dtype} of shape {mask.shape}"
        )
    if mask.ndim == 2:
        return (mask[:, :, None] & mask[:, None, :])[:, None]
    return mask[:, None] if mask.ndim == 3 else mask


def project(params, x, size, steps=None, base=None):
    """x W + b in heads of a size, [n, T, heads, size], rotated to its steps if there is a base."""
    y, _ = dense_apply(params, (), x)
    y = y.reshape(*x.shape[:2], y.shape[-1] // size, size)
    return y if base is None else rotated(y, steps, base)


def attention_apply(
    params, state, x, *, key=None, train=False, heads, causal, product, rotary_base
):
    values, mask = split(x)
    features = params["query"]["weight"].shape[0]
    check_steps("attention", values, features)
    n, length, _ = values.shape
    size = features // heads
    steps, pairs, looking, looked_at = jnp.arange(length), None, values, values
    if mask is not None:
        pairs = seen(pairs_of(mask, heads, values), causal, length, length)
        # A weight of 0 does not stop a NaN: what nobody sees, or sees nobody, is made 0 itself.
        looking = jnp.where(pairs.any((1, 3))[..., None], values, 0.0)
        looked_at = jnp.where(pairs.any((1, 2))[..., None], values, 0.0)
    y = product(
        project(params["query"], looking, size, steps, rotary_base),
        project(params["key"], looked_at, size, steps, rotary_base),
        project(params["value"], looked_at, size),
        mask=pairs,
        is_causal=causal,
    )
    if pairs is not None:
        y = jnp.where(jnp.swapaxes(pairs.any(3), 1, 2)[..., None], y, 0.0)
    y, _ = dense_apply(params["out"], (), y.reshape(n, length, features))
    return join(y.astype(values.dtype), mask), state


def cached_attention_init(key, *, init, batch, length, kv_heads, size):
    empty = jnp.zeros((batch, length, kv_heads, size))
    state = {"key": empty, "value": empty, "position": jnp.zeros((), jnp.int32)}
    return init(key)[0], state


def cached_attention_apply(params, state, x, *, key=None, train=False, product, rotary_base):
    features = params["query"]["weight"].shape[0]
    if split(x)[1] is not None:
        raise ValueError("attention with a cache takes no mask")
    check_steps("attention", x, features)
    batch, length, _, size = state["key"].shape
    steps = next_steps("attention", x, state["position"], batch)

    def extended(name, new):
        return state[name].at[:, steps].set(new.astype(state[name].dtype), mode="drop")

    query = project(params["query"], x, size, steps, rotary_base)
    after = {
        "key": extended("key", project(params["key"], x, size, steps, rotary_base)),
        "value": extended("value", project(params["value"], x, size)),
        "position": state["position"] + x.shape[1],
    }
    keys, values = (after[name].astype(query.dtype) for name in ("key", "value"))
    past = jnp.arange(length) <= steps[:, None]
    y = product(query, keys, values, mask=past[None, None])
    y, _ = dense_apply(params["out"], (), y.reshape(x.shape))
    return within(steps, length, y.astype(x.dtype)), after


def attention(
    features: int,
    heads: int,
    *,
    kv_heads: int | None = None,
    causal: bool = False,
    rotary_base: float | None = None,
    weight_init: Initializer = lecun_normal,
    bias_init: Initializer | None = initializers.zeros,
    product: Callable[..., Any] = dot_product,
    cache: tuple[int, int] | None = None,
) -> Network:
    """Each step's softmax(q k' / sqrt(d)) v over the sequence's steps, in `heads` heads of
    d = features / heads, joined and projected (Vaswani et al. 2017).

    x: [n, T, features], or `Masked` with a mask [n, T], [n, T, T] or [n, heads, T, T]; y is like
    x. What nobody may look at has no influence, be it NaN (of what some may, the others still get
    a NaN), and who may look at nothing gets the output's bias. `causal` lets a step look at itself
    and the steps before it. `kv_heads` keys and values each serve heads / kv_heads heads in a row
    (Ainslie et al. 2023). With a `rotary_base`, a leaf, queries and keys are rotated to their
    positions: pairs of features half a head apart.

    The parameters "query", "key", "value" and "out" are each those of a `dense`. PyTorch's
    `in_proj_weight` is the first three, transposed and stacked, and `out_proj` is "out".

    `product` is called as `jax.nn.dot_product_attention`, whose form for XLA rounds the softmax of
    float64 to float32. The default is a fused kernel on a GPU where shapes and dtypes allow; for
    derivatives other than the first in reverse take `plain_dot_product` there.

    With `cache=(batch, length)`, which needs `causal`, the network generates: the state has the
    keys, the values and the position so far, x [batch, t, features] is the next t steps, and what
    comes after `length` steps is NaN.
    """
    features, heads = check_count("features", features, 1), check_count("heads", heads, 1)
    kv_heads = heads if kv_heads is None else check_count("kv_heads", kv_heads, 1)
    if features % heads:
        raise ValueError(f"attention expects heads to divide {features} features, got {heads}")
    if heads % kv_heads:
        raise ValueError(f"attention expects kv_heads to divide {heads} heads, got {kv_heads}")
    size = features // heads
    if rotary_base is not None and size % 2:
        raise ValueError(f"rotary positions need heads of an even size, got {size}")
    cache = check_cache("attention", cache)
    if cache is not None and not causal:
        raise ValueError("attention with a cache must be causal")
    init = Partial(
        fix(attention_init, features=features, kv_features=kv_heads * size),
        weight_init=partial(weight_init),
        bias_init=None if bias_init is None else partial(bias_init),
    )
    numbers = {
        "product": partial(product),
        "rotary_base": None if rotary_base is None else number("rotary_base", rotary_base, 1.0),
    }
    if cache is None:
        apply = fix(attention_apply, heads=heads, causal=bool(causal))
        return Network(init, Partial(apply, **numbers))
    sizes = {"batch": cache[0], "length": cache[1], "kv_heads": kv_heads, "size": size}
    init = Partial(fix(cached_attention_init, **sizes), init=init)
    return Network(init, Partial(cached_attention_apply, **numbers))
