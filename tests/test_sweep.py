"""Sweeps against runs alone: groups, batch sizes, plans, devices, and going on after a stop."""

import functools
import gc
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import funcnet as fn
from funcnet.shuffle import padded_indices, position
from funcnet.sweeps import planner, programs
from funcnet.sweeps.groups import Varied

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype(np.float32)
LABELS = np.arange(20, dtype=np.int32) % 3
DATA = (X, LABELS)
KEY = jax.random.key(4)
METRICS = {"accuracy": fn.accuracy}
FULL = {"xla_backend_optimization_level": 3}
"""As users compile, where bits are compared."""

run = functools.partial(fn.run, steps=12, batch_size=6)
solo = jax.jit(run)


def build(learning_rate, optimizer=fn.adam, width=5, rate=0.2):
    network = fn.serial(fn.dense(3, width), fn.tanh, fn.dropout(rate), fn.dense(width, 3))
    task = fn.supervised(network, fn.cross_entropy, metrics=METRICS)
    return fn.trainer(task, optimizer(learning_rate))


def close(got, wanted, rtol=2e-5, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def same_bits(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (a == b).all()


MIXED = {
    "learning_rate": np.array([1e-2, 3e-2, 1e-2, 0.1, 0.2, 3e-3]),
    "optimizer": [fn.adam, fn.sgd, fn.adam, fn.sgd, fn.adam, fn.adam],
    "width": [5, 5, 7, 5, 5, 7],
}


def test_optimizers_and_widths_in_one_call_are_the_runs_alone():
    traces = []

    def counted(*args):
        traces.append(args)
        return fn.run(*args, steps=12, batch_size=None)

    result = fn.sweep(build, MIXED, counted, DATA, KEY, devices=jax.devices()[:1])
    assert len(traces) == 3
    assert result.loss.shape == (6, 12)
    assert result.metrics["accuracy"].shape == (6, 12)
    assert result.state.step.tolist() == [12] * 6
    assert isinstance(result.state.opt_state, Varied)
    alone = jax.jit(functools.partial(fn.run, steps=12, batch_size=None))
    for index in (1, 2, 3, 5):
        point = {name: column[index] for name, column in MIXED.items()}
        close(fn.member(result, index), alone(build(**point), DATA, KEY))


def test_groups_keep_their_places_and_share_keys():
    def member(seed, **point):
        return build(**point), jax.random.key(seed)

    groups = fn.group_members(member, {**MIXED, "seed": np.array([0, 1, 2, 1, 3, 2])})
    assert [group.places.tolist() for group in groups] == [[0, 4], [1, 3], [2, 5]]
    assert [group.axes[1] for group in groups] == [0, None, None]
    assert groups[2].members[1] == jax.random.key(2)
    rates = [fn.hyperparameters(group.members[0]) for group in groups]
    np.testing.assert_array_equal(
        rates[0]["step.update.learning_rate.value"], np.float32([1e-2, 0.2])
    )
    # A fraction near 1 is rounded once, on the host.
    decays = {"b2": np.array([0.999, 0.99999])}
    (group,) = fn.group_members(lambda b2: fn.adam(1e-3, b2=b2), decays)
    np.testing.assert_array_equal(
        fn.hyperparameters(group.members)["update.one_minus_b2"], np.float32([1e-3, 1e-5])
    )


def test_members_may_differ_in_key_data_and_batch_size():
    def member(learning_rate, seed, size):
        return build(learning_rate), jax.random.key(seed), size

    def padded(member, data):
        trainer, key, size = member
        return fn.run_padded(trainer, data, key, size, steps=12, largest=8)

    points = {
        "learning_rate": np.array([1e-2, 1e-2, 3e-2]),
        "seed": np.array([0, 1, 1]),
        "size": np.array([1, 7, 7]),
    }
    data = (*DATA, np.linspace(0.5, 2.0, 20, dtype=np.float32))
    result = fn.sweep(member, points, padded, data, devices=jax.devices()[:1])
    for index in (0, 2):
        rate, seed, size = (column[index].item() for column in points.values())
        key = jax.random.key(seed)
        alone = jax.jit(functools.partial(fn.run, steps=12, batch_size=size))
        close(fn.member(result, index), alone(build(rate), data, key))


def test_padded_batches_begin_with_those_of_their_size():
    steps = np.array([0, 1, 5, 1000, 2**31 - 1, 7], np.int32)
    sizes = np.array([1, 2, 7, 4096, 2**20, 3], np.int32)
    for n in (2**20, 2**31 - 1):
        where = jax.jit(jax.vmap(lambda step, size, n=n: position(step, n, size, 2**20)))
        for got in zip(steps.tolist(), sizes.tolist(), *where(steps, sizes), strict=True):
            step, size, epoch, offset = got
            assert (epoch, offset) == (step * size // n % 2**32, step * size % n)
    draw = jax.jit(padded_indices, static_argnums=(2, 4))
    indices = draw(KEY, 15, 20, 3, 8)
    np.testing.assert_array_equal(indices[:3], fn.batch_indices(KEY, 15, 20, 3))
    assert ((indices >= 0) & (indices < 20)).all()


def test_padding_is_refused_where_it_would_count():
    def bad(network, loss=fn.cross_entropy, largest=4):
        trainer = fn.trainer(fn.supervised(network, loss), fn.sgd(0.1))
        return fn.run_padded(trainer, DATA, KEY, 2, steps=1, largest=largest)

    with pytest.raises(ValueError, match="batch_norm averages over the padding"):
        bad(fn.serial(fn.dense(3, 3), fn.batch_norm(3)))
    with pytest.raises(ValueError, match="info_nce compares the examples"):
        bad(fn.dense(3, 3), Partial(fn.info_nce, temperature=0.2))
    with pytest.raises(ValueError, match="largest must be at most the 20 examples, got 21"):
        bad(fn.dense(3, 3), largest=21)
    own = fn.trainer(fn.Task(lambda key: (jnp.zeros(2), ()), lambda *a, **k: None), fn.sgd(0.1))
    with pytest.raises(
        ValueError, match=r"a weight of 0 takes an example out of, .* got <function"
    ):
        fn.run_padded(own, DATA, KEY, 2, steps=1, largest=4)


RATES = {"learning_rate": np.geomspace(1e-3, 0.03, 11)}


@pytest.fixture(scope="module")
def whole():
    return fn.sweep(build, RATES, run, DATA, KEY, devices=jax.devices()[:1])


@pytest.mark.parametrize(("devices", "at_once", "rounds"), [(1, 4, 3), (4, 2, 2)])
def test_chunks_and_devices_change_nothing_but_rounding(whole, devices, at_once, rounds):
    """Eleven members, which neither chunks nor devices divide."""
    planned = fn.plan(
        build, RATES, run, DATA, KEY, devices=jax.devices()[:devices], at_once=at_once
    )
    (program,) = planned.programs
    assert (program.rounds, program.at_once) == (rounds, at_once)
    got = planned(DATA, KEY)
    assert got.loss.shape == (11, 12)
    close(got, whole, rtol=1e-6, atol=1e-7)
    other = planned((X[::-1].copy(), LABELS), jax.random.key(9))
    assert (other.loss != got.loss).all()
    close(fn.member(other, 10), solo(build(0.03), (X[::-1].copy(), LABELS), jax.random.key(9)))


COLLECTIVE = re.compile(r"all-(?:reduce|gather|to-all)|collective|reduce-scatter|\bsend\b|\brecv\b")


def test_devices_do_not_talk():
    """Also where keys differ, so that the walks through the members' permutations differ too."""

    def member(learning_rate, seed):
        return build(learning_rate), jax.random.key(seed)

    def own(member, data):
        return run(member[0], data, member[1])

    points = {**RATES, "seed": np.arange(11)}
    (group,) = fn.group_members(member, points)
    found = programs.compile_program(own, group, (DATA,), jax.devices(), 3, 1)
    text = found.compiled.as_text()
    assert "num_partitions=4" in text
    assert not COLLECTIVE.findall(text)
    assert (
        len(
            found.compiled(
                found.members, jax.device_put((DATA,), found.everywhere)
            ).loss.sharding.device_set
        )
        == 4
    )


def simple(learning_rate):
    return fn.trainer(fn.supervised(fn.dense(3, 3), fn.cross_entropy), fn.sgd(learning_rate))


def test_memory_decides_how_many_run_at_once():
    rates = {"learning_rate": np.geomspace(1e-3, 0.03, 101)}
    descend = functools.partial(fn.run, steps=4, batch_size=None)

    def plan(memory):
        return fn.plan(simple, rates, descend, DATA, KEY, devices=jax.devices()[:1], memory=memory)

    (whole,) = plan(10**9).programs
    assert (whole.at_once, whole.rounds) == (51, 2)
    memory = whole.needed - whole.temporary // 2
    planned = plan(memory)
    (program,) = planned.programs
    assert 10 < program.at_once < 51 < 101 <= program.at_once * program.rounds
    assert program.needed <= memory
    assert str(planned) == (
        f"101 members in 1 program on 1 device with {planner.size(memory)}:\n"
        f"  101 members, {program.rounds} times {program.at_once} at once, "
        f"{planner.size(program.needed)}"
    )
    with pytest.raises(ValueError, match=r"101 members on 1 device, .* are arguments and results"):
        plan(1000)


def test_the_plan_is_reported_and_memory_is_found():
    said = []
    fn.sweep(simple, {"learning_rate": [0.1]}, run, DATA, KEY, report=lambda p: said.append(str(p)))
    assert re.fullmatch(
        r"1 member in 1 program on 1 device with [\d.]+ GiB:\n  1 member, 1 at once, [\d.]+ KiB",
        said[0],
    )

    class Accelerator:
        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 200}

    assert planner.free_memory([Accelerator()]) == 720
    assert [planner.size(n) for n in (12, 1023, 5 * 2**20, 3 * 2**40)] == [
        *("12 B", "0.999 KiB", "5 MiB", "3.07e+03 GiB")
    ]


def refreshing(learning_rate):
    """Its optimizer refreshes in every third step alone, by a `cond`."""
    labels = {"weight": "matrix", "bias": "rest"}
    optimizers = {"matrix": fn.shampoo(learning_rate, every=3), "rest": fn.sgd(learning_rate)}
    task = fn.supervised(fn.dense(3, 3), fn.cross_entropy)
    return fn.trainer(task, fn.partition(labels, optimizers))


def test_going_on_is_bit_equal_and_conditions_stay_branches():
    rates = {"learning_rate": np.array([0.01, 0.1, 0.3])}
    (group,) = fn.group_members(refreshing, rates)

    def lowered(steps, axes, state):
        resume = functools.partial(fn.resume, steps=steps, batch_size=None)
        sweep = jax.vmap(resume, in_axes=(group.axes, None, axes))
        return jax.jit(sweep, compiler_options=FULL).lower(group.members, DATA, state)

    start = jax.vmap(lambda trainer: trainer.init(KEY))(group.members)
    state, axes = fn.share_counters(start)
    assert (axes.step, axes.key, axes.params) == (None, None, {"weight": 0, "bias": 0})
    assert axes.opt_state["matrix"][0].count is None
    four, eight = (lowered(steps, axes, state).compile() for steps in (4, 8))
    assert "conditional" in four.as_text()
    everything = jax.tree.map(lambda _: 0, start)
    assert "stablehlo.case" in lowered(4, axes, state).as_text()
    assert "stablehlo.case" not in lowered(4, everything, start).as_text()

    first = four(group.members, DATA, state)
    saved = jax.device_get(first.state._replace(key=jax.random.key_data(first.state.key)))
    loaded = saved._replace(key=jax.random.wrap_key_data(saved.key))
    again, axes_again = fn.share_counters(loaded)
    assert jax.tree.structure(axes_again) == jax.tree.structure(axes)
    second = four(group.members, DATA, jax.tree.map(jnp.asarray, again))
    whole = eight(group.members, DATA, state)
    same_bits(second.state, whole.state)
    np.testing.assert_array_equal(np.append(first.loss, second.loss, axis=1), whole.loss)


def test_a_grouped_sweep_goes_on_from_its_members(whole):
    def going(learning_rate, state):
        return build(learning_rate), state

    def resume(member, data):
        return fn.resume(member[0], data, member[1], steps=5, batch_size=6)

    states = [fn.member(whole.state, index) for index in range(11)]
    points = {**RATES, "state": states}
    result = fn.sweep(going, points, resume, DATA, devices=jax.devices()[:1])
    longer = jax.jit(functools.partial(fn.run, steps=17, batch_size=6))
    alone = longer(build(RATES["learning_rate"][3]), DATA, KEY)
    close(fn.member(result.state, 3), alone.state)
    np.testing.assert_allclose(result.loss[3], alone.loss[12:], rtol=2e-5)


@pytest.mark.parametrize("wrap", [fn.guard, lambda t: fn.until(t, 9.0)], ids=["guard", "until"])
def test_padded_batches_go_through_wrappers(wrap):
    trainer = wrap(simple(0.1))
    padded = fn.run_padded(trainer, DATA, KEY, 5, steps=3, largest=8)
    alone = fn.run(trainer, DATA, KEY, steps=3, batch_size=5)
    np.testing.assert_allclose(padded.loss, alone.loss, rtol=1e-5)


def test_what_some_members_lack_is_theirs_alone():
    def some(optimizer):
        return {"a": jnp.ones(2), **({"b": jnp.zeros(1)} if optimizer == "x" else {})}

    result = fn.sweep(some, {"optimizer": ["x", "y", "x"]}, lambda member: member)
    np.testing.assert_array_equal(result["a"], np.ones((3, 2)))
    assert set(fn.member(result, 0)) == set(fn.member(result, 2)) == {"a", "b"}
    assert set(fn.member(result, 1)) == {"a"}
    with pytest.raises(IndexError, match="no member 2 among 2"):
        fn.member(result["b"], 2)


def total(member, *shared):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(member))


def test_the_same_sweep_of_other_points_is_compiled_once():
    """Also where the run is bound anew; what a closure holds is let go with its plan."""
    compiled = []

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    def swept(low, run, data=DATA):
        points = {"learning_rate": np.geomspace(low, 0.1, 9)}
        return fn.sweep(simple, points, run, data, KEY).loss

    def bound(steps):
        return functools.partial(fn.run, steps=steps, batch_size=6)

    class Held:
        pass

    held = Held()
    alive = weakref.ref(held)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        first = swept(0.01, bound(3))
        count = len(compiled)
        again = swept(0.02, bound(3), (X + 1.0, LABELS))
        assert len(compiled) == count > 0
        assert (again[:8] != first[:8]).all()
        swept(0.01, bound(4))
        assert len(compiled) > count
        fn.sweep(simple, {"learning_rate": [0.1]}, lambda member, held=held: total(member))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    del held
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"devices": []}, r"devices must be some of jax.devices\(\), got \[\]"),
        ({"devices": 2}, r"devices must be some of jax.devices\(\), got 2"),
        ({"memory": "1GB"}, "memory in bytes must be an integer, got '1GB'"),
        ({"memory": 0}, "memory in bytes must be at least 1, got 0"),
    ],
)
def test_bad_places_say_so(choices, message):
    with pytest.raises(ValueError, match=message):
        fn.plan(simple, {"learning_rate": [0.1]}, run, DATA, KEY, **choices)


