"""Chains, applied updates, norms and clipping, at the edges of the range and differentiated."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import FULL

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


@jax.jit
def clipped_leaves(max_norm, leaf, unit):
    """One leaf by its norm, by the norm of parameters of norm 1, and beside a larger leaf."""
    block, _ = fn.clip_by_block_norm(max_norm).update({"a": leaf, "b": 1e4 * unit}, ())
    unitwise, _ = fn.adaptive_clip(max_norm).update(
        [leaf, leaf[:, None]], (), [unit, unit[:, None]]
    )
    return block["a"], unitwise[0], unitwise[1][:, 0]


@pytest.mark.parametrize("name", CLIPS)
def test_clips_of_a_leaf_are_the_clip_of_a_tree_of_it(name):
    grads, max_norm, expected = CLIPS[name]
    found = clipped_leaves(max_norm, jnp.float32(grads), jnp.array([0.6, -0.8]))
    for leaf in found:
        np.testing.assert_allclose(leaf, expected, rtol=6e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_clips_of_a_leaf_in_16_bits_round_once(dtype):
    half_a_unit = 0.501 * float(jnp.finfo(dtype).eps)
    for scale in (0.07, 3000.0):
        leaf = jnp.array([3.0 * scale, -4.0 * scale, 0.1 * scale], dtype)
        exact = np.asarray(leaf, float) * 0.1 / np.linalg.norm(np.asarray(leaf, float)) * scale
        for clip in (fn.clip_by_block_norm, fn.clip_by_global_norm):
            updates, _ = clip(0.1 * scale).update(leaf, ())
            assert updates.dtype == dtype
            np.testing.assert_allclose(np.asarray(updates, float), exact, rtol=half_a_unit)


def test_a_clip_of_many_float16_numbers_is_not_0():
    """Nor is the factor rounded for one leaf and not for its neighbour."""
    grads = [jnp.full(10**6, 6e4, jnp.float16), jnp.full(1, 6e4)]
    updates, _ = fn.clip_by_global_norm(1.0).update(grads, ())
    np.testing.assert_allclose(updates[0][:1].astype(float), 1e-3, rtol=1e-3)
    np.testing.assert_allclose(updates[1], 1e-3, rtol=2e-5)


def test_numbers_that_the_compiler_knows_are_no_less_in_range():
    """As users compile: there (c x)^2 of numbers known in advance becomes c^2 x^2."""
    leaves = [np.full(4, value, np.float32) for value in (0.0, 1e25, 1e-30)]

    @functools.partial(jax.jit, compiler_options=FULL)
    def of_constants():
        clips = fn.clip_by_global_norm(1e-31), fn.clip_by_block_norm(1e-31)
        clipped = [clip.update(jnp.asarray(x), ())[0] for clip in clips for x in leaves]
        return [fn.global_norm(jnp.asarray(x)) for x in leaves], clipped

    norms, clipped = of_constants()
    np.testing.assert_allclose(norms, [0.0, 2e25, 2e-30], rtol=3e-7)
    wanted = np.outer(2 * [0.0, 0.5e-31, 0.5e-31], np.ones(4))
    np.testing.assert_allclose(clipped, wanted, rtol=6e-7)


CLIPPING = [fn.clip_by_global_norm, fn.clip_by_block_norm, fn.adaptive_clip]


@pytest.mark.parametrize("clip", CLIPPING, ids=lambda clip: clip.__name__)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_clip_does_not_make_a_bad_gradient_finite(clip, value):
    grads = [jnp.array([1.0, value]), jnp.ones(2)]
    updates, _ = clip(1.0).update(grads, (), [jnp.ones(2), jnp.ones(2)])
    assert not np.isfinite(updates[0][1])


def test_clip_by_value_keeps_nan_and_clips_both_parts_of_a_complex_number():
    grads = [jnp.array([0.5, -3.0, np.inf, -np.inf, np.nan]), jnp.array([3.0 - 0.5j, -2.0 - 9.0j])]
    updates, _ = fn.clip_by_value(1.0).update(grads, ())
    np.testing.assert_array_equal(updates[0], [0.5, -1.0, 1.0, -1.0, np.nan])
    np.testing.assert_array_equal(updates[1], np.complex64([1.0 - 0.5j, -1.0 - 1.0j]))
    np.testing.assert_array_equal(fn.clip_by_value(0.0).update(jnp.array([0.0, 2.0]), ())[0], 0.0)


def test_adaptive_clip_of_units_is_the_papers_loop():
    """Dense weights, a convolution's, a vector and a scalar; one unit has weights of 0."""
    rng = np.random.default_rng(3)
    shapes = [(4, 3), (2, 2, 4, 3), (3,), ()]
    params = [rng.normal(size=shape) for shape in shapes]
    params[0][:, 1] = 0.0
    grads = [0.3 * rng.normal(size=shape) for shape in shapes]
    expected = []
    for w, g in zip(params, grads, strict=True):
        w, g = (x.reshape(-1, x.shape[-1] if x.ndim > 1 else 1) for x in (w, g.copy()))
        for unit in range(g.shape[1]):
            limit = 0.2 * max(np.linalg.norm(w[:, unit]), 1e-3)
            if np.linalg.norm(g[:, unit]) > limit:
                g[:, unit] *= limit / np.linalg.norm(g[:, unit])
        expected.append(g)
    with jax.enable_x64(True):
        update = jax.jit(fn.adaptive_clip(0.2).update)
        updates, _ = update(*jax.tree.map(jnp.asarray, (grads, (), params)))
    for found, wanted in zip(updates, expected, strict=True):
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=1e-14)


