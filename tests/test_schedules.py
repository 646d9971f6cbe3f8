"""Schedules against golden numbers and closed forms."""

import functools
import math
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.problems import SCHEDULE_STEPS, SCHEDULES
from jax.tree_util import Partial
from members import FULL

import funcnet as fn

GOLDEN = np.load(Path(__file__).parent / "golden" / "optimizers.npz")
OTHERS = np.load(Path(__file__).parent / "golden" / "schedules.npz")


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_cosine_is_the_golden_one(name):
    values = jax.vmap(fn.warmup_cosine(**SCHEDULES[name]))
    steps, golden = np.arange(SCHEDULE_STEPS, dtype=np.int32), GOLDEN[f"schedule/{name}"]
    np.testing.assert_allclose(values(steps), golden, rtol=1e-6, atol=1e-6 * golden.max())
    with jax.enable_x64(True):
        np.testing.assert_allclose(values(steps), golden, rtol=1e-13, atol=1e-15 * golden.max())


class Case(NamedTuple):
    name: str  # as in the golden file
    schedule: Any


START, END = 0.8 / 25.0, 0.8 / 25e4
CASES = [
    Case("torch/linear", fn.linear(0.2, 0.8, 20)),
    Case("optax/linear", fn.linear(0.2, 0.8, 20, begin=5)),
    Case("torch/polynomial", fn.polynomial(0.8, 0.0, 30, 1.7)),
    Case("optax/polynomial", fn.polynomial(0.8, 0.1, 30, 0.6, begin=5)),
    Case("torch/exponential", fn.exponential(0.8, 0.93)),
    Case("optax/exponential", fn.exponential(0.8, 0.5, steps=7, begin=5, end=0.02)),
    Case("torch/step_decay", fn.step_decay(0.8, 0.6, 8)),
    Case("optax/step_decay", fn.step_decay(0.8, 0.6, 8)),
    Case("torch/piecewise", fn.piecewise(0.8, (5, 20, 33), 0.3)),
    Case("optax/piecewise", fn.piecewise(0.8, (5, 20, 33), (0.5, 0.1, 2.0))),
    Case("torch/cosine_wave", fn.cosine_wave(0.8, 20, end=0.05)),
    Case("optax/cosine", fn.cosine(0.8, 45, end=0.08)),
    Case("torch/restarts", fn.cosine_restarts(0.8, 9, end=0.05)),
    Case("torch/restarts-2", fn.cosine_restarts(0.8, 4, multiplier=2)),
    Case("torch/restarts-3", fn.cosine_restarts(0.8, 3, multiplier=3)),
    Case("torch/one_cycle", fn.one_cycle(0.8, 0.3 * 61 - 1, 60)),
    Case("torch/one_cycle-linear", fn.linear_one_cycle(0.8, 0.4 * 61 - 1, 60)),
    Case(
        "torch/one_cycle-three_phase",
        fn.piecewise_cosine((0, 0.3 * 61 - 1, 0.6 * 61 - 2, 60), (START, 0.8, START, END)),
    ),
    Case("optax/one_cycle", fn.one_cycle(0.8, 15, 50)),
    Case("optax/one_cycle-linear", fn.piecewise_linear((0, 15, 40, 50), (START, 0.8, START, END))),
    Case("torch/cyclic", fn.cyclic(0.1, 0.8, 6, 11)),
    Case("torch/cyclic-triangular2", fn.cyclic(0.1, 0.8, 7, cycle_decay=0.5)),
    Case("torch/cyclic-exp_range", fn.cyclic(0.1, 0.8, 7, step_decay=0.97)),
    Case("optax/join", fn.join([fn.linear(0.1, 0.8, 10), fn.cosine(0.8, 20)], [15])),
]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@functools.cache
def table(wide):
    """Each case at the golden file's steps, in one compiled program; integer steps."""

    @jax.jit
    def compute(schedules, steps):
        return [jnp.broadcast_to(jax.vmap(s)(steps), steps.shape) for s in schedules]

    with jax.enable_x64(wide):
        values = compute([case.schedule for case in CASES], np.arange(61, dtype=np.int32))
    return dict(zip([case.name for case in CASES], values, strict=True))


