"""Connectionist temporal classification against PyTorch, the sum over all paths, and its edges."""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from protocol import relative

import funcnet as fn
from funcnet import chain_rule

GOLDEN = np.load(Path(__file__).parent / "golden" / "losses.npz")
SPEECH, READINGS, MASK = (GOLDEN[f"ctc/{key}"] for key in ("prediction", "target", "mask"))


def auto(logits, labels, mask=None, blank=0):
    """The values, and the gradient of their sum, by `jax.vjp`."""

    def values(z):
        z = z if mask is None else fn.Masked(z, mask)
        return fn.ctc(z, labels, blank=blank)

    result, pullback = jax.vjp(values, logits)
    return result, pullback(jnp.ones_like(result))[0]


def hand(logits, labels, mask=None, blank=0):
    """The same by the hand-written rule."""
    z = jnp.asarray(logits)
    z = z if mask is None else fn.Masked(z, mask)
    result, pullback = chain_rule.vjp(fn.ctc, z, jnp.asarray(labels), blank=blank)
    (dz,) = pullback(jnp.ones_like(result))
    return result, dz if mask is None else dz.x


@functools.partial(jax.jit, static_argnames="blank")
def both(logits, labels, mask=None, blank=0):
    return [engine(logits, labels, mask, blank) for engine in (auto, hand)]


def test_values_and_gradients_are_the_golden_ones():
    """Repeated labels, no labels, short sequences and logits of 1e4 among them."""
    wanted = GOLDEN["ctc/values"], GOLDEN["ctc/gradient"]
    with jax.enable_x64(True):
        results = both(SPEECH, READINGS, MASK)
    for found in results:
        for x, golden in zip(found, wanted, strict=True):
            np.testing.assert_allclose(x, golden, rtol=1e-12, atol=1e-12)
    for found in both(SPEECH.astype(np.float32), READINGS, MASK):
        for x, golden in zip(found, wanted, strict=True):
            assert x.dtype == jnp.float32
            np.testing.assert_allclose(x, golden, rtol=1e-5, atol=2e-6)
    values, gradient = jax.eval_shape(auto, jnp.asarray(SPEECH, jnp.bfloat16), READINGS, MASK)
    assert (values.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)


def read(path, blank):
    """What a path spells: its repetitions merged, then its blanks dropped."""
    return [k for k, _ in itertools.groupby(path) if k != blank]


@pytest.mark.parametrize("blank", [0, 2])
def test_it_is_the_sum_over_all_paths(blank):
    rng = np.random.default_rng(blank)
    logits = 2.0 * rng.normal(size=(5, 4, 3))
    a, b = sorted({0, 1, 2} - {blank})
    labels = np.array([[a, b], [b, b], [a, -1], [-1, -1], [b, a]])
    lengths = [4, 4, 4, 2, 3]
    wanted = []
    for z, row, length in zip(logits, labels, lengths, strict=True):
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        paths = itertools.product(range(3), repeat=length)
        spelt = [path for path in paths if read(path, blank) == [k for k in row if k >= 0]]
        wanted.append(-np.log(sum(np.prod(p[np.arange(length), path]) for path in spelt)))
    with jax.enable_x64(True):
        results = both(logits, labels, np.arange(4) < np.array(lengths)[:, None], blank)
    for values, _ in results:
        np.testing.assert_allclose(values, wanted, rtol=1e-13)


