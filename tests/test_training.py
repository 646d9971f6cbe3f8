"""Runs: three forms of descent against NumPy, resuming, sweeping, differentiating, evaluating."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import funcnet as fn
from funcnet.training import run_keys

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype(np.float32)
Y = (X @ RNG.normal(size=(3, 2)) + 0.1).astype(np.float32)
LABELS = np.arange(20, dtype=np.int32) % 3
KEY = jax.random.key(4)
LINEAR = fn.supervised(fn.dense(3, 2), fn.mean_squared_error)


def build(learning_rate=1e-2, rate=0.2):
    network = fn.serial(fn.dense(3, 8), fn.tanh, fn.dropout(rate), fn.dense(8, 3))
    smooth = Partial(fn.cross_entropy, label_smoothing=0.1)
    task = fn.supervised(network, smooth, metrics={"accuracy": fn.accuracy})
    schedule = fn.warmup_cosine(learning_rate, 3.5, 60.5, end=1e-4)
    return fn.trainer(task, fn.chain(fn.clip_by_global_norm(0.5), fn.adam(schedule)))


run = jax.jit(fn.run, static_argnames=("steps", "batch_size"))
resume = jax.jit(fn.resume, static_argnames=("steps", "batch_size"))
FULL = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
"""As users compile, where bits are compared."""


def rows_of(key, steps, size):
    """The rows of each batch of a run of 20 examples; of the whole data, their order is free."""
    rows = jax.vmap(lambda step: fn.batch_indices(run_keys(key)[0], step, 20, size))
    return np.asarray(jax.jit(rows)(jnp.arange(steps)))


@pytest.mark.parametrize("size", [None, 1, 7], ids=["batch", "stochastic", "mini-batch"])
def test_descent_in_its_three_forms_is_numpys(size):
    """w <- w - eta (2 / (n k)) X' (X w + b - Y) over the rows that `batch_indices` names."""
    with jax.enable_x64(True):
        x, y, steps = X.astype(np.float64), Y.astype(np.float64), 25
        trainer = fn.trainer(LINEAR, fn.sgd(0.1))
        start = trainer.init(KEY)
        w, b = (np.array(start.params[name]) for name in ("weight", "bias"))
        result = resume(trainer, (x, y), start, steps=steps, batch_size=size)
        losses, norms = [], []
        for rows in rows_of(start.key, steps, size or 20):
            error = x[rows] @ w + b - y[rows]
            losses.append((error**2).mean())
            dw, db = 2 * x[rows].T @ error / error.size, 2 * error.sum(axis=0) / error.size
            norms.append(np.sqrt((dw**2).sum() + (db**2).sum()))
            w, b = w - 0.1 * dw, b - 0.1 * db
        np.testing.assert_allclose(result.loss, losses, rtol=1e-12)
        np.testing.assert_allclose(result.metrics["gradient_norm"], norms, rtol=1e-12)
        np.testing.assert_allclose(result.state.params["weight"], w, rtol=1e-12)
        np.testing.assert_allclose(result.state.params["bias"], b, rtol=1e-12)


def test_history_is_what_the_run_did():
    result = run(build(), (X, LABELS), KEY, steps=30, batch_size=8)
    assert {k: v.shape for k, v in result.metrics.items()} == dict.fromkeys(
        ["accuracy", "count", "gradient_norm", "learning_rate", "weight"], (30,)
    )
    rates = [fn.warmup_cosine(1e-2, 3.5, 60.5, end=1e-4)(step) for step in range(30)]
    np.testing.assert_allclose(result.metrics["learning_rate"], rates, rtol=1e-6)
    np.testing.assert_array_equal(result.metrics["count"], 8.0)
    assert result.state.step == 30
    assert result.loss[-1] < result.loss[0]


