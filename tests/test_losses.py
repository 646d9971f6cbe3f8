"""Losses and their means against PyTorch's golden numbers, closed forms, and the edge table.

With class weights PyTorch's mean divides by the sum of the labels' weights for integers, but by n
for probabilities, where `supervised` divides by the sum of the expected weights. There its mean is
compared with the golden values over that sum.
"""

from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import funcnet as fn

GOLDEN = np.load(Path(__file__).parent / "golden" / "losses.npz")
WEIGHT = GOLDEN["class_weight"]
LOGITS, LABELS = GOLDEN["cross_entropy/prediction"], GOLDEN["cross_entropy/target"]
IGNORING = fn.fix(fn.cross_entropy, ignore_label=-1)


class Case(NamedTuple):
    name: str  # as in the golden file
    loss: Any
    expected_weights: bool = False


PLAIN, BINARY = Partial(fn.cross_entropy), Partial(fn.binary_cross_entropy)
WEIGHTED = Partial(fn.cross_entropy, weight=WEIGHT)
SMOOTHED = Partial(fn.cross_entropy, label_smoothing=0.1)
BOTH = Partial(fn.cross_entropy, weight=WEIGHT, label_smoothing=0.1)
ALL = Partial(IGNORING, weight=WEIGHT, label_smoothing=0.1)

CASES = [
    Case("mse", Partial(fn.mean_squared_error)),
    Case("cross_entropy", PLAIN),
    Case("cross_entropy-weight", WEIGHTED),
    Case("cross_entropy-smoothing", SMOOTHED),
    Case("cross_entropy-ignore", Partial(IGNORING)),
    Case("cross_entropy-all", ALL),
    Case("cross_entropy-extreme", PLAIN),
    Case("probabilities", PLAIN),
    Case("probabilities-weight", WEIGHTED, expected_weights=True),
    Case("probabilities-smoothing", SMOOTHED),
    Case("probabilities-both", BOTH, expected_weights=True),
    Case("binary", BINARY),
    Case("binary-extreme", BINARY),
]


def values_and_mean(loss, prediction, target):
    """The values, the gradient of their sum, the task's mean, its gradient, and its metrics."""
    task = fn.supervised(fn.identity, loss)

    def mean(p):
        value, (_, metrics) = task.loss((), (), (p, target))
        return value, metrics

    values, pullback = jax.vjp(lambda p: loss(p, target), prediction)
    (mean_value, metrics), mean_gradient = jax.value_and_grad(mean, has_aux=True)(prediction)
    return values, pullback(jnp.ones_like(values))[0], mean_value, mean_gradient, metrics


traced = jax.jit(values_and_mean)


