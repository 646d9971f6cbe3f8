"""Attention, positions and transformer blocks against PyTorch and naive NumPy, masked, cached,
swept, differentiated and at the edges."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from protocol import by_vjp, compiled, each_pulled, pulled, random_like, relative

import funcnet as fn
from funcnet import chain_rule
from funcnet.layers import attention as layer
from funcnet.layers.sequence import split

KEY = jax.random.key(2)
GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "attention.npz"))
X = np.sin(np.arange(96.0) ** 1.3).reshape(2, 6, 8)
THERE = np.array([[True, True, False, True, False, False], [False, True, True, True, True, True]])


def drawn(network, seed=0, dtype=jnp.float64):
    """Parameters of standard normal numbers, and a state without numbers."""
    params, state = jax.eval_shape(network.init, KEY)
    assert jax.tree.leaves(state) == []
    return random_like(params, seed, dtype), state


@jax.jit
def forward(network, params, state, x):
    """Compiled: op by op takes several times as long."""
    return network.apply(params, state, x)[0]


def from_torch(numbers):
    """MultiheadAttention's parameters, or their gradients, in the form of `attention`'s."""
    weights, biases = (np.split(numbers[f"in_proj_{kind}"], 3) for kind in ("weight", "bias"))
    params = {
        name: {"weight": weight.T, "bias": bias}
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True)
    }
    return {**params, "out": linear(numbers, "out_proj")}


def linear(numbers, name):
    return {"weight": numbers[f"{name}.weight"].T, "bias": numbers[f"{name}.bias"]}


def block_from_torch(numbers):
    inner = {k.removeprefix("self_attn."): v for k, v in numbers.items()}
    norms = [
        {"scale": numbers[f"norm{i}.weight"], "bias": numbers[f"norm{i}.bias"]} for i in (1, 2)
    ]
    forward = (linear(numbers, "linear1"), (), linear(numbers, "linear2"))
    return ((norms[0], from_torch(inner)), (norms[1], forward))


TORCH = {
    "causal": (fn.attention(6, 3, causal=True), from_torch),
    "padding": (fn.attention(6, 3), from_torch),
    "block": (
        fn.transformer_block(6, 3, causal=True, feed_forward=fn.mlp((6, 8, 6), fn.gelu)),
        block_from_torch,
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_outputs_and_gradients_are_pytorchs(name):
    network, convert = TORCH[name]
    found = {
        key.removeprefix(f"{name}/"): value
        for key, value in GOLDEN.items()
        if key.startswith(f"{name}/")
    }
    params, grads = (
        convert({k.removeprefix(kind): v for k, v in found.items() if k.startswith(kind)})
        for kind in ("params/", "grads/")
    )
    mask, dy = found["mask"], found["dy"]
    _, state = jax.eval_shape(network.init, KEY)

    def values(inputs):
        params, x = inputs
        x = x if mask.all() else fn.Masked(x, mask)
        return split(network.apply(params, state, x)[0])[0]

    with jax.enable_x64(True):
        y, (dparams, dx) = pulled(by_vjp(values), (params, found["x"]), dy)
    np.testing.assert_allclose(y[mask], found["y"][mask], rtol=0, atol=1e-10)
    np.testing.assert_allclose(dx, found["dx"], rtol=0, atol=1e-10)
    assert jax.tree.structure(dparams) == jax.tree.structure(grads)
    for got, wanted in zip(jax.tree.leaves(dparams), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)


def turned(vector, step, base):
    """Rotary positions in complex numbers: feature i with feature i + d / 2."""
    half = len(vector) // 2
    z = vector[:half] + 1j * vector[half:]
    z = z * np.exp(1j * step * base ** (-2.0 * np.arange(half) / len(vector)))
    return np.concatenate([z.real, z.imag])


def naive(params, x, heads, kv_heads, sees, base=None):
    """Attention one example, head and query at a time; sees: [n, heads, T, T]."""
    n, steps, features = x.shape
    size = features // heads
    q, k, v = (x @ params[m]["weight"] + params[m]["bias"] for m in ("query", "key", "value"))
    joined = np.zeros(x.shape)
    for example in range(n):
        for head in range(heads):
            mine = slice(head * size, (head + 1) * size)
            shared = head // (heads // kv_heads)
            served = slice(shared * size, (shared + 1) * size)
            for t in range(steps):
                looked_at = np.flatnonzero(sees[example, head, t])
                if len(looked_at) == 0:
                    continue
                one, others = q[example, t, mine], k[example, :, served]
                if base is not None:
                    one = turned(one, t, base)
                    others = np.array([turned(other, s, base) for s, other in enumerate(others)])
                weights = np.exp(others[looked_at] @ one / np.sqrt(size))
                weights /= weights.sum()
                joined[example, t, mine] = weights @ v[example, looked_at, served]
    return joined @ params["out"]["weight"] + params["out"]["bias"]


BETWEEN = THERE[:, :, None] & THERE[:, None, :]
SOME = np.random.default_rng(3).random((2, 2, 6, 6)) < 0.4
NAIVE = {
    "plain": ({}, None),
    "rotary": ({"rotary_base": 50.0}, None),
    "grouped": ({"kv_heads": 1, "causal": True, "rotary_base": 10.0}, None),
    "steps": ({"causal": True}, THERE),
    "pairs": ({"kv_heads": 1}, SOME[:, 0]),
    "heads": ({"causal": True}, SOME),
}


@pytest.mark.parametrize("name", NAIVE)
def test_attention_is_the_naive_one(name):
    options, mask = NAIVE[name]
    sees = {None: np.ones((2, 1, 6, 6), bool), 2: BETWEEN[:, None], 3: SOME[:, :1], 4: SOME}
    sees = np.broadcast_to(sees[None if mask is None else mask.ndim], (2, 2, 6, 6))
    sees = np.tril(sees) if options.get("causal") else sees
    network = fn.attention(8, 2, **options)
    with jax.enable_x64(True):
        params, _ = drawn(network)
        y = forward(network, params, (), X if mask is None else fn.Masked(X, mask))
    if mask is not None:
        np.testing.assert_array_equal(y.mask, mask)
    kv_heads, base = options.get("kv_heads", 2), options.get("rotary_base")
    wanted = naive(jax.tree.map(np.asarray, params), X, 2, kv_heads, sees, base)
    np.testing.assert_allclose(split(y)[0], wanted, rtol=1e-12, atol=1e-12)


def test_four_neighbouring_heads_share_two_keys_in_rows():
    network = fn.attention(8, 4, kv_heads=2)
    x = X[:, :3]
    with jax.enable_x64(True):
        params, _ = drawn(network)
        assert params["key"]["weight"].shape == (8, 4)
        wanted = naive(jax.tree.map(np.asarray, params), x, 4, 2, np.ones((2, 4, 3, 3), bool))
        np.testing.assert_allclose(forward(network, params, (), x), wanted, rtol=1e-12)


def test_positions():
    t, i = np.arange(6.0)[:, None], np.arange(4)
    waves = np.zeros((6, 8))
    waves[:, 0::2] = np.sin(t / 100.0 ** (2 * i / 8))
    waves[:, 1::2] = np.cos(t / 100.0 ** (2 * i / 8))
    learned = fn.learned_positions(9, 8)
    with jax.enable_x64(True):
        y, _ = fn.sinusoidal(8, base=100.0).apply((), (), fn.Masked(jnp.asarray(X), THERE))
        np.testing.assert_allclose(y.x, X + waves, rtol=1e-13, atol=1e-14)
        np.testing.assert_array_equal(y.mask, THERE)
        params, _ = drawn(learned)
        y, _ = learned.apply(params, (), fn.Masked(jnp.asarray(X[:, :3]), THERE[:, :3]))
        np.testing.assert_allclose(y.x, X[:, :3] + np.asarray(params["table"])[:3], rtol=1e-14)
    np.testing.assert_allclose(learned.init(KEY)[0]["table"].std(), 0.02, rtol=0.4)


def test_swiglu_is_gated():
    network = fn.swiglu(8, 5)
    with jax.enable_x64(True):
        params, state = drawn(network)
        w1, w3, w2 = (np.asarray(leaf) for leaf in jax.tree.leaves(params))
        y = forward(network, params, state, X)
        gate = X @ w1
        np.testing.assert_allclose(y, (gate / (1 + np.exp(-gate)) * (X @ w3)) @ w2, rtol=1e-12)


def both_engines(network, params, state, mask):
    """(inputs, dy) -> [(the values of a masked sequence, the cotangents)] by JAX and by hand."""

    def plain(inputs):
        return network.apply(inputs[0], state, fn.Masked(inputs[1], mask))[0].x

    def hand(inputs):
        x = fn.Masked(inputs[1], mask)
        y, pullback, _ = chain_rule.vjp(network.apply, inputs[0], state, x)
        nothing = np.zeros(mask.shape, jax.dtypes.float0)

        def back(dy):
            dparams, dx = pullback(fn.Masked(dy, nothing))
            return dparams, dx.x

        return y.x, back

    return compiled(by_vjp(plain), hand)


@pytest.mark.parametrize(("kind", "causal"), [("steps", False), ("pairs", True)])
def test_what_is_masked_is_not_there(kind, causal):
    """NaN where there is nothing: the rest and every gradient are as with 0 there."""
    there = THERE.copy()
    there[1] = False  # an example with nothing in it
    mask = there if kind == "steps" else there[:, :, None] & there[:, None, :]
    network = fn.attention(8, 2, causal=causal, rotary_base=10.0)
    params, state = drawn(network, dtype=jnp.float32)
    dy = np.where(there[..., None], np.cos(X), 0.0).astype(np.float32)
    clean, dirty = (
        np.where(there[..., None], X, fill).astype(np.float32) for fill in (0.0, np.nan)
    )
    engines = both_engines(network, params, state, mask)
    wanted, found = engines((params, clean), dy), engines((params, dirty), dy)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()
    for y, (_, dx) in found:
        np.testing.assert_array_equal(dx[~there], 0.0)
        np.testing.assert_allclose(y[~there], np.tile(params["out"]["bias"], (9, 1)), rtol=1e-6)
    assert relative(*found) <= 1e-5


def test_garbage_does_not_pass_through_a_block():
    network = fn.transformer_block(8, 2, rotary_base=10.0, feed_forward=fn.swiglu(8, 5))
    params, state = drawn(network, dtype=jnp.float32)
    engines = both_engines(network, params, state, THERE)
    dy = np.where(THERE[..., None], np.cos(X), 0.0).astype(np.float32)
    results = []
    for fill in (0.0, 1e3):
        x = np.where(THERE[..., None], X, fill).astype(np.float32)
        found = engines((params, x), dy)
        results.append([(y[THERE], dparams, dx[THERE]) for y, (dparams, dx) in found])
    assert relative(*results) <= 1e-6


def test_a_block_by_hand():
    network = fn.transformer_block(
        8,
        2,
        kv_heads=1,
        causal=True,
        rotary_base=10.0,
        norm=fn.rms_norm(8),
        feed_forward=fn.swiglu(8, 5),
        dropout=0.3,
    )
    context = {"key": KEY, "train": True}

    def plain(inputs):
        return network.apply(inputs[0], state, inputs[1], **context)[0]

    def hand(inputs):
        return chain_rule.vjp(network.apply, inputs[0], state, inputs[1], **context)[:2]

    with jax.enable_x64(True):
        params, state = drawn(network)
        auto, by_hand = each_pulled((by_vjp(plain), hand), (params, X), np.cos(X))
        assert relative(by_hand, auto) <= 1e-11


def identity_attention(features, scale, **options):
    """Query, key and value are the input itself, the query scaled."""
    network = fn.attention(features, 1, bias_init=None, **options)
    eye = jnp.eye(features)
    weights = {"query": scale * eye, "key": eye, "value": eye, "out": eye}
    return network, {name: {"weight": weight} for name, weight in weights.items()}


def test_huge_logits_are_exact_and_finite():
    for sign in (1.0, -1.0):
        network, params = identity_attention(4, sign * 2e4)  # logits of +-1e4 or 0
        x = jnp.eye(4)[None]
        y = forward(network, params, (), x)
        wanted = x if sign > 0 else (1.0 - x) / 3
        np.testing.assert_allclose(y, wanted, rtol=1e-6, atol=1e-7)
        slopes = jax.jit(jax.grad(lambda p, x, n=network: n.apply(p, (), x)[0][0, 0, 1], (0, 1)))
        grads = slopes(params, x)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_one_step_gives_its_own_value():
    network, params = identity_attention(4, 3.0, causal=True, rotary_base=5.0)
    x = jnp.asarray(X[:, :1, :4], jnp.float32)

    def hand(inputs):
        return chain_rule.vjp(network.apply, inputs[0], (), inputs[1])[:2]

    y, (dparams, dx) = pulled(hand, (params, x), jnp.cos(x))
    np.testing.assert_allclose(y, x, rtol=1e-6)
    np.testing.assert_allclose(forward(network, params, (), x), x, rtol=1e-6)
    np.testing.assert_allclose(dx, jnp.cos(x), rtol=1e-6)
    np.testing.assert_array_equal(dparams["query"]["weight"], 0.0)


def test_dtypes_are_kept():
    network = fn.serial(
        fn.sinusoidal(8), fn.learned_positions(6, 8), fn.transformer_block(8, 2, rotary_base=9.0)
    )
    with jax.enable_x64(True):
        params, state = drawn(network)
        wanted = forward(network, params, state, X)
    for dtype, bound in ((jnp.bfloat16, 3e-2), (jnp.float32, 1e-5)):
        narrow, x = jax.tree.map(lambda a, d=dtype: a.astype(d), (params, jnp.asarray(X)))
        y = forward(network, narrow, state, x)
        assert y.dtype == dtype
        assert relative(y, wanted) <= bound
    half = jnp.asarray(X, jnp.bfloat16)
    assert forward(fn.attention(8, 2), narrow[2][0][1], (), half).dtype == jnp.bfloat16


@jax.jit
def use(network):
    params, state = drawn(network, dtype=float)
    return jnp.sum(jnp.sin(network.apply(params, state, X)[0]))


SWEPT = {
    "attention": lambda base: fn.attention(8, 2, rotary_base=base),
    "sinusoidal": lambda base: fn.sinusoidal(8, base=base),
}


@pytest.mark.parametrize("make", SWEPT.values(), ids=SWEPT)
def test_the_base_is_a_leaf(make):
    assert jax.tree.leaves(make(20)) == [20.0]
    assert jax.tree.leaves(make(20.0).init) == []
    assert jax.tree.structure(make(20.0)) == jax.tree.structure(make(30.0))
    with jax.enable_x64(True):
        swept = jax.vmap(use)(jax.vmap(make)(jnp.array([5.0, 20.0])))
        np.testing.assert_allclose(swept, [use(make(5.0)), use(make(20.0))], rtol=1e-12)
        slope = jax.grad(lambda base: use(make(base)))(20.0)
        difference = (use(make(20.0 + 1e-4)) - use(make(20.0 - 1e-4))) / 2e-4
        np.testing.assert_allclose(slope, difference, rtol=1e-6)
        assert abs(slope) > 1e-5


def test_an_ensemble_and_second_derivatives():
    network = fn.attention(8, 2, kv_heads=1, causal=True, rotary_base=10.0)
    with jax.enable_x64(True):
        ones, others = drawn(network, 1)[0], drawn(network, 2)[0]
        members = jax.tree.map(lambda *a: jnp.stack(a), ones, others)
        together = jax.vmap(forward, in_axes=(None, 0, None, None))(network, members, (), X)
        np.testing.assert_allclose(together[1], forward(network, others, (), X), rtol=1e-12)

        def loss(params, x):
            return jnp.sum(jnp.sin(network.apply(params, (), x)[0]))

        slopes, at = jax.jit(jax.grad(loss, (0, 1))), (ones, jnp.asarray(X))
        direction = random_like(at, 5, float)
        _, bent = jax.jit(lambda at: jax.jvp(slopes, at, direction))(at)

        def moved(step):
            return slopes(*jax.tree.map(lambda a, d: a + step * d, at, direction))

        differences = jax.tree.map(lambda a, b: (a - b) / 2e-5, moved(1e-5), moved(-1e-5))
        assert relative(bent, differences) <= 1e-6


def test_another_product_can_be_passed():
    product = fn.fix(jax.nn.dot_product_attention, implementation="xla")
    options = {"kv_heads": 1, "causal": True}
    own, other = fn.attention(8, 2, **options), fn.attention(8, 2, product=product, **options)
    params, _ = drawn(own, dtype=jnp.float32)
    x = fn.Masked(jnp.asarray(X, jnp.float32), THERE)
    got, wanted = (forward(network, params, (), x).x for network in (other, own))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def generator(cache=None):
    """A small language model, from ids to logits, with positions of every kind."""
    block = fn.transformer_block(8, 2, kv_heads=1, causal=True, rotary_base=10.0, cache=cache)
    return fn.serial(
        fn.embedding(5, 8),
        fn.sinusoidal(8, cache=cache),
        fn.learned_positions(7, 8, cache=cache),
        fn.repeat(block, 2),
        fn.dense(8, 5),
    )


def test_the_fused_kernel_is_taken_where_it_can_be(monkeypatch):
    """A stand-in for the kernel, which only a GPU has, says where it would run."""

    def kernel(query, key, value, *, is_causal, implementation):
        assert (is_causal, implementation) == (True, "cudnn")
        return jnp.cbrt(query)

    def uses(network, x, platform):
        anew = jax.jit(lambda *arguments: network.apply(*arguments))
        traced = anew.trace(*jax.eval_shape(network.init, KEY), x)
        return "cbrt" in traced.lower(lowering_platforms=(platform,)).as_text()

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    half = fn.compute_dtype(fn.attention(16, 2, causal=True), jnp.bfloat16)
    x = jnp.ones((1, 4, 16))
    assert not uses(half, x, "cuda")
    monkeypatch.setattr(layer, "on_cuda", lambda: True)
    assert uses(half, x, "cuda")
    assert not uses(half, x, "cpu")
    assert not uses(half, fn.Masked(x, jnp.ones((1, 4), bool)), "cuda")
    assert not uses(fn.attention(16, 2, causal=True), x, "cuda")
    for features, product in ((8, layer.dot_product), (16, fn.plain_dot_product)):
        other = fn.attention(features, 2, causal=True, product=product)
        other = fn.compute_dtype(other, jnp.bfloat16)
        assert not uses(other, x[..., :features], "cuda")


def test_a_cache_gives_the_full_pass():
    """A prompt in one piece, then a step at a time in a scan, and NaN where there is no room."""
    ids = np.arange(16).reshape(2, 8) ** 2 % 5
    full, cached = generator(), generator(cache=(2, 6))

    def generate(params):
        prompt, state = cached.apply(params, cached.init(KEY)[1], ids[:, :3])

        def step(state, one):
            y, state = cached.apply(params, state, one[:, None])
            return state, y[:, 0]

        _, rest = jax.lax.scan(step, state, jnp.asarray(ids[:, 3:].T))
        return jnp.concatenate([prompt, jnp.swapaxes(rest, 0, 1)], axis=1)

    with jax.enable_x64(True):
        params, nothing = drawn(full)
        assert jax.tree.structure(jax.eval_shape(cached.init, KEY)[0]) == jax.tree.structure(params)
        wanted = forward(full, params, nothing, ids[:, :6])
        got = jax.jit(generate)(params)
        np.testing.assert_allclose(got[:, :6], wanted, rtol=1e-12, atol=1e-12)
        assert jnp.isnan(got[:, 6:]).all()


def test_each_cached_layer_stops_where_its_room_ends_and_keeps_its_dtypes():
    x = jnp.asarray(X, jnp.bfloat16)
    for network in (
        fn.attention(8, 2, causal=True, cache=(2, 3)),
        fn.sinusoidal(8, cache=(2, 3)),
        fn.learned_positions(5, 8, cache=(2, 3)),
    ):
        params, state = jax.jit(network.init)(KEY)
        y, after = jax.jit(network.apply)(params, state, x)
        np.testing.assert_array_equal(np.isnan(y), [[[False] * 8] * 3 + [[True] * 8] * 3] * 2)
        assert y.dtype == x.dtype
        assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)
        assert after["position"] == 6
        with pytest.raises(NotImplementedError, match="no rule for cached_"):
            chain_rule.vjp(network.apply, params, state, x)


def applied(network, x):
    return network.apply(*network.init(KEY), x)


ONES = jnp.ones((2, 4, 6))
CACHED = {"causal": True, "cache": (2, 8)}
WRONG = [
    (lambda: fn.attention(6, 4), "heads to divide 6 features, got 4"),
    (lambda: fn.attention(6, 3, kv_heads=2), "kv_heads to divide 3 heads, got 2"),
    (lambda: fn.attention(6, 2, rotary_base=10.0), "heads of an even size, got 3"),
    (lambda: fn.attention(6, 3, rotary_base=0.0), r"rotary_base must lie in \[1, inf\], got 0"),
    (lambda: fn.attention(6, 3, cache=(2, 8)), "must be causal"),
    (lambda: fn.attention(6, 3, causal=True, cache=8), r"cache of \(batch, length\), got 8"),
    (
        lambda: applied(fn.attention(6, 3), ONES[..., :5]),
        r"attention expects \[n, T, 6\], got x of shape \(2, 4, 5\)",
    ),
    (
        lambda: applied(fn.attention(6, 3), fn.Masked(ONES, np.ones((2, 3), bool))),
        r"\(2, 3, 4, 4\)\), got bool of shape \(2, 3\)",
    ),
    (
        lambda: applied(fn.attention(6, 3), fn.Masked(ONES, np.ones((2, 4)))),
        "got float64 of shape",
    ),
    (
        lambda: applied(fn.attention(6, 3, **CACHED), ONES[:1]),
        r"a batch of 2, got x of shape \(1, 4, 6\)",
    ),
    (
        lambda: applied(fn.attention(6, 3, **CACHED), fn.Masked(ONES, np.ones((2, 4), bool))),
        "with a cache takes no mask",
    ),
    (lambda: fn.sinusoidal(5), "even number of features, got 5"),
    (
        lambda: applied(fn.sinusoidal(6), ONES[0]),
        r"sinusoidal expects \[n, T, 6\], got x of shape \(4, 6\)",
    ),
    (
        lambda: applied(fn.learned_positions(3, 6), ONES),
        r"has 3 positions, got x of shape \(2, 4, 6\)",
    ),
    (
        lambda: fn.learned_positions(3, 6, cache=(2, 4)),
        "has 3 positions, got a cache for 4",
    ),
    (
        lambda: applied(fn.learned_positions(3, 5), ONES),
        r"learned_positions expects \[n, T, 5\]",
    ),
    (lambda: fn.multiply.apply((), (), (ONES, ONES[:1])), "multiply expects parts of one shape"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[w[1][:30] for w in WRONG])
def test_wrong_shapes_say_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()
