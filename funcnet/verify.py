"""Gradients checked by three independent witnesses: by hand, by `jax.grad`, by differences."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import chain_rule

MULTIPLES, WEIGHTS = (-2, -1, 1, 2), (1 / 12, -2 / 3, 2 / 3, -1 / 12)  # 4th order, central


class GradientErrors(NamedTuple):
    """The worst disagreement over the leaves, each relative to the leaf's norm."""

    hand_autodiff: float
    hand_differences: float
    autodiff_differences: float


def relative(error, reference, floor):
    """|error| / max(|reference|, floor)."""
    scale = jnp.maximum(jnp.linalg.norm(reference.ravel()), floor)
    return jnp.linalg.norm(error.ravel()) / scale


def slopes(function, leaves, gradients, count, key, step):
    """Derivatives of function(leaves) along `count` random directions in each leaf: by the
    stencil, then as each of the gradients has them. Each [leaves, count]."""

    def along(index):
        keys = jax.random.split(jax.random.fold_in(key, index), len(leaves))
        drawn = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        unit = [
            jnp.where(place == index // count, u / jnp.linalg.norm(u.ravel()), 0.0)
            for place, u in enumerate(drawn)
        ]

        def moved(multiple):
            return function([x + multiple * step * u for x, u in zip(leaves, unit, strict=True)])

        values = jax.vmap(moved)(jnp.array(MULTIPLES, float))
        exact = [sum(jnp.vdot(g, u) for g, u in zip(gs, unit, strict=True)) for gs in gradients]
        return jnp.stack([jnp.dot(jnp.array(WEIGHTS), values) / step, *exact])

    table = jax.lax.map(along, jnp.arange(len(leaves) * count))
    return table.T.reshape(-1, len(leaves), count)


def check_gradients(
    function: Callable[..., Any],
    *primals: Any,
    rules: Mapping[Any, Any] = chain_rule.RULES,
    directions: int = 16,
    step: float = 1e-5,
    seed: int = 0,
    tolerance: float = 1e-9,
    difference_tolerance: float = 1e-6,
    **context: Any,
) -> GradientErrors:
    """Compare the hand-written rule's gradient with `jax.grad`'s, and both with differences.

    `function` and `primals` are a network's `apply` and (params, state, x), a loss and
    (prediction, target), or a task's `loss` and (params, state, batch); `context` is passed on
    (`key=`, `train=`). What is differentiated is the result's inner product with a random
    cotangent, with respect to params and x, to the prediction, or to params. Differences are
    taken with a central stencil of fourth order along random directions in each leaf. Errors are
    relative to the leaf's norm or, where that is smaller, to what rounding allows to be known:
    1e-6, and for differences 1e7 roundings of the value over `step`.

    Returns the worst errors. Raises `AssertionError` that names the pair of witnesses and the
    error for one above its tolerance, `NotImplementedError` for a function without a rule, and
    `ValueError` for anything but float64, in which alone differences can be trusted: call it under
    `jax.enable_x64(True)`. Near a kink, such as ReLU's, it is the differences that are wrong: a
    smaller `step` meets fewer; a larger one, 1e-3, is more exact where there is none.
    """
    result, pullback, *_ = chain_rule.vjp(function, *primals, rules=rules, **context)
    if result.dtype != jnp.float64:
        raise ValueError(f"check_gradients needs float64, got {result.dtype}: use enable_x64")
    cotangent_key, direction_key = jax.random.split(jax.random.key(seed))
    cotangent = jax.random.normal(cotangent_key, result.shape, result.dtype)
    by_hand = pullback(cotangent)
    places = [
        place
        for place, grads in zip((0, 2), by_hand, strict=False)
        if all(leaf.dtype != jax.dtypes.float0 for leaf in jax.tree.leaves(grads))
    ]
    leaves, structure = jax.tree.flatten([primals[place] for place in places])
    if wrong := {str(jnp.result_type(leaf)) for leaf in leaves} - {"float64"}:
        raise ValueError(f"check_gradients needs float64, got {sorted(wrong)}: use enable_x64")

    def inner_product(leaves):
        arguments = list(primals)
        for place, value in zip(places, jax.tree.unflatten(structure, leaves), strict=True):
            arguments[place] = value
        value = function(*arguments, **context)
        return jnp.sum((value[0] if isinstance(value, tuple) else value) * cotangent)

    @jax.jit
    def compare(leaves, hand):
        auto = jax.grad(inner_product)(leaves)
        direct = [relative(h - a, a, 1e-6) for h, a in zip(hand, auto, strict=True)]
        numeric, *exact = slopes(
            inner_product, leaves, (hand, auto), directions, direction_key, step
        )
        rounding = 1e7 * jnp.finfo(float).eps * abs(inner_product(leaves)) / step
        worst = [
            jax.vmap(relative, (0, 0, None))(e - numeric, numeric, 1e-6 + rounding).max()
            for e in exact
        ]
        return jnp.stack(direct).max(), *worst

    by_hand = [grads for grads, place in zip(by_hand, (0, 2), strict=False) if place in places]
    errors = GradientErrors(*map(float, compare(leaves, jax.tree.leaves(by_hand))))
    bounds = (tolerance, difference_tolerance, difference_tolerance)
    for pair, error, bound in zip(GradientErrors._fields, errors, bounds, strict=True):
        if not error <= bound:
            raise AssertionError(f"{pair.replace('_', ' against ')}: {error:.1e} exceeds {bound:g}")
    return errors