def found_and_golden(case, dtype):
    prediction, target, *golden = (
        GOLDEN[f"{case.name}/{key}"]
        for key in ("prediction", "target", "values", "gradient", "mean", "mean_gradient")
    )
    if case.expected_weights:
        total = (target @ WEIGHT).sum()
        golden[2:] = golden[0].sum() / total, golden[1] / total
    target = target.astype(dtype if target.dtype.kind == "f" else np.int32)
    return traced(case.loss, prediction.astype(dtype), target)[:4], golden


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_mean_and_gradients_are_the_golden_ones(case):
    with jax.enable_x64(True):
        found, golden = found_and_golden(case, np.float64)
    for x, truth in zip(found, golden, strict=True):
        np.testing.assert_allclose(x, truth, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32_is_exact_to_rounding(case):
    for x, truth in zip(*found_and_golden(case, np.float32), strict=True):
        chex.assert_type(x, jnp.float32)
        np.testing.assert_allclose(x, truth, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("loss", [PLAIN, BINARY, Partial(fn.mean_squared_error)])
def test_16_bit_predictions_have_float32_values(loss, dtype):
    prediction, target = jnp.asarray(LOGITS, dtype), GOLDEN["probabilities/target"]
    values, gradient, *_ = traced(loss, prediction, jnp.asarray(target, jnp.float32))
    with jax.enable_x64(True):
        exact, exact_gradient, *_ = traced(loss, np.asarray(prediction, np.float64), target)
    chex.assert_type([values, gradient], [jnp.float32, dtype])
    np.testing.assert_allclose(values, exact, rtol=1e-6)
    gradient, exact_gradient = np.asarray(gradient, float), np.asarray(exact_gradient)
    tolerance = float(jnp.finfo(dtype).eps) * np.abs(exact_gradient).max()
    np.testing.assert_allclose(gradient, exact_gradient, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64"])
def test_labels_of_any_integer_dtype(dtype):
    values = fn.cross_entropy(np.float32(LOGITS), LABELS.astype(dtype), ignore_label=3)
    expected = np.where(LABELS == 3, 0.0, GOLDEN["cross_entropy/values"])
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    far = fn.cross_entropy(np.zeros((2, 300)), np.array([0, 255], np.uint8))
    np.testing.assert_allclose(far, np.log(300.0), rtol=1e-6)


def test_positions_of_a_sequence_are_examples():
    logits, labels = np.float32(LOGITS).reshape(2, 3, 5), LABELS.reshape(2, 3).astype(np.int32)
    labels = np.where(labels == 3, -1, labels)
    values, _, mean, _, metrics = values_and_mean(Partial(IGNORING), logits, labels)
    expected = np.where(LABELS == 3, 0.0, GOLDEN["cross_entropy/values"])
    np.testing.assert_allclose(values, expected.reshape(2, 3), rtol=1e-5)
    np.testing.assert_allclose(mean, expected.sum() / (LABELS != 3).sum(), rtol=1e-5)
    assert metrics["count"] == (LABELS != 3).sum()


LOSSES = [PLAIN, WEIGHTED, BOTH, Partial(fn.fix(fn.cross_entropy, ignore_label=7))]


@pytest.mark.parametrize("label", [5, 300, -1])
@pytest.mark.parametrize("loss", LOSSES)
def test_label_out_of_range(loss, label):
    """`ValueError` on the host; traced, NaN in the mean and in its row of values and gradients."""
    logits, bad = np.float32(LOGITS), np.arange(6) == 2
    labels = np.where(bad, label, LABELS).astype(np.int32)
    with pytest.raises(ValueError, match=f"labels from 0 to 4, got {label}"):
        loss(logits, labels)
    values, gradient, mean, mean_gradient, _ = traced(loss, logits, labels)
    assert np.isnan(mean)
    np.testing.assert_array_equal(np.isnan(values), bad)
    np.testing.assert_array_equal(np.isnan(gradient), np.repeat(bad[:, None], 5, axis=1))
    assert np.isnan(mean_gradient[2]).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_all_labels_out_of_range(loss):
    _, _, mean, mean_gradient, _ = traced(loss, np.float32(LOGITS), np.full(6, 5, np.int32))
    assert np.isnan(mean)
    assert np.isnan(mean_gradient).all()


def test_labels_are_checked_before_the_ignored_one_hides_them():
    with pytest.raises(ValueError, match="labels from 0 to 4, got -2"):
        ALL(np.float32(LOGITS), np.array([0, -1, -2, 1, 2, 3]))


@pytest.mark.parametrize("run", [values_and_mean, traced])
@pytest.mark.parametrize("loss", [Partial(IGNORING), ALL])
def test_all_ignored(run, loss):
    """Whatever the ignored logits are."""
    logits = np.float32(LOGITS) * np.float32([1.0, np.nan, np.inf, 0.0, -np.inf, 1e30])[:, None]
    values, gradient, mean, mean_gradient, metrics = run(loss, logits, np.full(6, -1, np.int32))
    for x in (values, gradient, mean, mean_gradient, metrics["count"], metrics["weight"]):
        np.testing.assert_array_equal(x, np.zeros_like(x))


@pytest.mark.parametrize("loss", [PLAIN, WEIGHTED, ALL, BINARY])
def test_empty_batch(loss):
    target = np.zeros((0, 5), np.float32) if loss is BINARY else np.zeros((0,), np.int32)
    values, gradient, mean, _, metrics = traced(loss, np.zeros((0, 5), np.float32), target)
    assert values.shape == (0,)
    assert gradient.shape == (0, 5)
    assert mean == 0.0
    assert metrics["count"] == 0.0


def test_infinite_logits_of_binary_cross_entropy():
    logits = np.float32([np.inf, -np.inf, np.inf, -np.inf, np.inf, -np.inf])
    targets = np.float32([1, 0, 0, 1, 0.5, 0.25])
    values, gradient, *_ = traced(BINARY, logits, targets)
    np.testing.assert_array_equal(values, [0, 0, np.inf, np.inf, np.inf, np.inf])
    np.testing.assert_array_equal(gradient, [0, 0, 1, -1, 0.5, -0.25])


def test_infinite_logits_where_the_target_is_zero():
    logits = np.float32([[0.0, -np.inf, np.log(3.0), -np.inf]])
    targets = np.float32([[0.5, 0.0, 0.5, 0.0]])
    values, gradient, *_ = traced(PLAIN, logits, targets)
    np.testing.assert_allclose(values, [np.log(4.0) - np.log(3.0) / 2.0], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.25, 0.0, 0.25, 0.0]], rtol=1e-6)
    assert PLAIN(logits, np.float32([[0.5, 0.25, 0.25, 0.0]])) == np.inf


@pytest.mark.parametrize("smoothing", [0.1, 0.0])
@pytest.mark.parametrize("weight", [WEIGHT, np.where(WEIGHT == 2.0, 0.0, WEIGHT)])
def test_gradient_with_respect_to_class_weights_and_smoothing(weight, smoothing):
    """T_k = w_k ((1 - eps) y_k + eps / K) in -sum_k T_k log p_k, and 0 for an ignored label."""
    labels = np.array([0, -1, 1, 3, -1, 2], np.int32)
    hot, log_p = np.eye(5)[labels], LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))

    def total(weight, smoothing):
        return Partial(IGNORING, weight=weight, label_smoothing=smoothing)(LOGITS, labels).sum()

    with jax.enable_x64(True):
        of_weight, of_smoothing = jax.grad(total, (0, 1))(jnp.asarray(weight), smoothing)
    terms = ((1.0 - smoothing) * hot + smoothing / 5.0) * log_p
    np.testing.assert_allclose(of_weight, -terms[labels >= 0].sum(axis=0), rtol=1e-12)
    terms = weight * (1.0 / 5.0 - hot) * log_p
    np.testing.assert_allclose(of_smoothing, -terms[labels >= 0].sum(), rtol=1e-12)


