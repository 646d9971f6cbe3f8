"""Rules of attention and of positions."""

import jax.numpy as jnp
from jax import lax

from funcnet.layers.linear import dense_apply
from funcnet.layers.sequence import join, split
from funcnet.numerics import widen


def turned(x, base, sign):
    """x_i + i x_{i + d/2}, times exp(sign * i * t / base^(2i / d)) at step t: back is -sign."""
    half = x.shape[-1] // 2
    wide = widen(x)
    rates = jnp.asarray(base, wide.dtype) ** (jnp.arange(half, dtype=wide.dtype) / half)
    angle = (jnp.arange(x.shape[1], dtype=wide.dtype)[:, None] / rates)[:, None]
    z = lax.complex(wide[..., :half], wide[..., half:])
    z = z * lax.complex(jnp.cos(angle), sign * jnp.sin(angle))
    return jnp.concatenate([z.real, z.imag], axis=-1).astype(x.dtype)


def dot_product(query, key, value, *, mask=None, is_causal=False):
    """S = q k' / sqrt(d), P = softmax(S), y = P v: dv = P' dy, dP = dy v', dS = P (dP - sum(P dP)),
    dq = dS k / sqrt(d), dk = dS' q / sqrt(d); a key and a value add up over the heads they serve.
    """
    n, queries, heads, size = query.shape
    keys, groups = key.shape[1:3]
    scale = size**-0.5
    q, k, v = (jnp.repeat(widen(a), heads // a.shape[2], axis=2) for a in (query, key, value))
    sees = jnp.ones((n, heads, queries, keys), bool) if mask is None else mask
    if is_causal:
        sees = sees & (jnp.arange(queries)[:, None] >= jnp.arange(keys))
    s = jnp.where(sees, scale * jnp.einsum("nthd,nshd->nhts", q, k), -jnp.inf)
    top = s.max(-1, keepdims=True)
    e = jnp.exp(s - jnp.where(jnp.isfinite(top), top, 0.0))
    total = e.sum(-1, keepdims=True)
    p = e / jnp.where(total > 0.0, total, 1.0)
    y = jnp.einsum("nhts,nshd->nthd", p, v).astype(query.dtype)

    def grouped(d, like):
        shared = d.reshape(n, keys, groups, heads // groups, size).sum(3)
        return shared.astype(like.dtype)

    def pullback(dy):
        dy = widen(dy)
        dp = jnp.einsum("nthd,nshd->nhts", dy, v)
        ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * scale
        dq = jnp.einsum("nhts,nshd->nthd", ds, k).astype(query.dtype)
        dk = jnp.einsum("nhts,nthd->nshd", ds, q)
        dv = jnp.einsum("nhts,nthd->nshd", p, dy)
        return dq, grouped(dk, key), grouped(dv, value)

    return y, pullback


def attention(params, state, x, *, heads, causal, product, rotary_base, vjp, key=None, train=False):
    """y = W_o product(W_q x, W_k x, W_v x): dx is the sum of the three projections'."""
    values, mask = split(x)
    n, length, features = values.shape
    sees = looks = looking = looked_at = None
    if mask is not None:
        sees = mask[:, :, None] & mask[:, None] if mask.ndim == 2 else mask
        sees = sees if sees.ndim == 4 else sees[:, None]
        if causal:
            sees = sees & (jnp.arange(length)[:, None] >= jnp.arange(length))
        looks = sees.any(3).swapaxes(1, 2)[..., None]
        looking, looked_at = sees.any((1, 3))[..., None], sees.any((1, 2))[..., None]

    def there(d, rows):
        return d if rows is None else jnp.where(rows, d, 0.0)

    def project(name, rows):
        y, back, _ = vjp(dense_apply, params[name], (), there(values, rows))
        width, size = y.shape[-1], features // heads
        y = y.reshape(n, length, width // size, size)
        turns = rotary_base is not None and name != "value"

        def pullback(dy):
            dy = turned(dy, rotary_base, -1.0) if turns else dy
            dparams, dx = back(dy.reshape(n, length, width))
            return dparams, there(dx, rows)

        return turned(y, rotary_base, 1.0) if turns else y, pullback

    parts = {"query": looking, "key": looked_at, "value": looked_at}
    projected = {name: project(name, rows) for name, rows in parts.items()}
    inner, product_back = vjp(
        product, *(y for y, _ in projected.values()), mask=sees, is_causal=causal
    )
    joined = there(inner, looks).reshape(n, length, features)
    y, out_back, _ = vjp(dense_apply, params["out"], (), joined)

    def backward(dy):
        delta, nothing = split(dy)
        dparams = {}
        dparams["out"], djoined = out_back(delta.astype(y.dtype))
        through = product_back(there(djoined.reshape(inner.shape), looks))
        dx = 0.0
        for (name, (_, back)), d in zip(projected.items(), through, strict=True):
            dparams[name], share = back(d)
            dx = dx + share
        return dparams, join(dx.astype(values.dtype), nothing)

    return join(y.astype(values.dtype), mask), backward, state


def sinusoidal(params, state, x, *, features, base, key=None, train=False):
    """y = x + p, p the imaginary and real parts of exp(i t / base^(2i / features)): dx = dy."""
    values, mask = split(x)
    wide = widen(values)
    pair = jnp.arange(0, features, 2, dtype=wide.dtype) / features
    phase = jnp.arange(values.shape[1], dtype=wide.dtype)[:, None] / jnp.power(base, pair)
    y = wide.at[..., 0::2].add(jnp.sin(phase)).at[..., 1::2].add(jnp.cos(phase))
    return join(y.astype(values.dtype), mask), lambda dy: ((), dy), state


def learned_positions(params, state, x, *, key=None, train=False):
    """y_t = x_t + table_t: a row's gradient is the sum of dy_t over the batch; dx = dy."""
    values, mask = split(x)
    table, steps = params["table"], values.shape[1]
    y = (values + table[:steps]).astype(values.dtype)

    def pullback(dy):
        rows = widen(split(dy)[0]).sum(axis=0).astype(table.dtype)
        return {"table": jnp.zeros_like(table).at[:steps].set(rows)}, dy

    return join(y, mask), pullback, state
