"""An optimizer, such as one of the user's own, held against what every pair has to keep."""

import io
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcnet.checkpoint import read_tree, write_tree
from funcnet.numerics import widen
from funcnet.optimizers import Known, apply_updates, hand_on
from funcnet.pairs import Optimizer, Tree, partial

SCALES = (1.0, 0.9, 0.8)
"""What an optimizer's own numbers are multiplied by, where no constructor is given."""


class OptimizerReport(NamedTuple):
    """What `check_optimizer` measured."""

    first_step: float  # deviation from the reference, relative; 0 where none was given
    sweep: float  # of `vmap` from a loop, relative
    progress: float  # way of bfloat16 parameters as a fraction of that of float32 ones; NaN where
    # those diverge under gradients of 1, which have no minimum


def example_params():
    """A matrix, a vector, a scalar, a leaf of size 0 and a branch without any."""
    matrix = 1.0 + 0.5 * jnp.sin(jnp.arange(12.0)).reshape(4, 3)
    return {
        "matrix": matrix,
        "vector": matrix[0],
        "one": matrix[1, 1],
        "none": matrix[:0],
        "no": (),
    }


def example_grads(params, steps):
    """Gradients of a few steps, [steps, *shape] a leaf, none of them 0."""

    def waves(p):
        phase = 2.0 * np.arange(p.size).reshape(p.shape) + 0.5
        wave = np.stack([np.cos(phase + 0.3 * t) * (1.0 + 0.5 * t) for t in range(steps)])
        return wave.astype(p.dtype)

    return jax.tree.map(waves, params)


def known_of(loss, grads, params):
    """A weight of 1, and as the objective the bowl that has this loss and gradient at `params`."""

    def bowl(moved):
        total = loss
        for leaf, p, g in zip(*map(jax.tree.leaves, (moved, params, grads)), strict=True):
            way = widen(leaf) - widen(p)
            total += (jnp.vdot(widen(g), way) + 0.5 * jnp.vdot(way, way)).real
        return total

    return Known(loss, jnp.ones_like(loss), bowl)


def path_of(optimizer, params, grads):
    """(the first updates, the parameters and the state at the end) under the given gradients."""

    def step(carry, inputs):
        params, state = carry
        index, gradient = inputs
        loss = 1.0 / (1.0 + index)
        known = known_of(loss, gradient, params)
        updates, state = hand_on(optimizer.update, gradient, state, params, known)
        return (apply_updates(params, updates), state), updates

    count = jnp.arange(jax.tree.leaves(grads)[0].shape[0], dtype=float)
    start = (params, optimizer.init(params))
    (params, state), updates = lax.scan(step, start, (count, grads))
    return jax.tree.map(lambda u: u[0], updates), params, state


def described(tree):
    """{path: (shape, dtype, weak type)} of a tree's leaves."""
    return {
        jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype), leaf.weak_type)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def check_same(what, expected, found):
    if jax.tree.structure(expected) != jax.tree.structure(found):
        raise AssertionError(
            f"{what}: expected the structure {jax.tree.structure(expected)}, "
            f"got {jax.tree.structure(found)}"
        )
    wanted, got = described(expected), described(found)
    for path, leaf in got.items():
        if leaf != wanted[path]:
            raise AssertionError(
                f"{what}: expected (shape, dtype, weak type) {wanted[path]}, got {leaf} at "
                f"{path or 'the root'}"
            )


def check_contract(optimizer, params, what):
    """Shapes and dtypes alone: nothing is computed."""

    def once(params):
        state = optimizer.init(params)
        grads = jax.tree.map(lambda p: jnp.ones(p.shape, p.dtype), params)
        known = known_of(jnp.ones(()), grads, params)
        return grads, state, hand_on(optimizer.update, grads, state, params, known)

    try:
        grads, state, (updates, new_state) = jax.eval_shape(once, params)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    check_same(f"updates, {what}", grads, updates)
    check_same(f"state after an update, {what}", state, new_state)


