"""Matrix optimizers against Optax, PyTorch, the papers' loops in NumPy, and closed forms."""

import functools
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.matrix_problems import SHAPES, regression, start, warm
from golden.problems import SNAPSHOTS, STEPS
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import funcnet as fn
from funcnet.optimizers.spectral import eigenbasis, inverse_root, orthonormal

GOLDEN = np.load(Path(__file__).parent / "golden" / "matrix.npz")
OPTAX = functools.partial(fn.muon, bias_correction=True, eps=1e-8)
TORCH = functools.partial(fn.muon, clamp_norm=True, weight_decay=0.1)
MATCH_RMS = functools.partial(TORCH, decay=0.8, eps=0.5, scale="moonlight")
SOAP = functools.partial(
    fn.soap, 0.03, 0.9, 0.95, shampoo_decay=0.8, eps=1e-3, weight_decay=0.1, every=3
)


def warm_init(params):
    """The state after a step that left `warm`'s matrices behind."""
    state = SOAP().init(params)
    pairs = {
        shape: [[warm(size, k, jnp) for size in sizes] for k, sizes in enumerate(SHAPES[shape])]
        for shape in SHAPES
    }
    gram, basis = (
        {shape: [tuple(p[i] for p in pair) for pair in pairs[shape]] for shape in SHAPES}
        for i in (0, 1)
    )
    return state._replace(count=jnp.int32(1), gram=gram, basis=basis)


class Case(NamedTuple):
    name: str  # as in the golden file
    optimizer: fn.Optimizer
    tolerance: float = 1e-10  # relative to the distance moved


# PyTorch's bfloat16 is met to 1e-13 too by a machine that sums in the order of the one that made
# the file: one product rounded the other way, and the iteration makes it some hundredths.
CASES = [
    Case("optax/muon", OPTAX(weight_decay=0.1)),
    Case("optax/muon-plain", OPTAX(nesterov=False, eps=1e-2)),
    Case("optax/muon-consistent_rms", OPTAX(decay=0.8, scale="moonlight", steps=3, eps=1e-2)),
    Case("optax/muon-coefficients", OPTAX(coefficients=(2.0, -1.5, 0.5))),
    Case("torch64/muon", TORCH()),
    Case("torch64/muon-plain", TORCH(nesterov=False, weight_decay=0.0)),
    Case("torch64/muon-match_rms", MATCH_RMS()),
    Case("torch/muon", TORCH(iterate_in=jnp.bfloat16), 0.05),
    Case("torch/muon-match_rms", MATCH_RMS(iterate_in=jnp.bfloat16), 0.05),
    Case("paper/shampoo", fn.shampoo(0.1, eps=0.01)),
    Case("paper/shampoo-average", fn.shampoo(0.03, 0.9, eps=1e-4, every=4)),
    Case("paper/shampoo-momentum", fn.shampoo(0.05, momentum=0.8, eps=0.01, exponent=0.4)),
    Case("paper/soap", SOAP(max_size=4)),
    Case("paper/soap-warmed", fn.Optimizer(Partial(warm_init), SOAP().update)),
]


