"""Layers' values against NumPy, their initial values, and the noise of dropout."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn

KEY = jax.random.key(1)
X = np.linspace(-3.0, 3.0, 24).reshape(4, 2, 3)
erf = np.vectorize(math.erf)
ACTIVATIONS = {
    "relu": (fn.relu, lambda x: np.maximum(x, 0.0)),
    "tanh": (fn.tanh, np.tanh),
    "sigmoid": (fn.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "gelu": (fn.gelu, lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2)))),
    "silu": (fn.silu, lambda x: x / (1 + np.exp(-x))),
    "softplus": (fn.softplus, lambda x: np.log1p(np.exp(x))),
    "elu": (fn.elu, lambda x: np.where(x > 0, x, np.expm1(x))),
    "leaky_relu": (fn.leaky_relu(0.1), lambda x: np.where(x > 0, x, 0.1 * x)),
    "identity": (fn.identity, lambda x: x),
    "flatten": (fn.flatten, lambda x: x.reshape(4, 6)),
    "sin": (fn.activation(jnp.sin), np.sin),
}


@pytest.mark.parametrize(("network", "wanted"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activations(network, wanted):
    with jax.enable_x64(True):
        params, state = network.init(KEY)
        assert params == state == ()
        y, after = network.apply(params, state, jnp.asarray(X), train=True)
        np.testing.assert_allclose(y, wanted(X), rtol=1e-13, atol=1e-15)
        assert after == ()


def test_gradients_at_kinks_and_far_out():
    def slope(network, at):
        return jax.grad(lambda x: network.apply((), (), x)[0])(at)

    assert slope(fn.relu, 0.0) == 0.0
    for name in ("relu", "tanh", "sigmoid", "gelu", "silu", "softplus", "elu"):
        for at in (-1e4, 1e4, -100.0, 100.0):
            y = getattr(fn, name).apply((), (), jnp.float32(at))[0]
            assert jnp.isfinite(y)
            assert jnp.isfinite(slope(getattr(fn, name), jnp.float32(at)))


def test_dense_and_mlp_are_matrix_products():
    with jax.enable_x64(True):
        network = fn.mlp((3, 5, 2), fn.tanh, bias_init=jax.nn.initializers.normal(1.0))
        params, state = network.init(KEY)
        first, nothing, second = params
        assert nothing == ()
        w1, b1, w2, b2 = (np.asarray(p[n]) for p in (first, second) for n in ("weight", "bias"))
        assert (w1.shape, b1.shape, w2.shape, b2.shape) == ((3, 5), (5,), (5, 2), (2,))
        y, _ = network.apply(params, state, jnp.asarray(X))
        np.testing.assert_allclose(y, np.tanh(X @ w1 + b1) @ w2 + b2, rtol=1e-13)
        bare = fn.dense(3, 2, bias_init=None)
        assert list(bare.init(KEY)[0]) == ["weight"]


def test_initial_values():
    params, _ = fn.dense(400, 300).init(KEY)
    np.testing.assert_allclose(params["weight"].std(), 1 / np.sqrt(400), rtol=0.01)
    np.testing.assert_allclose(params["weight"].mean(), 0.0, atol=1e-3)
    np.testing.assert_array_equal(params["bias"], 0.0)
    twins = fn.serial(fn.dense(4, 4), fn.dense(4, 4)).init(KEY)[0]
    assert (twins[0]["weight"] != twins[1]["weight"]).all()
    ensemble, _ = jax.vmap(fn.dense(4, 4).init)(jax.random.split(KEY, 3))
    assert ensemble["weight"].shape == (3, 4, 4)


def test_dropout():
    x = jnp.ones((200, 200))
    network = fn.dropout(0.3)
    y, _ = network.apply((), (), x, key=KEY, train=True)
    kept = np.asarray(y) != 0.0
    np.testing.assert_allclose(kept.mean(), 0.7, atol=0.01)
    np.testing.assert_allclose(y[kept], 1 / 0.7, rtol=1e-6)
    assert abs(np.corrcoef(kept[0], kept[1])[0, 1]) < 0.3
    np.testing.assert_array_equal(network.apply((), (), x, key=KEY)[0], x)
    again, _ = network.apply((), (), x, key=KEY, train=True)
    np.testing.assert_array_equal(again, y)
    twice = fn.serial(network, network).apply(((), ()), ((), ()), x, key=KEY, train=True)[0]
    np.testing.assert_allclose((np.asarray(twice) != 0.0).mean(), 0.49, atol=0.01)
    np.testing.assert_array_equal(fn.dropout(1.0).apply((), (), x, key=KEY, train=True)[0], 0.0)
    np.testing.assert_array_equal(fn.dropout(0.0).apply((), (), x, key=KEY, train=True)[0], x)
    wide = jax.jit(
        lambda r: fn.dropout(r).apply((), (), x[:9].astype(jnp.bfloat16), key=KEY, train=True)[0]
    )(jnp.float32(0.3))
    assert wide.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        wide != 0.0, np.asarray(network.apply((), (), x[:9], key=KEY, train=True)[0] != 0.0)
    )


def standardised(x, axes, eps):
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps)


def groups_of(x, groups):
    parts = np.split(x, groups, axis=-1)
    return np.concatenate([standardised(part, (1, 2), 1e-5) for part in parts], axis=-1)


NORMS = {
    "layer": (fn.layer_norm(6), lambda x: standardised(x, -1, 1e-5)),
    "rms": (fn.rms_norm(6), lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)),
    "group": (fn.group_norm(2, 6), lambda x: groups_of(x, 2)),
    "instance": (fn.instance_norm(6), lambda x: groups_of(x, 6)),
    "batch": (fn.batch_norm(6), lambda x: standardised(x, (0, 1), 1e-5)),
}


@pytest.mark.parametrize(("network", "wanted"), NORMS.values(), ids=NORMS)
def test_norms(network, wanted):
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, (4, 5, 6))
    apply = jax.jit(functools.partial(network.apply, train=True))
    with jax.enable_x64(True):
        params, state = network.init(KEY)
        params = {name: jnp.asarray(rng.normal(size=6)) for name in params}
        y, _ = apply(params, state, jnp.asarray(x))
        bias = params.get("bias", 0.0)
        np.testing.assert_allclose(y, wanted(x) * params["scale"] + bias, rtol=1e-12, atol=1e-13)
    flat, far = jnp.ones((3, 1, 6)), jnp.float32(1e4) + jnp.asarray(x / 9, jnp.float32)
    params, state = network.init(KEY)
    assert jnp.isfinite(apply(params, state, flat)[0]).all()
    assert jnp.isfinite(apply(params, state, flat[:1])[0]).all()
    # In float32 the mean of numbers about 1e4 is exact to 2e-3 only, their spread being 0.3.
    got = apply(params, state, far)[0]
    np.testing.assert_allclose(got, wanted(np.asarray(far, np.float64)), atol=2e-2)
    # Compiled, it could keep more than 16 bits where it should not have to.
    half = network.apply(params, state, jnp.asarray(x, jnp.bfloat16), train=True)[0]
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(float), wanted(x), atol=0.05)


def test_batch_norm_keeps_running_statistics():
    """m <- 0.9 m + 0.1 mean, v <- 0.9 v + 0.1 variance n / (n - 1), and both used afterwards."""
    x = np.random.default_rng(1).normal(1.0, 2.0, (3, 8, 2))
    with jax.enable_x64(True):
        network = fn.batch_norm(2)
        params, state = network.init(KEY)
        mean, variance = np.zeros(2), np.ones(2)
        for batch in x:
            _, state = network.apply(params, state, jnp.asarray(batch), train=True)
            mean = 0.9 * mean + 0.1 * batch.mean(0)
            variance = 0.9 * variance + 0.1 * batch.var(0, ddof=1)
        np.testing.assert_allclose(state.mean, mean, rtol=1e-13)
        np.testing.assert_allclose(state.variance, variance, rtol=1e-13)
        y, after = network.apply(params, state, jnp.asarray(x[0]))
        np.testing.assert_allclose(y, (x[0] - mean) / np.sqrt(variance + 1e-5), rtol=1e-12)
        assert after is state
    trainer = fn.trainer(
        fn.supervised(fn.serial(fn.dense(2, 3), fn.batch_norm(3)), fn.cross_entropy), fn.sgd(0.1)
    )
    data = (x[0].astype(np.float32), np.arange(8, dtype=np.int32) % 3)
    result = fn.run(trainer, data, KEY, steps=3, batch_size=4)
    assert (result.state.state[1].mean != 0.0).all()


def test_population_statistics_are_those_of_all_rows():
    x = np.random.default_rng(1).normal(3.0, 2.0, (11, 2))
    network = fn.serial(fn.batch_norm(2), fn.repeat(fn.serial(fn.batch_norm(2), fn.tanh), 2))
    with jax.enable_x64(True):
        params, state = network.init(KEY)
        state = jax.tree.map(lambda a: a.astype(float), state)
        statistics = jax.jit(
            functools.partial(fn.population_statistics, network), static_argnames="batch_size"
        )

        def standard(rows):
            return (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)

        for batch_size, cuts in ((None, []), (4, [4, 8]), (50, [])):
            seen = [x]
            for activation in (lambda rows: rows, np.tanh, np.tanh):
                batches = np.split(seen[-1], cuts)
                seen.append(np.concatenate([activation(standard(rows)) for rows in batches]))
            got = statistics(params, state, jnp.asarray(x), batch_size=batch_size)
            first, (stacked, _) = got
            found = [first, *(jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(2))]
            for running, rows in zip(found, seen, strict=False):
                np.testing.assert_allclose(running.mean, rows.mean(0), rtol=1e-12, atol=1e-14)
                np.testing.assert_allclose(running.variance, rows.var(0, ddof=1), rtol=1e-12)
            assert jax.tree.structure(got) == jax.tree.structure(state)
    for wrong in ((), jnp.ones((0, 2)), (jnp.ones((2, 2)), jnp.ones((3, 2)))):
        with pytest.raises(ValueError, match="common first axis of examples, got shapes"):
            fn.population_statistics(network, params, state, wrong)


def test_embedding_is_a_lookup_and_out_of_range_is_nan():
    network = fn.embedding(4, 2)
    params, _ = network.init(KEY)
    table = np.asarray(params["table"])
    y, _ = network.apply(params, (), jnp.array([[3, 0], [1, 3]]))
    np.testing.assert_array_equal(y, table[[[3, 0], [1, 3]]])
    y, _ = network.apply(params, (), np.array([0, 4, -1, 2], np.int8))
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, True, True, False])
    with pytest.raises(ValueError, match="embedding expects integer ids, got ids of dtype float32"):
        network.apply(params, (), jnp.ones(3))


def test_drop_path_drops_whole_examples():
    y, _ = fn.drop_path(0.25).apply((), (), jnp.ones((4000, 3)), key=KEY, train=True)
    assert set(np.unique(np.asarray(y).sum(axis=1).round(3))) == {0.0, 4.0}
    np.testing.assert_allclose((np.asarray(y)[:, 0] > 0).mean(), 0.75, atol=0.02)
    with pytest.raises(ValueError, match="drop_path draws a mask"):
        fn.drop_path(0.5).apply((), (), X, train=True)


def test_combinators_are_what_they_say():
    f, g = fn.dense(3, 3), fn.serial(fn.dense(3, 3), fn.tanh)
    (pf, _), (pg, sg) = f.init(KEY), g.init(KEY)
    x = jnp.asarray(X[:, 0], jnp.float32)
    fx, gx = f.apply(pf, (), x)[0], g.apply(pg, sg, x)[0]

    def apply(network, params, state):
        return network.apply(params, state, x)[0]

    pair = fn.parallel(f, g)
    np.testing.assert_array_equal(apply(fn.residual(f), pf, ()), x + fx)
    np.testing.assert_array_equal(apply(pair, (pf, pg), ((), sg))[1], gx)
    both = (((pf, pg), ()), (((), sg), ()))
    np.testing.assert_array_equal(apply(fn.serial(pair, fn.add), *both), fx + gx)
    joined = apply(fn.serial(pair, fn.concatenate), *both)
    np.testing.assert_array_equal(joined, np.concatenate([fx, gx], axis=-1))
    np.testing.assert_array_equal(apply(fn.named("f", f), {"f": pf}, {"f": ()}), fx)
    np.testing.assert_array_equal(apply(fn.remat(f), pf, ()), fx)
    np.testing.assert_array_equal(apply(fn.frozen(f), pf, ()), fx)
    slopes = jax.grad(lambda p: apply(fn.frozen(f), p, ()).sum())(pf)
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(slopes))


def test_repeat_is_a_loop():
    layer = fn.serial(fn.dense(3, 3), fn.batch_norm(3), fn.dropout(0.4))
    params, state = fn.repeat(layer, 4).init(KEY)
    x = y = jnp.asarray(X[:, 0], jnp.float32)
    got, after = fn.repeat(layer, 4).apply(params, state, x, key=KEY, train=True)
    for index in range(4):
        one, one_state = jax.tree.map(lambda a, i=index: a[i], (params, state))
        y, one_state = layer.apply(
            one, one_state, y, key=jax.random.fold_in(KEY, index), train=True
        )
        np.testing.assert_allclose(after[1].mean[index], one_state[1].mean, rtol=1e-5)
    np.testing.assert_allclose(got, y, rtol=1e-5)
    small, large = (
        len(jax.jit(many.apply).lower(*jax.eval_shape(many.init, KEY), x).as_text())
        for many in (fn.repeat(layer, 4), fn.repeat(layer, 48))
    )
    assert large < 1.02 * small


def test_serial_nests_and_no_layer_is_the_identity():
    flat = fn.serial(fn.dense(3, 4), fn.tanh, fn.dense(4, 2))
    nested = fn.serial(fn.serial(fn.dense(3, 4), fn.tanh), fn.dense(4, 2))
    (a, b, c), _ = flat.init(KEY)
    y = flat.apply((a, b, c), ((), (), ()), X)[0]
    np.testing.assert_array_equal(nested.apply(((a, b), c), (((), ()), ()), X)[0], y)
    assert fn.serial().init(KEY) == ((), ())
    np.testing.assert_array_equal(fn.serial().apply((), (), X)[0], X)


def test_a_mask_where_none_is_taken_says_so():
    x = fn.Masked(jnp.ones((2, 4, 3)), jnp.ones((2, 4), bool))
    networks = [fn.dense(3, 2), fn.embedding(5, 2), fn.relu, fn.layer_norm(3), fn.identity]
    networks += [fn.flatten, fn.tokens, fn.normalise(0.0, 1.0)]
    for network in networks:
        with pytest.raises(ValueError, match=r"expects an array, got Masked; .* put masked\(...\)"):
            network.apply(*network.init(KEY), x)
    for network in (fn.add, fn.multiply, fn.concatenate):
        with pytest.raises(ValueError, match="expects a tuple of arrays, got Masked"):
            network.apply((), (), x)
    for network in (fn.dropout(0.1), fn.drop_path(0.1)):
        for train in (False, True):
            with pytest.raises(ValueError, match=r"expects an array, got Masked; .* masked\(...\)"):
                network.apply((), (), x, key=KEY, train=train)
    with pytest.raises(AttributeError, match=r"put layers for plain arrays inside masked\(...\)"):
        x.ndim  # noqa: B018


def test_a_numbers_gradient_is_summed_wide_in_16_bits():
    """Of 4096 elements of -1 alike, each adding as much, 16 bits keep the first few hundred."""
    x = -jnp.ones((64, 64))
    for make in (fn.leaky_relu, fn.dropout):

        @jax.jit
        def slope(x, make=make):
            def total(number):
                y, _ = make(number).apply((), (), x, key=KEY, train=True)
                return y.astype(jnp.float32).sum()

            return jax.grad(total)(jnp.float32(0.25))

        np.testing.assert_allclose(slope(x.astype(jnp.bfloat16)), slope(x), rtol=1e-2)


def test_what_is_linear_takes_complex_numbers():
    x, y = jax.random.normal(KEY, (2, 2, 6, 3))
    for network in (fn.dense(3, 2), fn.average_pool((2,)), fn.dropout(0.4), fn.drop_path(0.4)):
        params, _ = network.init(KEY)

        def apply(x, network=network, params=params):
            return network.apply(params, (), x, key=KEY, train=True)[0]

        np.testing.assert_allclose(apply(x + 1j * y), apply(x) + 1j * apply(y), rtol=1e-5)


def test_an_empty_batch_gives_an_empty_result_and_changes_no_state():
    networks = {
        (0, 4): [fn.dense(4, 4), fn.batch_norm(4), fn.group_norm(2, 4), fn.layer_norm(4)],
        (0, 3, 4): [fn.attention(4, 2), fn.lstm(4, 3), fn.gru(4, 2), fn.transformer_block(4, 2)],
        (0, 6, 6, 4): [fn.conv(4, 8, (3, 3)), fn.conv_transpose(4, 2, (3, 3)), fn.tokens],
    }
    networks[0, 6, 6, 4] += [fn.max_pool((2, 2)), fn.global_max_pool, fn.global_average_pool]
    for shape, several in networks.items():
        network = fn.parallel(*several)

        @jax.jit
        def both(key, x, network=network):
            params, state = network.init(key)
            wanted, _ = network.apply(params, state, x, key=key, train=True)
            y, pullback, after = fn.chain_rule.vjp(
                network.apply, params, state, x, key=key, train=True
            )
            return wanted, y, pullback(y), after, state

        wanted, y, (grads, dx), after, state = both(KEY, jnp.zeros(shape))
        assert [part.shape for part in y] == [part.shape for part in wanted]
        assert all(part.shape[0] == 0 for part in y)
        assert dx.shape == shape
        assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(grads))
        for a, b in zip(*map(jax.tree.leaves, (after, state)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_numbers_from_numpy_are_the_same_choices():
    four, two = np.int64(4), np.int64(2)
    for ours, theirs in (
        (fn.layer_norm(4), fn.layer_norm(four)),
        (fn.group_norm(2, 4), fn.group_norm(two, four)),
        (fn.batch_norm(4), fn.batch_norm(four)),
        (fn.embedding(4, 2), fn.embedding(four, two)),
        (fn.attention(4, 2), fn.attention(four, two)),
        (fn.sinusoidal(4), fn.sinusoidal(four)),
        (fn.sinusoidal(4, cache=(2, 4)), fn.sinusoidal(4, cache=(two, four))),
        (fn.rnn(4, 2, batch=2), fn.rnn(four, two, batch=two)),
        (fn.conv(4, 2, (2,), padding=2), fn.conv(four, two, (two,), padding=two)),
        (fn.max_pool((4,), padding=((2, 2),)), fn.max_pool((four,), padding=((two, two),))),
        (fn.repeat(fn.relu, 2), fn.repeat(fn.relu, two)),
    ):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)


def test_masked_layers_on_ids_and_on_masks_that_do_not_fit():
    ids, there = jnp.array([[1, 2, 0], [3, 7, 7]]), jnp.array([[True, True, False]] * 2)
    network = fn.masked(fn.embedding(5, 2))
    params, state = network.init(KEY)
    y, _ = network.apply(params, state, fn.Masked(ids, there))
    np.testing.assert_array_equal(y.x[0], params["table"][jnp.array([1, 2, 0])])
    assert jnp.isnan(y.x[1, 1]).all()
    assert (y.x[1, 2] == params["table"][0]).all()
    x = jnp.ones((2, 4, 3))
    for mask in (jnp.ones((1, 4), bool), jnp.ones((2, 4)), jnp.ones((2, 3), bool)):
        with pytest.raises(ValueError, match=r"masked expects a mask of bool and of the shape"):
            fn.masked(fn.relu).apply((), (), fn.Masked(x, mask))
    shorter = fn.masked(fn.average_pool((2,)))
    with pytest.raises(ValueError, match=r"keep the steps \(2, 4\), got an output of shape"):
        shorter.apply((), (), fn.Masked(x, jnp.ones((2, 4), bool)))


PARAMS, STATE = fn.dense(64, 2).init(KEY)
WRONG = [
    (lambda: fn.dense(0, 3), "fan_in to be a positive integer, got 0"),
    (lambda: fn.dense(3, 2.0), "fan_out to be a positive integer, got 2.0"),
    (lambda: fn.mlp((3,)), "at least an input and an output size"),
    (
        lambda: fn.dense(64, 2).apply(PARAMS, STATE, jnp.ones((32, 8, 8))),
        r"dense expects 64 features in the last axis, got x of shape \(32, 8, 8\)",
    ),
    (lambda: fn.flatten.apply((), (), jnp.float32(1.0)), "flatten expects a batch"),
    (
        lambda: fn.layer_norm(2).apply(*fn.layer_norm(2).init(KEY), jnp.ones((3, 2), int)),
        "layer_norm expects floating-point features, got x of dtype int32",
    ),
    *(
        (
            lambda network=network, train=train: network.apply(
                (), (), X.astype(int), key=KEY, train=train
            ),
            f"{name} expects floating-point features, got x of dtype int64",
        )
        for name, network in (
            ("dropout", fn.dropout(0.4)),
            ("drop_path", fn.drop_path(0.4)),
            ("leaky_relu", fn.leaky_relu(0.1)),
        )
        for train in (False, True)
    ),
    (
        lambda: fn.layer_norm(2).apply(*fn.layer_norm(2).init(KEY), jnp.ones((3, 2), complex)),
        "layer_norm expects real features, got x of dtype complex64",
    ),
    (
        lambda: fn.repeat(fn.dense(3, 4), 2).apply(
            *fn.repeat(fn.dense(3, 4), 2).init(KEY), jnp.ones((5, 3))
        ),
        r"an output like its input \(\(5, 3\), 'float32'\), got \(\(5, 4\), 'float32'\)",
    ),
    (
        lambda: fn.concatenate.apply((), (), (jnp.ones((2, 3)), jnp.ones((1, 3)))),
        "parts that differ in their last axis alone",
    ),
    (lambda: fn.group_norm(4, 6), "groups to divide 6 features, got 4"),
    (lambda: fn.repeat(fn.relu, 0), "count must be at least 1, got 0"),
    (
        lambda: fn.batch_norm(3).apply(*fn.batch_norm(3).init(KEY), jnp.ones((2, 4))),
        r"batch_norm expects 3 features in the last axis, got x of shape \(2, 4\)",
    ),
    (
        lambda: fn.residual(fn.dense(64, 2)).apply(PARAMS, STATE, jnp.ones((3, 64))),
        r"keep the shape \(3, 64\), got \(3, 2\)",
    ),
    (lambda: fn.add.apply((), (), (X, X[:1])), "add expects parts of one shape"),
    (lambda: fn.serial(fn.relu).apply((), ((),), X), "serial has 1 layers, got params for 0"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[w[1][:30] for w in WRONG])
def test_wrong_shapes_say_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()