def test_gradient_with_respect_to_class_weights_at_an_infinite_logit():
    """A class that is ruled out has no part in the loss of the others."""
    logits = np.float32([[0.0, np.log(3.0), -np.inf], [0.0, 0.0, -np.inf]])
    gradient = jax.grad(lambda w: fn.cross_entropy(logits, np.array([0, 1]), weight=w).sum())
    np.testing.assert_allclose(gradient(jnp.ones(3)), np.log([4.0, 2.0, 1.0]), rtol=1e-6)


def test_hyperparameters_of_a_mean_with_ignored_labels_have_finite_gradients():
    def mean(loss, labels):
        return fn.supervised(fn.identity, loss).loss((), (), (np.float32(LOGITS), labels))[0]

    for labels in ([0, -1, 1, 3, -1, 2], [-1] * 6):
        gradient = jax.grad(mean)(ALL, np.int32(labels))
        chex.assert_tree_all_finite(gradient)
        assert len(jax.tree.leaves(gradient)) == 2


def zeros(*shape):
    return np.zeros(shape, np.float32)


WRONG = [
    (fn.mean_squared_error, zeros(6, 1), zeros(6), r"\(6, 1\), got \(6,\)"),
    (fn.binary_cross_entropy, zeros(6, 1), zeros(6), r"\(6, 1\), got \(6,\)"),
    (fn.cross_entropy, zeros(6, 5), np.zeros((5,), int), r"\(6,\).*\(6, 5\).*got .*\(5,\)"),
    (fn.cross_entropy, zeros(6, 5), np.zeros((6, 1), int), r"got labels of shape \(6, 1\)"),
    (fn.cross_entropy, zeros(6, 5), np.zeros((6, 5), int), r"shape \(6, 5\) and dtype int"),
    (fn.cross_entropy, zeros(6, 5), zeros(6), r"shape \(6,\) and dtype float32"),
    (fn.cross_entropy, zeros(6, 5), np.zeros(6, bool), "dtype bool"),
    (fn.cross_entropy, zeros(), np.zeros((), int), "classes in the last axis"),
    (Partial(fn.cross_entropy, weight=zeros(4)), LOGITS, LABELS, r"shape \(5,\), got \(4,\)"),
    (Partial(fn.cross_entropy, label_smoothing=1.5), LOGITS, LABELS, "lie in .*got 1.5"),
    (fn.accuracy, zeros(6, 5), np.zeros((5,), int), r"\(6,\) or \(6, 5\), got \(5,\)"),
]