def deviation(found, expected):
    """The largest difference over the leaves, relative to the largest number of its leaf."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = (np.asarray(x, complex if np.iscomplexobj(x) else float) for x in (a, b))
        if a.shape != b.shape:
            return np.inf
        if a.size:
            scale = np.abs(b).max()
            error = np.abs(a - b).max() / (scale if scale > 0.0 else 1.0)
            worst = np.nan if np.isnan(error) else max(worst, float(error))
    return worst


def check_deviation(what, found, expected, tolerance):
    error = deviation(found, expected)
    if not error <= tolerance:
        raise AssertionError(f"{what}: relative deviation {error:.1e} exceeds {tolerance:g}")
    return error


def check_sweep(optimizer, make, values, params, grads):
    """One compilation for any numbers, and `vmap` over them is the loop."""
    if make is None:
        pairs = [jax.tree.map(lambda leaf, s=s: s * leaf, optimizer) for s in SCALES]
    else:
        pairs = [make(value) for value in values]
    traces = []

    @jax.jit
    def run(pair, params, grads):
        traces.append(pair)
        return path_of(pair, params, grads)

    loop = [run(pair, params, grads)[:2] for pair in pairs]
    if len(traces) > 1:
        raise AssertionError(
            f"one compilation: {len(traces)} for {len(pairs)} values; their structures differ, as "
            "with a lambda or a functools.partial made in the constructor"
        )
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *pairs)
    if not jax.tree.leaves(stacked):
        return run, 0.0
    swept = jax.jit(jax.vmap(path_of, in_axes=(0, None, None)))(stacked, params, grads)[:2]
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *loop)
    return run, check_deviation("vmap against a loop", swept, together, 1e-4)


def check_edges(run, optimizer, params, grads):
    """Gradients of 0, and one NaN."""
    zero = jax.tree.map(np.zeros_like, grads)
    for path, leaf in jax.tree_util.tree_flatten_with_path(run(optimizer, params, zero)[:2])[0]:
        if wrong := int((~np.isfinite(np.asarray(leaf, complex))).sum()):
            raise AssertionError(
                f"zero gradient: {wrong} numbers are not finite at {jax.tree_util.keystr(path)}"
            )
    bad = jax.tree.map(np.copy, grads)
    for leaf in jax.tree.leaves(bad):
        leaf.ravel()[:1] = np.nan
    first, *_ = run(optimizer, params, bad)
    for path, leaf in jax.tree_util.tree_flatten_with_path(first)[0]:
        number = np.asarray(leaf, complex).ravel()[:1]
        if np.isfinite(number).all() and number.any():
            raise AssertionError(
                f"NaN gradient: it became the update {number[0]:.3g} at "
                f"{jax.tree_util.keystr(path)}; expected NaN, or 0 where it is skipped"
            )


def check_complex(run, optimizer, params, grads):
    """Multiplied by i, gradients and parameters give updates multiplied by i."""
    kinds = [jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(params)]
    if not any(kinds):
        return

    def turned(tree):
        return jax.tree.map(lambda x: 1j * x if jnp.iscomplexobj(x) else x, tree)

    first, *_ = run(optimizer, params, grads)
    rotated, *_ = run(optimizer, turned(params), turned(grads))
    check_deviation("complex leaves multiplied by i", rotated, turned(first), 1e-5)


def check_round_trip(run, optimizer, params, grads):
    """The state after a few updates, through a checkpoint in memory, bit by bit."""

    def bits(leaf):
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes()

    _, _, state = run(optimizer, params, grads)
    file = io.BytesIO()
    try:
        write_tree(file, state)
        restored = read_tree(file, jax.eval_shape(optimizer.init, params))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"state through a checkpoint: {error}") from error
    pairs = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(restored), strict=True)
    for (path, before), after in pairs:
        if bits(before) != bits(after):
            raise AssertionError(
                f"state through a checkpoint: other bits at {jax.tree_util.keystr(path)}"
            )


def progress_of(optimizer, steps=200):
    """How far bfloat16 ones come under gradients of 1, relative to float32 ones beside them."""
    kinds = {"narrow": jnp.bfloat16, "wide": jnp.float32}
    start = {name: np.ones(64, dtype) for name, dtype in kinds.items()}
    grads = {name: np.ones((steps, 64), dtype) for name, dtype in kinds.items()}
    _, end, _ = jax.jit(path_of)(optimizer, start, grads)
    moved = {name: abs(float(np.mean(np.asarray(p, float)) - 1.0)) for name, p in end.items()}
    if not np.isfinite(moved["wide"]):
        return np.nan
    if not np.isfinite(moved["narrow"]):
        raise AssertionError(
            f"bfloat16 progress: after {steps} updates by gradients of 1 bfloat16 parameters are "
            "not finite, float32 ones are"
        )
    return moved["narrow"] / moved["wide"] if moved["wide"] else 1.0


def check_optimizer(
    optimizer: Optimizer,
    params: Tree = None,
    *,
    make: Callable[[float], Optimizer] | None = None,
    values: tuple[float, ...] = (1e-3, 2e-3, 3e-3),
    reference: Callable[[Tree, Tree], Tree] | None = None,
    tolerance: float = 1e-5,
    least_progress: float = 0.0,
    steps: int = 4,
) -> OptimizerReport:
    """Hold an optimizer against the contract of `Optimizer`, for pairs of the user's own.

    Updates have the gradients' structure, shapes and dtypes and the new state the old one's, for
    float32, bfloat16 and float16 parameters, an empty tree, a bare scalar, leaves of size 0; the
    first updates are `reference(grads, params)`, where given, to `tolerance`; the same compiled
    program serves all of its numbers, and `vmap` over them is the loop, over `steps` updates;
    gradients of 0 give finite updates, and a NaN stays one, or is skipped with an update of 0; the
    state comes back from a checkpoint with every bit. Its numbers are varied by `make(value)` for
    each of `values`, or else multiplied by 0.9 and 0.8. `params` replaces the example tree; of
    complex leaves in it the updates must turn with the gradients. The loss, a weight of 1 and an
    objective, a bowl that has the gradient given, are handed to an update that takes them.

    `least_progress` is the fraction of float32's way that bfloat16 parameters, all 1, must go in
    200 updates by gradients of 1: none at a rate of 1e-3 by plain rounding, whatever the optimizer;
    about 1 with `kahan` or `stochastic_rounding`, for which 0.9 is a fair demand.

    Raises `AssertionError` that names the check and the size of the failure, at the first one.
    """
    if not (isinstance(optimizer, tuple) and len(optimizer) == 2):
        raise TypeError(f"check_optimizer expects an optimizer, got {optimizer!r}")
    pair = Optimizer(*map(partial, optimizer))
    params = example_params() if params is None else params
    params = jax.tree.map(lambda p: np.asarray(p, jnp.result_type(p)), params)
    check_contract(pair, params, "the parameters as they are")
    for dtype in (jnp.bfloat16, jnp.float16):
        narrow = jax.tree.map(
            lambda p, d=dtype: p.astype(d) if jnp.issubdtype(p.dtype, jnp.floating) else p, params
        )
        check_contract(pair, narrow, jnp.dtype(dtype).name)
    check_contract(pair, {}, "an empty tree")
    check_contract(pair, jnp.ones(()), "a bare scalar")

    grads = example_grads(params, steps)
    first_step = 0.0
    run, sweep = check_sweep(pair, make, values, params, grads)
    if reference is not None:
        one = jax.tree.map(lambda g: g[0], grads)
        first, *_ = run(pair, params, grads)
        first_step = check_deviation("first step", first, reference(one, params), tolerance)
    check_edges(run, pair, params, grads)
    check_complex(run, pair, params, grads)
    check_round_trip(run, pair, params, grads)
    progress = progress_of(pair)
    if np.isnan(progress) and least_progress > 0.0:
        raise AssertionError(
            "bfloat16 progress: none to compare with, as float32 parameters are not finite after "
            "200 updates by gradients of 1: the optimizer diverges where there is no minimum"
        )
    if progress < least_progress:
        raise AssertionError(
            f"bfloat16 progress: {progress:.2f} of the way of float32, less than "
            f"{least_progress:g}; kahan(optimizer) keeps what rounding takes away"
        )
    return OptimizerReport(first_step, sweep, progress)
