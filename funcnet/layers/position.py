"""Where in its sequence a step is: as rotations inside attention, or added to the values."""

import jax.numpy as jnp
from jax.nn import initializers
from jax.tree_util import Partial

from funcnet.layers.linear import Initializer, check_floating
from funcnet.layers.sequence import join, split
from funcnet.layers.shape import no_params
from funcnet.numerics import whole, widen
from funcnet.pairs import Network, check_count, fix, number, partial

small_normal = initializers.normal(0.02)
"""Normal numbers of deviation 0.02, with which GPT's and BERT's tables begin."""


def check_steps(name, x, features):
    check_floating(name, x)
    if x.ndim != 3 or x.shape[-1] != features:
        raise ValueError(f"{name} expects [n, T, {features}], got x of shape {x.shape}")


def check_cache(name, cache):
    """A cache as (batch, length); None is none."""
    if cache is None:
        return None
    sizes = isinstance(cache, tuple) and len(cache) == 2 and all(map(whole, cache))
    if not (sizes and min(cache) >= 1):
        raise ValueError(f"{name} expects a cache of (batch, length), got {cache!r}")
    return int(cache[0]), int(cache[1])


def next_steps(name, x, position, batch):
    """The positions of the steps of x, int [t], from that of the first."""
    if x.shape[0] != batch:
        raise ValueError(f"{name} has a cache for a batch of {batch}, got x of shape {x.shape}")
    return position + jnp.arange(x.shape[1], dtype=position.dtype)


def within(steps, length, y):
    """y, and NaN at the steps for which the cache has no room."""
    return jnp.where((steps < length)[:, None], y, jnp.nan)


def angles(steps, pairs, base, dtype):
    """step / base^(i / pairs) for i = 0 ... pairs - 1: [T, pairs]."""
    rates = jnp.asarray(base, dtype) ** (-jnp.arange(pairs, dtype=dtype) / pairs)
    return steps.astype(dtype)[:, None] * rates


def rotated(x, steps, base):
    """Each pair (x_i, x_{i + d/2}) turned by the angle step / base^(2i / d) (Su et al. 2021).

    x: [n, T, heads, d], steps: int [T]. The pairs are a half apart, as in GPT-NeoX and LLaMA; the
    paper's are neighbours, which is the same up to the order of the features.
    """
    wide = widen(x)
    first, second = jnp.split(wide, 2, axis=-1)
    angle = angles(steps, first.shape[-1], base, wide.dtype)[:, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def counted_init(key, *, init):
    return init(key)[0], {"position": jnp.zeros((), jnp.int32)}


def sinusoids(x, steps, base):
    wide = widen(x)
    angle = angles(steps, x.shape[-1] // 2, base, wide.dtype)
    waves = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(-1, x.shape[-1])
    return (wide + waves).astype(x.dtype)


def sinusoidal_apply(params, state, x, *, key=None, train=False, features, base):
    values, mask = split(x)
    check_steps("sinusoidal", values, features)
    return join(sinusoids(values, jnp.arange(values.shape[1]), base), mask), state


def cached_sinusoidal_apply(params, state, x, *, key=None, train=False, features, cache, base):
    check_steps("sinusoidal", x, features)
    steps = next_steps("sinusoidal", x, state["position"], cache[0])
    y = within(steps, cache[1], sinusoids(x, steps, base))
    return y, {"position": state["position"] + x.shape[1]}


def sinusoidal(
    features: int, *, base: float = 10_000.0, cache: tuple[int, int] | None = None
) -> Network:
    """y_t = x_t + p_t with p_{t, 2i} = sin(t / base^(2i / features)) and p_{t, 2i+1} the cosine
    (Vaswani et al. 2017).

    x: [n, T, features], or `Masked`; `base` is a leaf. With a cache, as `attention`'s, the state
    has the position of the next step and x [batch, t, features] is what comes next.
    """
    if check_count("features", features, 2) % 2:
        raise ValueError(f"sinusoidal expects an even number of features, got {features}")
    cache = check_cache("sinusoidal", cache)
    base = number("base", base, 1.0)
    if cache is None:
        apply = fix(sinusoidal_apply, features=int(features))
        return Network(Partial(no_params), Partial(apply, base=base))
    apply = fix(cached_sinusoidal_apply, features=int(features), cache=cache)
    init = Partial(counted_init, init=partial(no_params))
    return Network(init, Partial(apply, base=base))


def table_init(key, *, length, features, initial):
    return {"table": initial(key, (length, features))}, ()


def learned_positions_apply(params, state, x, *, key=None, train=False):
    values, mask = split(x)
    length, features = params["table"].shape
    check_steps("learned_positions", values, features)
    if values.shape[1] > length:
        raise ValueError(f"learned_positions has {length} positions, got x of shape {values.shape}")
    y = widen(values) + params["table"][: values.shape[1]]
    return join(y.astype(values.dtype), mask), state


def cached_learned_positions_apply(params, state, x, *, key=None, train=False, cache):
    check_steps("learned_positions", x, params["table"].shape[1])
    steps = next_steps("learned_positions", x, state["position"], cache[0])
    rows = params["table"].at[steps].get(mode="clip")
    y = within(steps, cache[1], (x + rows).astype(x.dtype))
    return y, {"position": state["position"] + x.shape[1]}


def learned_positions(
    length: int,
    features: int,
    *,
    initial: Initializer = small_normal,
    cache: tuple[int, int] | None = None,
) -> Network:
    """y_t = x_t + table[t], the table learnt.

    x: [n, T, features] with T <= length, or `Masked`; table: [length, features]. With a cache,
    as `attention`'s and not longer than the table, the state has the position of the next step
    and x [batch, t, features] is what comes next.
    """
    cache = check_cache("learned_positions", cache)
    sizes = {
        "length": check_count("length", length, 1),
        "features": check_count("features", features, 1),
    }
    init = Partial(fix(table_init, **sizes), initial=partial(initial))
    if cache is None:
        return Network(init, Partial(learned_positions_apply))
    if cache[1] > length:
        raise ValueError(f"learned_positions has {length} positions, got a cache for {cache[1]}")
    apply = Partial(fix(cached_learned_positions_apply, cache=cache))
    return Network(Partial(counted_init, init=init), apply)