@by_case
def test_values_are_the_golden_ones(case):
    golden = OTHERS[case.name]
    np.testing.assert_allclose(table(True)[case.name], golden, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(table(False)[case.name], golden, rtol=5e-6, atol=1e-6)


def test_every_golden_schedule_is_compared():
    assert {case.name for case in CASES} == set(OTHERS.files) - {"versions"}


@jax.jit
def values(schedule, steps):
    return jax.vmap(schedule)(jnp.asarray(steps))


def test_simple_schedules():
    assert fn.constant(3)(jnp.int32(7)) == 3.0
    np.testing.assert_allclose(fn.inverse_time(1, 0.5)(jnp.arange(3)), [1.0, 2 / 3, 0.5], rtol=1e-6)


def test_inverse_square_root_has_the_papers_forms():
    steps = np.arange(50)
    noam = 16**-0.5 * np.minimum((steps + 1.0) ** -0.5, (steps + 1.0) * 10**-1.5)
    got = values(fn.inverse_square_root((16 * 10) ** -0.5, 10, shift=1), steps)
    np.testing.assert_allclose(got, noam, rtol=1e-6)
    t5 = 1.0 / np.sqrt(np.maximum(steps, 10))
    got = values(fn.inverse_square_root(10**-0.5, 10, start=10**-0.5), steps)
    np.testing.assert_allclose(got, t5, rtol=1e-6)
    got = values(fn.inverse_square_root(2.0, 0), [0, 1, 4])
    np.testing.assert_allclose(got, [0.0, 2.0, 1.0])


def test_warmup_stable_decay_has_three_parts():
    steps = [0, 2, 4, 5, 9, 10, 11, 15, 20, 99]
    got = values(fn.warmup_stable_decay(1.0, 4, 6, 10, start=0.2, end=0.1), steps)
    wanted = [0.2, 0.6, 1.0, 1.0, 1.0, 1.0, 0.91, 0.55, 0.1, 0.1]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    got = values(fn.warmup_stable_decay(1.0, 0, 0, 0), [0, 1])
    np.testing.assert_allclose(got, [1.0, 0.0])


def test_restarts_of_any_multiplier_begin_at_the_top():
    """In float32, through five periods: each one's first step is its highest."""
    for multiplier, decay in ((1.0, 0.9), (1.5, 1.0), (2.0, 0.5), (3.0, 1.0)):
        lengths = 16.0 * multiplier ** np.arange(5)
        starts = np.concatenate([[0.0], np.cumsum(lengths)])
        steps = np.arange(2000.0)
        period = np.minimum(np.searchsorted(starts, steps, side="right") - 1, 4)
        inside = (steps - starts[period]) / (16.0 * multiplier**period)
        wanted = 0.1 + (decay**period - 0.1) * (1.0 + np.cos(np.pi * inside)) / 2.0
        schedule = fn.cosine_restarts(1.0, 16, multiplier=multiplier, decay=decay, end=0.1)
        there = steps < starts[-1]
        np.testing.assert_allclose(values(schedule, steps)[there], wanted[there], rtol=2e-5)


LENGTHS = ["41", "47", "55", "7", "12.3", "0.1"]
PERIODIC = [  # of a length; the value after whole periods, with the length's share of what is left
    (lambda n: fn.step_decay(1.0, 0.9, n), lambda k, left: 0.9**k),
    (lambda n: fn.cyclic(0, 1, 0, n, cycle_decay=0.9), lambda k, left: 0.9**k * left),
    (lambda n: fn.cyclic(0, 1, n, 0, cycle_decay=0.9), lambda k, left: 0.9**k * (1 - left)),
    (lambda n: fn.cosine_restarts(1, n, decay=0.9), lambda k, left: 0.9**k * half_cosine(left)),
    (lambda n: fn.polynomial(1, 0, n, 0.1), lambda k, left: left**0.1 if k == 0 else 0.0),
    (lambda n: fn.polynomial(1, 0, n, 0), lambda k, left: 1.0 if k == 0 else 0.0),
]


def half_cosine(left):
    return (1 - math.cos(math.pi * left)) / 2


def test_periods_begin_at_their_step_also_where_the_compiler_knows_the_length():
    """As users compile: there a step over a length known in advance is a product, rounded."""
    begins = [k * n for n in (41, 47, 55) for k in (1, 2, 4, 7, 9)] + [3, 123, 246]
    steps = np.array([begin - before for begin in begins for before in (0, 1)])
    schedules = [make(float(length)) for make, _ in PERIODIC for length in LENGTHS]

    def compute(schedules, steps):
        return jax.lax.map(lambda step: [s(step) for s in schedules], steps)

    known = jax.jit(lambda steps: compute(schedules, steps), compiler_options=FULL)(steps)
    bound = jax.jit(compute, compiler_options=FULL)(schedules, steps)
    for found in (known, bound):
        values = iter(found)
        for _, formula in PERIODIC:
            for length in LENGTHS:
                passed = [Fraction(int(step)) / Fraction(length) for step in steps]
                wanted = [formula(int(x), float(1 - x % 1)) for x in passed]
                np.testing.assert_allclose(next(values), wanted, atol=4e-4, err_msg=length)


def test_restarts_stay_at_their_step_in_long_runs():
    got = values(fn.cosine_restarts(1.0, 1000), [5_999_999, 6_000_000])
    np.testing.assert_allclose(got, [0.0, 1.0], atol=1e-5)


def test_before_the_first_step_the_value_is_its():
    """Whatever a step of -3 would be multiplied or divided by."""
    schedules = [
        fn.step_decay(1, 0.5, 0),
        fn.step_decay(1, 0.5, 2),
        fn.cyclic(0.1, 1, 0, 0, cycle_decay=0.5, step_decay=0.5),
        fn.cyclic(0.1, 1, 0, 2, cycle_decay=0.5),
        fn.cosine_restarts(1, 0, multiplier=2, decay=0.5),
        fn.exponential(1, 0.5, steps=0),
        fn.exponential(1, 0),
        fn.inverse_time(1, 0.5),
    ]
    compute = jax.jit(lambda all, steps: [jax.vmap(schedule)(steps) for schedule in all])
    for got in compute(schedules, jnp.array([-1000, -3, -2, -1, 0])):
        np.testing.assert_allclose(got, got[-1])
        assert np.isfinite(got[-1])


def test_restarts_are_continuous_in_the_multiplier_at_1():
    with jax.enable_x64(True):

        def use(multiplier, step):
            return fn.cosine_restarts(1.0, 8.0, multiplier=multiplier)(step)

        for step in (20, 27):
            near = [use(jnp.float64(1.0 + h), step) for h in (-1e-5, 1e-5)]
            slope = jax.grad(use)(jnp.float64(1.0), step)
            np.testing.assert_allclose(slope, (near[1] - near[0]) / 2e-5, rtol=1e-4)
            assert slope != 0.0


def test_numbers_are_gradients_without_nan_at_every_step():
    """Before the begin, at the joints and past the horizon, with lengths of 0 too."""
    schedules = [case.schedule for case in CASES]
    schedules += [fn.polynomial(1.0, 0.0, 5, 0.5), fn.linear(0, 1, 0), fn.cosine(1, 0)]
    schedules += [fn.warmup_stable_decay(1, 0, 0, 0), fn.one_cycle(1, 0, 0), fn.cyclic(0, 1, 0, 0)]
    schedules += [fn.inverse_square_root(1, 0), fn.step_decay(1, 0.5, 0), fn.inverse_time(1, 0.5)]
    schedules += [fn.exponential(1, 0), fn.exponential(1, 0, steps=4), fn.step_decay(1, 0, 3)]
    schedules += [fn.cyclic(0, 1, 3, cycle_decay=0, step_decay=0), fn.cyclic(0, 1, 0, 3)]
    schedules += [fn.cosine_restarts(1, 4, decay=0), fn.cosine_restarts(1, 0, multiplier=2)]

    @jax.jit
    def slopes(schedules, steps):
        return jax.vmap(lambda t: jax.grad(lambda all: sum(s(t) for s in all))(schedules))(steps)

    for leaf in jax.tree.leaves(slopes(schedules, jnp.arange(-3, 61))):
        assert np.isfinite(leaf).all()


def test_a_factor_of_0_has_the_gradient_of_whole_powers():
    slope = jax.jit(jax.vmap(jax.grad(lambda f, step: fn.step_decay(2.0, f, 1)(step)), (None, 0)))
    np.testing.assert_array_equal(slope(0.0, jnp.arange(4)), [0.0, 2.0, 0.0, 0.0])


def test_wrong_pieces_are_named():
    with pytest.raises(ValueError, match="piecewise expects a factor a boundary, got 2, 1"):
        fn.piecewise(1.0, [3], [0.1, 0.2])
    with pytest.raises(ValueError, match="piecewise_linear expects a value a step, got 1 and 2"):
        fn.piecewise_linear([0, 1], [0.5])
    with pytest.raises(ValueError, match="got 2 schedules and 2 boundaries"):
        fn.join([0.1, 0.2], [1, 2])
    with pytest.raises(TypeError, match=r"boundaries\[0\] must be a number"):
        fn.piecewise(1.0, ["3"], 0.1)
    with pytest.raises(TypeError, match="bind numbers with Partial"):
        fn.join([functools.partial(fn.constant(1.0)), 0.1], [3])
    with pytest.raises(ValueError, match=r"multiplier must lie in \[1, inf\], got 0.5"):
        fn.cosine_restarts(1.0, 8, multiplier=0.5)
    assert isinstance(fn.join([0.1], []), Partial)