@jax.jit
def descend(optimizer, params):
    """Both problems' parameters after each step: matrices do not see one another."""

    def step(carry, _):
        params, state = carry
        grads = {shape: jax.grad(regression)(params[shape], jnp) for shape in params}
        updates, state = optimizer.update(grads, state, params)
        params = fn.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)[1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_trajectory_is_the_golden_one(case):
    with jax.enable_x64(True):
        origin = {shape: start(shape, jnp) for shape in SHAPES}
        paths = descend(case.optimizer, origin)
        for shape in SHAPES:
            path = np.concatenate([w.reshape(STEPS, -1) for w in paths[shape]], 1)
            golden = GOLDEN[f"{case.name}/{shape}"]
            moved = np.linalg.norm(golden - ravel_pytree(origin[shape])[0], axis=1) + 1e-3
            error = np.linalg.norm(path[np.array(SNAPSHOTS) - 1] - golden, axis=1)
            assert (error <= case.tolerance * moved).all(), error / moved


def singular_factors(x, rank):
    """U V^T over the largest singular values."""
    u, _, v = np.linalg.svd(x)
    return u[..., :rank] @ v[..., :rank, :]


NEWTON = fn.muon(1.0, 0.0, eps=1e-33, coefficients=(1.5, -0.5, 0.0), steps=40)
SIDES = fn.shampoo(1.0, eps=1e-14)
MATRICES = {
    (3, 5): np.sin(np.arange(15.0) ** 1.3).reshape(3, 5),
    (5, 3): np.cos(np.arange(15.0) ** 1.3).reshape(5, 3),
    (4, 4): np.outer(np.arange(1.0, 5.0), np.array([1.0, -2.0, 3.0, 0.5])),
}


@pytest.mark.parametrize(
    ("optimizer", "size"), [(NEWTON, 1.0), (NEWTON, 1e-25), (NEWTON, 1e200), (SIDES, 1.0)]
)
def test_first_step_is_the_nearest_orthogonal_matrix(optimizer, size):
    """With Newton's own coefficients Muon's is U V^T, Shampoo's U S^-1/2 S S^-1/2 V^T."""
    with jax.enable_x64(True):
        grads = [jnp.asarray(size * x) for x in MATRICES.values()]
        updates, _ = first_update(optimizer, grads)
    for (fan_in, fan_out), u in zip(MATRICES, updates, strict=True):
        expected = -singular_factors(MATRICES[fan_in, fan_out], 1 if fan_in == 4 else 3)
        scale = np.sqrt(max(1.0, fan_out / fan_in)) if optimizer is NEWTON else 1.0
        np.testing.assert_allclose(u, scale * expected, atol=1e-6)


@jax.jit
def first_update(optimizer, grads):
    return optimizer.update(grads, optimizer.init(grads), grads)


TUNED = {
    "muon": (
        7,
        lambda v: fn.muon(v, 1 - v, weight_decay=v, eps=v, coefficients=(1.5 + v, -0.5 - v, v / 4)),
    ),
    "shampoo": (3, lambda v: fn.shampoo(v, eps=v, exponent=0.2 + v, every=2)),
    "shampoo, averaged": (
        6,
        lambda v: fn.shampoo(v, 1 - v, momentum=v, eps=v, exponent=0.2 + v, every=2),
    ),
    "soap": (
        6,
        lambda v: fn.soap(v, 1 - v, 1 - v / 2, shampoo_decay=1 - v, eps=v, weight_decay=v, every=2),
    ),
}
"""Leaves, and a constructor of one number from which all of its numbers derive."""

PARAMS = np.linspace(0.5, 1.5, 12).reshape(2, 2, 3)
ALIVE = np.ones((2, 2, 3)) * [[[1.0]], [[0.0]]]  # the second matrix never has a gradient
RANK_ONE = np.ones((2, 2, 3)) * np.arange(3.0)


def outcome(optimizer, size, slope):
    """Of five steps along size * cos(slope p + t)."""

    def step(carry, t):
        params, state = carry
        updates, state = optimizer.update(size * jnp.cos(slope * params + t), state, params)
        return (fn.apply_updates(params, updates), state), None

    params = jnp.asarray(PARAMS, float)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(5.0))
    return jnp.sin(params).sum()


@pytest.mark.parametrize("name", TUNED)
def test_numbers_are_float_leaves(name):
    count, make = TUNED[name]
    leaves, structure = jax.tree.flatten(make(0.1))
    assert len(leaves) == count
    assert all(type(leaf) is float for leaf in leaves)
    assert jax.tree.leaves(make(0.1).init) == []
    assert structure == jax.tree.structure(make(0.3))


# What is averaged differs from what is summed by one more number.
@pytest.mark.parametrize("name", [name for name in TUNED if name != "shampoo"])
def test_every_number_has_the_gradient_that_differences_give(name):
    _, make = TUNED[name]
    leaves, structure = jax.tree.flatten(make(0.1))
    traces = []
    use = jax.jit(jax.value_and_grad(lambda *a: traces.append(a) or outcome(*a)))
    with jax.enable_x64(True):
        _, grad = use(make(0.1), ALIVE, 3.0)
        for index, slope in enumerate(jax.tree.leaves(grad)):
            up, down = list(leaves), list(leaves)
            up[index], down[index] = up[index] + 1e-6, down[index] - 1e-6
            up, down = (use(structure.unflatten(x), ALIVE, 3.0)[0] for x in (up, down))
            np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=2e-5, atol=1e-9)
            assert abs(slope) > 1e-12
        chex.assert_tree_all_finite(use(make(0.1), RANK_ONE, 0.0))
        values = [0.1, 0.2, 0.3]
        loop = [use(make(value), ALIVE, 3.0)[0] for value in values]
        assert len(traces) == 1
        sweep = jax.jit(jax.vmap(outcome, (0, None, None)))
        swept = sweep(jax.vmap(make)(jnp.array(values)), ALIVE, 3.0)
    np.testing.assert_allclose(swept, loop, rtol=1e-9)