def test_bools_of_numpy_are_pythons():
    def kind(flag):
        return {"a" if flag is True else "b": jnp.ones(())}

    for flags in (np.array([True, False]), [np.True_, np.False_]):
        first, second = fn.group_members(kind, {"flag": flags})
        assert (set(first.members), set(second.members)) == ({"a"}, {"b"})


def test_what_is_no_build_or_no_column_says_so():
    with pytest.raises(TypeError, match="build is a function, point -> trainer, got Trainer"):
        fn.sweep(simple(0.1), {"learning_rate": [0.1]}, run, DATA, KEY)
    for value in (0.1, "adam"):
        with pytest.raises(TypeError, match=r"points are columns, as grid\(...\) makes, got a="):
            fn.sweep(simple, {"a": value}, run, DATA, KEY)


BAD = [
    ({}, r"columns of one length, at least 1, got lengths \{\}"),
    ({"learning_rate": []}, r"got lengths \{'learning_rate': 0\}"),
    ({"learning_rate": [1, 2], "rate": [0.1]}, r"\{'learning_rate': 2, 'rate': 1\}"),
]


@pytest.mark.parametrize(("points", "message"), BAD, ids=[b[1][:20] for b in BAD])
def test_bad_points_say_so(points, message):
    with pytest.raises(ValueError, match=message):
        fn.group_members(build, points)


def test_a_member_is_one_of_those_there_are():
    result = {"a": np.arange(4), "m": Varied((np.array([3, 0]),), (np.array([7, 8]),))}
    assert fn.member(result, -1) == {"a": 3, "m": 7}
    assert fn.member(result, 1) == {"a": 1}
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"there is no member {index} among 4"):
            fn.member(result, index)
    with pytest.raises(TypeError, match="arrays with a first axis of members, got 'adam'"):
        fn.member({"optimizer": ("adam", "sgd")}, 0)


def test_members_may_hold_nothing():
    found = fn.sweep(lambda a: (a, None), {"a": [1.0, 2.0]}, lambda m, x: m[0] * x, np.float32(3.0))
    np.testing.assert_array_equal(found, [3.0, 6.0])
