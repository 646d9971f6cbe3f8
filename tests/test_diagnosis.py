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


class Source:
    """Of which no more than 2 steps are taken at once."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return 20

    def take(self, indices):
        assert len(indices) <= 8
        return jax.tree.map(lambda a: a[indices], self.data)


def test_data_on_the_host_are_read_by_chunks(example, monkeypatch):
    x, found = example
    monkeypatch.setattr("funcnet.diagnosis.EVERY", 2)
    source, start = Source((x, LABELS)), PLAIN.init(KEY)
    assert str(fn.diagnose(PLAIN, source, KEY, steps=6, batch_size=4)) == str(found)
    assert fn.diagnose(PLAIN, source, start, steps=found.step, batch_size=4) is None
    np.testing.assert_array_equal(start.params[0]["bias"], 0.0)  # is the caller's still


def test_a_stream_by_step_is_diagnosed_and_an_iterable_is_not(example):
    x, found = example
    rows = [indices_at(PLAIN.init(KEY), step) for step in range(6)]

    def batch(step):
        return x[rows[step]], LABELS[rows[step]]

    again = fn.diagnose(PLAIN, batch, KEY, steps=6, batch_size=4)
    place = list(found.indices).index(7)
    assert (again.step, again.first) == (found.step, f"example {place} of the batch")
    assert (list(again.indices), list(again.examples)) == ([0, 1, 2, 3], [place])
    assert again.layers == found.layers
    end = fn.run(fn.guard(PLAIN, patience=1), (x, LABELS), KEY, steps=6, batch_size=4).state
    frozen = fn.diagnose(fn.guard(PLAIN, patience=1), batch, end, steps=0, batch_size=4)
    assert str(frozen) == str(again)
    with pytest.raises(TypeError, match="a function from the step to its batch, got an iterable"):
        fn.diagnose(PLAIN, map(batch, range(6)), KEY, steps=6, batch_size=4)


def test_it_starts_from_a_state(example):
    x, _ = example
    how = {"steps": 1, "batch_size": 4}
    for end in (
        fn.run(PLAIN, (X, LABELS), KEY, **how),
        fn.fit(PLAIN, (X, LABELS), KEY, report=None, **how),
    ):
        with pytest.raises(TypeError, match=f"got {type(end).__name__}: its .state is one"):
            fn.diagnose(PLAIN, (x, LABELS), end, **how)


def half_loss(params, state, batch, *, key=None, train=False):
    """An offset, and a slope that passes through float16 on its way to the parameter."""
    offset, slope = batch
    return (offset + slope * params.astype(jnp.float16).astype(jnp.float32)).mean(), (state, {})


HALF = fn.trainer(fn.Task(lambda key: (jnp.zeros(()), ()), half_loss), fn.sgd(0.1))


@np.errstate(over="ignore")
def test_an_overflow_of_the_scale_is_no_failure_but_is_named_beside_one():
    """A slope of 8 overflows once it is scaled by 2^16; one of 1e6 by itself."""
    trainer, fine = fn.loss_scaled(HALF, scale=2.0**16), np.zeros(4, np.float32)
    slopes = np.full(4, 8.0, np.float32)
    how = {"steps": 8, "batch_size": None}
    end = fn.run(trainer, (fine, slopes), KEY, **how).state
    assert end.opt_state.skipped > 0
    assert fn.diagnose(trainer, (fine, slopes), KEY, **how) is None

    found = fn.diagnose(trainer, (fine + np.inf, slopes), KEY, **how)
    assert (found.step, found.loss_scale, found.gradient_norm) == (0, 2.0**16, 8.0)
    assert (found.gradients, found.overflows) == ((), ("all",))
    assert "gradient norm 8, loss scale 65536\n" in str(found)
    assert "not finite among the gradients times the loss scale: all" in str(found)

    found = fn.diagnose(trainer, (fine, slopes + 1e6), KEY, steps=20, batch_size=None)
    assert (found.step, found.first, found.loss_scale) == (16, "the gradient of all", 1.0)
    assert (found.gradient_norm, found.gradients, found.overflows) == (np.inf, ("all",), ())


def test_layers_show_what_they_compute_in():
    """A number beyond float16's is infinite in it."""
    network = fn.compute_dtype(fn.serial(fn.dense(3, 3), fn.tanh), jnp.float16)
    trainer = fn.loss_scaled(fn.trainer(fn.supervised(network, fn.cross_entropy), fn.sgd(0.1)))
    found = fn.diagnose(trainer, (X + 1e5, LABELS), KEY, steps=1, batch_size=None)
    assert found.first == "the output of layer.layers.0 dense"
    assert found.layers[0].dtype == "float16"
    assert " in float16, 60 not finite" in str(found)
    assert np.isnan(found.gradient_norm)


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