DEFAULTS = {
    "muon": fn.muon(0.1),
    "muon in bfloat16": fn.muon(0.1, iterate_in=jnp.bfloat16, clamp_norm=True),
    "shampoo": fn.shampoo(0.1, every=2),
    "shampoo, averaged": fn.shampoo(0.1, 0.9, momentum=0.9),
    "soap": fn.soap(0.1, weight_decay=0.0, every=2),
    "grafted": fn.graft(fn.sgd(0.1), fn.muon(1.0)),
}
STACK = np.sin(np.arange(24.0) ** 1.2).reshape(2, 4, 3)


@jax.jit
def four_steps(optimizer, grads):
    def step(carry, scale):
        params, state = carry
        g = jax.tree.map(lambda x: jnp.asarray(scale, x.dtype) * x, grads)
        updates, state = optimizer.update(g, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)
        return (fn.apply_updates(params, updates), state), updates

    params = jax.tree.map(jnp.zeros_like, grads)
    scales = jnp.array([1.0, -2.0, 0.5, 1.0])
    return jax.lax.scan(step, (params, optimizer.init(params)), scales)[1]


@pytest.mark.parametrize("name", DEFAULTS)
def test_matrices_are_a_batch_in_any_dtype_and_dead_ones_stay(name):
    """The state keeps its structure and dtypes in `scan`, 16-bit updates are those of float32."""
    rank_one, dead = np.ones((4, 3)) * np.arange(3.0), np.zeros((4, 3))
    narrow = jnp.asarray(np.stack([*STACK, rank_one, dead]), jnp.bfloat16)
    wide = narrow.astype(jnp.float32)
    grads = {"stack": wide, "one": wide[0], "other": wide[1], "narrow": narrow, "none": ()}
    found = four_steps(DEFAULTS[name], grads)
    chex.assert_tree_all_finite(found)
    stack, narrow = found["stack"], found["narrow"].astype(jnp.float32)
    loop = jnp.stack([found["one"], found["other"]], 1)
    np.testing.assert_allclose(stack[:, :2], loop, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(narrow, stack, rtol=0.01, atol=0.005 * jnp.abs(stack).max())
    assert not stack[:, 3].any()
    assert jnp.abs(stack[:, 2]).max() < 1.0


def test_flattened_takes_a_kernel_as_one_matrix():
    grads = [jnp.asarray(STACK, jnp.float32), jnp.asarray(STACK.reshape(8, 3), jnp.float32)]
    (kernel, matrix), _ = first_update(fn.flattened(fn.muon(0.1)), grads)
    assert kernel.shape == (2, 4, 3)
    np.testing.assert_array_equal(kernel.reshape(8, 3), matrix)
    expected, _ = first_update(fn.muon(0.1), grads[1:])
    np.testing.assert_allclose(matrix, expected[0], rtol=1e-5)


def test_graft_is_as_long_as_one_and_along_the_other():
    grads = [jnp.asarray(STACK, jnp.float32), jnp.arange(3.0), jnp.float32(0.0)]
    updates, state = first_update(fn.graft(fn.sgd(0.1), fn.sgd(-7.0)), grads)
    chex.assert_trees_all_close(updates, jax.tree.map(lambda g: 0.1 * g, grads), rtol=1e-6)
    assert [float(x) for x in state[1]] == [1, np.float32(0.1)]
    lengths, along = (
        jnp.linalg.norm(first_update(optimizer, grads[:1])[0][0], axis=(1, 2))
        for optimizer in (fn.graft(fn.adam(0.1), fn.muon(1.0)), fn.adam(0.1))
    )
    np.testing.assert_allclose(lengths, along, rtol=1e-5)
    leaves = jax.tree.leaves(fn.graft(fn.sgd(0.1), fn.momentum(1, 0.9)))
    assert sorted(leaves) == [0.0, 0.1, 0.9, 1.0]


def primitives(jaxpr, inside=False):
    """(name, whether inside a branch) of every operation."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, inside
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                part = getattr(part, "jaxpr", part)
                if hasattr(part, "eqns"):
                    yield from primitives(part, inside or equation.primitive.name == "cond")


@pytest.mark.parametrize("make", [fn.shampoo, fn.soap])
def test_decompositions_run_in_one_branch_also_in_a_sweep(make):
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones((4, 4))}

    def one(rate):
        optimizer = make(rate, every=5)

        def body(state, _):
            return optimizer.update(params, state, params)[1], None

        return jax.lax.scan(body, optimizer.init(params), length=10)[0]

    def member(rate, state):
        return make(rate, every=5).update(params, state, params)

    state = make(0.1).init(params)
    axes = jax.tree.map(lambda leaf: 0 if leaf.ndim > 1 else None, state)
    many = jax.tree.map(lambda x, a: x if a is None else jnp.stack([x] * 3), state, axes)
    rates = jnp.arange(1.0, 4.0)
    for function, arguments in (
        (one, (0.1,)),
        (jax.vmap(one), (rates,)),
        (jax.vmap(member, (0, axes)), (rates, many)),
    ):
        found = list(primitives(jax.make_jaxpr(function)(*arguments).jaxpr))
        assert sum(name == "cond" for name, _ in found) == 1
        where = {inside for name, inside in found if name in ("eigh", "householder_product")}
        assert where == {True}


@jax.jit
def derivatives(function, matrix, direction):
    """By `jvp`, by `grad`, and by differences."""
    value, along = jax.jvp(function, (matrix,), (direction,))
    weight = jnp.cos(jnp.arange(value.size, dtype=float)).reshape(value.shape)
    back = jnp.vdot(jax.grad(lambda a: jnp.vdot(weight, function(a)))(matrix), direction)
    up, down = (function(matrix + h * direction) for h in (1e-5, -1e-5))
    return jnp.vdot(weight, along), back, jnp.vdot(weight, up - down) / 2e-5


FUNCTIONS = {
    "root": lambda a: inverse_root(a, 0.1, 0.3),
    "root in eps": lambda a: inverse_root(jnp.eye(3), a[0, 0] + 0.1, 0.3),
    "root in exponent": lambda a: inverse_root(jnp.diag(jnp.arange(3.0)), 0.1, a[0, 0]),
    "basis": eigenbasis,
    "orthonormal": orthonormal,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_matrix_functions(name):
    with jax.enable_x64(True):
        symmetric = jnp.array([[2.0, 0.3, 0.1], [0.3, 1.0, -0.2], [0.1, -0.2, 0.2]])
        direction = jnp.array([[0.4, 1.0, -0.5], [1.0, -0.3, 0.7], [-0.5, 0.7, 0.9]])
        function = Partial(FUNCTIONS[name])
        matrices = [symmetric]
        if "root" in name:
            matrices += [jnp.eye(3), jnp.diag(jnp.array([1.0, 1.0 + 1e-9, 4.0]))]
        for matrix in matrices:
            along, back, difference = derivatives(function, matrix, direction)
            np.testing.assert_allclose([along, back], difference, rtol=1e-7)
        for matrix in (jnp.zeros((3, 3)), jnp.ones((3, 3)), jnp.eye(3)):
            chex.assert_tree_all_finite(derivatives(function, matrix, direction)[:2])


@pytest.mark.parametrize(
    "optimizer",
    [fn.muon(0.05), fn.shampoo(0.01, 0.95, momentum=0.9, every=10), fn.soap(0.01, every=5)],
    ids=["muon", "shampoo", "soap"],
)
def test_digits_are_learnt(optimizer):
    network = fn.serial(fn.dense(64, 16, bias_init=None), fn.relu, fn.dense(16, 10, bias_init=None))
    trainer = fn.trainer(fn.supervised(network, fn.cross_entropy), optimizer)
    run = functools.partial(fn.run, steps=150, batch_size=32)
    result = jax.jit(run)(trainer, fn.datasets.digits()[0], jax.random.key(0))
    assert result.loss[-20:].mean() < 0.15


def nothing(params):
    return ()


def of_all_that_is_known(grads, state, params, *, value, weight, objective):
    slopes = jax.grad(objective)(params)
    return jax.tree.map(lambda slope: value * weight * slope, slopes), state


def test_wrappers_hand_on_what_is_known_of_the_step():
    """The objective takes the parameters as they were, whatever the shape within."""
    taker = fn.Optimizer(Partial(nothing), Partial(of_all_that_is_known))
    params = jnp.arange(12.0).reshape(2, 2, 3)
    known = {"value": 3.0, "weight": 0.5, "objective": lambda p: (p[0] * p[1] ** 2).sum()}
    wanted = 1.5 * jnp.stack([params[1] ** 2, 2.0 * params[0] * params[1]])
    for optimizer in (fn.flattened(taker), fn.graft(taker, taker)):
        updates, _ = optimizer.update(params, optimizer.init(params), params, **known)
        np.testing.assert_allclose(updates, wanted, rtol=1e-6)


def test_matrices_without_rows_and_counts_of_numpy():
    params = [jnp.ones((0, 3)), jnp.ones((2, 0, 3)), jnp.ones((2, 3, 0))]
    for optimizer in (fn.muon(steps=np.int64(2)), fn.flattened(fn.muon(scale="moonlight"))):
        updates, _ = jax.eval_shape(optimizer.update, params, optimizer.init(params), params)
        assert [u.shape for u in updates] == [p.shape for p in params]


WRONG = [
    (lambda: fn.muon(0.1).init({"w": jnp.ones((2, 2)), "b": jnp.ones(2)}), ValueError,
     r"muon expects matrices, got params\['b'\] of shape \(2,\); .* `partition`"),
    (lambda: fn.shampoo().init([jnp.ones(())]), ValueError, r"shampoo expects matrices.*\[0\]"),
    (lambda: fn.soap().init((jnp.ones(3),)), ValueError, "soap expects matrices"),
    (lambda: fn.muon().update((), fn.muon().init(())), ValueError, "muon needs the parameters"),
    (lambda: fn.soap().update((), fn.soap().init(())), ValueError, "soap needs the parameters"),
    (lambda: fn.muon(scale="adam"), ValueError, "scale must be one of original, moonlight, got"),
    (lambda: fn.muon(coefficients=(1.0, 2.0)), ValueError, "coefficients must be three numbers"),
    (lambda: fn.muon(steps=0), ValueError, "steps must be at least 1, got 0"),
    (lambda: fn.muon(steps=2.0), ValueError, "steps must be an integer, got 2.0"),
    (lambda: fn.muon(iterate_in=jnp.int32), ValueError, "iterate_in expects a floating-point"),
    (lambda: fn.muon(decay=1.0), ValueError, "decay must be less than 1"),
    (lambda: fn.muon(eps=-1.0), ValueError, "eps must lie in"),
    (lambda: fn.muon(True), TypeError, "learning_rate must be a number"),
    (lambda: fn.shampoo(every=0), ValueError, "every must be at least 1"),
    (lambda: fn.shampoo(every=True), ValueError, "every must be an integer"),
    (lambda: fn.shampoo(exponent=-0.1), ValueError, "exponent must lie in"),
    (lambda: fn.soap(b2=1.5), ValueError, "b2 must lie in"),
    (lambda: fn.soap(shampoo_decay=1.0), ValueError, "shampoo_decay must be less than 1"),
    (lambda: fn.soap(max_size=0.5), ValueError, "max_size must be an integer"),
    (lambda: fn.flattened(fn.muon), TypeError, "flattened expects an optimizer"),
    (lambda: fn.graft(fn.sgd(0.1), 2), TypeError, "graft expects an optimizer, got 2"),
    (lambda: fn.soap(learning_rte=0.1), TypeError, "learning_rte"),
]  # fmt: skip


@pytest.mark.parametrize(("construct", "error", "message"), WRONG)
def test_mistakes_are_named(construct, error, message):
    with pytest.raises(error, match=message):
        construct()
