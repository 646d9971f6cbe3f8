"""Augmentation against slices, rectangles and mixtures found by search in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import funcnet as fn

RNG = np.random.default_rng(0)
KEY = jax.random.key(3)
IMAGES = RNG.normal(size=(400, 5, 6, 2)).astype(np.float32)
LABELS = (np.arange(400) % 3).astype(np.int32)


@functools.cache
def applied(name):
    """The images, or the noise's zeros, after the transform."""
    x = np.zeros_like(IMAGES) if name == "gaussian_noise" else IMAGES
    x, labels, weight = jax.jit(TRANSFORMS[name])(KEY, (x, LABELS, LABELS + 0.5))
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(weight, LABELS + 0.5)
    return np.asarray(x)


TRANSFORMS = {
    "random_crop": fn.random_crop(2),
    "horizontal_flip": fn.horizontal_flip(0.3),
    "cutout": fn.cutout(3),
    "gaussian_noise": fn.gaussian_noise(0.7),
}


def evenly(counts, total):
    """Whether counts are those of a uniform draw, within five standard deviations of each."""
    p = 1.0 / len(counts)
    assert min(counts) > 0, counts
    assert (abs(np.array(counts) - total * p) < 5 * np.sqrt(total * p * (1 - p))).all(), counts


def test_a_crop_is_a_slice_of_the_padded_image():
    places = np.zeros((5, 5), int)
    for image, got in zip(IMAGES, applied("random_crop"), strict=True):
        padded = np.zeros((9, 10, 2), np.float32)
        padded[2:7, 2:8] = image
        found = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if (padded[row : row + 5, column : column + 6] == got).all()
        ]
        assert len(found) == 1
        places[found[0]] += 1
    evenly(places.ravel(), 400)


def test_flips_are_as_frequent_as_told_and_their_own_inverses():
    got = applied("horizontal_flip")
    kept = (got == IMAGES).all(axis=(1, 2, 3))
    turned = (got == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ turned).all()
    assert abs(turned.sum() - 120) < 5 * np.sqrt(400 * 0.3 * 0.7)
    always = fn.horizontal_flip(1.0)
    batch = (IMAGES[:9], LABELS[:9])
    once = always(KEY, batch)
    np.testing.assert_array_equal(once[0], IMAGES[:9, :, ::-1])
    np.testing.assert_array_equal(always(jax.random.key(8), once)[0], IMAGES[:9])


def test_cutout_is_a_square_around_a_pixel_less_what_lies_beyond_the_border():
    centres = np.zeros((5, 6), int)
    for image, got in zip(IMAGES, applied("cutout"), strict=True):
        found = []
        for row in range(5):
            for column in range(6):
                expected = image.copy()
                expected[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0.0
                if (expected == got).all():
                    found.append((row, column))
        assert len(found) == 1
        centres[found[0]] += 1
    evenly(centres.ravel(), 400)
    areas = (applied("cutout")[..., 0] == 0.0).sum(axis=(1, 2))
    assert set(areas) == {4, 6, 9}
    even = fn.cutout(2)(KEY, (np.ones((400, 8, 8)), LABELS))[0]
    assert set(np.unique(64 - even.sum(axis=(1, 2)))) == {1, 2, 4}


def test_noise_is_normal_and_each_elements_own():
    noise = applied("gaussian_noise").ravel() / 0.7
    n = noise.size
    for power, moment, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (4, 3.0, 96.0)):
        assert abs((noise**power).mean() - moment) < 5 * np.sqrt(variance / n)
    assert len(np.unique(noise)) > 0.99 * n


