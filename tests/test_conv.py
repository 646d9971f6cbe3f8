"""Convolution and pooling against loops in NumPy, in every form, mode and precision."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.conv import WINOGRAD
from protocol import error_in

import funcnet as fn
from funcnet import chain_rule
from funcnet.layers import conv as forms

KEY = jax.random.key(0)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def spots(shape, window, stride, dilation, pads):
    """(window's index, tap's index, element's index) of every tap on an element of x."""
    counts = [
        (n + low + high - (k - 1) * d - 1) // s + 1
        for n, k, s, d, (low, high) in zip(shape, window, stride, dilation, pads, strict=True)
    ]
    for place in itertools.product(*map(range, counts)):
        for tap in itertools.product(*map(range, window)):
            element = tuple(
                i * s + k * d - low
                for i, s, k, d, (low, _) in zip(place, stride, tap, dilation, pads, strict=True)
            )
            if all(0 <= e < n for e, n in zip(element, shape, strict=True)):
                yield place, tap, element
    yield tuple(counts), None, None


def naive(x, weight, stride, dilation, pads, groups):
    *where, (counts, _, _) = spots(x.shape[1:-1], weight.shape[:-2], stride, dilation, pads)
    y = np.zeros((len(x), *counts, weight.shape[-1]))
    fan_in, fan_out = x.shape[-1] // groups, weight.shape[-1] // groups
    for place, tap, element in where:
        for g in range(groups):
            source, target = (
                slice(g * fan_in, (g + 1) * fan_in),
                slice(g * fan_out, (g + 1) * fan_out),
            )
            y[(slice(None), *place, target)] += (
                x[(slice(None), *element, source)] @ weight[(*tap, slice(None), target)]
            )
    return y


def naive_transpose(x, weight, shape, stride, dilation, pads, groups):
    fan_in, each = x.shape[-1] // groups, weight.shape[-1]
    y = np.zeros((len(x), *shape, each * groups))
    for place, tap, element in list(spots(shape, weight.shape[:-2], stride, dilation, pads))[:-1]:
        for g in range(groups):
            source, target = slice(g * fan_in, (g + 1) * fan_in), slice(g * each, (g + 1) * each)
            y[(slice(None), *element, target)] += (
                x[(slice(None), *place, source)] @ weight[(*tap, source)]
            )
    return y


# spatial shape, fan_in, fan_out, window, stride, dilation, padding as pairs, groups
TABLE = [
    ((7,), 2, 3, (3,), (1,), (1,), ((1, 1),), 1),
    ((8,), 8, 9, (3,), (1,), (1,), ((2, 0),), 1),
    ((9,), 3, 6, (4,), (3,), (2,), ((0, 3),), 3),
    ((5, 6), 3, 2, (2, 3), (2, 1), (1, 2), ((0, 1), (2, 0)), 1),
    ((5, 4), 8, 8, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 1),
    ((6, 5), 9, 8, (3, 3), (1, 1), (1, 1), ((0, 0), (1, 2)), 1),
    ((5, 5), 4, 8, (3, 2), (2, 2), (1, 1), ((1, 0), (0, 0)), 2),
    ((4, 5), 3, 3, (3, 3), (1, 2), (1, 1), ((1, 1), (1, 1)), 3),
    ((4, 4), 2, 3, (1, 1), (2, 2), (1, 1), ((0, 0), (0, 0)), 1),
    ((3, 4, 2), 2, 2, (2, 3, 1), (1, 2, 1), (1, 1, 1), ((1, 0), (1, 1), (0, 0)), 1),
]
by_row = pytest.mark.parametrize("row", TABLE, ids=[f"{r[3]}-{i}" for i, r in enumerate(TABLE)])


@by_row
def test_conv_is_the_naive_sum(row):
    shape, fan_in, fan_out, window, stride, dilation, pads, groups = row
    with jax.enable_x64(True):
        network = fn.conv(
            fan_in, fan_out, window, stride=stride, dilation=dilation, padding=pads, groups=groups
        )
        params, state = jax.eval_shape(network.init, KEY)
        weight, bias = draw(1, *params["weight"].shape), draw(2, *params["bias"].shape)
        x = draw(3, 2, *shape, fan_in)
        wanted = naive(x, weight, stride, dilation, pads, groups)
        places = forms.placed("conv", shape, window, stride, dilation, pads)
        geometry = {"stride": stride, "dilation": dilation, "groups": groups, "places": places}

        @jax.jit
        def both(params, x):
            return network.apply(params, state, x)[0], forms.by_xla(x, params["weight"], **geometry)

        here, elsewhere = both({"weight": weight, "bias": bias}, x)
        np.testing.assert_allclose(here, wanted + bias, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(elsewhere, wanted, rtol=1e-12, atol=1e-12)


@by_row
def test_conv_transpose_is_the_naive_scatter(row):
    shape, fan_in, fan_out, window, stride, dilation, pads, groups = row
    with jax.enable_x64(True):
        network = fn.conv_transpose(
            fan_in, fan_out, window, stride=stride, dilation=dilation, padding=pads, groups=groups
        )
        params, state = jax.eval_shape(network.init, KEY)
        weight, bias = draw(1, *params["weight"].shape), draw(2, *params["bias"].shape)
        x = draw(3, 2, *shape, fan_in)
        larger = [
            (n - 1) * s + (k - 1) * d + 1 - sum(pad)
            for n, s, k, d, pad in zip(shape, stride, window, dilation, pads, strict=True)
        ]
        wanted = naive_transpose(x, weight, larger, stride, dilation, pads, groups) + bias
        params = {"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)}
        y, _ = jax.jit(network.apply)(params, state, jnp.asarray(x))
        np.testing.assert_allclose(y, wanted, rtol=1e-12, atol=1e-12)


def shape(network, x):
    return jax.eval_shape(lambda key: network.apply(*network.init(key), x)[0], KEY).shape


def test_named_paddings():
    x = jnp.asarray(draw(0, 1, 7, 6, 2))
    for stride, same, valid in ((1, (7, 6), (5, 4)), (2, (4, 3), (3, 2)), (3, (3, 2), (2, 2))):
        for padding, wanted in (("same", same), ("valid", valid), (0, valid)):
            network = fn.conv(2, 3, (3, 3), stride=stride, padding=padding)
            assert shape(network, x) == (1, *wanted, 3)
        network = fn.conv_transpose(2, 3, (3, 3), stride=stride)
        assert shape(network, x) == (1, 7 * stride, 6 * stride, 3)
    # The odd element is padded at the end: of windows 0, 2 and 4 over 6 elements, only the last.
    network = fn.conv(1, 1, (3,), stride=2, weight_init=jax.nn.initializers.ones)
    y, _ = network.apply(*network.init(KEY), jnp.arange(1.0, 7.0).reshape(1, 6, 1))
    np.testing.assert_array_equal(y.ravel(), [6.0, 12.0, 11.0])


def test_initial_weights_have_the_scale_of_the_window():
    params, _ = fn.conv(64, 128, (3, 3), groups=4).init(KEY)
    np.testing.assert_allclose(params["weight"].std(), 1 / np.sqrt(9 * 16), rtol=0.02)
    params, _ = fn.conv_transpose(64, 128, (3, 3), groups=4).init(KEY)
    assert params["weight"].shape == (3, 3, 64, 32)
    np.testing.assert_allclose(params["weight"].std(), 1 / np.sqrt(9 * 16), rtol=0.02)


def test_sums_in_16_bits_stay_in_range_and_are_rounded_once():
    x = jnp.full((1, 4, 1), 30000.0, jnp.float16)
    for count_padding in (True, False):
        y, _ = fn.average_pool((4,), count_padding=count_padding).apply((), (), x)
        np.testing.assert_array_equal(y, x[:, :1])
    network = fn.conv(4, 4, (49,), groups=4, padding="valid", bias_init=None)
    params, x = draw(1, 49, 1, 4), draw(2, 1, 49, 4)
    half = {"weight": jnp.asarray(params, jnp.bfloat16)}
    y, _ = network.apply(half, (), jnp.asarray(x, jnp.bfloat16))
    exact = np.asarray(half["weight"], float)[:, 0] * np.asarray(x.astype(jnp.bfloat16), float)[0]
    wanted = exact.sum(axis=0).astype(jnp.bfloat16)
    np.testing.assert_allclose(y[0, 0].astype(float), wanted.astype(float), rtol=0.01)


def test_taps_and_positions_are_added_wide_in_16_bits():
    """256 and eight ones are 264; in 16 bits they stay 256 where the ones come one by one."""
    row = np.array([256.0] + [1.0] * 8)
    terms = jnp.asarray(np.stack([row, row[::-1]], axis=-1), jnp.bfloat16)
    ones = jnp.ones((1, 17, 2), jnp.bfloat16)
    zero, wide = jnp.zeros(2, jnp.bfloat16), {"padding": "valid"}
    pool = fn.average_pool((9,), stride=1)
    inside = fn.average_pool((9,), stride=1, count_padding=False)
    some = {"weight": jnp.ones((2, 2), jnp.bfloat16), "bias": zero}
    one = {"weight": jnp.ones((1, 2, 2), jnp.bfloat16), "bias": zero}
    table = {"table": jnp.ones((3, 2), jnp.bfloat16)}
    ids = jnp.zeros(9, int)
    cases = [  # network, params, x, dy, what of (y, dparams, dx) is 264, and times what
        (fn.conv_transpose(1, 2, (9,), **wide), {"weight": terms[:, None], "bias": zero},
         ones[:, :9, :1], ones, lambda y, dp, dx: y[0, 8], 1),
        (fn.conv(2, 1, (9,), **wide, bias_init=None), {"weight": terms[..., None]},
         ones, ones[:, :9, :1], lambda y, dp, dx: dx[0, 8], 1),
        (fn.conv(2, 2, (9,), **wide, groups=2, bias_init=None), {"weight": terms[:, None]},
         ones, ones[:, :9], lambda y, dp, dx: dx[0, 8], 1),
        (fn.dense(2, 2), some, ones[:, :9], terms[None], lambda y, dp, dx: dp["bias"], 1),
        (fn.conv(2, 2, (1,)), one, ones[:, :9], terms[None], lambda y, dp, dx: dp["bias"], 1),
        (pool, (), terms[None], ones[:, :1], lambda y, dp, dx: y[0, 0], 9),
        (pool, (), ones, terms[None], lambda y, dp, dx: dx[0, 8], 9),
        (inside, (), terms[None], ones[:, :1], lambda y, dp, dx: y[0, 0], 9),
        (inside, (), ones, terms[None], lambda y, dp, dx: dx[0, 8], 9),
        (fn.global_average_pool, (), terms[None], ones[:, 0], lambda y, dp, dx: y[0], 9),
        (fn.learned_positions(1, 2), table, ones[:, :9].swapaxes(0, 1), terms[:, None],
         lambda y, dp, dx: dp["table"][0], 1),
    ]  # fmt: skip

    @jax.jit
    def both(arguments):
        found = []
        for (network, *_, of, _), (params, x, dy) in zip(cases, arguments, strict=True):
            y, pullback = jax.vjp(lambda p, x, n=network: n.apply(p, (), x)[0], params, x)
            hand, by_hand, _ = chain_rule.vjp(network.apply, params, (), x)
            found += [of(y, *pullback(dy)), of(hand, *by_hand(dy))]
        full = jnp.full((1, 900, 1), 100.0, jnp.float16)
        mean, *_ = chain_rule.vjp(fn.global_average_pool.apply, (), (), full)
        _, by_hand, _ = chain_rule.vjp(fn.embedding(3, 2).apply, table, (), ids)
        return found, by_hand(terms)[0]["table"][0], mean

    found, row, mean = both([case[1:4] for case in cases])
    for got, factor in zip(found, np.repeat([case[-1] for case in cases], 2), strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(float) * factor, 264.0, rtol=4e-3)
    np.testing.assert_array_equal(row.astype(float), 264.0)
    np.testing.assert_array_equal(mean, 100.0)


def test_winograd_agrees_with_the_rule_and_is_as_exact_as_patches():
    (case,) = WINOGRAD
    with jax.enable_x64(True):
        assert error_in(jnp.float64, case) <= 1e-12
        x, weight = draw(1, 2, 14, 14, 64), draw(2, 3, 3, 64, 32)
        geometry = {"stride": (1, 1), "dilation": (1, 1), "groups": 1}
        geometry["places"] = ((14, 1, 1), (14, 1, 1))
        truth = forms.by_xla(jnp.asarray(x), jnp.asarray(weight), **geometry)
        errors = [
            np.linalg.norm(
                jax.jit(functools.partial(form, **geometry))(jnp.float32(x), jnp.float32(weight))
                - truth
            )
            for form in (forms.by_winograd, forms.by_patches)
        ]
        assert errors[0] <= 2.0 * errors[1] < 1e-6 * np.linalg.norm(truth)


def test_derivatives_of_second_order_and_forward_mode():
    with jax.enable_x64(True):
        network = fn.serial(
            fn.conv(8, 8, (3, 3)), fn.tanh, fn.conv(8, 2, (2, 2), stride=2), fn.max_pool((2, 1))
        )
        params, state = network.init(KEY)
        x, direction = jnp.asarray(draw(1, 1, 6, 6, 8)), jnp.asarray(draw(2, 3, 3, 8, 8))

        def value(weight):
            first = {"weight": weight, "bias": params[0]["bias"]}
            return jnp.sum(network.apply((first, *params[1:]), state, x)[0] ** 2)

        weight, step = params[0]["weight"], 1e-4
        along = jax.jit(lambda t: value(weight + t * direction))
        stencil = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
        slope = sum(w * along(m * step) for m, w in stencil) / step
        forward = jax.jit(lambda: jax.jvp(value, (weight,), (direction,))[1])()
        np.testing.assert_allclose(forward, slope, rtol=1e-7)
        grad = jax.jit(jax.grad(lambda t: value(weight + t * direction)))
        curvature = sum(w * grad(m * step) for m, w in stencil) / step
        second = jax.jit(jax.hessian(lambda t: value(weight + t * direction)))(0.0)
        np.testing.assert_allclose(second, curvature, rtol=1e-7)


def test_vmap_over_weights_is_a_loop_and_scan_the_same():
    network = fn.serial(fn.conv(1, 8, (3, 3)), fn.max_pool((2, 2)), fn.conv(8, 8, (3, 3)))
    params, _ = jax.vmap(network.init)(jax.random.split(KEY, 3))
    x = jnp.asarray(draw(1, 2, 6, 6, 1), jnp.float32)

    def square(params):
        return jnp.sum(network.apply(params, ((), (), ()), x)[0] ** 2)

    grads = jax.jit(jax.vmap(jax.grad(square)))(params)
    scanned = jax.jit(lambda p: jax.lax.map(jax.grad(square), p))(params)
    one = jax.jit(jax.grad(square))
    loop = [one(jax.tree.map(lambda a, i=i: a[i], params)) for i in range(3)]
    for got, also, *wanted in zip(*map(jax.tree.leaves, (grads, scanned, *loop)), strict=True):
        np.testing.assert_allclose(got, np.stack(wanted), rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(also, np.stack(wanted), rtol=2e-4, atol=2e-4)


def test_elsewhere_than_on_cpu_it_is_one_convolution():
    network = fn.conv(3, 4, (3, 3))
    traced = jax.jit(network.apply).trace(*network.init(KEY), jnp.ones((2, 5, 5, 3)))
    for platform, count in (("cpu", 0), ("cuda", 1), ("tpu", 1)):
        assert traced.lower(lowering_platforms=(platform,)).as_text().count("convolution(") == count


def test_precisions():
    network = fn.conv(2, 8, (3,))
    params, state = network.init(KEY)
    x = jnp.asarray(draw(0, 2, 6, 2), jnp.bfloat16)
    assert network.apply(params, state, x)[0].dtype == jnp.float32
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    y, _ = network.apply(half, state, x)
    assert y.dtype == jnp.bfloat16
    exact = naive(np.asarray(x, float), np.asarray(half["weight"], float), (1,), (1,), ((1, 1),), 1)
    np.testing.assert_allclose(y.astype(float), exact, rtol=0.02, atol=0.02)


def pooled(x, window, stride, pads, reduce):
    """`reduce` of each window's elements that are there, [n, *windows, features]."""
    *where, (counts, _, _) = spots(x.shape[1:-1], window, stride, (1,) * len(window), pads)
    found = {place: [] for place in itertools.product(*map(range, counts))}
    for place, _, element in where:
        found[place].append(x[(slice(None), *element)])
    y = np.zeros((len(x), *counts, x.shape[-1]))
    for place, values in found.items():
        y[(slice(None), *place)] = reduce(np.stack(values))
    return y


POOLS = [
    ((6,), (2,), None, "valid", ((0, 0),)),
    ((5, 6), (2, 3), None, "valid", ((0, 0), (0, 0))),
    ((5, 4), (3, 2), (1, 2), ((2, 1), (0, 1)), ((2, 1), (0, 1))),
    ((5, 4), (3, 3), 2, "same", ((1, 1), (0, 1))),
    ((4, 3, 5), (2, 1, 3), (2, 1, 1), 0, ((0, 0), (0, 0), (0, 0))),
]


@pytest.mark.parametrize("row", POOLS, ids=[str(row[1]) for row in POOLS])
def test_pools_are_the_naive_ones(row):
    shape, window, stride, padding, pads = row
    x = draw(0, 2, *shape, 3)
    steps = window if stride is None else (stride,) * 2 if stride == 2 else stride
    size = np.prod(window)
    pooling = {"stride": stride, "padding": padding}
    networks = [
        fn.max_pool(window, **pooling),
        fn.average_pool(window, **pooling),
        fn.average_pool(window, count_padding=False, **pooling),
        fn.global_max_pool,
        fn.global_average_pool,
    ]
    reductions = [lambda v: v.max(0), lambda v: v.sum(0) / size, lambda v: v.mean(0)]
    wanted = [pooled(x, window, steps, pads, reduce) for reduce in reductions]
    axes = tuple(range(1, len(shape) + 1))
    with jax.enable_x64(True):
        found = jax.jit(lambda x: [network.apply((), (), x)[0] for network in networks])(x)
    for y, truth in zip(found, [*wanted, x.max(axes), x.mean(axes)], strict=True):
        np.testing.assert_allclose(y, truth, rtol=1e-13)


def test_the_first_of_equal_elements_gets_the_gradient_and_nan_stays():
    x = jnp.array([[1.0, 3.0, 3.0], [3.0, 0.0, 3.0]])[None, :, :, None]
    spoilt = np.where(np.eye(6).reshape(6, *x.shape) == 1.0, np.nan, np.asarray(x))
    for network in (fn.max_pool((2, 3)), fn.global_max_pool):

        def total(x, network=network):
            return network.apply((), (), x)[0].sum()

        grad = jax.jit(jax.grad(total))(x)
        np.testing.assert_array_equal(grad.ravel(), [0, 1, 0, 0, 0, 0])
        assert jnp.isnan(jax.jit(jax.vmap(total))(spoilt)).all()


X = jnp.ones((2, 5, 5, 3))
WRONG = [
    (lambda: fn.conv(3, 4, 3), "window of 1, 2 or 3 sizes, got 3"),
    (lambda: fn.conv(3, 4, (3, 0)), r"window to be a positive integer or 2 of them, got \(3, 0\)"),
    (lambda: fn.conv(3, 4, (3, 3), stride=(1, 1, 1)), "stride to be a positive integer or 2"),
    (lambda: fn.conv(3, 4, (3, 3), groups=2), "groups to divide fan_in and fan_out, got 2 for 3"),
    (lambda: fn.conv(3, 4, (3, 3), padding="reflect"), 'padding to be "same", "valid"'),
    (lambda: fn.conv(3.0, 4, (3, 3)), "fan_in, fan_out and groups to be a positive integer"),
    (
        lambda: fn.conv(4, 2, (3, 3)).apply(*fn.conv(4, 2, (3, 3)).init(KEY), X),
        r"conv expects \[n, 2 spatial axes, 4 features\], got x of shape \(2, 5, 5, 3\)",
    ),
    (
        lambda: fn.conv(3, 2, (3,)).apply(*fn.conv(3, 2, (3,)).init(KEY), X),
        r"conv expects \[n, 1 spatial axes, 3 features\]",
    ),
    (
        lambda: fn.conv(3, 2, (7, 7), padding="valid").apply(
            *fn.conv(3, 2, (7, 7), padding="valid").init(KEY), X
        ),
        "conv expects at least 7 elements in each window's axis, got 5 in spatial axis 0",
    ),
    (
        lambda: fn.conv(3, 2, (3, 3)).apply(*fn.conv(3, 2, (3, 3)).init(KEY), X.astype(jnp.uint8)),
        "conv expects floating-point features, got x of dtype uint8",
    ),
    (
        lambda: fn.conv_transpose(4, 2, (3, 3)).apply(
            *fn.conv_transpose(4, 2, (3, 3)).init(KEY), X
        ),
        r"conv_transpose expects \[n, 2 spatial axes, 4 features\]",
    ),
    (lambda: fn.max_pool(2), "max_pool expects a window of one size a spatial axis, got 2"),
    (lambda: fn.max_pool((2, 2), padding=2), "padding of less than the window"),
    (
        lambda: fn.max_pool((2,)).apply((), (), X),
        r"max_pool expects \[n, 1 spatial axes, features\]",
    ),
    (lambda: fn.average_pool((6, 2)).apply((), (), X), "average_pool expects at least 6 elements"),
    *(
        (
            lambda network=network: network.apply((), (), X[:, :, :0]),
            rf"{name} expects one or more positions, got x of shape \(2, 5, 0, 3\)",
        )
        for name, network in (
            ("global_max_pool", fn.global_max_pool),
            ("global_average_pool", fn.global_average_pool),
        )
    ),
    (lambda: fn.conv(3, 4, (3, 3), padding=np.array([1, 1])), 'padding to be "same", "valid"'),
    (lambda: fn.conv(3, 4, (3, 3), stride=np.array([1, 1])), "stride to be a positive integer"),
    (lambda: fn.max_pool((2, 2)).apply((), (), 1j * X), "max_pool expects real features"),
    (lambda: fn.global_max_pool.apply((), (), X[0, 0]), "expects \\[n, one or more spatial axes"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[w[1][:30] for w in WRONG])
def test_wrong_shapes_say_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()
