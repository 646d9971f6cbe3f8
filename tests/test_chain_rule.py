"""Every hand-written rule against `jax.vjp`, differences and float64, and every rule mutated."""

import functools
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, KEYED, MUTANTS, STEMS
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from protocol import (
    by_vjp,
    drawn,
    each_pulled,
    error_in,
    error_of_rule,
    problem,
    random_like,
    relative,
    witnesses,
)

import funcnet as fn
from funcnet import chain_rule
from funcnet.layers import recurrent

by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# Of a single number, an error in 16 bits is a matter of luck.
EACH = list({c.name.split("-")[0]: c for c in reversed(CASES) if c.shape != (1,)}.values())
by_rule = pytest.mark.parametrize("case", EACH, ids=lambda case: case.name)
"""The first case of each name: in float64 all are compared, and narrower numbers differ alike."""


@by_case
def test_rule_agrees_with_vjp_in_float64(case):
    found = witnesses(case)
    assert relative(found.by_hand, found.by_vjp) <= 1e-12


@pytest.mark.slow
@by_rule
def test_rule_agrees_with_vjp_in_float32(case):
    assert error_in(jnp.float32, case) <= 1e-5


# A kink within the stencil's reach would spoil the difference, not the rule: the inputs are fixed.
# Frozen parameters have a derivative that differences see and training is not to.
@pytest.mark.parametrize(
    "case", [c for c in CASES if not c.name.startswith("frozen")], ids=lambda case: case.name
)
def test_whole_jacobian_agrees_with_differences(case):
    found = witnesses(case)
    assert relative(found.jacobian(), found.by_differences) <= 1e-7


@by_rule
def test_rule_in_bfloat16_is_as_good_as_autodiff(case):
    plain, hand, inputs = problem(case, jnp.bfloat16)
    dy = drawn(jax.eval_shape(plain, inputs), jnp.bfloat16)
    (_, auto), (_, by_hand) = each_pulled((by_vjp(plain), hand), inputs, dy)
    _, truth = witnesses(case).for_drawn()
    error = relative(by_hand, truth)
    assert error <= 2e-2
    assert error <= max(1.5 * relative(auto, truth), 1e-6)


NETWORK = fn.serial(
    fn.flatten, fn.dense(6, 5), fn.gelu, fn.dropout(0.4), fn.dense(5, 4), fn.silu, fn.dense(4, 3)
)
LOSS = Partial(
    fn.fix(fn.cross_entropy, ignore_label=-1), label_smoothing=0.1, weight=np.array([0.5, 1.0, 2.0])
)
TASK = fn.supervised(NETWORK, LOSS, metrics={"accuracy": fn.accuracy})


def whole(dtype, rows=8):
    """A network with everything in it: its parameters, state and a weighted batch."""
    params, state = jax.eval_shape(NETWORK.init, jax.random.key(1))
    assert not jax.tree.leaves(state)
    x = random_like(jax.ShapeDtypeStruct((rows, 2, 3), dtype), 6, dtype)
    labels = jnp.arange(rows) % 4 - 1
    weight = 1.0 + jnp.arange(rows, dtype=dtype) / 3
    return random_like(params, 7, dtype), state, (x, labels, weight)


AUTO = jax.value_and_grad(TASK.loss, has_aux=True)
HAND = chain_rule.value_and_grad(TASK)


def compiled(*engines):
    """Their losses and gradients of a network with everything in it, as one program."""
    return jax.jit(lambda *arguments: [engine(*arguments, **KEYED) for engine in engines])


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-11), ("float32", 1e-4)])
def test_whole_network_agrees_with_grad(dtype, bound):
    with jax.enable_x64(dtype == "float64"):
        arguments = whole(jnp.dtype(dtype))
        auto, hand = compiled(AUTO, HAND)(*arguments)
        assert jax.tree.structure(auto) == jax.tree.structure(hand)
        assert relative(hand, auto) <= bound


