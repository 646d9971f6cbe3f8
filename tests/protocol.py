"""The cases and measures by which a hand-written rule is compared with other witnesses."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import funcnet as fn
from funcnet import chain_rule

STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


class Case(NamedTuple):
    """A network and an input shape (or, as the target, integers), or a loss with a prediction's
    shape and a target."""

    name: str
    function: Any
    shape: tuple[int, ...]
    target: Any = None
    context: Mapping[str, Any] = MappingProxyType({})


class Problem(NamedTuple):
    plain: Callable[..., Any]  # inputs -> result
    hand: Callable[..., Any]  # inputs -> (result, pullback)
    inputs: Any  # what is differentiated


def random_like(tree, seed, dtype):
    """Standard normal numbers in the shape of a tree, from NumPy and hence in any precision."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), dtype), tree)


def problem(case: Case, dtype, rules=chain_rule.RULES) -> Problem:
    x = random_like(jax.ShapeDtypeStruct(case.shape, dtype), 1, dtype)
    if isinstance(case.function, fn.Network):
        network = case.function
        params, state = network.init(jax.random.key(0))
        params = random_like(params, 2, dtype)
        if state_leaves := jax.tree.leaves(state):
            assert all((leaf >= 0.0).all() for leaf in state_leaves)
        state = jax.tree.map(lambda a: (a + 0.5).astype(dtype), state)
        whole = (params, x) if case.target is None else (params,)

        def primals(inputs):
            return inputs[0], state, inputs[1] if inputs[1:] else jnp.asarray(case.target)

        def plain(inputs):
            return network.apply(*primals(inputs), **case.context)[0]

        def hand(inputs):
            y, pullback, _ = chain_rule.vjp(
                network.apply, *primals(inputs), rules=rules, **case.context
            )
            return y, lambda dy: pullback(dy)[: len(whole)]

        return Problem(plain, hand, whole)
    target = jnp.asarray(case.target)

    def hand(inputs):
        return chain_rule.vjp(case.function, inputs[0], target, rules=rules)

    return Problem(lambda inputs: case.function(inputs[0], target), hand, (x,))


KEYED = {"key": jax.random.key(3), "train": True}
QUIET = {"key": None, "train": False}
LABELS = np.array([2, 0, 1, 2, 2, 1, 0])
CLASS_WEIGHT = np.array([0.5, 1.5, 2.0])


def _distributions(rows, columns):
    values = np.random.default_rng(5).random((rows, columns))
    values[0, :-1] = 0.0
    return values / values.sum(axis=1, keepdims=True)


def _layer(name, network, *shapes, context=QUIET):
    return [Case(f"{name}-{shape}", network, shape, context=context) for shape in shapes]


