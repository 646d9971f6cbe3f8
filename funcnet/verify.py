"""Gradients checked by three independent witnesses: by hand, by `jax.grad`, by differences."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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


def floating(tree):
    """The leaves that have derivatives: neither integers nor masks, nor their cotangents."""
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def with_floating(tree, leaves):
    """The tree with other such leaves in their places."""
    new, flat = iter(leaves), jax.tree.flatten(tree)
    return flat[1].unflatten([next(new) if floating(x) else x for x in flat[0]])


def drawn_like(key, leaves):
    keys = jax.random.split(key, len(leaves))
    return [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]


def slopes(function, leaves, gradients, count, key, step):
    """Derivatives of function(leaves) along `count` random directions in each leaf: by the
    stencil, then as each of the gradients has them. Each [leaves, count]."""

    def along(index):
        unit = [
            jnp.where(place == index // count, u / jnp.linalg.norm(u.ravel()), 0.0)
            for place, u in enumerate(drawn_like(jax.random.fold_in(key, index), leaves))
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
    1e-6, and for differences 1e7 roundings of the value over `step`. A leaf whose gradient is 0 by
    hand and by `jax.grad` alike, such as those of `frozen`, is not compared with differences, which
    see what it is kept from.

    Returns the worst errors. Raises `AssertionError` that names the pair of witnesses and the
    error for one above its tolerance, `NotImplementedError` for a function without a rule, and
    `ValueError` for anything but float64, in which alone differences can be trusted: call it under
    `jax.enable_x64(True)`. Near a kink, such as ReLU's, it is the differences that are wrong: a
    smaller `step` meets fewer; a larger one, 1e-3, is more exact where there is none.
    """
    result, pullback, *_ = chain_rule.vjp(function, *primals, rules=rules, **context)
    cotangent_key, direction_key = jax.random.split(jax.random.key(seed))
    cotangent = drawn_like(cotangent_key, floating(result))
    nothing = jax.tree.map(
        lambda x: x if floating(x) else np.zeros(x.shape, jax.dtypes.float0), result
    )
    by_hand = pullback(with_floating(nothing, cotangent))
    places = (0, 2)[: len(by_hand)]
    given = [primals[place] for place in places]
    leaves, hand = floating(given), floating(by_hand)
    if wrong := {str(x.dtype) for x in (*floating(result), *leaves)} - {"float64"}:
        raise ValueError(f"check_gradients needs float64, got {sorted(wrong)}: use enable_x64")
    if not leaves:
        raise ValueError("check_gradients found nothing to differentiate with respect to")

    def inner_product(leaves):
        arguments = list(primals)
        for place, value in zip(places, with_floating(given, leaves), strict=True):
            arguments[place] = value
        value = function(*arguments, **context)
        outputs = floating(value[0] if isinstance(value, tuple) else value)
        return sum(jnp.sum(y * c) for y, c in zip(outputs, cotangent, strict=True))

    @jax.jit
    def compare(leaves, hand):
        auto = jax.grad(inner_product)(leaves)
        direct = [relative(h - a, a, 1e-6) for h, a in zip(hand, auto, strict=True)]
        numeric, *exact = slopes(
            inner_product, leaves, (hand, auto), directions, direction_key, step
        )
        rounding = 1e7 * jnp.finfo(float).eps * abs(inner_product(leaves)) / step
        pairs = zip(hand, auto, strict=True)
        known = jnp.stack([jnp.any(h != 0.0) | jnp.any(a != 0.0) for h, a in pairs])
        worst = []
        for each in exact:
            errors = jax.vmap(relative, (0, 0, None))(each - numeric, numeric, 1e-6 + rounding)
            worst.append(jnp.where(known, errors, 0.0).max())
        return jnp.stack(direct).max(), *worst

    errors = GradientErrors(*map(float, compare(leaves, hand)))
    bounds = (tolerance, difference_tolerance, difference_tolerance)
    for pair, error, bound in zip(GradientErrors._fields, errors, bounds, strict=True):
        if not error <= bound:
            raise AssertionError(f"{pair.replace('_', ' against ')}: {error:.1e} exceeds {bound:g}")
    return errors