def test_three_witnesses_agree_and_the_remainder_is_quadratic():
    with jax.enable_x64(True):
        params, state, batch = whole(jnp.float64)
        errors = fn.check_gradients(TASK.loss, params, state, batch, **KEYED)
        assert errors.hand_autodiff <= 1e-11
        assert max(errors) <= 1e-6
        ((value, grads),) = compiled(HAND)(params, state, batch)
        direction = random_like(params, 8, jnp.float64)
        slope = sum(
            jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (grads, direction)), strict=True)
        )

        @jax.jit
        def remainder(step):
            moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
            return abs(TASK.loss(moved, state, batch, **KEYED)[0] - value[0] - step * slope)

        steps = np.logspace(-2, -5, 7)
        logs = np.log([float(remainder(step)) for step in steps])
        np.testing.assert_allclose(np.polyfit(np.log(steps), logs, 1)[0], 2.0, atol=0.1)


def test_under_vmap_and_scan():
    params, state, (x, labels, weight) = whole(jnp.float32)
    split = jax.tree.map(lambda a: a.reshape(4, 2, *a.shape[1:]), (x, labels, weight))

    def both(engine):
        def grads(batch):
            return engine(params, state, batch, **KEYED)[1]

        batched = jax.jit(jax.vmap(grads))(split)
        scanned = jax.jit(lambda: jax.lax.map(grads, split))()
        return batched, scanned

    assert relative(both(HAND), both(AUTO)) <= 1e-4


def test_sharded_over_four_devices():
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    params, state, batch = whole(jnp.float32)
    hand = compiled(HAND)
    sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("batch")))
    replicated = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    assert len(sharded[0].devices()) == 4
    assert relative(hand(replicated, state, sharded), hand(params, state, batch)) <= 1e-5


def test_scans_and_transposes_in_shard_map():
    """A batch in two parts, by `jax.grad`, which adds up over the devices, and by hand; and two
    members that share a batch."""
    mesh = jax.make_mesh((2,), ("batch",), (AxisType.Auto,), devices=jax.devices()[:2])
    shared, parts = PartitionSpec(), PartitionSpec("batch")
    masked = fn.serial(fn.bidirectional(fn.gru(2, 1), fn.lstm(2, 2)), fn.last_step)
    cases = [
        (fn.rnn(2, 2), lambda x: x),
        (masked, lambda x: fn.Masked(x, x[..., 0] > 0.0)),
        (fn.conv_transpose(2, 1, (3,), stride=2), lambda x: x),
    ]
    params = [
        random_like(jax.eval_shape(n.init, KEYED["key"])[0], 1, jnp.float32) for n, _ in cases
    ]
    x = random_like(jax.ShapeDtypeStruct((2, 3, 2), jnp.float32), 2, jnp.float32)

    def forward(params, x):
        nets = [(network, as_input(x)) for network, as_input in cases]
        return [n.apply(p, (((), ()), ()), x)[0] for (n, x), p in zip(nets, params, strict=True)]

    def auto(params, x):
        return jax.grad(lambda p: sum(jnp.sin(y).sum() for y in forward(p, x)))(params)

    def hand(params, x):
        grads = []
        for (network, as_input), p in zip(cases, params, strict=True):
            y, pullback, _ = chain_rule.vjp(network.apply, p, (((), ()), ()), as_input(x))
            grads.append(jax.tree.map(lambda a: a[None], pullback(jnp.cos(y))[0]))
        return grads

    def member(params, x):
        return forward(jax.tree.map(lambda a: a[0], params), x)

    @jax.jit
    def everything(params, members, x):
        both = jax.shard_map(
            lambda p, x: (forward(p, x), auto(p, x), hand(p, x)),
            mesh=mesh,
            in_specs=(shared, parts),
            out_specs=(parts, shared, parts),
        )
        many = jax.shard_map(member, mesh=mesh, in_specs=(parts, shared), out_specs=parts)
        y, by_grad, by_hand = both(params, x)
        by_hand = jax.tree.map(lambda a: a.sum(axis=0), by_hand)
        alone = forward(params, x), auto(params, x), auto(params, x)
        apart = [forward(jax.tree.map(lambda a, i=i: a[i], members), x) for i in range(2)]
        together = jax.tree.map(lambda *ys: jnp.concatenate(ys), *apart)
        return (y, by_grad, by_hand, many(members, x)), (*alone, together)

    members = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), params)
    got, wanted = everything(params, members, x)
    assert relative(got, wanted) <= 1e-6