CASES = [
    *_layer("dense", fn.dense(3, 5), (7, 3), (1, 3), (2, 3, 3), (3,)),
    *_layer("dense-narrow", fn.dense(1, 1), (5, 1)),
    *_layer("dense-without-bias", fn.dense(3, 4, bias_init=None), (5, 3)),
    *_layer("flatten", fn.flatten, (3, 2, 5), (1, 7)),
    *_layer("identity", fn.identity, (3, 5)),
    *_layer("dropout", fn.dropout(0.3), (7, 5), (1, 1), context=KEYED),
    *_layer("dropout-all", fn.dropout(1.0), (3, 5), context=KEYED),
    *_layer("dropout-off", fn.dropout(0.3), (3, 5)),
    *(
        case
        for name in ("relu", "tanh", "sigmoid", "gelu", "silu", "softplus", "elu")
        for case in _layer(name, getattr(fn, name), (7, 5), (1,))
    ),
    *_layer("gelu-tanh", fn.activation(fn.fix(jax.nn.gelu, approximate=True)), (7, 5)),
    *_layer("leaky_relu", fn.leaky_relu(0.2), (7, 5)),
    *_layer(
        "serial",
        fn.serial(fn.dense(3, 2), fn.serial(fn.tanh, fn.dropout(0.5)), fn.dense(2, 1)),
        (5, 3),
        context=KEYED,
    ),
    *_layer("drop_path", fn.drop_path(0.4), (7, 3, 2), context=KEYED),
    Case("embedding", fn.embedding(5, 3), (), np.array([[0, 4, 4], [1, 0, 4]])),
    *_layer("layer_norm", fn.layer_norm(5, eps=0.1), (4, 5), (2, 3, 5)),
    *_layer("layer_norm-narrow", fn.layer_norm(1), (3, 1)),
    *_layer("rms_norm", fn.rms_norm(5, eps=0.1), (4, 5), (2, 3, 5)),
    *_layer("group_norm", fn.group_norm(2, 6, eps=0.1), (3, 2, 6), (2, 6)),
    *_layer("instance_norm", fn.instance_norm(3, eps=0.1), (2, 5, 3)),
    *_layer("batch_norm", fn.batch_norm(3, eps=0.1), (7, 3), (2, 3, 3), (1, 3), context=KEYED),
    *_layer("batch_norm-running", fn.batch_norm(3, eps=0.1), (7, 3)),
    *_layer("residual", fn.residual(fn.serial(fn.dense(3, 3), fn.tanh)), (5, 3)),
    *_layer("parallel-add", fn.serial(fn.parallel(fn.dense(3, 2), fn.dense(3, 2)), fn.add), (5, 3)),
    *_layer(
        "parallel-concatenate",
        fn.serial(fn.parallel(fn.dense(3, 2), fn.identity, fn.tanh), fn.concatenate),
        (4, 3),
    ),
    *_layer(
        "repeat",
        fn.repeat(fn.residual(fn.serial(fn.dense(3, 3), fn.gelu, fn.dropout(0.2))), 3),
        (3, 3),
        context=KEYED,
    ),
    *_layer(
        "remat",
        fn.remat(fn.serial(fn.dense(3, 3), fn.dropout(0.3), fn.tanh)),
        (3, 3),
        context=KEYED,
    ),
    *_layer("named", fn.named("block", fn.dense(3, 2)), (3, 3)),
    *_layer("frozen", fn.serial(fn.frozen(fn.dense(3, 3)), fn.dense(3, 2)), (3, 3)),
    Case("mse", fn.mean_squared_error, (5, 3), np.arange(15.0).reshape(5, 3) / 7),
    Case("mse-vector", fn.mean_squared_error, (7,), np.arange(7.0)),
    Case("mse-grid", fn.mean_squared_error, (1, 2, 3), np.ones((1, 2, 3))),
    Case("bce", fn.binary_cross_entropy, (7, 2), (np.arange(14) % 3 == 0).reshape(7, 2)),
    Case("bce-soft", fn.binary_cross_entropy, (5,), np.array([0.0, 0.2, 0.5, 0.9, 1.0])),
    Case("ce", fn.cross_entropy, (7, 3), LABELS),
    Case("ce-sequence", fn.cross_entropy, (1, 7, 3), LABELS[None]),
    Case("ce-one-class", fn.cross_entropy, (2, 1), np.zeros(2, int)),
    Case("ce-soft", fn.cross_entropy, (5, 3), _distributions(5, 3)),
    Case("ce-weight", Partial(fn.cross_entropy, weight=CLASS_WEIGHT), (7, 3), LABELS),
    Case("ce-smooth", Partial(fn.cross_entropy, label_smoothing=0.2), (7, 3), LABELS),
    Case("ce-ignore", fn.fix(fn.cross_entropy, ignore_label=2), (7, 3), LABELS),
    Case(
        "ce-all-options",
        Partial(
            fn.fix(fn.cross_entropy, ignore_label=-1), weight=CLASS_WEIGHT, label_smoothing=0.1
        ),
        (7, 3),
        np.where(LABELS == 1, -1, LABELS),
    ),
]


def relative(got, wanted):
    """The worst norm-relative error over the leaves of two trees."""
    errors = [0.0]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        scale = np.linalg.norm(b)
        errors.append(float(np.linalg.norm(a - b) / (scale if scale > 0.0 else 1.0)))
    return max(errors)


def error_of_rule(case, dtype, rules=chain_rule.RULES):
    """By how much the hand-written result or pullback differs from `jax.vjp`'s."""
    plain, hand, inputs = problem(case, dtype, rules)
    result = jax.eval_shape(plain, inputs)
    dy = random_like(result, 4, result.dtype)
    return relative(pulled(hand, inputs, dy), pulled(by_vjp(plain), inputs, dy))


def by_vjp(plain):
    """`jax.vjp` of a function, in the form of a hand-written rule."""

    def auto(inputs):
        y, pullback = jax.vjp(plain, inputs)
        return y, lambda dy: pullback(dy)[0]

    return auto


def pulled(rule, inputs, dy):
    """(y, the inputs' cotangents), compiled: op by op takes several times as long."""

    def both(inputs, dy):
        y, pullback = rule(inputs)
        return y, pullback(dy)

    return jax.jit(both)(inputs, dy)


def jacobians(case):
    """The whole Jacobian by hand and by a fourth-order stencil, in float64."""
    plain, hand, inputs = problem(case, jnp.float64)
    vector, unravel = ravel_pytree(inputs)
    assert vector.size <= 64
    y = jax.eval_shape(plain, inputs)
    basis = jnp.eye(y.size).reshape(y.size, *y.shape)
    step = 1e-3

    def row(dy):
        return ravel_pytree(hand(inputs)[1](dy))[0]

    def column(direction):
        moved = [w * plain(unravel(vector + m * step * direction)).ravel() for m, w in STENCIL]
        return sum(moved) / step

    columns = jax.jit(jax.vmap(column, out_axes=1))(jnp.eye(vector.size))
    return jax.jit(jax.vmap(row))(basis), columns
