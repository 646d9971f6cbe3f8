"""The keyed bijection: exact as a permutation, and as random as NumPy's to a statistic's eye."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.shuffle import ROUNDS, permute, position

SEEDS = jax.random.bits(jax.random.key(0), (ROUNDS + 1,), jnp.uint32)


@functools.partial(jax.jit, static_argnums=1)
def permutation(epoch, n, seeds=SEEDS):
    return permute(jnp.arange(n, dtype=jnp.uint32), epoch, seeds, n)


@pytest.mark.parametrize("n", [*range(1, 18), 31, 49, 50, 97, 128, 1198, 1797, 60_000, 65_537])
def test_each_epoch_is_a_permutation(n):
    for epoch in (0, 1, 2**32 - 1):
        image = np.asarray(permutation(jnp.uint32(epoch), n))
        np.testing.assert_array_equal(np.sort(image), np.arange(n))


def chi_square(counts):
    """(sum (observed - expected)^2 / expected - dof) / sqrt(2 dof): about standard normal."""
    expected = counts.mean()
    degrees = counts.size - 1
    return (((counts - expected) ** 2).sum() / expected - degrees) / np.sqrt(2 * degrees)


@functools.cache
def epochs(n, by_key):
    """8,192 permutations [8192, n]: the epochs of one key, or the first epochs of as many keys."""
    count = 8192
    if by_key:
        keys = jax.random.split(jax.random.key(1), count)
        seeds = jax.vmap(lambda k: jax.random.bits(k, (ROUNDS + 1,), jnp.uint32))(keys)
        images = jax.vmap(lambda s: permutation(jnp.uint32(0), n, s))(seeds)
    else:
        images = jax.vmap(lambda e: permutation(e, n))(jnp.arange(count, dtype=jnp.uint32))
    return np.asarray(images).astype(np.int64)


@pytest.mark.parametrize("by_key", [False, True], ids=["epochs", "keys"])
@pytest.mark.parametrize("n", [2, 3, 5, 16, 50])
def test_statistics(n, by_key):
    images = epochs(n, by_key)
    at_position = np.stack([np.bincount(column, minlength=n) for column in images.T])
    assert abs(chi_square(at_position)) < 5, "each image equally often at each position"
    if n > 2:
        steps = np.diff(images, axis=1).ravel() % n
        counts = np.bincount(steps, minlength=n)[1:]
        # Steps within one permutation depend on each other; the bound is the one that
        # NumPy's own permutations keep.
        assert abs(chi_square(counts)) < 8, "successive images differ by anything equally often"
        pairs = np.bincount(images[:, 0] * n + images[:, 1], minlength=n * n).reshape(n, n)
        assert abs(chi_square(pairs[~np.eye(n, dtype=bool)])) < 5, "the first two are independent"
    fixed = (images[1:] == images[:-1]).sum(axis=1).mean()
    assert abs(fixed - 1.0) < 0.07, "successive epochs share one position on average"


@pytest.mark.parametrize(
    ("n", "size"),
    [
        (1, 1),
        (2, 1),
        (2, 2),
        (3, 2),
        (10, 4),
        (1198, 32),
        (1_281_167, 4096),
        (2**31 - 1, 2**20),
        (2**20, 2**10),
    ],
)
def test_position_divides_exactly_beyond_32_bits(n, size):
    steps = np.concatenate([np.arange(4), np.random.default_rng(0).integers(0, 2**31 - 1, 50)])
    both = jax.jit(  # a size that is known, and a traced one
        lambda s, b: (
            jax.vmap(lambda s: position(s, n, size, size))(s),
            jax.vmap(lambda s: position(s, n, b, size))(s),
        )
    )
    for epoch, offset in both(jnp.asarray(steps, jnp.int32), jnp.int32(size)):
        for step, e, o in zip(steps.tolist(), epoch.tolist(), offset.tolist(), strict=True):
            assert (e, o) == (step * size // n % 2**32, step * size % n)


@pytest.mark.parametrize(("n", "size"), [(10, 4), (7, 7), (9, 1), (12, 5)])
def test_batches_laid_end_to_end_are_epochs(n, size):
    key = jax.random.key(3)
    draw = jax.jit(lambda step: fn.batch_indices(key, step, n, size))
    stream = np.concatenate([draw(step) for step in range(4 * n)])
    for epoch in range(len(stream) // n):
        np.testing.assert_array_equal(np.sort(stream[epoch * n : (epoch + 1) * n]), np.arange(n))
    assert len({tuple(stream[e * n : (e + 1) * n]) for e in range(4)}) > 1


def test_batches_depend_on_the_key_and_step_alone():
    def draw(seed, step):
        return fn.batch_indices(jax.random.key(seed), step, 1000, 32).tolist()

    assert draw(0, 41) == draw(0, jnp.int32(41))
    assert draw(0, 41) != draw(1, 41)
    assert draw(0, 41) != draw(0, 42)
    batched = jax.vmap(lambda key: fn.batch_indices(key, 41, 1000, 32))(
        jnp.stack([jax.random.key(0), jax.random.key(1)])
    )
    assert batched.tolist() == [draw(0, 41), draw(1, 41)]


@pytest.mark.parametrize("size", [0, 11])
def test_batch_size_out_of_range(size):
    with pytest.raises(ValueError, match=f"1 to the 10 examples, got {size}"):
        fn.batch_indices(jax.random.key(0), 0, 10, size)