def test_training_through_either_engine_is_the_same():
    data = (np.random.default_rng(0).normal(size=(20, 2, 3)), np.arange(20) % 3)
    results = []
    with jax.enable_x64(True):
        for engine in (jax.value_and_grad, chain_rule.value_and_grad):
            trainer = fn.trainer(TASK, fn.adam(1e-2), engine)
            run = functools.partial(fn.run, steps=100, batch_size=7)
            results.append(jax.jit(run)(trainer, data, jax.random.key(2)))
        auto, hand = results
        assert auto.loss[-20:].mean() < 0.9 * auto.loss[:20].mean()
        assert relative(hand.loss, auto.loss) <= 1e-10
        assert relative(hand.state.params, auto.state.params) <= 1e-10


def test_a_function_without_a_rule_is_named_and_a_rule_can_be_passed():
    network = fn.serial(fn.dense(3, 2), fn.activation(jnp.sin))
    params, state = network.init(jax.random.key(0))
    x, dy = jnp.ones((4, 3)), jnp.ones((4, 2))
    with pytest.raises(NotImplementedError, match=r"no rule for sin.*rules=\{\*\*RULES, sin"):
        chain_rule.vjp(network.apply, params, state, x, key=None, train=False)
    rules = {
        **chain_rule.RULES,
        jnp.sin: lambda x: (jnp.sin(x), lambda dy: (jnp.cos(x) * dy,)),
    }
    _, pullback, _ = chain_rule.vjp(
        network.apply, params, state, x, key=None, train=False, rules=rules
    )
    _, wanted = jax.vjp(lambda p, x: network.apply(p, state, x)[0], params, x)
    assert relative(pullback(dy), wanted(dy)) <= 1e-6


def test_check_gradients_stands_on_zero_gradients_and_converged_networks():
    with jax.enable_x64(True):
        x = random_like(jax.ShapeDtypeStruct((8, 3), float), 9, float)
        zeros = fn.serial(
            fn.dense(3, 4), fn.tanh, fn.dense(4, 3, weight_init=jax.nn.initializers.zeros)
        )
        fn.check_gradients(zeros.apply, *zeros.init(jax.random.key(0)), x)
        dead = fn.mlp((3, 4, 3), bias_init=jax.nn.initializers.constant(-50.0))
        fn.check_gradients(dead.apply, *dead.init(jax.random.key(0)), x)
        task = fn.supervised(fn.dense(3, 1), fn.mean_squared_error)
        trainer = fn.trainer(task, fn.sgd(0.2))
        data = (x, x @ jnp.array([[1.0], [-2.0], [0.5]]))
        state = fn.run(trainer, data, jax.random.key(0), steps=3000, batch_size=None).state
        fn.check_gradients(task.loss, state.params, state.state, data)
        far = (x, 1e3 * data[1])
        fn.check_gradients(task.loss, state.params, state.state, far)