def test_resuming_is_bit_equal_at_any_step_also_through_the_host():
    run, resume = (
        jax.jit(function, static_argnames=("steps", "batch_size"), compiler_options=FULL)
        for function in (fn.run, fn.resume)
    )
    whole = run(build(), (X, LABELS), KEY, steps=21, batch_size=8)
    parts = [run(build(), (X, LABELS), KEY, steps=7, batch_size=8)]
    for _ in range(2):
        state = parts[-1].state
        host = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
        state = jax.tree.map(jnp.asarray, host)
        state = state._replace(key=jax.random.wrap_key_data(state.key))
        parts.append(resume(build(), (X, LABELS), state, steps=7, batch_size=8))
    joined = jax.tree.map(lambda *each: np.concatenate(each), *(part[1:] for part in parts))
    both = ((parts[-1].state, joined), (whole.state, whole[1:]))
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
        assert (a == b).all()


def test_step_by_step_in_python_is_the_scan():
    five = jax.jit(
        lambda state: fn.resume(build(), (X, LABELS), state, steps=5, batch_size=8),
        compiler_options=FULL,
    )
    state = build().init(KEY)
    whole = five(state)
    step = jax.jit(build().step, compiler_options=FULL)
    for index, rows in enumerate(rows_of(state.key, 5, 8)):
        state, metrics = step(state, (X[rows], LABELS[rows]))
        assert metrics["loss"] == whole.loss[index]
    for a, b in zip(*map(jax.tree.leaves, (state.params, whole.state.params)), strict=True):
        assert (a == b).all()


def test_sixty_four_rates_and_dropouts_are_one_compilation():
    traces = []

    def traced(*args):
        traces.append(args)
        return fn.run(*args, steps=20, batch_size=8).loss

    rates, drops = jnp.logspace(-3, -1, 64), jnp.linspace(0.0, 0.6, 64)
    many = jax.vmap(build)(rates, drops)
    sweep = jax.jit(jax.vmap(traced, in_axes=(0, None, None)))
    losses = sweep(many, (X, LABELS), KEY)
    sweep(jax.vmap(build)(rates * 2, drops / 2), (X, LABELS), KEY)
    assert len(traces) == 1
    assert losses.shape == (64, 20)
    solo = jax.jit(traced)
    for member in (0, 17, 63):
        alone = solo(build(float(rates[member]), float(drops[member])), (X, LABELS), KEY)
        np.testing.assert_allclose(losses[member], alone, rtol=1e-5)
    assert len(traces) == 2


def test_members_with_keys_of_their_own():
    keys = jax.random.split(KEY, 3)
    losses = jax.jit(
        jax.vmap(lambda key: fn.run(build(), (X, LABELS), key, steps=10, batch_size=6).loss)
    )(keys)
    for key, loss in zip(keys, losses, strict=True):
        alone = run(build(), (X, LABELS), key, steps=10, batch_size=6).loss
        np.testing.assert_allclose(loss, alone, rtol=1e-5)
    assert (losses[0] != losses[1]).all()


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_the_gradient_for_every_number_is_that_of_differences(optimizer):
    """Also where a coordinate's gradient is always 0: one input feature is constant 0."""
    with jax.enable_x64(True):
        data = (jnp.asarray(X, float) * jnp.array([1.0, 0.0, 1.0]), jnp.asarray(LABELS))
        make = {
            "adam": lambda r: fn.adam(r, eps=1e-6),
            "momentum": lambda r: fn.momentum(r, dampening=0.1),
        }[optimizer]
        schedule = fn.warmup_cosine(5e-2, 3.5, 30.5, start=1e-3, end=1e-3)
        optimizer = fn.chain(fn.clip_by_global_norm(0.5), make(schedule))
        network = fn.serial(fn.dense(3, 8), fn.tanh, fn.dropout(0.2), fn.dense(8, 3))
        trainer = fn.trainer(
            fn.supervised(network, Partial(fn.cross_entropy, label_smoothing=0.1)), optimizer
        )
        leaves, structure = jax.tree.flatten(jax.tree.map(jnp.float64, trainer))

        @jax.jit
        def final_loss(leaves):
            trainer = jax.tree.unflatten(structure, leaves)
            return fn.run(trainer, data, KEY, steps=20, batch_size=8).loss[-1]

        grads = jax.jit(jax.grad(final_loss))(leaves)
        for index, grad in enumerate(grads):
            step = 1e-6 * max(abs(float(leaves[index])), 1e-3)
            up, down = list(leaves), list(leaves)
            up[index], down[index] = up[index] + step, down[index] - step
            slope = (final_loss(up) - final_loss(down)) / (2 * step)
            np.testing.assert_allclose(grad, slope, rtol=1e-4, atol=1e-6)
            assert grad != 0.0


