"""Layers' values against NumPy, their initial values, and the noise of dropout."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn

KEY = jax.random.key(1)
X = np.linspace(-3.0, 3.0, 24).reshape(4, 2, 3)
erf = np.vectorize(math.erf)
ACTIVATIONS = {
    "relu": (fn.relu, lambda x: np.maximum(x, 0.0)),
    "tanh": (fn.tanh, np.tanh),
    "sigmoid": (fn.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "gelu": (fn.gelu, lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2)))),
    "silu": (fn.silu, lambda x: x / (1 + np.exp(-x))),
    "softplus": (fn.softplus, lambda x: np.log1p(np.exp(x))),
    "elu": (fn.elu, lambda x: np.where(x > 0, x, np.expm1(x))),
    "leaky_relu": (fn.leaky_relu(0.1), lambda x: np.where(x > 0, x, 0.1 * x)),
    "identity": (fn.identity, lambda x: x),
    "flatten": (fn.flatten, lambda x: x.reshape(4, 6)),
    "sin": (fn.activation(jnp.sin), np.sin),
}


@pytest.mark.parametrize(("network", "wanted"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activations(network, wanted):
    with jax.enable_x64(True):
        params, state = network.init(KEY)
        assert params == state == ()
        y, after = network.apply(params, state, jnp.asarray(X), train=True)
        np.testing.assert_allclose(y, wanted(X), rtol=1e-13, atol=1e-15)
        assert after == ()


def test_gradients_at_kinks_and_far_out():
    def slope(network, at):
        return jax.grad(lambda x: network.apply((), (), x)[0])(at)

    assert slope(fn.relu, 0.0) == 0.0
    for name in ("relu", "tanh", "sigmoid", "gelu", "silu", "softplus", "elu"):
        for at in (-1e4, 1e4, -100.0, 100.0):
            y = getattr(fn, name).apply((), (), jnp.float32(at))[0]
            assert jnp.isfinite(y)
            assert jnp.isfinite(slope(getattr(fn, name), jnp.float32(at)))


def test_dense_and_mlp_are_matrix_products():
    with jax.enable_x64(True):
        network = fn.mlp((3, 5, 2), fn.tanh, bias_init=jax.nn.initializers.normal(1.0))
        params, state = network.init(KEY)
        first, nothing, second = params
        assert nothing == ()
        w1, b1, w2, b2 = (np.asarray(p[n]) for p in (first, second) for n in ("weight", "bias"))
        assert (w1.shape, b1.shape, w2.shape, b2.shape) == ((3, 5), (5,), (5, 2), (2,))
        y, _ = network.apply(params, state, jnp.asarray(X))
        np.testing.assert_allclose(y, np.tanh(X @ w1 + b1) @ w2 + b2, rtol=1e-13)
        bare = fn.dense(3, 2, bias_init=None)
        assert list(bare.init(KEY)[0]) == ["weight"]


def test_initial_values():
    params, _ = fn.dense(400, 300).init(KEY)
    np.testing.assert_allclose(params["weight"].std(), 1 / np.sqrt(400), rtol=0.01)
    np.testing.assert_allclose(params["weight"].mean(), 0.0, atol=1e-3)
    np.testing.assert_array_equal(params["bias"], 0.0)
    twins = fn.serial(fn.dense(4, 4), fn.dense(4, 4)).init(KEY)[0]
    assert (twins[0]["weight"] != twins[1]["weight"]).all()
    ensemble, _ = jax.vmap(fn.dense(4, 4).init)(jax.random.split(KEY, 3))
    assert ensemble["weight"].shape == (3, 4, 4)


def test_dropout():
    x = jnp.ones((200, 200))
    network = fn.dropout(0.3)
    y, _ = network.apply((), (), x, key=KEY, train=True)
    kept = np.asarray(y) != 0.0
    np.testing.assert_allclose(kept.mean(), 0.7, atol=0.01)
    np.testing.assert_allclose(y[kept], 1 / 0.7, rtol=1e-6)
    assert abs(np.corrcoef(kept[0], kept[1])[0, 1]) < 0.3
    np.testing.assert_array_equal(network.apply((), (), x, key=KEY)[0], x)
    again, _ = network.apply((), (), x, key=KEY, train=True)
    np.testing.assert_array_equal(again, y)
    twice = fn.serial(network, network).apply(((), ()), ((), ()), x, key=KEY, train=True)[0]
    np.testing.assert_allclose((np.asarray(twice) != 0.0).mean(), 0.49, atol=0.01)
    np.testing.assert_array_equal(fn.dropout(1.0).apply((), (), x, key=KEY, train=True)[0], 0.0)
    np.testing.assert_array_equal(fn.dropout(0.0).apply((), (), x, key=KEY, train=True)[0], x)
    wide = jax.jit(
        lambda r: fn.dropout(r).apply((), (), x[:9].astype(jnp.bfloat16), key=KEY, train=True)[0]
    )(jnp.float32(0.3))
    assert wide.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        wide != 0.0, np.asarray(network.apply((), (), x[:9], key=KEY, train=True)[0] != 0.0)
    )


def test_serial_nests_and_no_layer_is_the_identity():
    flat = fn.serial(fn.dense(3, 4), fn.tanh, fn.dense(4, 2))
    nested = fn.serial(fn.serial(fn.dense(3, 4), fn.tanh), fn.dense(4, 2))
    (a, b, c), _ = flat.init(KEY)
    y = flat.apply((a, b, c), ((), (), ()), X)[0]
    np.testing.assert_array_equal(nested.apply(((a, b), c), (((), ()), ()), X)[0], y)
    assert fn.serial().init(KEY) == ((), ())
    np.testing.assert_array_equal(fn.serial().apply((), (), X)[0], X)


PARAMS, STATE = fn.dense(64, 2).init(KEY)
WRONG = [
    (lambda: fn.dense(0, 3), "fan_in to be a positive integer, got 0"),
    (lambda: fn.dense(3, 2.0), "fan_out to be a positive integer, got 2.0"),
    (lambda: fn.mlp((3,)), "at least an input and an output size"),
    (
        lambda: fn.dense(64, 2).apply(PARAMS, STATE, jnp.ones((32, 8, 8))),
        r"dense expects 64 features in the last axis, got x of shape \(32, 8, 8\)",
    ),
    (lambda: fn.flatten.apply((), (), jnp.float32(1.0)), "flatten expects a batch"),
    (lambda: fn.serial(fn.relu).apply((), ((),), X), "serial has 1 layers, got params for 0"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[w[1][:30] for w in WRONG])
def test_wrong_shapes_say_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()