def test_check_gradients_of_masked_sequences_ids_and_frozen_parts():
    there = np.array([[True, True, False], [True, False, True]])
    with jax.enable_x64(True):
        x = fn.Masked(random_like(jax.ShapeDtypeStruct((2, 3, 2), float), 1, float), there)
        network = fn.serial(fn.masked(fn.frozen(fn.dense(2, 2))), fn.rnn(2, 2))
        params, state = network.init(jax.random.key(0))
        fn.check_gradients(network.apply, params, state, x)
        over_time = fn.serial(fn.rnn(2, 2), fn.last_step)
        params, state = over_time.init(jax.random.key(0))
        original = chain_rule.RULES[recurrent.over_time_apply].rule

        def wrong(*arguments, **context):
            y, pullback, state = original(*arguments, **context)

            def back(dy):
                dparams, dx = pullback(dy)
                return dparams, dx._replace(x=7.0 * dx.x)

            return y, back, state

        rules = {**chain_rule.RULES, recurrent.over_time_apply: chain_rule.Recursive(wrong)}
        fn.check_gradients(over_time.apply, params, state, x)
        with pytest.raises(AssertionError, match="hand against autodiff"):
            fn.check_gradients(over_time.apply, params, state, x, rules=rules)
        both = fn.parallel(fn.embedding(5, 2), fn.embedding(5, 2))
        fn.check_gradients(both.apply, *both.init(jax.random.key(0)), np.array([[1, 4]]))
        with pytest.raises(ValueError, match="nothing to differentiate with respect to"):
            fn.check_gradients(fn.serial(fn.identity).apply, ((),), ((),), np.arange(3))


def test_check_gradients_finds_a_wrong_rule_and_refuses_float32():
    network = fn.serial(fn.dense(3, 2), fn.tanh)
    with pytest.raises(ValueError, match="needs float64"):
        fn.check_gradients(network.apply, *network.init(jax.random.key(0)), jnp.ones((2, 3)))
    wrong = {**chain_rule.RULES, jnp.tanh: lambda x: (jnp.tanh(x), lambda dy: (dy,))}
    with jax.enable_x64(True):
        primals = (*network.init(jax.random.key(0)), jnp.ones((2, 3)))
        fn.check_gradients(network.apply, *primals, key=None, train=False)
        with pytest.raises(AssertionError, match="hand against autodiff"):
            fn.check_gradients(network.apply, *primals, rules=wrong, key=None, train=False)


@pytest.mark.parametrize(("module", "name", "text", "mutation"), MUTANTS)
def test_every_mutant_is_killed(module, name, text, mutation):
    rule = getattr(module, name)
    source = inspect.getsource(rule)
    assert text in source
    # The whole module anew, so that a helper's mutant is met by each rule that calls it.
    namespace = {"__name__": module.__name__}
    exec(inspect.getsource(module).replace(source, source.replace(text, mutation)), namespace)
    rules = dict(chain_rule.RULES)
    for function, entry in chain_rule.RULES.items():
        recursive = isinstance(entry, chain_rule.Recursive)
        original = entry.rule if recursive else entry
        if original.__module__ == module.__name__:
            mutant = namespace[original.__name__]
            rules[function] = chain_rule.Recursive(mutant) if recursive else mutant
    with jax.enable_x64(True):
        assert any(caught(check, rules) for check in checks(name))


def checks(name):
    """The comparisons that hold the rule of that name to account."""
    if name == "supervised":
        return [lambda rules: whole_error(rules)]
    stem = STEMS.get(name, name)
    cases = [case for case in CASES if case.name.startswith(stem)]
    assert cases
    return [functools.partial(error_of_rule, case) for case in cases]


def whole_error(rules):
    arguments = whole(jnp.float64)
    other = chain_rule.value_and_grad(TASK, rules=rules)
    return relative(*compiled(other, AUTO)(*arguments))


def caught(check, rules):
    try:
        return not check(rules) <= 1e-7
    except (AssertionError, TypeError, ValueError):
        return True


def test_no_automatic_differentiation_in_the_folder():
    word = re.compile(
        r"jax\.(grad|vjp|jvp|linearize|value_and_grad|jacobian|jacfwd|jacrev|hessian|checkpoint)\b"
        r"|custom_(vjp|jvp|gradient)|linear_transpose|\bad\."
    )
    docstring = re.compile(r'""".*?"""', re.DOTALL)
    files = sorted(Path(chain_rule.__file__).parent.rglob("*.py"))
    assert len(files) >= 5
    for file in files:
        code = docstring.sub("", file.read_text())
        assert not word.search(code), file
        assert set(re.findall(r"^from jax.*$", code, re.M)) <= {
            "from jax import lax",
            "from jax.lax import erfc",
        }
