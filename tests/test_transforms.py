"""Chains, applied updates, norms and clipping, at the edges of the range and differentiated."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn

L2 = fn.add_decayed_weights(0.1)


def test_chain_nested_is_chain_flat():
    a, b, c = fn.clip_by_global_norm(0.5), L2, fn.adam(0.05)
    start = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}

    def descend(optimizer):
        params, state = start, optimizer.init(start)
        for _ in range(5):
            grads = jax.tree.map(jnp.sin, params)
            updates, state = optimizer.update(grads, state, params)
            params = fn.apply_updates(params, updates)
        return params

    flat = descend(fn.chain(a, b, c))
    assert flat["w"][0] < start["w"][0]
    for nested in (fn.chain(fn.chain(a, b), c), fn.chain(a, fn.chain(b, fn.chain(c)))):
        chex.assert_trees_all_equal(descend(nested), flat)
    assert fn.chain().update(flat, fn.chain().init(flat))[0] is flat


def test_apply_updates_adds_in_the_dtype_of_the_parameters():
    params = {"w": jnp.array([1.0, 2.0], jnp.bfloat16), "b": np.float32(0.5), "none": ()}
    updates = {"w": jnp.array([0.5, -1.0]), "b": jnp.array(-0.25), "none": ()}
    expected = {"w": jnp.array([1.5, 1.0], jnp.bfloat16), "b": jnp.array(0.25), "none": ()}
    new = fn.apply_updates(params, updates)
    chex.assert_trees_all_equal(new, expected)
    chex.assert_trees_all_equal_dtypes(new, expected)


def test_add_decayed_weights_needs_the_parameters():
    updates, _ = L2.update(jnp.array([1.0, 2.0]), (), jnp.array([10.0, -20.0]))
    np.testing.assert_allclose(updates, [2.0, 0.0], atol=1e-7)
    optimizer = fn.chain(L2, fn.sgd(0.1))
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))


LARGEST = np.finfo(np.float32).max
TREES = {
    "plain": {"a": np.float32([3.0, -4.0]), "b": np.float32(12.0)},
    "16 bits": [jnp.full((1000,), 0.1, jnp.bfloat16), jnp.full((3,), 400.0, jnp.float16)],
    "size 0": (np.zeros((0, 3), np.float32), np.float32([1.5, -2.0])),
    "complex": [np.complex64([3 + 4j, 0]), np.float32([12.0])],
    "empty": {},
    "zero": [np.zeros(3, np.float32)],
    "huge": [np.float32([3e30, -4e30]), np.float32([1.0])],
    "tiny": [np.float32([3e-30, -4e-30])],
    "squares that lose digits": [np.float32([1e-21, 2e-21, 3e-20])],
    "inf": [np.float32([1.0, -np.inf])],
    "nan": [np.float32([1.0, np.nan]), np.float32([np.inf])],
}


@pytest.mark.parametrize("name", TREES)
def test_global_norm_is_the_norm_in_float64(name):
    leaves = [np.asarray(x).ravel() for x in jax.tree.leaves(TREES[name])]
    wide = [x.astype(complex if np.iscomplexobj(x) else float) for x in leaves]
    norm = fn.global_norm(TREES[name])
    chex.assert_type(norm, jnp.float32)
    chex.assert_shape(norm, ())
    np.testing.assert_allclose(norm, np.linalg.norm(np.concatenate([*wide, []])), rtol=3e-7)


def test_derivatives_of_global_norm():
    with jax.enable_x64(True):
        x, z = jnp.array([1.0, -2.0]), jnp.array([3.0 + 1.0j, 0.5j])
        of_x, of_z, _ = jax.jit(jax.grad(fn.global_norm))([x, z, jnp.zeros((0,))])
        np.testing.assert_allclose(of_x, x / np.sqrt(15.25), rtol=1e-14)
        np.testing.assert_allclose(of_z, z.conj() / np.sqrt(15.25), rtol=1e-14)
        hessian = (np.eye(2) - np.outer(x, x) / 5.0) / np.sqrt(5.0)
        np.testing.assert_allclose(jax.jit(jax.hessian(fn.global_norm))(x), hessian, atol=1e-14)
        np.testing.assert_array_equal(jax.grad(fn.global_norm)(jnp.zeros(3)), np.zeros(3))


CLIPS = {  # gradient, max_norm, what is left
    "below": ([3.0, 4.0], 10.0, [3.0, 4.0]),
    "at the norm": ([3.0, 4.0], 5.0, [3.0, 4.0]),
    "above": ([3.0, 4.0], 1.0, [0.6, 0.8]),
    "zero to zero": ([0.0, 0.0], 0.0, [0.0, 0.0]),
    "to zero": ([3.0, 4.0], 0.0, [0.0, 0.0]),
    "no limit": ([3.0, 4.0], np.inf, [3.0, 4.0]),
    "huge": ([3e30, -4e30], 1.0, [0.6, -0.8]),
    "tiny below": ([3e-30, 4e-30], 1.0, [3e-30, 4e-30]),
    "tiny above": ([3e-30, 4e-30], 1e-30, [0.6e-30, 0.8e-30]),
    "norm beyond float32": ([LARGEST, LARGEST], 1.0, [0.5**0.5, 0.5**0.5]),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clip_by_global_norm(name):
    grads, max_norm, expected = CLIPS[name]
    clip, tree = fn.clip_by_global_norm(max_norm), [jnp.float32(g) for g in grads]
    np.testing.assert_allclose(clip.update(tree, clip.init(tree))[0], expected, rtol=3e-7)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_clip_does_not_make_a_bad_gradient_finite(value):
    updates, _ = fn.clip_by_global_norm(1.0).update([jnp.array([1.0, value]), jnp.ones(2)], ())
    assert not np.isfinite(updates[0][1])


def test_clip_under_vmap_is_clip_of_each():
    grads = jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [3e30, 4e30], [3e-30, 4e-30]])
    limits = jnp.array([1.0, 1.0, 0.0, 5.0, 1e-30])
    clipped, _ = jax.vmap(lambda g, c: fn.clip_by_global_norm(c).update(g, ()))(grads, limits)
    factors = np.float32([0.2, 1.0, 1.0, 1e-30, 0.2])[:, None]
    np.testing.assert_allclose(clipped, grads * factors, rtol=3e-7)


def clip_slopes(g, limit):
    """The gradients of u . clip(g) with respect to g and to the limit."""

    def clipped(g, limit):
        return jnp.vdot(COTANGENT, fn.clip_by_global_norm(limit).update([g], ())[0][0])

    return jax.grad(clipped, (0, 1))(jnp.asarray(g, jnp.float32), limit)


DIRECTION, COTANGENT = np.array([0.6, 0.8, 0.0]), np.array([1.0, -2.0, 0.5])
scales = pytest.mark.parametrize("scale", [0.5, 1e25, 1e-25])


@scales
def test_gradient_through_clip_above_its_limit(scale):
    """d(u . c e) = c (u - e (e . u)) / |g| with e = g / |g|, and e . u for the limit c."""
    of_g, of_limit = clip_slopes(5.0 * scale * DIRECTION, scale)
    along = DIRECTION @ COTANGENT
    np.testing.assert_allclose(of_g, (COTANGENT - DIRECTION * along) / 5.0, rtol=1e-6)
    np.testing.assert_allclose(of_limit, along, rtol=1e-6)


@scales
@pytest.mark.parametrize("size", [0.0, 0.5])
def test_gradient_through_clip_below_its_limit(scale, size):
    of_g, of_limit = clip_slopes(size * scale * DIRECTION, scale)
    np.testing.assert_array_equal(of_g, np.float32(COTANGENT))
    assert of_limit == 0.0
