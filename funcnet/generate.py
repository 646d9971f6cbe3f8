"""Sampling from a language model, one id after another, as a pure function."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.numerics import varied, widen
from funcnet.pairs import Network, check_count, check_network, number


def likeliest(logits, warmth, top_k, top_p):
    """(logits in falling order, -inf where an id is left out; the ids [..., vocabulary] in it)."""
    order = jnp.argsort(logits, axis=-1, descending=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    if top_k is not None:
        ranked = jnp.where(jnp.arange(ranked.shape[-1]) < top_k, ranked, -jnp.inf)
    p = jax.nn.softmax(ranked / jnp.where(warmth == 0.0, 1.0, warmth), axis=-1)
    # Where 1 is reached by rounding, ids that are possible remain.
    kept = (jnp.cumsum(p, axis=-1) - p < top_p) | (top_p >= 1.0)
    return jnp.where(kept.at[..., 0].set(True), ranked, -jnp.inf), order


def generate(
    network: Network,
    params: Any,
    state: Any,
    prompt: jax.Array,
    *,
    steps: int,
    key: jax.Array,
    temperature: Any = 1.0,
    top_k: int | None = None,
    top_p: Any = 1.0,
) -> jax.Array:
    """Draw `steps` ids after a prompt, each from softmax(logits / temperature) of the last.

    `network` maps ids [n, t] to logits [n, t, vocabulary] and keeps what it has seen in its state,
    as `gpt(..., cache=(n, length))` does with the fresh state of its `init`. prompt: integers
    [n, t], t >= 1. Returns int32 ids [n, steps]. The id at step i is drawn with `fold_in(key, i)`,
    in float32 at least; the temperature may be traced, and at 0 the likeliest id is taken. Where
    the logits are NaN, as behind the cache's end and after an id out of range, the id is -1.

    `top_k`, a choice, draws from the k likeliest ids alone (Fan et al. 2018); `top_p`, a number,
    from the fewest likeliest of these whose probability among them, at the temperature, reaches p
    (Holtzman et al. 2020), at least one. Of equal logits the lower id is the likelier.

    Raises `ValueError` for a prompt of another form, for a state that holds nothing, and for a
    temperature or `top_p` that is not a single number.
    """
    check_network("generate", network)
    prompt = jnp.asarray(prompt)
    if prompt.ndim != 2 or prompt.shape[1] < 1 or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise ValueError(
            f"generate expects a prompt of integers [n, t], t >= 1, "
            f"got {prompt.dtype} of shape {prompt.shape}"
        )
    if not jax.tree.leaves(state):
        raise ValueError("generate expects a network with a cache, got an empty state")
    steps = check_count("steps", steps, 0)
    top_k = None if top_k is None else check_count("top_k", top_k, 1)
    numbers = number("temperature", temperature, 0.0), number("top_p", top_p, 0.0, 1.0)
    for name, value in zip(("temperature", "top_p"), numbers, strict=True):
        if jnp.ndim(value):
            raise ValueError(f"{name} must be a single number, got shape {jnp.shape(value)}")
    everything = top_k is None and isinstance(top_p, int | float) and top_p == 1.0

    def draw(logits, step):
        logits = widen(logits)
        warmth, mass = (jnp.asarray(value, logits.dtype) for value in numbers)
        noise = jax.random.gumbel(jax.random.fold_in(key, step), logits.shape, logits.dtype)
        unknown = jnp.isnan(logits).any(axis=-1)
        if everything:
            ids = jnp.argmax(logits + warmth * noise, axis=-1)
        else:
            ranked, order = likeliest(logits, warmth, top_k, mass)
            noise = jnp.take_along_axis(noise, order, axis=-1)
            place = jnp.argmax(ranked + warmth * noise, axis=-1, keepdims=True)
            ids = jnp.take_along_axis(order, place, axis=-1)[..., 0]
        return jnp.where(unknown, -1, ids.astype(jnp.int32))

    def step(carry, index):
        logits, state = carry
        ids = draw(logits, index)
        logits, state = network.apply(params, state, ids[:, None])
        return (logits[:, -1], state), ids

    logits, state = network.apply(params, state, prompt)
    start = varied((logits[:, -1], state), (network, params, key, numbers))
    _, ids = lax.scan(step, start, jnp.arange(steps))
    return ids.T