def test_evaluate_is_exact_over_a_last_partial_batch():
    trainer = build()
    state = trainer.init(KEY)
    loss = trainer.step.keywords["loss"]
    value, (_, metrics) = loss(state.params, state.state, (X, LABELS))
    evaluate = jax.jit(fn.evaluate, static_argnames="batch_size")
    for size in (1, 6, 7, 19, 20, 1000):
        got = evaluate(trainer, state, (X, LABELS), batch_size=size)
        np.testing.assert_allclose(got["loss"], value, rtol=1e-6)
        np.testing.assert_allclose(got["accuracy"], metrics["accuracy"], rtol=1e-6)
        assert got["count"] == got["weight"] == 20.0


def test_evaluate_weighs_examples_and_ignores_labels():
    loss = Partial(
        fn.fix(fn.cross_entropy, ignore_label=-1), weight=np.array([1.0, 2.0, 0.5], np.float32)
    )
    labels = np.where(np.arange(20) < 9, -1, LABELS)
    weight = np.linspace(0.0, 2.0, 20, dtype=np.float32)
    task = fn.supervised(fn.identity, loss, metrics={"accuracy": fn.accuracy})
    trainer = fn.trainer(task, fn.sgd(0.1))
    state = trainer.init(KEY)
    got = fn.evaluate(trainer, state, (X, labels, weight), batch_size=8)
    kept = labels >= 0
    log_p = X - np.log(np.exp(X).sum(axis=1, keepdims=True))
    own = np.array([1.0, 2.0, 0.5])[labels[kept]]
    value = -(weight[kept] * own * log_p[kept, labels[kept]]).sum() / (weight[kept] * own).sum()
    hits = X[kept].argmax(axis=1) == labels[kept]
    np.testing.assert_allclose(got["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(got["accuracy"], hits[weight[kept] > 0].mean(), rtol=1e-6)
    assert got["count"] == (weight[kept] > 0).sum()
    np.testing.assert_allclose(got["weight"], (weight[kept] * own).sum(), rtol=1e-6)


def test_a_task_of_ones_own():
    """Minimise |theta - mean of the batch|^2: the mean of the data."""

    def init(key):
        return jnp.zeros(2), ()

    def loss(params, state, batch, *, key=None, train=False):
        return jnp.sum((params - batch["points"].mean(axis=0)) ** 2), (state, {})

    trainer = fn.trainer(fn.Task(init, loss), fn.sgd(0.25))
    result = run(trainer, {"points": Y}, KEY, steps=60, batch_size=None)
    np.testing.assert_allclose(result.state.params, Y.mean(axis=0), rtol=1e-5)
    assert set(result.metrics) == {"gradient_norm", "learning_rate"}

    def reporting(metrics):
        def with_metrics(params, state, batch, *, key=None, train=False):
            value, (state, _) = loss(params, state, batch)
            return value, (state, metrics(batch))

        return fn.trainer(fn.Task(init, with_metrics), fn.adam())

    taken = reporting(lambda batch: {"loss": 1.0})
    with pytest.raises(ValueError, match=r"the trainer itself reports \['loss'\]"):
        fn.run(taken, {"points": Y}, KEY, steps=1, batch_size=None)
    vector = reporting(lambda batch: {"mean": batch["points"].mean(axis=0)})
    with pytest.raises(ValueError, match=r"metrics must be scalars, got shapes \{'mean': \(2,\)"):
        fn.evaluate(vector, vector.init(KEY), {"points": Y})
    scores = fn.evaluate(trainer, result.state, {"points": Y}, batch_size=20)
    np.testing.assert_allclose(scores["loss"], 0.0, atol=1e-9)


@pytest.mark.parametrize("optimizer", [fn.sgd(0.3), fn.adam(0.1)], ids=["sgd", "adam"])
def test_complex_parameters_go_downhill(optimizer):
    """|z - 3 - 2i|^2, whose gradient in JAX is conjugated."""

    def loss(params, state, batch, *, key=None, train=False):
        return jnp.abs(params - batch).mean() ** 2, (state, {})

    task = fn.Task(lambda key: (jnp.zeros(1, jnp.complex64), ()), loss)
    result = fn.run(
        fn.trainer(task, optimizer), jnp.array([[3.0 + 2.0j]]), KEY, steps=150, batch_size=None
    )
    np.testing.assert_allclose(result.state.params, [3.0 + 2.0j], atol=0.05)


BAD = [
    ((X, Y[:19]), 4, r"as many examples in each array, got shapes \{'\[0\]': \(20, 3\)"),
    ((X[:0], Y[:0]), 4, "at least one example"),
    ((), 4, "arrays with a leading axis"),
    ((X, np.float32(1.0)), 4, "arrays with a leading axis"),
    ((X, Y), 21, "batch_size must be at most the 20 examples, got 21"),
    ((X, Y), 0, "batch_size must be at least 1, got 0"),
    ((X, Y), 4.0, "batch_size must be an integer, got 4.0"),
    ((X, Y), jnp.array(4.5), "batch_size must be an integer, got Array"),
    ((X, Y), np.array([4, 4]), "batch_size must be an integer, got array"),
    (((X * 9).astype(np.uint8), Y), 4, "dense expects floating-point features.*uint8.*x / 255"),
    ((X, Y, X), 4, r"weights must have shape \(4,\), one an example, got \(4, 3\)"),
    ((X, Y[:, :1]), 4, r"target of the prediction's shape \(4, 2\), got \(4, 1\)"),
    (X, 4, r"a supervised batch is \(x, y\) or .* got one array of shape \(4, 3\)"),
    ({"x": X, "y": Y}, 4, "a supervised batch is .* got dict of length 2"),
    ((X[:, :2], Y), 4, r"dense expects 3 features in the last axis, got x of shape \(4, 2\)"),
]


@pytest.mark.parametrize(("data", "size", "message"), BAD, ids=[b[2][:30] for b in BAD])
def test_bad_data_says_so(data, size, message):
    with pytest.raises(ValueError, match=message):
        fn.run(fn.trainer(LINEAR, fn.sgd(0.1)), data, KEY, steps=2, batch_size=size)


SGD, GOOD = fn.sgd(0.1), fn.trainer(LINEAR, fn.sgd(0.1))
SIZES = {"steps": 2, "batch_size": 4}
# a slip of one who begins, with every function that takes a trainer
SLIPS = {
    "run": lambda it: fn.run(it, (X, Y), KEY, **SIZES),
    "resume": lambda it: fn.resume(it, (X, Y), GOOD.init(KEY), **SIZES),
    "evaluate": lambda it: fn.evaluate(it, GOOD.init(KEY), (X, Y)),
    "guard": fn.guard,
    "until": lambda it: fn.until(it, 3),
    "loss_scaled": fn.loss_scaled,
    "run_padded": lambda it: fn.run_padded(it, (X, Y), KEY, 2, steps=1, largest=4),
    "early_stopping": lambda it: fn.early_stopping(
        it, (X, Y), (X, Y), KEY, **SIZES, every=1, patience=1
    ),
    "hypergradient": lambda it: fn.hypergradient(it, (X, Y), (X, Y), KEY, **SIZES),
    "fit": lambda it: fn.fit(it, (X, Y), KEY, **SIZES, report=None),
    "diagnose": lambda it: fn.diagnose(it, (X, Y), KEY, **SIZES),
}


@pytest.mark.parametrize("name", SLIPS)
def test_what_is_no_trainer_is_told_what_is_one(name):
    for slip, got in ((SGD, r"Optimizer\(init="), (fn.sgd, "<function sgd"), ((X, Y), r"\(array")):
        told = rf"expected a trainer made by trainer\(task, optimizer\), got {got}"
        with pytest.raises(TypeError, match=told):
            SLIPS[name](slip)


@pytest.mark.parametrize(
    "key", [0, None, 0.5, np.int32(3), (X, Y)], ids=lambda key: type(key).__name__
)
def test_a_seed_is_not_a_key(key):
    told = r"expected a key, such as jax.random.key\(0\), got "
    with pytest.raises(TypeError, match=told):
        fn.run(GOOD, (X, Y), key, **SIZES)
    with pytest.raises(TypeError, match=told):
        fn.fit(GOOD, (X, Y), key, **SIZES, report=None)


@pytest.mark.parametrize(
    "function", [fn.resume, fn.evaluate, fn.training.resume_batches], ids=lambda f: f.__name__
)
def test_what_is_no_state_is_told_what_is_one(function):
    params = GOOD.init(KEY).params
    for slip in (params, (X, Y), GOOD, SGD):
        arguments = {"trainer": GOOD, "data": (X, Y), "state": slip, "batches": (X, Y), **SIZES}
        given = {k: arguments[k] for k in inspect.signature(function).parameters}
        with pytest.raises(TypeError, match=r"a run's state, such as trainer.init\(key\), got"):
            function(**given)


SCALED, GUARDED = fn.loss_scaled(GOOD), fn.guard(GOOD)
OTHERS = [  # a trainer, and the state of another
    (GOOD, GUARDED, "a RunState, got a Guarded"),
    (GUARDED, GOOD, "a Guarded, got a RunState"),
    (SCALED, GOOD, "a ScaleState, got a SgdState"),
]


@pytest.mark.parametrize(("trainer", "other", "told"), OTHERS, ids=[o[2] for o in OTHERS])
def test_the_state_of_a_trainer_otherwise_wrapped_is_none_of_its_own(trainer, other, told):
    with pytest.raises(TypeError, match=rf"a state of the trainer's own init, {told}"):
        fn.resume(trainer, (X, Y), other.init(KEY), **SIZES)


def test_an_init_of_params_alone_is_not_taken_apart():
    task = fn.Task(lambda key: jnp.zeros(2), LINEAR.loss)
    with pytest.raises(TypeError, match=r"returns a tuple \(params, state\), got Array"):
        fn.trainer(task, SGD).init(KEY)


@pytest.mark.parametrize("name", SIZES)
def test_what_is_static_says_so(name):
    def traced(**sizes):
        return fn.run(GOOD, (X, Y), KEY, **sizes)

    static = tuple(other for other in SIZES if other != name)
    with pytest.raises(TypeError, match=rf"{name} is static: name it in static_argnames, got "):
        jax.jit(traced, static_argnames=static)(**SIZES)


def test_keys_of_either_make_are_keys():
    for key in (jax.random.PRNGKey(0), jax.random.key(0), np.zeros(2, np.uint32)):
        assert GOOD.init(key).step == 0


def test_bad_arguments_say_so():
    trainer = fn.trainer(fn.supervised(fn.dense(3, 3), fn.cross_entropy), fn.sgd(0.1))
    with pytest.raises(ValueError, match=r"integer labels .* got labels of shape .* float32"):
        fn.run(trainer, (X, LABELS.astype(np.float32)), KEY, steps=1, batch_size=4)
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        fn.run(trainer, (X, LABELS), KEY, steps=-1, batch_size=4)
    with pytest.raises(ValueError, match="dropout draws a mask in training"):
        fn.dropout(0.5).apply((), (), X, train=True)
    with pytest.raises(TypeError, match=r"such as result\.state, got the Result itself"):
        fn.evaluate(trainer, fn.run(trainer, (X, LABELS), KEY, steps=0, batch_size=4), (X, LABELS))
    task = fn.supervised(fn.dense(3, 3), fn.cross_entropy)
    with pytest.raises(TypeError, match="pass such a function, not its result"):
        fn.trainer(task, fn.sgd(0.1), fn.chain_rule.value_and_grad(task))
    with pytest.raises(ValueError, match="evaluate needs a trainer made by"):
        fn.evaluate(fn.Trainer(trainer.init, lambda s, b: s), trainer.init(KEY), (X, LABELS))
    with pytest.raises(ValueError, match=r"metric names \['loss'\] are taken"):
        fn.supervised(fn.dense(3, 3), fn.cross_entropy, metrics={"loss": fn.accuracy})
    task = fn.supervised(fn.identity, fn.cross_entropy, metrics={"m": lambda p, t: p})
    with pytest.raises(ValueError, match="one value per loss value"):
        task.loss((), (), (X, LABELS))
