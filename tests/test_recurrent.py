"""Recurrent layers against PyTorch and naive NumPy, masked, in pieces, swept, differentiated and at
the edges."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from protocol import by_vjp, pulled, random_like, relative

import funcnet as fn
from funcnet import chain_rule
from funcnet.layers.sequence import split

KEY = jax.random.key(4)
GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "recurrent.npz"))
X = np.sin(np.arange(30.0) ** 1.3).reshape(3, 5, 2)
THERE = np.array([[True, False, True, True, False], [False, True, True, True, True], [False] * 5])


def drawn(init, seed=0, dtype=jnp.float64):
    """Parameters of standard normal numbers."""
    return random_like(jax.eval_shape(init, KEY), seed, dtype)


def from_torch(numbers, kind, layer):
    """One layer in one direction: PyTorch's parameters, or the gradients of ours."""
    names = (f"{part}_{layer}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    weight, recurrent, bias, recurrent_bias = (numbers[name] for name in names)
    params = {"input": weight.T, "recurrent": recurrent.T, "bias": bias + recurrent_bias}
    if kind == "gru":
        new = bias.shape[0] * 2 // 3
        params["bias"] = np.concatenate([params["bias"][:new], bias[new:]])
        params["recurrent_bias"] = recurrent_bias[new:]
    return params


def grads_from_torch(numbers, kind, layer):
    """The same of gradients: of two biases that are added, each has that of their sum."""
    grads = from_torch(numbers, kind, layer)
    return {**grads, "bias": numbers[f"bias_ih_{layer}"]}


def two_ways(kind, fan_in):
    return fn.bidirectional(kind(fan_in, 3), kind(fan_in, 3))


def stacked(first, second):
    return fn.serial(first, fn.masked(fn.dropout(0.1)), second)


def both(layer):
    return (f"l{layer}", f"l{layer}_reverse")


TORCH = {
    "rnn-single": (fn.rnn(2, 3), "l0"),
    "gru-single": (fn.gru(2, 3), "l0"),
    "lstm-packed": (fn.lstm(2, 3), "l0"),
    "rnn-bidirectional": (two_ways(fn.rnn, 2), both(0)),
    "lstm-stacked": (stacked(fn.lstm(2, 3), fn.lstm(3, 3)), ("l0", (), "l1")),
    "gru-all": (stacked(two_ways(fn.gru, 2), two_ways(fn.gru, 6)), (both(0), (), both(1))),
}


@pytest.mark.parametrize("name", TORCH)
def test_outputs_and_gradients_are_pytorchs(name):
    network, layers = TORCH[name]
    found = {
        key.removeprefix(f"{name}/"): value
        for key, value in GOLDEN.items()
        if key.startswith(f"{name}/")
    }
    params, grads = (
        jax.tree.map(
            functools.partial(
                convert,
                {k.removeprefix(start): v for k, v in found.items() if k.startswith(start)},
                name.partition("-")[0],
            ),
            layers,
        )
        for convert, start in ((from_torch, "params/"), (grads_from_torch, "grads/"))
    )
    mask, (_, state) = found["mask"], jax.eval_shape(network.init, KEY)

    def values(inputs):
        params, x = inputs
        x = x if mask.all() else fn.Masked(x, mask)
        return split(network.apply(params, state, x)[0])[0]

    with jax.enable_x64(True):
        y, (dparams, dx) = pulled(by_vjp(values), (params, found["x"]), found["dy"])
    np.testing.assert_allclose(y, found["y"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(dx, found["dx"], rtol=0, atol=1e-10)
    assert jax.tree.structure(dparams) == jax.tree.structure(grads)
    for got, wanted in zip(jax.tree.leaves(dparams), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def naive_rnn(params, h, x):
    h = np.maximum(x @ params["input"] + params["bias"] + h @ params["recurrent"], 0.0)
    return h, h


def naive_lstm(params, carry, x):
    h, c = carry
    sums = x @ params["input"] + params["bias"] + h @ params["recurrent"]
    i, f, g, o = np.split(sums, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return np.array([h, c]), h


def naive_gru(params, h, x):
    (w_r, w_z, w_n), (u_r, u_z, u_n), (b_r, b_z, b_n) = (
        np.split(params[name], 3, axis=-1) for name in ("input", "recurrent", "bias")
    )
    r, z = sigmoid(x @ w_r + h @ u_r + b_r), sigmoid(x @ w_z + h @ u_z + b_z)
    n = np.tanh(x @ w_n + b_n + r * (h @ u_n + params["recurrent_bias"]))
    h = (1 - z) * n + z * h
    return h, h


NAIVE = {
    "rnn": (fn.rnn_cell(2, 3, activation=jax.nn.relu), naive_rnn, np.zeros(3)),
    "lstm": (fn.lstm_cell(2, 3), naive_lstm, np.zeros((2, 3))),
    "gru": (fn.gru_cell(2, 3), naive_gru, np.zeros(3)),
}


@pytest.mark.parametrize(("cell", "naive", "start"), NAIVE.values(), ids=NAIVE)
def test_a_cell_over_time_is_the_naive_one(cell, naive, start):
    """One example and step at a time, masked; in two pieces; and without a mask step by step."""

    network = fn.over_time(cell, batch=3)

    @jax.jit
    def pieces(params):
        state = cell.start(params, jnp.zeros(3))
        first, state = network.apply(params, state, fn.Masked(X[:, :2], THERE[:, :2]))
        second, state = network.apply(params, state, fn.Masked(X[:, 2:], THERE[:, 2:]))
        return jnp.concatenate([first.x, second.x], axis=1), state

    @jax.jit
    def stepped(params):
        carry, ys = cell.start(params, cell.project(params, X[:, 0])), []
        for t in range(3):
            carry, y = cell.step(params, carry, cell.project(params, X[:, t]))
            ys.append(y)
        return jnp.stack(ys, axis=1), fn.over_time(cell).apply(params, (), X[:, :3])[0]

    with jax.enable_x64(True):
        params = drawn(cell.init)
        y, carry = pieces(params)
        by_step, by_scan = stepped(params)
    params = jax.tree.map(np.asarray, params)
    wanted, last = np.zeros((3, 5, 3)), [start] * 3
    for example, t in zip(*np.nonzero(THERE), strict=True):
        last[example], wanted[example, t] = naive(params, last[example], X[example, t])
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-14)
    carry = np.stack(carry, axis=1) if isinstance(carry, tuple) else carry
    np.testing.assert_allclose(carry, np.stack(last), rtol=0, atol=1e-14)
    assert np.asarray(by_scan).any()
    np.testing.assert_allclose(by_step, by_scan, rtol=0, atol=1e-14)


def test_the_last_carry_is_pytorchs():
    found = {k.removeprefix("lstm-packed/"): v for k, v in GOLDEN.items()}
    params = {k.removeprefix("params/"): v for k, v in found.items() if k.startswith("params/")}
    with jax.enable_x64(True):
        network = fn.lstm(2, 3, batch=3)
        state = (jnp.zeros((3, 3)), jnp.zeros((3, 3)))
        x = fn.Masked(found["x"], found["mask"])
        _, carry = jax.jit(network.apply)(from_torch(params, "lstm", "l0"), state, x)
    np.testing.assert_allclose(np.stack(carry), found["last"][:, 0], rtol=0, atol=1e-12)


def test_garbage_where_nothing_is_has_no_influence():
    network = fn.serial(fn.bidirectional(fn.lstm(2, 3), fn.gru(2, 3)), fn.last_step)
    params, state = jax.eval_shape(network.init, KEY)
    params = random_like(params, 0, jnp.float32)

    @jax.jit
    def grads(params, x):
        def values(params, x):
            y = network.apply(params, state, fn.Masked(x, THERE))[0]
            return jnp.sin(y).sum(), y

        return jax.value_and_grad(values, (0, 1), has_aux=True)(params, x)

    @jax.jit
    def by_hand(params, x):
        y, pullback, _ = chain_rule.vjp(network.apply, params, state, fn.Masked(x, THERE))
        return pullback(jnp.cos(y))[0]

    clean, *others = (jnp.where(THERE[..., None], X, fill) for fill in (0.0, np.nan, np.inf, 1e30))
    wanted = grads(params, clean)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(wanted))
    assert (wanted[0][1][:2] != 0.0).all()
    np.testing.assert_array_equal(wanted[0][1][2], 0.0)
    np.testing.assert_array_equal(np.asarray(wanted[1][1])[~THERE], 0.0)
    for x in others:
        jax.tree.map(np.testing.assert_array_equal, grads(params, x), wanted)
        assert relative(by_hand(params, x), wanted[1][0]) <= 1e-5


def test_last_step():
    y, _ = fn.last_step.apply((), (), fn.Masked(X, THERE))
    np.testing.assert_allclose(y, [X[0, 3], X[1, 4], [0.0, 0.0]], rtol=1e-6)
    y, _ = fn.last_step.apply((), (), fn.Masked(jnp.ones((3, 5, 2, 4)), THERE))
    np.testing.assert_array_equal(y.sum((1, 2)), [8.0, 8.0, 0.0])
    np.testing.assert_array_equal(fn.last_step.apply((), (), X)[0], X[:, -1])


def test_a_batch_sharded_over_a_mesh_of_explicit_axes():
    mesh = jax.make_mesh((2,), ("batch",), (AxisType.Explicit,), devices=jax.devices()[:2])
    network = fn.serial(fn.gru(2, 3), fn.lstm(3, 1), fn.last_step)
    params = drawn(network.init, dtype=jnp.float32)[0]
    x = fn.Masked(jnp.asarray(X[:2], jnp.float32), jnp.asarray(THERE[:2]))

    def total(params, x):
        return jnp.sin(network.apply(params, ((), (), ()), x)[0]).sum()

    grads = jax.jit(jax.value_and_grad(total))
    wanted = grads(params, x)
    with jax.set_mesh(mesh):
        got = grads(params, jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch"))))
    assert relative(got, wanted) <= 1e-6


def test_initial_values():
    params = jax.jit(fn.lstm_cell(400, 20).init)(KEY)
    np.testing.assert_allclose(params["input"].std(), 1 / np.sqrt(400), rtol=0.02)
    for gate in np.split(np.asarray(params["recurrent"]), 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(20), atol=1e-5)
    assert abs(params["recurrent"][:, :20] - params["recurrent"][:, 20:40]).max() > 0.1
    np.testing.assert_array_equal(params["bias"].reshape(4, 20), np.eye(4)[:, [1] * 20])
    gru = jax.eval_shape(fn.gru_cell(2, 3).init, KEY)
    assert {name: value.shape for name, value in gru.items()} == {
        "input": (2, 9),
        "recurrent": (3, 9),
        "bias": (9,),
        "recurrent_bias": (3,),
    }


def test_dtypes_are_kept():
    network, state = fn.lstm(2, 3, batch=3), (jnp.zeros((3, 3)), jnp.zeros((3, 3)))
    single, half = (drawn(fn.lstm_cell(2, 3).init, dtype=d) for d in (jnp.float32, jnp.bfloat16))
    with jax.enable_x64(True):
        x = jnp.asarray(X)
        for params in (single, half):
            for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
                given = fn.Masked(x.astype(dtype), THERE)
                y, after = jax.eval_shape(network.apply, params, state, given)
                assert y.x.dtype == dtype
                assert [leaf.dtype for leaf in after] == [jnp.float32] * 2


def test_an_lstm_in_bfloat16_counts_in_float32():
    """With open gates c grows by 1 / 256 a step, which 16 bits forget from c = 1 on."""
    params = {
        "input": jnp.array([[0.0, 0.0, 1.0, 0.0]]),
        "recurrent": jnp.zeros((1, 4)),
        "bias": jnp.array([30.0, 30.0, 0.0, 30.0]),
    }
    params, x = jax.tree.map(jnp.bfloat16, (params, jnp.full((1, 512, 1), 1 / 256)))
    y = jax.jit(fn.lstm(1, 1).apply)(params, (), x)[0]
    np.testing.assert_allclose(y[0, -1, 0], np.tanh(2.0), rtol=0.005)


def slope_of(slope, params):
    activation = Partial(jax.nn.leaky_relu, negative_slope=slope)
    return fn.rnn(2, 3, activation=activation).apply(params, (), jnp.asarray(X))[0]


def test_an_ensemble_a_sweep_and_second_derivatives():
    network, slopes = fn.gru(2, 3), (0.1, 0.3)

    def forward(params):
        return network.apply(params, (), jnp.asarray(X))[0]

    @jax.jit
    def at_once(members):
        return jax.vmap(forward)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))

    @jax.jit
    def sweeps(params):
        swept = jax.vmap(slope_of, (0, None))(jnp.array(slopes), params)
        return swept, jnp.stack([slope_of(slope, params) for slope in slopes])

    @jax.jit
    def curved(params, direction):
        gradient = jax.grad(lambda params: jnp.sin(forward(params)).sum())
        return jax.jvp(gradient, (params,), (direction,))

    with jax.enable_x64(True):
        cell = fn.gru_cell(2, 3)
        params, direction = drawn(cell.init), drawn(cell.init, 1)
        one = jax.jit(forward)
        wanted = [one(params), one(direction)]
        np.testing.assert_allclose(at_once((params, direction)), wanted, rtol=1e-12)
        swept, loop = sweeps(drawn(fn.rnn_cell(2, 3).init))
        np.testing.assert_allclose(swept, loop, rtol=1e-12)
        assert (swept[0] != swept[1]).any()

        def moved(step):
            return curved(jax.tree.map(lambda p, d: p + step * d, params, direction), direction)[0]

        numeric = jax.tree.map(lambda a, b: (a - b) / 2e-5, moved(1e-5), moved(-1e-5))
        assert relative(curved(params, direction)[1], numeric) <= 1e-8


def mean_init(key):
    return {"before": jnp.ones(2), "decay": jnp.array(0.5)}


def mean_project(params, x):
    return x


def mean_start(params, drive):
    return jnp.broadcast_to(params["before"], (drive.shape[0], 2)).astype(drive.dtype)


def mean_step(params, carry, drive):
    carry = params["decay"] * carry + drive
    return carry, carry


def project_rule(params, x):
    return x, lambda d: (jax.tree.map(jnp.zeros_like, params), d)


def start_rule(params, drive):
    zero = jnp.zeros_like(params["decay"])
    return mean_start(params, drive), lambda d: ({"before": d.sum(axis=0), "decay": zero},)


def step_rule(params, carry, drive):
    def pullback(d):
        total = d[0] + d[1]
        dparams = {"before": jnp.zeros(2), "decay": (carry * total).sum()}
        return dparams, params["decay"] * total, total

    return mean_step(params, carry, drive), pullback


def test_a_cell_of_ones_own_with_a_learnt_start():
    cell = fn.Cell(mean_init, mean_project, mean_start, mean_step)
    network = fn.over_time(cell)
    rules = dict(zip(cell[1:], (project_rule, start_rule, step_rule), strict=True))
    with jax.enable_x64(True):
        params, state = network.init(KEY)
        x = fn.Masked(jnp.asarray(X), THERE)
        y = network.apply(params, state, x)[0].x
        np.testing.assert_allclose(y[0, 2], 0.25 + 0.5 * X[0, 0] + X[0, 2], rtol=1e-12)
        _, wanted = jax.vjp(lambda params: network.apply(params, state, x)[0].x, params)
        dy = fn.Masked(jnp.cos(y), np.zeros(THERE.shape, jax.dtypes.float0))
        rules = {**chain_rule.RULES, **rules}
        _, pullback, _ = chain_rule.vjp(network.apply, params, state, x, rules=rules)
        assert relative(pullback(dy)[0], wanted(dy.x)[0]) <= 1e-12
    with pytest.raises(NotImplementedError, match="no rule for mean_project"):
        chain_rule.vjp(network.apply, params, state, jnp.ones((3, 5, 2)))


def applied(network, x):
    return jax.eval_shape(lambda: network.apply(*network.init(KEY), x))


ONES = jnp.ones((2, 4, 3))
WRONG = [
    (lambda: fn.lstm(0, 3), "lstm expects fan_in to be a positive integer, got 0"),
    (lambda: fn.gru(3, 2.0), "gru expects hidden to be a positive integer, got 2.0"),
    (lambda: fn.rnn(3, 2, batch=0), "over_time expects batch to be a positive integer, got 0"),
    (
        lambda: applied(fn.lstm(5, 2), ONES),
        r"lstm expects 5 features in the last axis, got x of shape \(2, 4, 3\)",
    ),
    (
        lambda: applied(fn.rnn(3, 2), ONES[0]),
        r"over_time expects \[n, T, features\], T >= 1, got x of shape \(4, 3\)",
    ),
    (lambda: applied(fn.rnn(3, 2), ONES[:, :0]), r"T >= 1, got x of shape \(2, 0, 3\)"),
    (lambda: applied(fn.gru(3, 2), ONES.astype(int)), "gru expects floating-point features"),
    (
        lambda: applied(fn.gru(3, 2), fn.Masked(ONES.astype(int), np.ones((2, 4), bool))),
        "gru expects floating-point features, got x of dtype int32",
    ),
    (
        lambda: applied(fn.gru(3, 2), fn.Masked(ONES, np.ones((2, 3), bool))),
        r"mask of bool and of the shape \(2, 4\), got bool of shape \(2, 3\)",
    ),
    (
        lambda: applied(fn.gru(3, 2), fn.Masked(ONES, np.ones((2, 4)))),
        "over_time expects a mask of bool",
    ),
    (
        lambda: applied(fn.gru(3, 2, batch=3), ONES),
        r"over_time carries on a batch of 3, got x of shape \(2, 4, 3\)",
    ),
    (
        lambda: applied(two_ways(fn.gru, 3), fn.Masked(ONES, np.ones((2, 4, 4), bool))),
        "bidirectional expects a mask of bool",
    ),
    (
        lambda: applied(two_ways(fn.gru, 3), ONES[0]),
        r"bidirectional expects \[n, T, features\], got x of shape \(4, 3\)",
    ),
    (
        lambda: applied(fn.last_step, ONES[:, :0]),
        r"last_step expects \[n, T, ...\], T >= 1, got x of shape \(2, 0, 3\)",
    ),
    (
        lambda: applied(fn.last_step, fn.Masked(ONES, np.ones((2, 3), bool))),
        "last_step expects a mask",
    ),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[w[1][:30] for w in WRONG])
def test_wrong_shapes_say_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_over_time_takes_cells_alone():
    with pytest.raises(TypeError, match="over_time expects a Cell, got Network"):
        fn.over_time(fn.lstm(3, 2))