def test_mixup_mixes_neighbours_and_their_labels_alike():
    """From the identity matrix, each row tells of what it was made."""
    mix = jax.jit(jax.vmap(fn.mixup(0.4, classes=3), in_axes=(0, None)))
    x, y = map(
        np.asarray, mix(jax.random.split(KEY, 500), (np.eye(7, dtype=np.float32), LABELS[:7]))
    )
    shares = x[:, 0, 0]
    assert (shares >= 0.0).all()
    assert (shares <= 1.0).all()
    one_hot = np.eye(3)[LABELS[:7]]
    for share, rows, labels in zip(shares, x, y, strict=True):
        for own in range(7):
            expected = np.zeros(7)
            expected[own], expected[own - 1] = share, 1.0 - share
            np.testing.assert_allclose(rows[own], expected, atol=1e-7)
            target = share * one_hot[own] + (1.0 - share) * one_hot[own - 1]
            np.testing.assert_allclose(labels[own], target, atol=1e-7)
    # Beta(a, a) has mean 1/2, variance 1 / (4 (2 a + 1)) and here a fourth moment below 1/16.
    assert abs(shares.mean() - 0.5) < 5 * np.sqrt(1 / 7.2 / 500)
    assert abs(((shares - 0.5) ** 2).mean() - 1 / 7.2) < 5 * np.sqrt(1 / 16 / 500)


def test_mixup_of_other_targets():
    batch = (IMAGES[:4], RNG.normal(size=(4, 2)).astype(np.float32))
    for got, whole in zip(fn.mixup(0.0)(KEY, batch), batch, strict=True):
        np.testing.assert_array_equal(got, whole)
    x, y = fn.mixup(1.0)(KEY, batch)
    share = (x - np.roll(batch[0], 1, 0)) / (batch[0] - np.roll(batch[0], 1, 0))
    share = np.median(share)
    np.testing.assert_allclose(
        y, share * batch[1] + (1 - share) * np.roll(batch[1], 1, 0), rtol=1e-4
    )
    wrong = np.array([0, 3, 1, 2], np.int32)
    _, y = jax.jit(fn.mixup(1.0, classes=3))(KEY, (IMAGES[:4], wrong))
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, True, True, False])


def build(std=0.1, alpha=0.4, probability=0.5):
    network = fn.serial(
        fn.normalise(np.array([0.1, -0.2]), np.array([2.0, 0.5])),
        fn.flatten,
        fn.dense(60, 3),
    )
    task = fn.supervised(network, fn.cross_entropy, metrics={"accuracy": fn.accuracy})
    return fn.augmented(
        task,
        fn.random_crop(1),
        fn.horizontal_flip(probability),
        fn.gaussian_noise(std),
        fn.mixup(alpha, classes=3),
    ), task


@jax.jit
def losses(tasks, key, batch):
    """(augmented loss in training, its gradient for the task's numbers, in evaluation, plain)."""
    augmented, plain = tasks
    params, state = plain.init(KEY)

    def training(task):
        return task.loss(params, state, batch, key=key, train=True)[0]

    value, grads = jax.value_and_grad(training)(augmented)
    return (
        value,
        grads,
        augmented.loss(params, state, batch)[0],
        plain.loss(params, state, batch)[0],
    )


def test_a_task_is_augmented_in_training_alone():
    batch = (IMAGES[:20], LABELS[:20])
    value, _, evaluated, plain = losses(build(), KEY, batch)
    assert evaluated == plain != value
    assert losses(build(), KEY, batch)[0] == value
    assert losses(build(), jax.random.key(9), batch)[0] != value
    assert losses(build(0.2), KEY, batch)[0] != value
    nothing = losses(build(0.0, 0.0, 0.0), KEY, batch)
    assert nothing[0] != nothing[3]  # the crop remains
    result = fn.run(fn.trainer(build()[0], fn.adam(1e-2)), batch, KEY, steps=3, batch_size=8)
    again = fn.run(fn.trainer(build()[0], fn.adam(1e-2)), batch, KEY, steps=3, batch_size=8)
    assert np.isfinite(result.loss).all()
    np.testing.assert_array_equal(result.loss, again.loss)


