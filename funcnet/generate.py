"""Sampling from a language model, one id after another, as a pure function."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.numerics import varied, widen
from funcnet.pairs import Network, check_count, number


def generate(
    network: Network,
    params: Any,
    state: Any,
    prompt: jax.Array,
    *,
    steps: int,
    key: jax.Array,
    temperature: Any = 1.0,
) -> jax.Array:
    """Draw `steps` ids after a prompt, each from softmax(logits / temperature) of the last.

    `network` maps ids [n, t] to logits [n, t, vocabulary] and keeps what it has seen in its state,
    as `gpt(..., cache=(n, length))` does with the fresh state of its `init`. prompt: integers
    [n, t], t >= 1. Returns int32 ids [n, steps]. The id at step i is drawn with `fold_in(key, i)`,
    in float32 at least; the temperature may be traced, and at 0 the likeliest id is taken. Where
    the logits are NaN, as behind the cache's end and after an id out of range, the id is -1.

    Raises `ValueError` for a prompt of another form and for a state that holds nothing.
    """
    if prompt.ndim != 2 or prompt.shape[1] < 1 or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise ValueError(
            f"generate expects a prompt of integers [n, t], t >= 1, "
            f"got {prompt.dtype} of shape {prompt.shape}"
        )
    if not jax.tree.leaves(state):
        raise ValueError("generate expects a network with a cache, got an empty state")
    steps = check_count("steps", steps, 0)
    temperature = number("temperature", temperature, 0.0)

    def draw(logits, step):
        logits = widen(logits)
        warmth = jnp.asarray(temperature, logits.dtype)
        noise = jax.random.gumbel(jax.random.fold_in(key, step), logits.shape, logits.dtype)
        ids = jnp.argmax(logits + warmth * noise, axis=-1).astype(jnp.int32)
        return jnp.where(jnp.isnan(logits).any(axis=-1), -1, ids)

    def step(carry, index):
        logits, state = carry
        ids = draw(logits, index)
        logits, state = network.apply(params, state, ids[:, None])
        return (logits[:, -1], state), ids

    logits, state = network.apply(params, state, prompt)
    start = varied((logits[:, -1], state), (network, params, key, temperature))
    _, ids = lax.scan(step, start, jnp.arange(steps))
    return ids.T
