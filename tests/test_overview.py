"""The table of a network: published sizes, counts by hand, and what it must not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn

LENET = """\
layer         output           parameters    bytes  multiply-adds
-----------------------------------------------------------------
conv          (1, 28, 28, 6)          156      624        117,600
tanh          (1, 28, 28, 6)            0        0              0
average_pool  (1, 14, 14, 6)            0        0              0
conv          (1, 10, 10, 16)       2,416    9,664        240,000
tanh          (1, 10, 10, 16)           0        0              0
average_pool  (1, 5, 5, 16)             0        0              0
flatten       (1, 400)                  0        0              0
dense         (1, 120)             48,120  192,480         48,000
tanh          (1, 120)                  0        0              0
dense         (1, 84)              10,164   40,656         10,080
tanh          (1, 84)                   0        0              0
dense         (1, 10)                 850    3,400            840
-----------------------------------------------------------------
total         (1, 10)              61,706  246,824        416,520"""


def test_lenet():
    assert str(fn.summary(fn.lenet(), jnp.ones((1, 28, 28, 1)))) == LENET


def either(x):
    """Two products or one: which, is not known before it runs."""
    return jax.lax.cond(x[0, 0] > 0.0, lambda x: x @ x @ x, lambda x: x @ x, x)


X = jnp.ones((2, 6, 4))
ATTENTION = 4 * 2 * 6 * 4 * 4 + 2 * 2 * 6 * 6 * 4
# network, x, multiply-adds by hand
COUNTS = {
    "dense": (fn.dense(4, 3), X, 2 * 6 * 4 * 3),
    "embedding": (fn.embedding(5, 3), jnp.ones(2, int), 0),
    "depthwise": (fn.conv(4, 8, (3,), groups=4), X, 2 * 6 * 3 * 8),
    "strided": (fn.conv(4, 3, (3,), stride=2, padding="valid"), X, 2 * 2 * 3 * 4 * 3),
    "winograd": (fn.conv(8, 9, (3, 3)), jnp.ones((1, 5, 4, 8)), 20 * 9 * 8 * 9),
    "winograd, few": (fn.conv(32, 64, (3, 3)), jnp.ones((1, 2, 2, 32)), 4 * 9 * 32 * 64),
    "choice": (fn.activation(either), jnp.ones((3, 3)), 2 * 3**3),
    "transposed": (fn.conv_transpose(4, 3, (5,), stride=2), X, 2 * 6 * 5 * 4 * 3),
    "repeat": (fn.repeat(fn.residual(fn.dense(4, 4)), 5), X, 5 * 2 * 6 * 4 * 4),
    "lstm": (fn.lstm(4, 3), X, 2 * 6 * (4 + 3) * 4 * 3),
    "attention": (fn.attention(4, 2), X, ATTENTION),
    "remat": (fn.remat(fn.mlp((4, 3, 2), fn.gelu)), X, 2 * 6 * (4 * 3 + 3 * 2)),
    "tied": (fn.tied_embedding(5, 4, fn.identity), jnp.ones((2, 6), int), 2 * 6 * 4 * 5),
}


@pytest.mark.parametrize("name", COUNTS)
def test_multiply_adds(name):
    network, x, count = COUNTS[name]
    found = fn.summary(network, x)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    assert found.total.multiply_adds == count
    assert found.total.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found.total.bytes == 4 * found.total.parameters


def test_networks_of_networks():
    block = fn.residual(
        fn.serial(fn.masked(fn.layer_norm(4)), fn.attention(4, 2), fn.masked(fn.relu))
    )
    network = fn.serial(
        fn.repeat(fn.named("block", block), 3),
        fn.bidirectional(fn.gru(4, 2), fn.rnn(4, 1)),
        fn.parallel(fn.last_step, fn.last_step),
    )
    half = fn.param_dtype(network, jnp.bfloat16)
    rows, total = fn.summary(half, fn.Masked(X, np.ones((2, 6), bool)))
    assert [(r.depth, r.layer) for r in rows] == [
        *[(0, "repeat 3"), (1, "named block"), (2, "residual"), (3, "masked")],
        *[(4, "layer_norm"), (3, "attention"), (3, "masked"), (4, "relu")],
        *[(0, "bidirectional"), (1, "over_time gru"), (1, "over_time rnn")],
        *[(0, "parallel"), (1, "last_step"), (1, "last_step")],
    ]
    assert [r.multiply_adds for r in rows[:6]] == [3 * ATTENTION, *[ATTENTION] * 2, 0, 0, ATTENTION]
    assert (rows[8].parameters, rows[9].parameters) == (6 * 6 + 6 + 2 + 6, 6 * 6 + 6 + 2)
    assert rows[8].output == ((2, 6, 3), (2, 6))
    assert total.output == ((2, 3), (2, 3))
    assert total.bytes == 2 * total.parameters


def test_nothing_is_computed_and_what_does_not_fit_says_so():
    # A terabyte would not pass unnoticed.
    large = fn.summary(fn.dense(2**19, 2**19), jax.ShapeDtypeStruct((2**19, 2**19), jnp.float32))
    assert large.rows[0].layer == "dense"
    assert large.total.multiply_adds == 2**57
    with pytest.raises(ValueError, match="dense expects 3 features"):
        fn.summary(fn.dense(3, 2), X)