def test_what_the_batch_goes_through_is_each_transform_with_its_own_key():
    """By hand: the loss of the transformed batch, without the wrapper."""
    augmented, task = build()
    params, state = task.init(KEY)
    batch = (jnp.asarray(IMAGES[:20]), LABELS[:20])
    key, *keys = jax.random.split(KEY, 5)
    value = augmented.loss(params, state, batch, key=KEY, train=True)[0]
    for transform, own in zip(
        (fn.random_crop(1), fn.horizontal_flip(), fn.gaussian_noise(0.1), fn.mixup(0.4, classes=3)),
        keys,
        strict=True,
    ):
        batch = transform(own, batch)
    np.testing.assert_allclose(task.loss(params, state, batch, key=key, train=True)[0], value, 1e-6)


def test_rates_sweep_and_have_gradients():
    """The numbers are leaves: under vmap a loop, and their derivatives those of differences."""
    batch = (IMAGES[:20], LABELS[:20])
    assert sorted(jax.tree.leaves(build(0.1, 0.4, 0.3)[0].loss.keywords["transforms"])) == [
        0.1,
        0.3,
        0.4,
    ]
    stds, alphas = jnp.array([0.0, 0.1, 0.5]), jnp.array([0.2, 0.4, 3.0])
    tasks = jax.vmap(build)(stds, alphas)
    swept = jax.vmap(losses, in_axes=(0, None, None))(tasks, KEY, batch)[0]
    loop = [
        losses(build(float(s), float(a)), KEY, batch)[0] for s, a in zip(stds, alphas, strict=True)
    ]
    np.testing.assert_allclose(swept, loop, rtol=1e-5)
    with jax.enable_x64(True):
        wide = (batch[0].astype(float), batch[1])
        noise = losses(build(), KEY, wide)[1].loss.keywords["transforms"][2]
        up, down = (losses(build(0.1 + step), KEY, wide)[0] for step in (1e-5, -1e-5))
        grad = noise.keywords["function"].keywords["std"]
        np.testing.assert_allclose(grad, (up - down) / 2e-5, rtol=1e-6)
        assert abs(grad) > 1e-3


