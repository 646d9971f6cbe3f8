"""Parameters kept, and arithmetic done, in other dtypes; one table for both ends of a network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from protocol import by_vjp, each_pulled, random_like, relative

import funcnet as fn
from funcnet import chain_rule
from funcnet.generate import likeliest

KEY = jax.random.key(0)
NET = fn.serial(fn.dense(3, 4), fn.tanh, fn.batch_norm(4), fn.dense(4, 2))


def dtypes(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


def test_parameters_are_kept_in_their_dtype_and_the_state_is_not():
    params, state = fn.param_dtype(NET, jnp.bfloat16).init(KEY)
    wanted, _ = NET.init(KEY)
    assert (dtypes(params), dtypes(state)) == ({"bfloat16"}, {"float32"})
    np.testing.assert_array_equal(params[0]["weight"], wanted[0]["weight"].astype(jnp.bfloat16))


def test_computing_in_a_dtype_is_casting_first_and_gradients_come_back_in_their_own():
    network = fn.compute_dtype(NET, jnp.bfloat16)
    params, state = network.init(KEY)
    x = jnp.asarray(np.sin(np.arange(15.0)).reshape(5, 3), jnp.float32)
    y, after = network.apply(params, state, x, train=True)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x))
    wanted, _ = NET.apply(half[0], state, half[1], train=True)
    np.testing.assert_array_equal(y, wanted)
    assert y.dtype == jnp.bfloat16
    assert dtypes(after) == {"float32"}
    assert dtypes(params) == {"float32"}

    def total(params, x):
        return network.apply(params, state, x, train=True)[0].sum()

    assert dtypes(jax.grad(total, (0, 1))(params, x)) == {"float32"}
    masked = fn.Masked(x[None], np.ones((1, 5), bool))
    y, _ = fn.compute_dtype(fn.gru(3, 2), jnp.bfloat16).apply(fn.gru(3, 2).init(KEY)[0], (), masked)
    assert (y.x.dtype, y.mask.dtype) == (jnp.bfloat16, bool)


def test_by_hand_it_is_the_rule_of_the_layer():
    """float32 arithmetic inside float64, so that the cast is seen and rounding is small."""
    with jax.enable_x64(True):
        network = fn.compute_dtype(fn.serial(fn.dense(3, 4), fn.tanh), jnp.float32)
        params = random_like(network.init(KEY)[0], 1, jnp.float64)
        x = random_like(jax.ShapeDtypeStruct((5, 3), float), 2, jnp.float64)

        def plain(inputs):
            return network.apply(inputs[0], ((), ()), inputs[1])[0]

        def hand(inputs):
            return chain_rule.vjp(network.apply, inputs[0], ((), ()), inputs[1])[:2]

        dy = jnp.ones((5, 4), jnp.float32)
        auto, by_hand = each_pulled((by_vjp(plain), hand), (params, x), dy)
        assert relative(by_hand, auto) <= 1e-6
        assert dtypes(by_hand[1]) == {"float64"}
        ids = np.array([[0, 2]])
        tied = fn.compute_dtype(fn.embedding(3, 2), jnp.float32)
        table = random_like(tied.init(KEY)[0], 3, jnp.float64)
        _, pullback, _ = chain_rule.vjp(tied.apply, table, (), ids)
        dtable, dids = pullback(jnp.ones((1, 2, 2), jnp.float32))
        np.testing.assert_array_equal(dtable["table"], [[1, 1], [0, 0], [1, 1]])
        assert dids.dtype == jax.dtypes.float0


def test_mixed_precision_learns_the_digits_as_well():
    train, test = fn.datasets.digits()

    def accuracy(network):
        task = fn.supervised(network, fn.cross_entropy, metrics={"accuracy": fn.accuracy})
        trainer = fn.trainer(task, fn.adam(3e-3))
        run = jax.jit(functools.partial(fn.run, steps=500, batch_size=32))
        state = run(trainer, train, KEY).state
        assert dtypes(state.params) == {"float32"}
        return fn.evaluate(trainer, state, test)["accuracy"]

    plain = fn.mlp((64, 64, 10))
    mixed = accuracy(fn.compute_dtype(plain, jnp.bfloat16))
    assert mixed > 0.95
    assert abs(mixed - accuracy(plain)) < 0.02


def test_a_dtype_is_a_choice_and_must_be_floating():
    a, b = fn.compute_dtype(NET, jnp.bfloat16), fn.compute_dtype(NET, "bfloat16")
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.structure(a) != jax.tree.structure(fn.compute_dtype(NET, jnp.float16))
    for constructor in (fn.param_dtype, fn.compute_dtype):
        with pytest.raises(ValueError, match="floating-point dtype, got int32"):
            constructor(NET, jnp.int32)


def test_tied_embedding():
    body = fn.serial(fn.dense(3, 3), fn.dropout(0.5))
    network = fn.tied_embedding(5, 3, body)
    with jax.enable_x64(True):
        params, state = network.init(KEY)
        ids = np.array([[1, 4], [0, 1]])
        table, weight = np.asarray(params["table"]), np.asarray(params["body"][0]["weight"])
        y, _ = network.apply(params, state, ids)
        np.testing.assert_allclose(y, table[ids] @ weight @ table.T, rtol=1e-12)
        y, _ = network.apply(params, state, np.array([1, 5, -1]))
        assert jnp.isnan(y).any(axis=-1).tolist() == [False, True, True]
    wrong = fn.tied_embedding(5, 3, fn.dense(3, 4))
    params, state = wrong.init(KEY)
    with pytest.raises(ValueError, match="its body to give 3 features, got an output of shape"):
        wrong.apply(params, state, ids)


def model(cache=None):
    return fn.gpt(7, 12, features=8, depth=2, heads=2, cache=cache)


def test_generating_with_a_cache_gives_what_the_full_pass_would():
    params, state = model().init(KEY)
    params = jax.tree.map(lambda p: 4.0 * p, params)
    prompt = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    cached = model(cache=(2, 12))
    _, fresh = cached.init(KEY)
    for temperature in (0.0, 1.0):
        ids = jax.jit(functools.partial(fn.generate, cached, steps=8))(
            params, fresh, prompt, key=KEY, temperature=temperature
        )
        assert ids.shape == (2, 8)
        seen = prompt
        full = jax.jit(model().apply)
        for step in range(8):
            logits = full(params, state, np.pad(seen, ((0, 0), (0, 12 - seen.shape[1]))))[0]
            logits = logits[:, seen.shape[1] - 1]
            noise = jax.random.gumbel(jax.random.fold_in(KEY, step), logits.shape)
            new = np.argmax(logits + temperature * noise, axis=-1)
            np.testing.assert_array_equal(ids[:, step], new)
            seen = np.concatenate([seen, new[:, None]], axis=1)
    assert len(np.unique(ids)) > 2


def same_logits(params, state, x, *, key=None, train=False):
    """The parameters, whatever has been said."""
    return jnp.broadcast_to(params, (*x.shape, *params.shape)), state


def test_generate_draws_from_the_softmax_of_the_logits_over_the_temperature():
    logits = np.float32([0.0, 1.0, 2.0])
    network = fn.Network(fn.identity.init, jax.tree_util.Partial(same_logits))
    prompt, state = np.zeros((50, 1), np.uint8), jnp.zeros(1)
    for temperature in (0.5, 2.0):
        ids = fn.generate(
            network, logits, state, prompt, steps=200, key=KEY, temperature=temperature
        )
        assert ids.dtype == jnp.int32
        wanted = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        np.testing.assert_allclose(np.bincount(np.ravel(ids)) / 1e4, wanted, atol=0.02)


LOGITS = np.float32([1.0, 3.0, 2.0, 3.0, -np.inf, 2.0, 0.0])
"""Ids 1 and 3 are alike, and 2 and 5, which stand on the edge of a set."""
WARMTHS, MASSES = (0.0, 1e-3, 0.5, 2.0), (0.0, 0.1, 0.45, 0.8, 0.97, 1.0)


def drawn_from(temperature, top_k, top_p):
    """The probability of each id, by sets that grow from the likeliest id on."""
    ids = sorted(range(len(LOGITS)), key=lambda i: (-LOGITS[i], i))[:top_k]
    below = (LOGITS - LOGITS.max()).astype(float)
    weights = np.exp(below[ids] / temperature) if temperature else np.eye(len(ids))[0]
    p = np.zeros(len(LOGITS))
    p[ids] = weights / weights.sum()
    size = next((n for n in range(1, len(ids)) if p[ids[:n]].sum() >= top_p), len(ids))
    p[ids[size:]] = 0.0
    return p / p.sum()


@pytest.mark.parametrize("top_k", [None, 1, 3, 9])
def test_generate_draws_from_the_likeliest_ids_alone(top_k):
    """Where they are few by number, by probability at the temperature, or both."""
    network = fn.Network(fn.identity.init, jax.tree_util.Partial(same_logits))

    @jax.jit
    @jax.vmap
    def draw(temperature, top_p):
        numbers = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        prompt = [[0]] * 100
        return fn.generate(network, LOGITS, jnp.zeros(1), prompt, steps=50, key=KEY, **numbers)

    grid = [(warmth, mass) for warmth in WARMTHS for mass in MASSES]
    found = draw(*np.float32(grid).T)
    for (warmth, mass), ids in zip(grid, found, strict=True):
        share = np.bincount(np.ravel(ids), minlength=len(LOGITS)) / ids.size
        wanted = drawn_from(warmth, top_k, mass)
        np.testing.assert_allclose(share, wanted, atol=0.03)
        np.testing.assert_array_equal(share > 0.0, wanted > 0.0)


EDGES = [  # logits, top_p, how many are left: of a sum that is p exactly, and of one that rounds
    ([0.0, 0.0, 0.0, 0.0], 0.5, 2),
    ([0.0, 0.0, 0.0, 0.0], 0.51, 3),
    ([0.0, -20.0], 1.0, 2),
    ([0.0, -20.0], 0.999, 1),
]


@pytest.mark.parametrize(("logits", "top_p", "count"), EDGES)
def test_the_likeliest_at_the_edge_of_a_set(logits, top_p, count):
    ranked, order = likeliest(jnp.float32(logits), jnp.float32(1.0), None, top_p)
    np.testing.assert_array_equal(order, np.arange(len(logits)))
    np.testing.assert_array_equal(ranked, np.where(order < count, logits, -np.inf))


def test_generate_draws_the_same_ids_where_none_is_left_out():
    network = fn.Network(fn.identity.init, jax.tree_util.Partial(same_logits))
    plain, some = (
        fn.generate(network, LOGITS, jnp.zeros(1), [[0]] * 9, steps=9, key=KEY, **numbers)
        for numbers in ({}, {"top_p": np.float32(1.0)})
    )
    np.testing.assert_array_equal(plain, some)


REFUSED = [
    ({"prompt": [0]}, "prompt of integers"),
    ({"prompt": [[0.5]]}, "prompt of integers"),
    ({"state": ()}, "a network with a cache, got an empty state"),
    ({"steps": -1}, "steps must be at least 0, got -1"),
    ({"temperature": np.ones(7)}, r"temperature must be a single number, got shape \(7,\)"),
    ({"top_p": np.ones(1)}, r"top_p must be a single number, got shape \(1,\)"),
    ({"top_p": 1.5}, r"top_p must lie in \[0, 1\], got 1.5"),
    ({"top_k": 0}, "top_k must be at least 1, got 0"),
]


@pytest.mark.parametrize(("change", "told"), REFUSED, ids=[told[:18] for _, told in REFUSED])
def test_generate_says_what_it_refuses(change, told):
    network = fn.Network(fn.identity.init, jax.tree_util.Partial(same_logits))
    arguments = {"params": LOGITS, "state": jnp.zeros(1), "prompt": [[0]], "steps": 1, "key": KEY}
    with pytest.raises(ValueError, match=told):
        fn.generate(network, **arguments | change)


def test_generate_draws_as_finely_in_16_bits_and_marks_what_it_cannot_know():
    """Noise in bfloat16 would tie often, and the first of equals win."""

    def apply(params, state, x, *, key=None, train=False):
        even = jnp.zeros((*x.shape, 500), jnp.bfloat16)
        return jnp.where(state[0] < 3, even, jnp.nan), state + 1

    network = fn.Network(fn.identity.init, jax.tree_util.Partial(apply))
    prompt = np.zeros((2000, 1), np.int32)
    ids = fn.generate(network, (), jnp.zeros(1, int), prompt, steps=5, key=KEY)
    np.testing.assert_array_equal(ids[:, 3:], -1)
    np.testing.assert_allclose((ids[:, :3] < 250).mean(), 0.5, atol=0.03)
