"""Scores of data that come in parts are those of the whole."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import funcnet as fn

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype(np.float32)
LABELS = np.where(np.arange(20) < 8, -1, np.arange(20) % 3).astype(np.int32)
WEIGHT = np.where(np.arange(20) == 19, 0.0, np.linspace(0.1, 2.0, 20)).astype(np.float32)
DATA = (X, LABELS, WEIGHT)
OWN = np.array([1.0, 2.0, 0.5])
LOSS = Partial(fn.fix(fn.cross_entropy, ignore_label=-1), weight=OWN.astype(np.float32))
TRAINER = fn.trainer(
    fn.supervised(fn.identity, LOSS, metrics={"accuracy": fn.accuracy}), fn.sgd(0.1)
)
STATE = TRAINER.init(KEY)


def truth():
    """In float64: the first eight labels are ignored, and the last example weighs nothing."""
    x, labels, weight = X[8:19].astype(float), LABELS[8:19], WEIGHT[8:19].astype(float)
    log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    weight = weight * OWN[labels]
    return {
        "loss": -(weight * log_p[np.arange(11), labels]).sum() / weight.sum(),
        "accuracy": (x.argmax(axis=1) == labels).mean(),
        "weight": weight.sum(),
        "count": 11.0,
    }


class Source:
    def __len__(self):
        return 20

    def take(self, indices):
        return tuple(array[indices] for array in DATA)


class Dataset:
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return tuple(array[index] for array in DATA)


def mapped(folder):
    for name, array in zip("xlw", DATA, strict=True):
        np.save(folder / f"{name}.npy", array)
    return tuple(np.load(folder / f"{name}.npy", mmap_mode="r") for name in "xlw")


def cut(*cuts):
    """Batches that end there; of the first eight, nothing counts."""
    return [list(part) for part in zip(*(np.split(array, cuts) for array in DATA), strict=True)]


CASES = {
    "arrays": (lambda folder: DATA, 7),
    "mapped": (mapped, 1000),
    "source": (lambda folder: Source(), 7),
    "dataset": (lambda folder: Dataset(), 20),
    "loader": (lambda folder: fn.data.stream(cut(7, 14)), 1024),
    "generator": (lambda folder: iter(cut(1, 8, 15)), 1024),
}


@pytest.mark.parametrize(("make", "size"), CASES.values(), ids=CASES)
def test_parts_of_any_length_score_as_the_whole(make, size, tmp_path):
    got = fn.evaluate_in_parts(TRAINER, STATE, make(tmp_path), batch_size=size)
    wanted = truth()
    assert list(got) == list(fn.evaluate(TRAINER, STATE, DATA))
    for name, value in got.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data")]


def test_a_loss_that_tells_no_weight_counts_by_length():
    def loss(params, state, batch, *, key=None, train=False):
        return (batch**2).mean(), (state, {"mean": jnp.abs(batch).mean()})

    trainer = fn.trainer(fn.Task(lambda key: (jnp.zeros(()), ()), loss), fn.sgd(0.1))
    got = fn.evaluate_in_parts(trainer, trainer.init(KEY), X[:, 0], batch_size=7)
    x = X[:, 0].astype(float)
    np.testing.assert_allclose(got["loss"], (x**2).mean(), rtol=1e-6)
    np.testing.assert_allclose(got["mean"], abs(x).mean(), rtol=1e-6)


def test_where_nothing_counts_it_is_0_and_no_batch_is_an_error():
    scores = fn.evaluate_in_parts(TRAINER, STATE, iter(cut(4, 8)[:2]))
    assert scores == {"accuracy": 0.0, "count": 0.0, "loss": 0.0, "weight": 0.0}
    with pytest.raises(ValueError, match="at least one batch, got none from <list_iterator"):
        fn.evaluate_in_parts(TRAINER, STATE, iter([]))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        fn.evaluate_in_parts(TRAINER, STATE, DATA, batch_size=0)


@pytest.mark.parametrize("held_out", [Source(), fn.data.stream(cut(7, 14))], ids=["all", "loader"])
def test_fit_keeps_the_best_of_the_same_scores(held_out):
    network = fn.serial(fn.dense(3, 3))
    trainer = fn.trainer(fn.supervised(network, LOSS), fn.sgd(0.5))
    how = {"steps": 6, "every": 2, "batch_size": 20, "report": None}
    part, whole = (fn.fit(trainer, DATA, KEY, validation=data, **how) for data in (held_out, DATA))
    assert list(part.validation["step"]) == [2, 4, 6]
    np.testing.assert_allclose(part.validation["loss"], whole.validation["loss"], rtol=1e-6)
    assert part.best_step == whole.best_step == 6