@pytest.mark.parametrize(("function", "prediction", "target", "message"), WRONG)
def test_wrong_input_is_named(function, prediction, target, message):
    with pytest.raises(ValueError, match=message):
        function(np.float32(prediction), target)


def test_accuracy():
    scores = np.float32([[1, 2, 0], [5, 5, 0], [0, 5, 5], [-1, -2, -np.inf]])
    np.testing.assert_array_equal(fn.accuracy(scores, np.uint8([1, 0, 2, 0])), [1, 1, 0, 1])
    soft = np.float32([[0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(fn.accuracy(scores, soft), [1, 0, 1, 0])
    task = fn.supervised(fn.identity, Partial(IGNORING), metrics={"accuracy": fn.accuracy})
    batch = (scores[:3], np.int32([1, -1, 2]), np.float32([3.0, 1.0, 1.0]))
    _, (_, metrics) = task.loss((), (), batch)
    assert (metrics["accuracy"], metrics["count"], metrics["weight"]) == (0.5, 2.0, 4.0)
    with pytest.raises(ValueError, match="for one logit an output use binary_accuracy"):
        fn.accuracy(np.ones((4, 1)), np.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"shape \[n, \.\.\., K\]"):
        fn.accuracy(np.ones(4), np.zeros(4))


def test_binary_accuracy():
    logits = np.float32([[-3.0, 1.0], [2.0, -0.5]])
    got = fn.binary_accuracy(logits, np.array([[1, 1], [0, 0]]))
    np.testing.assert_array_equal(got, [0.5, 0.5])
    np.testing.assert_array_equal(fn.binary_accuracy(logits[:, 0], np.array([0.0, 1.0])), [1, 1])
    with pytest.raises(ValueError, match=r"the logits' shape \(2, 2\), got \(2, 1\)"):
        fn.binary_accuracy(logits, np.ones((2, 1)))


@pytest.mark.parametrize("loss", [PLAIN, Partial(fn.cross_entropy, weight=np.ones(200))])
def test_narrow_labels_meet_many_classes(loss):
    logits = np.random.default_rng(0).normal(size=(20, 200)).astype(np.float32)
    labels = np.arange(20, dtype=np.int8)
    _, gradient, mean, _, _ = traced(loss, logits, labels)
    _, wanted, wanted_mean, _, _ = traced(loss, logits, labels.astype(np.int32))
    np.testing.assert_array_equal(gradient, wanted)
    assert mean == wanted_mean


@pytest.mark.parametrize("loss", LOSSES)
def test_weight_zero_masks_whatever_is_wrong_with_label_or_prediction(loss):
    """Padding: the loss and the gradient are those of the examples that are there."""
    labels, weight = np.array([0, 2, 1, 4, 99, -7], np.int32), np.float32([1, 2, 1, 1, 0, 0])
    logits = np.float32(LOGITS).copy()
    logits[5] = np.nan
    task = fn.supervised(fn.identity, loss)

    @jax.jit
    def mean(x, labels, weight):
        return jax.value_and_grad(lambda x: task.loss((), (), (x, labels, weight))[0])(x)

    value, gradient = mean(logits, labels, weight)
    wanted, wanted_gradient = mean(logits[:4], labels[:4], weight[:4])
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient[:4], wanted_gradient, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(gradient[4:], 0.0)