def test_the_mean_gradient_for_alpha_is_that_of_the_beta_distribution():
    """The variance 1 / (4 (2 a + 1)) falls by 1 / (2 (2 a + 1)^2). One draw's gradient is no limit
    of differences, for the sampler rejects."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    @functools.partial(jax.grad, argnums=1)
    def slope(key, alpha):
        x, _ = fn.mixup(alpha)(key, (jnp.eye(2), jnp.zeros(2)))
        return (x[0, 0] - 0.5) ** 2

    slopes = np.asarray(slope(jax.random.split(KEY, 4000), 0.7))
    assert abs(slopes.mean() + 1 / (2 * 2.4**2)) < 5 * slopes.std() / np.sqrt(4000)
    assert slopes.std() / np.sqrt(4000) < 0.01
    assert np.isfinite(slope(KEY[None], 0.0)).all()


def test_the_hand_rules_are_jaxs():
    augmented, _ = build()
    params, state = augmented.init(KEY)
    for x in (IMAGES[:9].astype(float), RNG.integers(0, 9, (9, 5, 6, 2), np.uint8)):
        with jax.enable_x64(True):
            task = augmented if x.dtype == float else build()[1]
            auto, hand = (
                jax.jit(functools.partial(engine(task.loss, has_aux=True), train=True))(
                    params, state, (x, LABELS[:9]), key=KEY
                )
                for engine in (jax.value_and_grad, fn.chain_rule.value_and_grad)
            )
            for a, b in zip(*map(jax.tree.leaves, (auto, hand)), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6 if x.dtype == np.uint8 else 1e-12)
    with jax.enable_x64(True):
        layer = fn.normalise(np.array([0.1, -0.2]), np.array([2.0, 0.0]))
        fn.check_gradients(layer.apply, (), (), IMAGES[:2].astype(float))


def test_normalise_is_numpys():
    mean, std = np.array([10.0, 3.0]), np.array([2.0, 0.0])
    for dtype, out in (
        (np.uint8, np.float32),
        (np.float32, np.float32),
        (jnp.bfloat16, jnp.bfloat16),
    ):
        x = RNG.integers(0, 255, (4, 3, 2)).astype(dtype)
        got, state = fn.normalise(mean, std).apply((), (), x)
        assert (got.dtype, state) == (out, ())
        expected = (x.astype(float) - mean) / np.array([2.0, 1.0])
        np.testing.assert_allclose(
            got.astype(float), expected, rtol=1e-2 if dtype == out != np.float32 else 1e-6
        )
    with pytest.raises(
        ValueError, match=r"normalise's std of shape \(3, 1\) does not fit x of .*\(4, 2\)"
    ):
        fn.normalise(0.0, np.ones((3, 1))).apply((), (), np.ones((4, 2)))


def test_a_transform_of_ones_own():
    def shift(key, x, *, by):
        return x + by * jax.random.normal(key)

    own = fn.per_example(Partial(shift, by=0.5))
    assert jax.tree.leaves(own) == [0.5]
    moved = own(KEY, (IMAGES[:3], LABELS[:3]))[0] - IMAGES[:3]
    np.testing.assert_allclose(moved.std(axis=(1, 2, 3)), 0.0, atol=1e-6)
    assert len({float(m) for m in moved[:, 0, 0, 0]}) == 3


INTEGERS = np.zeros((2, 4, 4, 1), np.uint8)
BAD = [
    (lambda: fn.random_crop(-1), ValueError, "padding must be at least 0, got -1"),
    (lambda: fn.random_crop(1.5), ValueError, r"padding must be an integer, got 1\.5"),
    (lambda: fn.cutout(0), ValueError, "size must be at least 1, got 0"),
    (lambda: fn.horizontal_flip(1.5), ValueError, r"probability must lie in \[0, 1\], got 1\.5"),
    (lambda: fn.gaussian_noise(-0.1), ValueError, r"std must lie in \[0, inf\], got -0\.1"),
    (lambda: fn.mixup(0.1, classes=1), ValueError, "classes must be at least 2, got 1"),
    (lambda: fn.augmented(fn.relu), TypeError, "augmented expects a Task, such as supervised"),
    (
        lambda: fn.normalise(np.ones(3), 1.0).apply((), (), np.ones((2, 4))),
        ValueError,
        r"normalise's mean of shape \(3,\) does not fit x of shape \(2, 4\)",
    ),
    (
        lambda: fn.random_crop(1)(KEY, (np.ones((3, 4)), LABELS[:3])),
        ValueError,
        r"random_crop expects images \[n, height, width, ...\], got x of shape \[n, 4\]",
    ),
    (
        lambda: fn.gaussian_noise(0.1)(KEY, (INTEGERS, LABELS[:2])),
        ValueError,
        "gaussian_noise expects floating-point features, got x of dtype uint8",
    ),
    (
        lambda: fn.mixup(0.1)(KEY, (INTEGERS, LABELS[:2])),
        ValueError,
        "mixup expects floating-point",
    ),
    (lambda: fn.mixup(0.1)(KEY, (IMAGES, LABELS)), ValueError, "integer labels: give it classes="),
    (
        lambda: fn.mixup(0.1, classes=3)(KEY, (IMAGES, LABELS, LABELS)),
        ValueError,
        r"mixup expects batches \(x, y\), got weights",
    ),
    (
        lambda: fn.mixup(0.1, classes=2)(KEY, (IMAGES, LABELS)),
        ValueError,
        "mixup expects labels from 0 to 1, got 2",
    ),
    (
        lambda: build()[0].loss({}, (), (IMAGES, LABELS), train=True),
        ValueError,
        "augmented draws noise in training: pass key=",
    ),
]


@pytest.mark.parametrize(("make", "kind", "message"), BAD, ids=[b[2][:30] for b in BAD])
def test_bad_arguments_say_so(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
