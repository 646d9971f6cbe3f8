"""A run that broke says where: planted faults are found at their step, layer, example and leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.training import run_keys

KEY = jax.random.key(3)
X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
LABELS = np.arange(20, dtype=np.int32) % 3


def indices_at(state, step):
    return np.asarray(fn.batch_indices(run_keys(state.key)[0], step, 20, 4))


def build(*layers, rate=0.1, loss=fn.cross_entropy, optimizer=fn.sgd):
    return fn.trainer(fn.supervised(fn.serial(*layers), loss), optimizer(rate))


def logarithm_apply(params, state, x, *, key=None, train=False):
    return jnp.log(x), state


LOGARITHM = fn.Network(lambda key: ((), ()), logarithm_apply)
PLAIN = build(fn.dense(3, 4), fn.tanh, fn.dense(4, 3))


@pytest.fixture(scope="module")
def example():
    """Of an example that is not finite: the diagnosis from the key."""
    x = np.where(np.arange(20)[:, None] == 7, np.inf, X)
    return x, fn.diagnose(PLAIN, (x, LABELS), KEY, steps=6, batch_size=4)


def test_an_example_that_is_not_finite(example):
    _, found = example
    start = PLAIN.init(KEY)
    step = next(n for n in range(6) if 7 in indices_at(start, n))
    assert (found.step, found.first) == (step, "example 7 of the data")
    np.testing.assert_array_equal(found.indices, indices_at(start, step))
    assert list(found.examples) == [7]
    assert [layer.name for layer in found.layers] == [
        "layers.0 dense", "layers.1 tanh", "layers.2 dense", "serial",
    ]  # fmt: skip
    assert found.layers[0].not_finite > 0
    assert found.state.step == step
    assert str(found).startswith(f"step {step} is not finite, first example 7 of the data\n")
    assert "  not finite themselves: 7\n" in str(found)


def test_a_frozen_run_is_diagnosed_from_where_it_stands(example):
    x, found = example
    trainer = fn.guard(PLAIN, patience=1)
    end = fn.run(trainer, (x, LABELS), KEY, steps=6, batch_size=4).state
    again = fn.diagnose(trainer, (x, LABELS), end, steps=0, batch_size=4)
    assert str(again) == str(found)


def test_a_layer_inside_others():
    """log of a negative number, in the second layer of a branch; the steps before are sound."""
    branch = fn.serial(fn.named("deep", LOGARITHM), fn.dense(3, 3))
    trainer = build(fn.residual(branch))
    x = np.where(np.arange(20)[:, None] == 7, -1.0, np.abs(X) + 0.1).astype(np.float32)
    found = fn.diagnose(trainer, (x, LABELS), KEY, steps=6, batch_size=4)
    assert 7 in found.indices
    assert found.first == "the output of layers.0.branch.layers.0.layer logarithm"
    assert found.layers[0].not_finite == 3
    assert (found.examples.size, found.params) == (0, ())
    assert found.gradients


def steep(prediction, target):
    """Finite, with a derivative that is not: sqrt of 0."""
    return jnp.sqrt(jnp.abs(prediction - prediction)).sum(axis=-1)


def test_a_gradient_and_an_update():
    """Layers and loss are finite in both."""
    found = fn.diagnose(build(fn.dense(3, 2), loss=steep), (X, X), KEY, steps=2, batch_size=4)
    assert (found.step, found.first, found.loss) == (0, "the gradient of 0.bias", 0.0)
    wild = build(fn.dense(3, 3), rate=3e38)
    found = fn.diagnose(wild, (100 * X, LABELS), KEY, steps=2, batch_size=4)
    assert found.first == "the parameter 0.weight after the update"
    assert (found.gradients, set(found.updated)) == ((), {"0.weight"})
    assert np.isfinite(found.gradient_norm)


def test_a_run_that_is_sound_and_one_that_cannot_be_seen():
    assert fn.diagnose(PLAIN, (X, LABELS), PLAIN.init(KEY), steps=3, batch_size=None) is None
    with pytest.raises(ValueError, match="needs a trainer made by trainer"):
        fn.diagnose(fn.Trainer(PLAIN.init, PLAIN.step.func), X, KEY, steps=1, batch_size=1)


def test_layers_beneath_an_augmentation_are_seen():
    x = np.ones((8, 3), np.float32)
    x[5] = np.inf
    network = fn.serial(fn.dense(3, 4), fn.tanh, fn.dense(4, 2))
    task = fn.augmented(fn.supervised(network, fn.cross_entropy), fn.gaussian_noise(0.1))
    key = jax.random.key(0)
    found = fn.diagnose(
        fn.trainer(task, fn.sgd(0.1)), (x, np.zeros(8, int)), key, steps=1, batch_size=8
    )
    assert found.layers[0].name.endswith("dense")