def test_centralise_takes_the_mean_of_each_units_weights():
    rng = np.random.default_rng(4)
    grads = {
        "conv": rng.normal(size=(2, 2, 4, 3)),
        "bias": rng.normal(size=3),
        "none": np.ones((0, 3)),
    }
    with jax.enable_x64(True):
        updates, _ = fn.centralise().update(jax.tree.map(jnp.asarray, grads), ())
    for unit in range(3):
        own = grads["conv"][..., unit]
        np.testing.assert_allclose(updates["conv"][..., unit], own - own.mean(), rtol=1e-13)
    np.testing.assert_array_equal(updates["bias"], grads["bias"])


def test_noise_falls_repeats_and_differs_by_leaf_and_step():
    noise, zero = fn.add_noise(0.04, 0.5), [jnp.zeros(3000), jnp.zeros(3000)]
    update, state = jax.jit(noise.update), noise.init(zero)
    first, after = update(zero, state)
    chex.assert_trees_all_equal(update(zero, state)[0], first)
    late, _ = update(zero, state._replace(count=jnp.int32(15)))
    second, _ = update(zero, after)
    np.testing.assert_allclose([first[0].std(), late[0].std()], [0.2, 0.1], rtol=0.06)
    for other in (first[1], late[0], second[0]):
        assert abs(np.corrcoef(first[0], other)[0, 1]) < 0.08
    other_seed = fn.add_noise(0.04, 0.5, seed=1)
    assert (update(zero, other_seed.init(zero))[0][0] != first[0]).all()


def ends_in_weight(path):
    return path.endswith("weight")


MASKED = {"body": [{"weight": jnp.ones(2), "bias": jnp.ones(1)}], "head": {"weight": jnp.ones(1)}}


@pytest.mark.parametrize(
    ("mask", "decayed"),
    [
        (ends_in_weight, {"body": [{"weight": 0.1, "bias": 0.0}], "head": {"weight": 0.1}}),
        (
            {"body": True, "head": False},
            {"body": [{"weight": 0.1, "bias": 0.1}], "head": {"weight": 0.0}},
        ),
        (True, {"body": [{"weight": 0.1, "bias": 0.1}], "head": {"weight": 0.1}}),
    ],
)
def test_masked_decay(mask, decayed):
    zero = jax.tree.map(jnp.zeros_like, MASKED)
    updates, _ = fn.add_decayed_weights(0.1, mask).update(zero, (), MASKED)
    wanted = jax.tree.map(lambda x, d: 0 * x + d, MASKED, decayed)
    chex.assert_trees_all_close(updates, wanted)
    beside = fn.decoupled_decay(fn.sgd(2.0), 0.05, mask)
    updates, _ = beside.update(zero, beside.init(MASKED), MASKED)
    chex.assert_trees_all_close(updates, jax.tree.map(jnp.negative, wanted))


def test_a_mask_that_leaves_a_leaf_out_names_it():
    masked = fn.add_decayed_weights(0.1, {"body": True})
    with pytest.raises(ValueError, match=r"got None for 'head\.weight'"):
        masked.update(MASKED, (), MASKED)
    with pytest.raises(ValueError, match="needs the parameters"):
        masked.update(MASKED, ())


def of_value(grads, state, params=None, *, value):
    return jax.tree.map(lambda g: g * value, grads), state


def of_anything(grads, state, params=None, **extra):
    return jax.tree.map(lambda g: g + extra["weight"], grads), state


def of_its_own(grads, state, params=None, *, weight):
    return jax.tree.map(lambda g: g * weight, grads), state


def stateless(params):
    return ()


def test_value_and_weight_reach_the_updates_that_take_them():
    """Through nested chains; a keyword that is bound, and an update without one, get nothing."""
    bound = fn.Optimizer(stateless, jax.tree_util.Partial(of_its_own, weight=10.0))
    takers = [fn.Optimizer(stateless, of_value), fn.Optimizer(stateless, of_anything)]
    optimizer = fn.chain(fn.sgd(1.0), fn.chain(takers[0], bound), takers[1])
    state = optimizer.init(jnp.ones(2))
    updates, _ = optimizer.update(jnp.ones(2), state, value=3.0, weight=0.5)
    np.testing.assert_array_equal(updates, -1.0 * 3.0 * 10.0 + 0.5)
    with pytest.raises(TypeError, match="value"):
        optimizer.update(jnp.ones(2), state)


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


def test_gradient_through_a_clip_of_a_leaf():
    """As for the global norm, above the limit, below it, and at 0."""

    @jax.jit
    @jax.vmap
    def slopes(g, limit):
        def clipped(g, limit):
            return jnp.vdot(COTANGENT, fn.clip_by_block_norm(limit).update(g, ())[0])

        return jax.grad(clipped, (0, 1))(g, limit)

    sizes = np.float32([5.0, 5e25, 5e-25, 0.5, 0.0])
    limits = np.float32([1.0, 1e25, 1e-25, 1.0, 1.0])
    of_g, of_limit = slopes(jnp.float32(sizes[:, None] * DIRECTION), limits)
    along = DIRECTION @ COTANGENT
    np.testing.assert_allclose(of_limit, [along, along, along, 0.0, 0.0], rtol=1e-6)
    above = np.float32(COTANGENT - DIRECTION * along) / 5.0
    np.testing.assert_allclose(of_g, [above] * 3 + [np.float32(COTANGENT)] * 2, rtol=1e-6)
