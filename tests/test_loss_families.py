"""Losses of every kind against PyTorch's golden numbers, closed forms, and the edge table."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from members import FULL

import funcnet as fn
from funcnet import chain_rule

GOLDEN = np.load(Path(__file__).parent / "golden" / "losses.npz")
LOGITS, LABELS = GOLDEN["cross_entropy/prediction"], GOLDEN["cross_entropy/target"]


class Case(NamedTuple):
    name: str  # as in the golden file
    loss: Any
    rtol: float = 2e-6  # in float32


CASES = [
    Case("mae", Partial(fn.mean_absolute_error)),
    Case("huber", Partial(fn.huber, delta=0.5)),
    Case("hinge", Partial(fn.hinge, margin=0.7)),
    Case("multi_margin", Partial(fn.multi_margin, margin=0.7)),
    Case("multi_margin-extreme", Partial(fn.multi_margin)),
    Case("kl", Partial(fn.kl_divergence)),
    Case("kl-extreme", Partial(fn.kl_divergence)),
    Case("focal", Partial(fn.focal, gamma=1.5)),
    Case("focal-extreme", Partial(fn.focal)),
    Case("binary_focal", Partial(fn.binary_focal, gamma=1.5, alpha=0.3)),
    Case("binary_focal-extreme", Partial(fn.binary_focal, alpha=0.5)),
    Case("dice", Partial(fn.dice, smooth=0.5)),
    Case("dice-extreme", Partial(fn.dice)),
    Case("poisson", Partial(fn.poisson_nll)),
    Case("gaussian", Partial(fn.gaussian_nll), 2e-5),
    Case("cosine", Partial(fn.cosine_distance), 1e-5),
    Case("triplet", Partial(fn.triplet, margin=0.5), 1e-5),
    Case("info_nce", Partial(fn.info_nce, temperature=0.3), 1e-5),
]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def inputs(name, dtype):
    prediction, target = GOLDEN[f"{name}/prediction"], GOLDEN[f"{name}/target"]
    return prediction.astype(dtype), target.astype(dtype if target.dtype.kind == "f" else np.int32)


def value_and_gradient(loss, prediction, target):
    """The values, and the gradient of their sum."""
    values, pullback = jax.vjp(lambda p: loss(p, target), prediction)
    return values, pullback(jnp.ones_like(values))[0]


def by_hand(loss, prediction, target):
    values, pullback = chain_rule.vjp(loss, jnp.asarray(prediction), target)
    return values, pullback(jnp.ones_like(values))[0]


def together(engine, cases):
    """The engine on each (loss, prediction, target), in one compiled program."""

    @jax.jit
    def compute(batches):
        return [engine(case[0], *batch) for case, batch in zip(cases, batches, strict=True)]

    return compute([case[1:3] for case in cases])


@functools.cache
def found(dtype):
    results = together(value_and_gradient, [(c.loss, *inputs(c.name, dtype)) for c in CASES])
    return dict(zip([case.name for case in CASES], results, strict=True))


@by_case
def test_values_and_gradients_are_the_golden_ones(case):
    with jax.enable_x64(True):
        values, gradient = found(np.float64)[case.name]
    np.testing.assert_allclose(values, GOLDEN[f"{case.name}/values"], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gradient, GOLDEN[f"{case.name}/gradient"], rtol=1e-12, atol=1e-14)


@by_case
def test_float32_is_exact_to_rounding(case):
    values, gradient = found(np.float32)[case.name]
    chex.assert_type([values, gradient], jnp.float32)
    for x, name in ((values, "values"), (gradient, "gradient")):
        golden = GOLDEN[f"{case.name}/{name}"]
        np.testing.assert_allclose(x, golden, rtol=case.rtol, atol=case.rtol / 10)


@by_case
def test_16_bit_predictions_have_float32_values(case):
    prediction, target = inputs(case.name, jnp.bfloat16)
    got = jax.eval_shape(functools.partial(value_and_gradient, case.loss), prediction, target)
    assert (got[0].dtype, got[1].dtype) == (jnp.float32, jnp.bfloat16)


def test_log_cosh_keeps_its_digits_near_0_and_far_from_it():
    errors = np.array([0.0, 1e-8, -1e-3, 0.5, 0.999, 1.0, -1.001, 3.0, -1e4])
    wide = np.abs(errors.astype(np.longdouble))
    exact = np.where(
        wide < 1.0,
        np.log1p(2.0 * np.sinh(0.5 * np.minimum(wide, 1.0)) ** 2),
        wide - np.log(np.longdouble(2.0)) + np.log1p(np.exp(-2.0 * wide)),
    ).astype(float)
    np.testing.assert_allclose(exact[1:3], errors[1:3] ** 2 / 2, rtol=1e-6)
    for dtype, rtol in ((np.float64, 4e-15), (np.float32, 4e-7)):
        with jax.enable_x64(dtype == np.float64):
            case = (fn.log_cosh, errors.astype(dtype), np.zeros(9, dtype))
            [got] = together(value_and_gradient, [case])
        np.testing.assert_allclose(got[0], exact, rtol=rtol)
        np.testing.assert_allclose(got[1], np.tanh(errors), rtol=rtol)


CURVED = np.array([0.0, 0.25, -0.25, 1e-3, -1e-3, 1.0, -3.0, 40.0, 1e-40])
CURVATURES = [
    (Partial(fn.huber, delta=0.5), np.where(np.abs(CURVED) < 0.5, 1.0, 0.0)),
    (Partial(fn.log_cosh), 1.0 / np.cosh(CURVED) ** 2),
    (Partial(fn.mean_squared_error), np.full(9, 2.0)),
    (Partial(fn.mean_absolute_error), np.zeros(9)),
    (Partial(fn.binary_focal, gamma=0.0), 1.0 / (2.0 * np.cosh(CURVED / 2.0)) ** 2),
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_second_derivatives_are_the_closed_ones(dtype):
    """At an error of 0 too."""
    losses = [loss for loss, _ in CURVATURES]

    @jax.jit
    def curvatures(losses, errors):
        twice = [jax.grad(jax.grad(lambda e, f=f: f(e[None], jnp.zeros(1))[0])) for f in losses]
        return [jax.vmap(curvature)(errors) for curvature in twice]

    with jax.enable_x64(dtype == np.float64):
        found = curvatures(losses, CURVED.astype(dtype))
    for got, (_, wanted) in zip(found, CURVATURES, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=50 * np.finfo(dtype).eps, atol=1e-15)


def test_multiclass_hinge_is_against_the_best_other_class():
    labels = np.where(np.arange(6) < 3, LABELS, LOGITS.argmax(axis=1))
    with jax.enable_x64(True):
        case = (Partial(fn.multiclass_hinge, margin=0.7), LOGITS, labels)
        [(values, gradient)] = together(value_and_gradient, [case])
    hot = np.eye(5)[labels]
    others = np.where(hot == 1.0, -np.inf, LOGITS)
    exact = np.maximum(0.0, 0.7 + others.max(axis=1) - LOGITS[np.arange(6), labels])
    np.testing.assert_allclose(values, exact, rtol=1e-14)
    slope = (np.eye(5)[others.argmax(axis=1)] - hot) * (exact > 0.0)[:, None]
    np.testing.assert_array_equal(gradient, slope)
    assert 0 < (exact > 0.0).sum() < 6


def test_the_gradient_at_a_kink_is_0_and_of_equal_scores_the_first_counts():
    zeros = np.zeros((1, 3), np.float32)
    cases = [
        (fn.mean_absolute_error, zeros, zeros),
        (fn.hinge, np.float32([[1.0, -1.0]]), np.float32([[1.0, -1.0]])),
        (fn.multiclass_hinge, np.float32([[2.0, 1.0, 1.0]]), np.array([0])),
        (fn.multi_margin, np.float32([[2.0, 1.0, 1.0]]), np.array([0])),
        (Partial(fn.triplet, margin=0.0), np.ones((1, 3, 2), np.float32), None),
        (Partial(fn.triplet, margin=1.0, shift=0.0), np.ones((1, 3, 2), np.float32), None),
    ]
    first = (fn.multiclass_hinge, zeros, np.array([1]))
    for engine in (value_and_gradient, by_hand):
        *at_kinks, of_equal = together(engine, [*cases, first])
        for _, gradient in at_kinks:
            np.testing.assert_array_equal(gradient, 0.0)
        np.testing.assert_array_equal(of_equal[1], [[1.0, -1.0, 0.0]])


def test_how_they_are_related():
    x, labels, logits = LOGITS, LABELS, LOGITS[:, :2]
    share = GOLDEN["probabilities/target"]
    two = labels % 2
    stack = np.stack([x, x + 1.0, np.cos(x)], axis=1)

    def both():
        return [
            (fn.focal(x, labels, gamma=0), fn.cross_entropy(x, labels)),
            (fn.binary_focal(x, share, gamma=0), fn.binary_cross_entropy(x, share)),
            (fn.focal(logits, two), fn.binary_focal(logits[:, 1] - logits[:, 0], two)),
            (
                fn.kl_divergence(x, share),
                fn.cross_entropy(x, share) + (share * np.log(share)).sum(axis=1),
            ),
            (fn.kl_divergence(np.log(share), share), np.zeros(6)),
            (fn.triplet(stack, shift=0.0, eps=1e-2), optax_triplet(stack, 1e-2)),
            (
                fn.gaussian_nll(np.stack([x[:, 0], x[:, 1]], axis=1), x[:, 2]),
                (x[:, 1] + (x[:, 2] - x[:, 0]) ** 2 / np.exp(x[:, 1])) / 2,
            ),
            (
                fn.gaussian_nll(np.float64([[0.0, -1e4]]), np.float64([0.0])),
                jnp.array([np.log(1e-6) / 2]),
            ),
            (fn.huber(x, 0 * x, delta=1e9), fn.mean_squared_error(x, 0 * x) / 2),
        ]

    with jax.enable_x64(True):
        pairs = jax.jit(both)()
    for got, wanted in pairs:
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-15)


def optax_triplet(stack, eps):
    a, p, q = stack.swapaxes(0, 1)
    near, far = (np.sqrt(((a - other) ** 2).sum(axis=1) + eps) for other in (p, q))
    return np.maximum(near - far + 1.0, 0.0)


def test_a_variance_below_the_bound_can_grow_again():
    case = (fn.gaussian_nll, np.float64([[1.0, -1e30]]), np.float64([3.0]))
    for engine in (value_and_gradient, by_hand):
        with jax.enable_x64(True):
            [(values, gradient)] = together(engine, [case])
        np.testing.assert_allclose(values, [(np.log(1e-6) + 4e6) / 2], rtol=1e-12)
        np.testing.assert_allclose(gradient, [[-2e6, (1.0 - 4e6) / 2]], rtol=1e-12)


def test_gaussian_nll_is_least_at_the_mean_and_variance():
    y = np.float32([1.0, 2.0, 4.0, 9.0])
    prediction = np.tile(np.float32([y.mean(), np.log(y.var())]), (4, 1))
    [(_, gradient)] = together(value_and_gradient, [(fn.gaussian_nll, prediction, y)])
    np.testing.assert_allclose(gradient.sum(axis=0), 0.0, atol=1e-6)


HUGE = np.float32([[1e30, -2e30, 3e30]])
FINITE = [
    (fn.mean_absolute_error, HUGE, -HUGE, 4e30),
    (fn.huber, HUGE, -HUGE, 4e30),
    (fn.log_cosh, HUGE, -HUGE, 4e30),
    (fn.hinge, HUGE, np.float32([[1, 1, -1]]), 5e30 / 3),
    (fn.multiclass_hinge, HUGE, np.array([1]), 5e30),
    (fn.multi_margin, HUGE, np.array([1]), 8e30 / 3),
    (fn.focal, HUGE, np.array([1]), 5e30),
    (fn.focal, 1e8 * HUGE, np.array([0]), 2e38),
    (fn.focal, np.float32([[7.0]]), np.array([0]), 0.0),
    (fn.binary_focal, HUGE, np.float32([[0, 1, 1]]), 1e30),
    (fn.binary_focal, np.float32([[np.inf, -np.inf]]), np.float32([[1, 0]]), 0.0),
    (fn.kl_divergence, HUGE, np.float32([[0, 1, 0]]), 5e30),
    (fn.kl_divergence, np.float32([[0, 0, -np.inf]]), np.float32([[0.5, 0.5, 0]]), 0.0),
    (fn.dice, HUGE, np.float32([[1, 0, 1]]), 0.0),
    (fn.poisson_nll, np.float32([[-1e30, -np.inf]]), np.float32([[1, 0]]), 5e29),
    (fn.gaussian_nll, np.float32([[1.0, 1e30]]), np.float32([[2.0]]), 5e29),
    (fn.cosine_distance, HUGE, 1e-8 * HUGE, 0.0),
    (fn.cosine_distance, 0 * HUGE, HUGE, 1.0),
    (fn.cosine_distance, HUGE, 0 * HUGE, 1.0),
    (fn.cosine_distance, np.float32([[1e-20, 0]]), np.float32([[1, 0]]), 1.0),
    (fn.triplet, np.stack([HUGE, -HUGE, HUGE], axis=1), None, np.sqrt(56.0) * 1e30),
    (fn.triplet, 3e7 * np.stack([HUGE, -HUGE, HUGE], axis=1), None, np.sqrt(56.0) * 3e37),
    (fn.info_nce, np.stack([HUGE, 0 * HUGE], axis=1), None, 0.0),
]


@pytest.mark.parametrize("engine", [value_and_gradient, by_hand], ids=["autodiff", "hand"])
def test_extreme_inputs_have_finite_values_and_gradients(engine):
    results = together(engine, FINITE)
    for (loss, *_, wanted), (values, gradient) in zip(FINITE, results, strict=True):
        np.testing.assert_allclose(values, [wanted], rtol=1e-5, atol=1e-6, err_msg=loss.__name__)
        assert np.isfinite(gradient).all(), loss.__name__


INFINITE = [  # log-odds; the value and the gradient
    (Partial(fn.focal, gamma=0.0), [[0.0, -np.inf]], [0], 0.0, [[0.0, 0.0]]),
    (Partial(fn.focal, gamma=2.0), [[0.0, -np.inf]], [0], 0.0, [[0.0, 0.0]]),
    (Partial(fn.focal, gamma=0.0), [[1.0]], [0], 0.0, [[0.0]]),
    (Partial(fn.focal, gamma=2.0), [[0.0, -np.inf]], [1], np.inf, [[1.0, -1.0]]),
    (Partial(fn.binary_focal, gamma=0.0), [[np.inf]], [[1.0]], 0.0, [[0.0]]),
    (Partial(fn.binary_focal, gamma=2.0), [[np.inf]], [[1.0]], 0.0, [[0.0]]),
    (Partial(fn.binary_focal, gamma=0.0), [[-np.inf]], [[0.0]], 0.0, [[0.0]]),
    (Partial(fn.binary_focal, gamma=2.0), [[-np.inf]], [[1.0]], np.inf, [[-1.0]]),
    (Partial(fn.binary_focal, gamma=2.0), [[np.inf]], [[0.0]], np.inf, [[1.0]]),
]


def test_focal_losses_of_infinite_log_odds_are_the_limits():
    cases = [(loss, np.float32(x), np.asarray(y)) for loss, x, y, _, _ in INFINITE]
    for engine in (value_and_gradient, by_hand):
        for found, (*_, value, gradient) in zip(together(engine, cases), INFINITE, strict=True):
            np.testing.assert_array_equal(found[0], [value])
            np.testing.assert_array_equal(found[1], gradient)

    def total(losses):
        return sum(loss(*case[1:])[0] for loss, case in zip(losses, cases, strict=True))

    of_numbers = jax.jit(jax.grad(total))
    for slope in jax.tree.leaves(of_numbers([case[0] for case in cases])):
        assert slope == 0.0


def test_no_bound_of_the_variance_has_no_gradient():
    with_bound = jax.grad(lambda eps: fn.gaussian_nll(zeros(1, 2), zeros(1), eps=eps)[0])
    assert with_bound(0.0) == 0.0
    prediction, target = np.float32([[1.0, -30.0]]), np.float32([1.0])
    np.testing.assert_allclose(fn.gaussian_nll(prediction, target, eps=0.0), [-15.0])


def test_lengths_of_vectors_that_the_compiler_knows_are_no_less_in_range():
    """As users compile."""
    x, y = np.float32([[3.0, 0.0, 4.0], [-4.0, 0.0, 3.0]])[:, None]

    @functools.partial(jax.jit, compiler_options=FULL)
    def of_constants():
        triple = jnp.asarray(1e20 * np.stack([x, y, x], axis=1))
        losses = [fn.cosine_distance(1e20 * x, x + y), 1e-20 * fn.triplet(triple)]
        slope = jax.grad(lambda z: fn.cosine_distance(z, jnp.asarray(y)).sum())(1e20 * x)
        return losses, 1e20 * slope

    losses, slope = of_constants()
    np.testing.assert_allclose(losses, [[1.0 - 0.5**0.5], [50.0**0.5]], rtol=1e-5)
    np.testing.assert_allclose(slope, -y / 25.0, rtol=1e-5, atol=1e-7)


NUMBERS = {
    "huber": Partial(fn.huber, delta=0.5),
    "hinge": Partial(fn.hinge, margin=0.7),
    "multi_margin": Partial(fn.multi_margin, margin=0.7),
    "focal": Partial(fn.focal, gamma=1.5),
    "binary_focal": Partial(fn.binary_focal, gamma=1.5, alpha=0.3),
    "dice": Partial(fn.dice, smooth=0.5),
    "triplet": Partial(fn.triplet, margin=0.5, shift=1e-2, eps=1e-2),
    "info_nce": Partial(fn.info_nce, temperature=0.3),
}


def test_every_number_has_the_gradient_that_differences_give():
    with jax.enable_x64(True):
        batches = {name: inputs(name, np.float64) for name in NUMBERS}
        numbers = jax.tree.map(jnp.float64, NUMBERS)

        def each(losses):
            return {name: losses[name](*batches[name]).sum() for name in losses}

        use = jax.jit(each)
        total = jax.grad(lambda losses: sum(each(losses).values()))
        grads = jax.jit(total)(numbers)
        for name, loss in numbers.items():
            leaves, structure = jax.tree.flatten(loss)
            for index, grad in enumerate(jax.tree.leaves(grads[name])):
                ends = []
                for step in (1e-6, -1e-6):
                    moved = [leaf + step * (i == index) for i, leaf in enumerate(leaves)]
                    ends.append(use(numbers | {name: jax.tree.unflatten(structure, moved)})[name])
                np.testing.assert_allclose(grad, (ends[0] - ends[1]) / 2e-6, rtol=1e-6)
                assert abs(grad) > 1e-6


LABELLED = [fn.multiclass_hinge, fn.multi_margin, fn.focal]


@pytest.mark.parametrize("loss", LABELLED)
def test_label_out_of_range(loss):
    """`ValueError` on the host; traced, NaN in its row of values and gradients."""
    bad = np.array([False, True, True, False, False, False])
    labels = np.where(bad, [0, 5, -1, 0, 0, 0], LABELS).astype(np.int32)
    with pytest.raises(ValueError, match=f"{loss.__name__} expects labels from 0 to 4, got 5"):
        loss(np.float32(LOGITS), labels)
    for engine in (value_and_gradient, by_hand):
        [(values, gradient)] = together(engine, [(loss, np.float32(LOGITS), labels)])
        np.testing.assert_array_equal(np.isnan(values), bad)
        np.testing.assert_array_equal(np.isnan(gradient), np.repeat(bad[:, None], 5, axis=1))


def zeros(*shape):
    return np.zeros(shape, np.float32)


PAIRED = [fn.mean_absolute_error, fn.huber, fn.log_cosh, fn.hinge, fn.binary_focal, fn.dice]
PAIRED += [fn.poisson_nll, fn.cosine_distance]
WRONG = [
    *((loss, zeros(6, 1), zeros(6), r"{} expects .*\(6, 1\), got \(6,\)") for loss in PAIRED),
    *((loss, zeros(6, 5), zeros(6), r"{} expects integer .* float32") for loss in LABELLED),
    *((loss, zeros(6, 5), np.zeros(5, int), r"{} .*\(6, 5\), got .*\(5,\)") for loss in LABELLED),
    (fn.kl_divergence, zeros(6, 5), zeros(6), r"{} expects .*\(6, 5\), .*got .*\(6,\)"),
    (fn.kl_divergence, zeros(6, 5), np.zeros((6, 5), int), "{} expects probabilities .* int"),
    (fn.gaussian_nll, zeros(6, 3), zeros(6, 3), r"{} expects .*got \(6, 3\) and \(6, 3\)"),
    (fn.gaussian_nll, zeros(6, 4), zeros(6), r"{} expects .*got \(6, 4\) and \(6,\)"),
    (fn.triplet, zeros(6, 2, 4), None, r"{} expects .*\[n, 3, d\].*got \(6, 2, 4\)"),
    (fn.info_nce, zeros(6, 4), None, r"{} expects .*\[n, 2, d\].*got \(6, 4\)"),
    (Partial(fn.huber, delta=-1.0), zeros(2), zeros(2), "delta must lie in .* got -1"),
]


@pytest.mark.parametrize(("function", "prediction", "target", "message"), WRONG)
def test_wrong_input_is_named(function, prediction, target, message):
    with pytest.raises(ValueError, match=message.format(getattr(function, "__name__", ""))):
        function(prediction, target)


def test_embeddings_are_learnt_from_a_batch_without_targets():
    """Both views of a class come together, by either engine."""
    rng = np.random.default_rng(0)
    classes = rng.normal(size=(40, 3))
    views = [classes + 0.1 * rng.normal(size=(40, 3)) for _ in range(2)]
    views = [np.concatenate([view, 3.0 * rng.normal(size=(40, 3))], axis=1) for view in views]
    triples = np.stack([*views, np.roll(views[0], 1, axis=0)], axis=1)
    for loss, x, engine in (
        (fn.triplet, triples, jax.value_and_grad),
        (Partial(fn.info_nce), triples[:, :2], chain_rule.value_and_grad),
    ):
        trainer = fn.trainer(fn.supervised(fn.dense(6, 2), loss), fn.adam(0.03), engine)
        run = functools.partial(fn.run, steps=60, batch_size=20)
        run = jax.jit(run)
        losses = run(trainer, (x, None), jax.random.key(0)).loss
        assert losses[-5:].mean() < 0.6 * losses[:5].mean()
