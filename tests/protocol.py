"""The measures by which a hand-written rule is compared with other witnesses."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case
from jax.flatten_util import ravel_pytree

import funcnet as fn
from funcnet import chain_rule
from funcnet.layers.sequence import join, split

STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


class Problem(NamedTuple):
    plain: Callable[..., Any]  # inputs -> result
    hand: Callable[..., Any]  # inputs -> (result, pullback)
    inputs: Any  # what is differentiated


def random_like(tree, seed, dtype):
    """Standard normal numbers in the shape of a tree, so round that they are the same in any
    precision."""
    rng = np.random.default_rng(seed)

    def numbers(leaf):
        # With a dtype of its own nothing is compiled for an array of NumPy.
        rounded = rng.normal(size=leaf.shape).astype(jnp.bfloat16)
        return jnp.asarray(rounded.astype(dtype), dtype)

    return jax.tree.map(numbers, tree)


def problem(case: Case, dtype, rules=chain_rule.RULES) -> Problem:
    x = random_like(jax.ShapeDtypeStruct(case.shape, dtype), 1, dtype)
    if isinstance(case.function, fn.Network):
        network = case.function
        # Only the shapes of the parameters are needed, and to draw initial ones takes a while.
        params, state = jax.eval_shape(network.init, jax.random.key(0))
        params = random_like(params, 2, dtype)
        if jax.tree.leaves(state):
            _, state = network.init(jax.random.key(0))
            assert all((leaf >= 0.0).all() for leaf in jax.tree.leaves(state))
        state = jax.tree.map(lambda a: jnp.asarray(np.asarray(a) + 0.5, dtype), state)
        whole = (params, x) if case.target is None else (params,)

        def primals(inputs):
            x = inputs[1] if inputs[1:] else jnp.asarray(case.target)
            return inputs[0], state, join(x, case.mask)

        def plain(inputs):
            return split(network.apply(*primals(inputs), **case.context)[0])[0]

        def hand(inputs):
            y, pullback, _ = chain_rule.vjp(
                network.apply, *primals(inputs), rules=rules, **case.context
            )
            y, mask = split(y)
            nothing = None if mask is None else np.zeros(mask.shape, jax.dtypes.float0)

            def values_back(dy):
                dparams, dx = pullback(join(dy, nothing))
                return (dparams, split(dx)[0])[: len(whole)]

            return y, values_back

        return Problem(plain, hand, whole)
    target = None if case.target is None else jnp.asarray(case.target)

    def hand(inputs):
        values, pullback = chain_rule.vjp(
            case.function, join(inputs[0], case.mask), target, rules=rules
        )
        return values, lambda dvalues: (split(pullback(dvalues)[0])[0],)

    return Problem(lambda inputs: case.function(join(inputs[0], case.mask), target), hand, (x,))


def relative(got, wanted):
    """The worst norm-relative error over the leaves of two trees."""
    errors = [0.0]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        scale = np.linalg.norm(b)
        errors.append(float(np.linalg.norm(a - b) / (scale if scale > 0.0 else 1.0)))
    return max(errors)


def by_vjp(plain):
    """`jax.vjp` of a function, in the form of a hand-written rule."""

    def auto(inputs):
        y, pullback = jax.vjp(plain, inputs)
        return y, lambda dy: pullback(dy)[0]

    return auto


def compiled(*rules):
    """(inputs, dy) -> (y, the inputs' cotangents) by each rule, as one compiled program: op by op,
    or each alone, takes several times as long."""

    def each(inputs, dy):
        results = [rule(inputs) for rule in rules]
        return [(y, pullback(dy)) for y, pullback in results]

    return jax.jit(each)


def each_pulled(rules, inputs, dy):
    return compiled(*rules)(inputs, dy)


def pulled(rule, inputs, dy):
    """(y, the inputs' cotangents) by one rule."""
    return each_pulled((rule,), inputs, dy)[0]


class Witnesses(NamedTuple):
    """A case's result and cotangents [1 + size, ...] for the random cotangent of `drawn` and every
    unit one, in float64, and the whole Jacobian [size, inputs] by a stencil of fourth order."""

    by_hand: Any
    by_vjp: Any
    by_differences: Any

    def for_drawn(self):
        """What `jax.vjp` says of the random cotangent."""
        y, rows = self.by_vjp
        return y, jax.tree.map(lambda leaf: leaf[0], rows)

    def jacobian(self):
        """The whole Jacobian by hand."""
        rows = [leaf[1:].reshape(len(leaf) - 1, -1) for leaf in jax.tree.leaves(self.by_hand[1])]
        return np.concatenate(rows, axis=1)


def drawn(result, dtype):
    """A random cotangent of a result."""
    return random_like(result, 4, dtype).astype(result.dtype)


@functools.cache
def witnesses(case) -> Witnesses:
    """Everything that float64 says of a case, by one compiled program."""

    def whole(rule, inputs):
        y, pullback = rule(inputs)
        units = np.eye(y.size).reshape(y.size, *y.shape)
        return y, jax.vmap(pullback)(jnp.concatenate([drawn(y, float)[None], units]))

    def stencil(plain, inputs, step=1e-3):
        vector, unravel = ravel_pytree(inputs)
        steps, weights = np.array(STENCIL).T
        moves = step * steps[:, None] * np.eye(vector.size)[:, None]
        values = jax.vmap(jax.vmap(lambda move: plain(unravel(vector + move)).ravel()))(moves)
        return jnp.einsum("isy,s->yi", values, weights / step)

    with jax.enable_x64(True):
        plain, hand, inputs = problem(case, jnp.float64)

        @jax.jit
        def all_of_them(inputs):
            return whole(hand, inputs), whole(by_vjp(plain), inputs), stencil(plain, inputs)

        return Witnesses(*jax.device_get(all_of_them(inputs)))


def error_in(dtype, case):
    """By how much the hand-written result or pullback differs from `jax.vjp`'s in a precision."""
    plain, hand, inputs = problem(case, dtype)
    dy = drawn(jax.eval_shape(plain, inputs), dtype)
    return relative(*each_pulled((hand, by_vjp(plain)), inputs, dy))


def error_of_rule(case, rules):
    """By how much the result or pullback by other rules differs from `jax.vjp`'s."""
    _, hand, inputs = problem(case, jnp.float64, rules)
    y, pulled_back = witnesses(case).for_drawn()
    return relative(pulled(hand, inputs, drawn(y, float)), (y, pulled_back))
