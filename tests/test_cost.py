"""The abstraction costs nothing: the compiled step is that of the same step in plain JAX."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn

RATE, B1, B2, EPS = 1e-2, 0.9, 0.999, 1e-8
X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 6)), jnp.float32)
LABELS = jnp.arange(16) % 4


def plain_step(params, mean, square, count, batch, learning_rate, eps, c1, c2):
    """The same formulas as one would write them without a library: MLP, cross-entropy, Adam."""

    def loss(params):
        x, labels = batch
        (w1, b1), (w2, b2) = params
        logits = jax.nn.relu(x @ w1 + b1) @ w2 + b2
        wrong = (labels < 0) | (labels >= 4)
        factor = jnp.where(wrong, jnp.nan, 1.0)
        hot = (labels[:, None] == jnp.arange(4)) | wrong[:, None]
        values = -factor * jnp.where(hot, jax.nn.log_softmax(logits), 0.0).sum(axis=1)
        return (values / len(labels)).sum()

    def correction(fraction):
        slow = -jnp.expm1(t * jnp.log1p(-jnp.minimum(fraction, 0.5)))
        return jnp.where(fraction < 0.5, slow, 1.0 - (1.0 - fraction) ** t)

    def average(a, c, x):
        return jnp.where(c > 0.5, x, a) + jnp.where(c > 0.5, c - 1.0, c) * (x - a)

    def root(v):
        return jnp.where(v <= 0.0, 0.0, jnp.sqrt(jnp.where(v <= 0.0, 1.0, v)))

    value, grads = jax.value_and_grad(loss)(params)
    count = jnp.minimum(count, 2**31 - 2) + 1
    t = count.astype(float)
    mean = jax.tree.map(lambda m, g: average(m, c1, g), mean, grads)
    square = jax.tree.map(lambda v, g: average(v, c2, g * g), square, grads)
    size, unbias = learning_rate / correction(c1), 1.0 / correction(c2)
    params = jax.tree.map(
        lambda p, m, v: p + -size * (m / (root(unbias * v) + eps)), params, mean, square
    )
    return params, mean, square, count, value


def operations(compiled):
    """Counts of the optimised program's instructions, but for those that only name values."""
    names = re.findall(r"^\s+(?:ROOT )?%\S+ = \S+ ([a-z\-]+)\(", compiled.as_text(), re.M)
    free = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy"}
    return Counter(name for name in names if name not in free)


def test_the_compiled_step_is_that_of_plain_jax():
    trainer = fn.trainer(fn.supervised(fn.mlp((6, 8, 4)), fn.cross_entropy), fn.adam(RATE))
    state = trainer.init(jax.random.key(0))

    def step(trainer, state, batch):
        after, metrics = trainer.step(state, batch)
        optimizer = after.opt_state
        return after.params, optimizer.mean, optimizer.square, optimizer.count, metrics["loss"]

    first, _, second = state.params
    layers = [(layer["weight"], layer["bias"]) for layer in (first, second)]
    zeros = jax.tree.map(jnp.zeros_like, layers)
    numbers = (RATE, EPS, 1.0 - B1, 1.0 - B2)
    batch, count = (X, LABELS), jnp.int32(0)
    ours = jax.jit(step).lower(trainer, state, batch).compile()
    plain = jax.jit(plain_step).lower(layers, zeros, zeros, count, batch, *numbers).compile()
    np.testing.assert_allclose(
        ours(trainer, state, batch)[-1],
        plain(layers, zeros, zeros, count, batch, *numbers)[-1],
        rtol=1e-6,
    )
    got, wanted = operations(ours), operations(plain)
    assert sum(got.values()) <= sum(wanted.values()), (got, wanted)
    for figure in ("flops", "transcendentals", "bytes accessed"):
        assert ours.cost_analysis()[figure] <= 1.01 * plain.cost_analysis()[figure], figure