def test_what_is_not_there_has_no_influence():
    """Steps behind the end, within the sequence, and NaN in them; more padding of the labels."""
    there = np.array([0, 2, 3, 4, 6])
    mask = np.isin(np.arange(7), there)[None].repeat(2, axis=0)
    logits = np.where(mask[..., None], SPEECH[:2], np.nan).astype(np.float32)
    labels = np.array([[1, 2, -1], [4, 4, -7]])
    for found, short in zip(
        both(logits, labels, mask),
        both(SPEECH[:2, there].astype(np.float32), labels[:, :2]),
        strict=True,
    ):
        np.testing.assert_allclose(found[0], short[0], rtol=1e-6)
        np.testing.assert_allclose(found[1][:, there], short[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[1][~mask], 0.0)


def test_labels_that_do_not_fit_cost_infinity_and_have_no_gradient():
    """Two equal labels need a blank between them: three steps."""
    logits, labels = SPEECH[:3].astype(np.float32), np.array([[1, 1], [1, 2], [-1, -1]])
    mask = np.arange(7) < np.array([[2], [1], [0]])
    for values, gradient in both(logits, labels, mask):
        np.testing.assert_array_equal(values, [np.inf, np.inf, 0.0])
        np.testing.assert_array_equal(gradient, 0.0)
    for values, gradient in both(np.float32([[[0.0, 1.0, -np.inf]] * 3]), np.array([[2]])):
        np.testing.assert_array_equal(values, [np.inf])
        np.testing.assert_array_equal(gradient, 0.0)
    assert fn.ctc(logits[:0], labels[:0]).shape == (0,)


def test_extreme_logits_are_exact():
    """A path that is certain costs 0, and each step with another class in its place 2e4: two at
    least for the labels the other way round, in two ways. Of equal logits C(T + L, 2 L) paths."""
    labels = np.array([[1, 2], [2, 1]])
    path = np.eye(3)[[0, 1, 1, 0, 2]]
    logits = np.float32(1e4 * (2.0 * np.stack([path, path]) - 1.0))
    for values, gradient in both(logits, labels):
        np.testing.assert_allclose(values, [0.0, 4e4 - np.log(2.0)], rtol=1e-6)
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(gradient[0], 0.0, atol=1e-6)
    for values, gradient in both(np.zeros((2, 5, 3), np.float32), labels):
        np.testing.assert_allclose(values, 5.0 * np.log(3.0) - np.log(35.0), rtol=1e-6)
        np.testing.assert_allclose(gradient.sum(axis=2), 0.0, atol=1e-6)


WRONG = [[1, 5], [1, 0], [-1, 1]]  # no class, the blank, behind padding


@pytest.mark.parametrize("row", WRONG)
def test_wrong_labels(row):
    """`ValueError` on the host; traced, NaN in their values and in all of their gradient."""
    labels = np.array([[1, 2], row])
    with pytest.raises(ValueError, match="ctc expects labels from 0 to 4 but for the blank 0"):
        fn.ctc(SPEECH[:2], labels)
    for values, gradient in both(SPEECH[:2].astype(np.float32), labels):
        np.testing.assert_array_equal(np.isnan(values), [False, True])
        assert np.isfinite(gradient[0]).all()
        assert np.isnan(gradient[1]).all()


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (SPEECH[0], READINGS, r"logits \[n, T, K\] and integer labels \[n, L\], got .*\(7, 5\)"),
        (SPEECH, READINGS[:2], r"got logits of shape \(6, 7, 5\), labels of shape \(2, 3\)"),
        (SPEECH, READINGS[:, 0], r"labels of shape \(6,\)"),
        (SPEECH, READINGS * 1.0, "dtype float"),
        (fn.Masked(SPEECH, MASK[:, :2]), READINGS, r"mask of bool and of the shape \(6, 7\)"),
    ],
)
def test_wrong_shapes_are_named(logits, labels, message):
    with pytest.raises(ValueError, match=f"ctc expects .*{message}"):
        fn.ctc(logits, labels)
    with pytest.raises(ValueError, match="ctc expects a blank from 0 to 4, got 5"):
        fn.ctc(SPEECH, READINGS, blank=5)


def speech():
    """Words of up to 3 of 3 letters, each letter a noisy feature held for 1 to 3 steps, between
    silence; the mask of their steps; and their labels."""
    rng = np.random.default_rng(0)
    x, labels, mask = np.zeros((32, 12, 4)), np.full((32, 3), -1), np.zeros((32, 12), bool)
    for row in range(32):
        word = rng.integers(1, 4, size=rng.integers(1, 4))
        held = [k for letter in word for k in [letter] * rng.integers(1, 4) + [0]]
        x[row, : len(held)] = np.eye(4)[held]
        mask[row, : len(held)], labels[row, : len(word)] = True, word
    return fn.Masked(
        np.where(mask[..., None], x + 0.1 * rng.normal(size=x.shape), 9e9), mask
    ), labels


def test_a_network_of_masked_sequences_learns_to_read():
    x, labels = speech()
    task = fn.supervised(
        fn.serial(fn.rnn(4, 6), fn.masked(fn.dense(6, 4))), fn.fix(fn.ctc, blank=0)
    )
    weight = np.where(np.arange(32) < 4, 0.0, 1.0)
    labels[:2] = 99  # of weight 0

    @jax.jit
    def gradients(params, state, batch):
        engines = (jax.value_and_grad, chain_rule.value_and_grad)
        return [engine(task.loss, has_aux=True)(params, state, batch) for engine in engines]

    with jax.enable_x64(True):
        params, state = task.init(jax.random.key(0))
        params = jax.tree.map(jnp.float64, params)
        by_autodiff, by_hand = gradients(params, state, (x, labels, weight))
        assert np.isfinite(by_autodiff[0][0])
        assert relative(by_hand, by_autodiff) <= 1e-11
    trainer = fn.trainer(task, fn.adam(0.03), chain_rule.value_and_grad)
    run = functools.partial(fn.run, steps=150, batch_size=None)
    run = jax.jit(run)
    losses = run(trainer, (x, labels, np.float32(weight)), jax.random.key(0)).loss
    assert losses[0] > 4.0
    assert losses[-1] < 1.0
