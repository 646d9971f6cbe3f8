"""The shell around the run: what it computes is the run's, bit for bit, however it is cut, stopped,
resumed and looked at."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.checkpoint import files
from funcnet.data.feed import Ahead
from funcnet.host import checks, chunks, loop, saver
from funcnet.host.progress import Progress
from funcnet.host.signals import listening
from funcnet.training import run_keys

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype(np.float32)
LABELS = np.arange(20, dtype=np.int32) % 3
DATA, HELD_OUT = (X, LABELS), (X[:7] + 0.1, LABELS[:7])
KEY = jax.random.key(4)
FULL = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
"""As users compile, where bits are compared."""


def build(rate=1e-2):
    network = fn.serial(fn.dense(3, 8), fn.batch_norm(8), fn.tanh, fn.dropout(0.2), fn.dense(8, 3))
    task = fn.supervised(network, fn.cross_entropy, metrics={"accuracy": fn.accuracy})
    schedule = fn.warmup_cosine(rate, 3.5, 60.5, end=1e-4)
    return fn.trainer(task, fn.ema(fn.momentum(schedule), 0.9))


TRAINER = build()


@pytest.fixture(scope="module", autouse=True)
def as_users_compile():
    """The shell's two scans, compiled as users do."""
    patch = pytest.MonkeyPatch()
    patch.setattr(saver, "begin", jax.jit(chunks.begun, compiler_options=FULL))
    patch.setattr(chunks, "train", jax.jit(
        chunks.chunk, static_argnames=("steps", "batch_size"), donate_argnames="state",
        compiler_options=FULL,
    ))  # fmt: skip
    patch.setattr(chunks, "train_on_batches", jax.jit(
        chunks.chunk_of_batches, donate_argnames="state", compiler_options=FULL
    ))  # fmt: skip
    yield
    patch.undo()


@pytest.fixture(scope="module")
def whole():
    """The pure run of 29 steps."""
    run = jax.jit(fn.run, static_argnames=("steps", "batch_size"), compiler_options=FULL)
    return run(TRAINER, DATA, KEY, steps=29, batch_size=8)


def fit(trainer=TRAINER, data=DATA, key=KEY, *, steps=29, batch_size=8, every=7, **more):
    more = {"report": None, **more}
    return fn.fit(trainer, data, key, steps=steps, batch_size=batch_size, every=every, **more)


def same(a, b):
    """Equal bits, also of keys."""
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def nothing(step, state, metrics):
    pass


LOOKED_AT = {
    "ahead": {},
    "watched": {"validation": HELD_OUT, "validate_every": 14, "callbacks": (nothing,)},
}


@pytest.mark.parametrize("how", LOOKED_AT.values(), ids=LOOKED_AT)
def test_what_it_computes_is_the_run(how, whole):
    """Four chunks of 7 and one of a single step, which is another program."""
    fitted = fit(**how)
    same((fitted.state, fitted.loss, fitted.metrics), tuple(whole))
    assert fitted.reason == "steps"


def test_a_chunk_is_dispatched_before_the_last_one_is_looked_at(monkeypatch):
    order, train = [], chunks.train

    def dispatched(*inputs, steps, **how):
        order.append(f"dispatch {steps}")
        return train(*inputs, steps=steps, **how)

    monkeypatch.setattr(chunks, "train", dispatched)
    fit(steps=21, report=lambda progress: order.append(progress.step))
    assert order == ["dispatch 7", "dispatch 7", 7, "dispatch 7", 14, 21]
    order.clear()
    fit(steps=14, report=lambda progress: order.append(progress.step), callbacks=[nothing])
    assert order == ["dispatch 7", 7, "dispatch 7", 14]


def own_init(key):
    params, state, opt_state, step, _ = TRAINER.init(key)
    return fn.RunState(params, state, opt_state, step, key)


GUARDED = fn.guard(fn.Trainer(jax.tree_util.Partial(own_init), TRAINER.step), patience=2)


def test_a_key_and_a_guard_can_be_handed_in_twice():
    """Nothing of the caller's is donated, nor one array twice."""
    a, b = (fit(GUARDED, steps=7) for _ in range(2))
    same(a.state, b.state)
    assert jax.random.key_data(KEY).shape == (2,)


def rows_of(key, steps):
    """[steps, 8], of 20."""
    rows = jax.jit(jax.vmap(lambda step: fn.batch_indices(key, step, 20, 8)))
    return np.asarray(rows(jnp.arange(29)))[list(steps)]


def taken(source, key, *, start, steps, every, batch_size):
    """A stand-in: the batches that `resume` takes, stacked, from another kind of data."""
    steps, key = start + steps, run_keys(key)[0]
    while start < steps:
        stop = min(start + every, steps)
        rows = rows_of(key, range(start, stop))
        yield jax.tree.map(lambda a, rows=rows: jnp.asarray(a[rows]), source.data)
        start = stop


class Source:
    data = DATA

    def __len__(self):
        return 20

    def take(self, indices):
        return jax.tree.map(lambda a: a[indices], self.data)


def test_batches_that_come_give_the_same_bits(monkeypatch, whole, tmp_path):
    stand_in = types.SimpleNamespace(chunks=lambda *a, **how: Ahead(taken(*a, **how)))
    monkeypatch.setitem(sys.modules, "funcnet.data", stand_in)
    monkeypatch.setattr(fn, "data", sys.modules["funcnet.data"], raising=False)
    first = fit(data=Source(), steps=14, checkpoints=tmp_path)
    second = fit(data=Source(), checkpoints=tmp_path)
    same(second.state, whole.state)
    same((first.loss, second.loss), (whole.loss[:14], whole.loss[14:]))
    mapped = (np.lib.format.open_memmap(tmp_path / "x.npy", "w+", X.dtype, X.shape), LABELS)
    counts = [chunks.count_steps(data, 8, None, 0.5) for data in (DATA, Source(), mapped)]
    assert counts == [2, 2, 2]  # ceil(0.5 * 20 / 8)
    assert chunks.count_steps(DATA, None, None, 3) == 3
    assert [chunks.in_memory(data) for data in (DATA, Source(), mapped)] == [True, False, False]

    def ending(*inputs, **how):
        yield from itertools.islice(taken(*inputs, **how), 2)
        raise ValueError("the stream ended")

    stand_in.chunks = lambda *inputs, **how: Ahead(ending(*inputs, **how))
    with pytest.raises(ValueError, match="the stream ended"):
        fit(data=Source(), checkpoints=tmp_path / "short", save_every=28)
    assert [path.name for path in (tmp_path / "short").iterdir()] == ["step-0000000014.safetensors"]


def test_it_continues_from_the_newest_checkpoint(whole, tmp_path):
    assert fit(steps=21, checkpoints=tmp_path, save_every=14).reason == "steps"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-0000000014.safetensors", "step-0000000021.safetensors"]
    with open(tmp_path / names[-1], "r+b") as file:  # the newest is damaged
        file.seek(-3, os.SEEK_END)
        file.write(b"???")
    said = []
    with pytest.warns(UserWarning, match="skipped a checkpoint"):
        fitted = fit(checkpoints=tmp_path, report=said.append)
    assert f"continuing from step 14, {tmp_path}" in said
    same(fitted.state, whole.state)
    same(fitted.loss, whole.loss[14:])
    again = fit(checkpoints=tmp_path)  # it is at its end, and stays as it is
    same(again.state, whole.state)
    assert again.loss.shape == (0,)
    with pytest.raises(ValueError, match="are of a run with another key"):
        fit(key=jax.random.key(5), checkpoints=tmp_path)


def interrupt(number, at):
    def callback(step, state, metrics):
        if step == at:
            os.kill(os.getpid(), number)

    return callback


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint(number, whole, tmp_path):
    before, said = signal.getsignal(number), []
    fitted = fit(checkpoints=tmp_path, callbacks=[interrupt(number, 14)], report=said.append)
    name = signal.Signals(number).name
    assert (fitted.reason, fitted.state.step) == (name, 14)
    assert said[-1] == (
        f"told to stop by {name}: stopped at step 14 of 29, saved in {tmp_path}; "
        "the same call continues from there"
    )
    assert signal.getsignal(number) is before
    same(fit(checkpoints=tmp_path).state, whole.state)


def test_a_signal_during_evaluation_is_heeded_before_it_and_after(monkeypatch, tmp_path):
    def evaluated(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": jnp.float32(2.0)}

    monkeypatch.setattr(loop, "score_of", evaluated)
    fitted = fit(validation=HELD_OUT, checkpoints=tmp_path)
    assert (fitted.reason, fitted.state.step, list(fitted.validation["loss"])) == (
        "SIGTERM",
        7,
        [2.0],
    )
    with fn.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.metrics == {7: 2.0}


def test_a_second_interrupt_raises_at_once_and_a_thread_has_no_handlers():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(callbacks=[interrupt(signal.SIGINT, 7), interrupt(signal.SIGINT, 7)])
    assert signal.getsignal(signal.SIGINT) is before
    found = []

    def elsewhere():
        with listening():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [before]


def test_where_processes_are_many_sigterm_is_left_to_jax(monkeypatch):
    before, turns = signal.getsignal(signal.SIGTERM), []
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        "jax.experimental.multihost_utils.reached_preemption_sync_point",
        lambda turn: turns.append(turn) or turn == 2,
    )
    kept = []
    fitted = fit(callbacks=[lambda *_: kept.append(signal.getsignal(signal.SIGTERM))])
    assert (fitted.reason, fitted.state.step) == ("preemption", 14)
    assert turns == [0, 1, 2]
    assert kept == [before, before]


def test_a_callback_that_fails_leaves_a_checkpoint(tmp_path):
    def fails(step, state, metrics):
        if step == 14:
            raise RuntimeError("no room on the wall")

    with pytest.raises(RuntimeError, match="no room on the wall"):
        fit(checkpoints=tmp_path, save_every=28, callbacks=[fails])
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000014.safetensors"]


def unwritable(monkeypatch, times):
    """The disk is full the first few times."""
    count, sync = itertools.count(), files.sync

    def full(file):
        if next(count) < times:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(files, "sync", full)


def test_what_was_trained_goes_with_the_error(monkeypatch, whole, tmp_path):
    unwritable(monkeypatch, times=9)
    with (
        pytest.warns(UserWarning, match="saved anew"),
        pytest.raises(OSError, match="No") as raised,
    ):
        fit(checkpoints=tmp_path, save_every=70)
    fitted = raised.value.fitted
    same((fitted.state, fitted.loss, fitted.metrics), tuple(whole))
    assert fitted.reason == "OSError"

    def fails(step, state, metrics):
        raise KeyError(step)

    for folder in (tmp_path, None):
        with pytest.raises(KeyError) as raised:
            fit(steps=14, checkpoints=folder, callbacks=[fails])
        noted = getattr(raised.value, "__notes__", [""])[0]
        assert noted.startswith("nor was step 7 saved: OSError") == (folder is not None)
        same(raised.value.fitted.loss, whole.loss[:7])
        assert int(raised.value.fitted.state.step) == 7


@pytest.mark.parametrize("save_every", [14, 28])
def test_a_save_that_fails_once_is_made_up_for_by_the_last(save_every, monkeypatch, tmp_path):
    unwritable(monkeypatch, times=1)
    with pytest.warns(UserWarning, match="a save failed, and the last step is saved anew: OSError"):
        assert fit(steps=21, checkpoints=tmp_path, save_every=save_every).reason == "steps"
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000021.safetensors"]


def fit_blocked(gate, said):
    """What it raises when after a chunk nothing comes, and it is interrupted, and again when it has
    ended but for the source's thread."""
    trained, ended = threading.Event(), threading.Event()

    def blocked():
        yield from [(X[:8], LABELS[:8])] * 7
        for event in (trained, ended, gate):
            event.wait()
            if event is not gate:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def report(what):
        if isinstance(what, str):
            said.append(what)
            ended.set()

    try:
        look = [lambda *_: trained.set()]
        fit(data=blocked(), batch_size=None, callbacks=look, report=report)
    except KeyboardInterrupt as interrupt:
        return interrupt


def test_a_run_that_waits_for_data_is_saved_when_told_to_stop(tmp_path):
    gate, trained = threading.Event(), threading.Event()

    def late():
        yield from [(X[:8], LABELS[:8])] * 7
        trained.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        gate.wait()

    with fn.Checkpoints(tmp_path) as folder:
        save = folder.save
        folder.save = lambda *inputs: (save(*inputs), gate.set())
        look = [lambda *_: trained.set()]
        fitted = fit(
            data=late(), batch_size=None, callbacks=look, checkpoints=folder, save_every=70
        )
    assert (fitted.reason, int(fitted.state.step)) == ("SIGTERM", 7)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000007.safetensors"]


def test_data_that_do_not_come_hold_no_interrupt_up(capfd):
    """The first says what a second does, which ends it."""
    gate = threading.Event()
    fitted, told = fit_blocked(gate, said := []).fitted, "told to stop by SIGINT: "
    assert capfd.readouterr().err.endswith(f"{told}ends with this chunk, again to end at once\n")
    assert [text.startswith(f"{told}stopped at step 7 of 29") for text in said] == [True]
    assert (int(fitted.state.step), len(fitted.loss)) == (7, 7)
    assert fitted.reason == "KeyboardInterrupt"
    gate.set()


def test_an_interrupt_elsewhere_waits_for_no_data_either():
    gate, begin = threading.Event(), time.monotonic()

    def late():
        yield from [(X[:8], LABELS[:8])] * 7
        gate.wait(20)

    twice = [interrupt(signal.SIGINT, 7), interrupt(signal.SIGINT, 7)]
    with pytest.raises(KeyboardInterrupt) as raised:
        fit(data=late(), batch_size=None, callbacks=twice)
    gate.set()
    assert time.monotonic() - begin < 20
    assert int(raised.value.fitted.state.step) == 7


@pytest.mark.slow
def test_python_ends_though_data_do_not_come():
    code = "import threading, test_fit; raise test_fit.fit_blocked(threading.Event(), [])"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=os.path.dirname(__file__), stderr=subprocess.PIPE,
        text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(fn.__file__))},
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (-2, "KeyboardInterrupt")


def test_callbacks_see_each_chunk_and_a_state_that_lives(whole):
    seen = []

    def look(step, state, metrics):
        seen.append((step, int(state.step), float(state.params[0]["bias"][0]), metrics))

    fitted = fit(callbacks=[look], validation=HELD_OUT, validate_every=14)
    assert [row[:2] for row in seen] == [(7, 7), (14, 14), (21, 21), (28, 28), (29, 29)]
    loss = np.asarray(whole.loss, np.float64)
    rates = np.asarray(whole.metrics["learning_rate"])
    for (step, _, _, metrics), start in zip(seen, (0, 7, 14, 21, 28), strict=True):
        np.testing.assert_allclose(metrics["loss"], loss[start:step].mean(), rtol=1e-12)
        assert metrics["learning_rate"] == rates[step - 1]
        assert ("validation_accuracy" in metrics) == (step in (14, 28, 29))
    assert list(fitted.validation["step"]) == [14, 28, 29]
    scores = fn.evaluate(TRAINER, fitted.state, HELD_OUT)
    np.testing.assert_allclose(fitted.validation["loss"][-1], scores["loss"], rtol=1e-6)
    np.testing.assert_allclose(seen[-1][3]["validation_loss"], scores["loss"], rtol=1e-6)


def test_the_picture_of_a_history():
    pytest.importorskip("matplotlib")
    fitted = fit(validation=HELD_OUT)
    *panels, last = fn.plot_history(fitted, window=3).axes
    names = [axis.get_ylabel() for axis in (*panels, last)]
    assert names == ["loss", "accuracy", "learning rate", "gradient norm"]
    training, validation, best = panels[0].lines
    np.testing.assert_array_equal(training.get_xdata(), np.arange(1, 30))
    np.testing.assert_allclose(training.get_ydata()[10], fitted.loss[8:11].mean(), rtol=1e-6)
    np.testing.assert_array_equal(validation.get_xdata(), [7, 14, 21, 28, 29])
    np.testing.assert_array_equal(validation.get_ydata(), fitted.validation["loss"])
    assert list(best.get_xdata()) == [fitted.best_step] * 2
    assert len(last.lines) == 2  # without validation
    alone = fn.plot_history(fn.Result(fitted.state, fitted.loss, fitted.metrics))
    assert [len(axis.lines) for axis in alone.axes] == [1] * 4


SCORES = [3.0, 2.0, np.nan, 2.5, 2.2]


@pytest.mark.parametrize("sign", [1, -1], ids=["least", "greatest"])
def test_the_best_is_kept_and_patience_ends_the_run(sign, monkeypatch, whole, tmp_path):
    """Scores from a list; cut anywhere and continued, it ends at the same step with the same."""

    def scored(trainer, state, data):
        return {"rank": sign * SCORES[int(state.step) // 7 - 1]}

    monkeypatch.setattr(loop, "score_of", scored)
    monkeypatch.setattr(checks, "score_of", lambda *inputs: {"rank": 0.0})
    score = fn.sweeps.least("rank") if sign > 0 else fn.sweeps.greatest("rank")
    how = {"validation": HELD_OUT, "score": score, "patience": 3, "steps": 70}
    said = []
    fitted = fit(**how, report=said.append)
    assert (fitted.reason, fitted.best_step, fitted.state.step) == ("patience", 14, 35)
    assert said[-1] == "no better score than 2 since step 14: stopped at step 35 of 70"
    same(fitted.best.params, fit(steps=14).state.params)
    for cut in (7, 28):
        best = {1: min, -1: max}[sign]
        with fn.Checkpoints(tmp_path / str(cut), keep_best=1, keep_last=1, best=best) as folder:
            fit(**{**how, "steps": cut}, checkpoints=folder)
            rest = fit(**how, checkpoints=folder)
        assert (rest.reason, rest.best_step, rest.state.step) == ("patience", 14, 35)
        same(rest.best, fitted.best)
        same(rest.state, fitted.state)
        with fn.Checkpoints(tmp_path / str(cut), keep_best=1, best=best) as folder:
            assert fit(**how, checkpoints=folder).state.step == 35  # it is at its end


def test_time_and_frozen_runs_end_and_say_so():
    said = []
    late = fit(time_limit=0.0, report=said.append)
    assert (late.reason, late.state.step) == ("time", 0)
    assert said == [
        "out of time: stopped at step 0 of 29; nothing is saved, fn.resume continues from the "
        "result's state"
    ]
    said.clear()
    x = np.where(np.arange(20)[:, None] == 13, np.nan, X)
    rows = rows_of(run_keys(KEY)[0], range(29))
    bad = [bool((row == 13).any()) for row in rows]
    in_a_row = next(k for k in range(28) if bad[k] and bad[k + 1])
    counts = []
    fitted = fit(
        GUARDED, (x, LABELS), report=said.append,
        callbacks=[lambda step, state, metrics: counts.append(metrics["skipped"])],
    )  # fmt: skip
    end = -(-(in_a_row + 2) // 7) * 7
    assert (fitted.reason, int(fitted.state.step)) == ("frozen", end)
    assert fitted.state.failed_at == in_a_row
    assert counts[-1] == sum(bad[: in_a_row + 2])
    sentences = [what for what in said if isinstance(what, str)]
    assert sentences[0] == f"the loss of step {bad.index(True)} is nan: fn.diagnose says where"
    assert sentences[1].startswith(f"frozen: step {in_a_row} and those after it were not finite")


def test_logs_continue_without_a_step_twice(tmp_path):
    files = [tmp_path / "new" / "log.csv", tmp_path / "log.jsonl"]

    def logs():
        return [fn.log_csv(files[0]), fn.log_jsonl(files[1])]

    for log in logs():
        log(10, None, {"loss": 0.5})
        log(20, None, {"loss": float("nan"), "validation_loss": 0.25})
        log(30, None, {"loss": 0.125})
    with open(files[1], "a") as file:
        file.write('{"step": 40, "lo')  # cut off
    for log in logs():
        log(20, None, {"loss": 1.0})
        log(30, None, {"loss": 2.0})
    rows = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert rows == [{"step": s, "loss": x} for s, x in ((10, 0.5), (20, 1.0), (30, 2.0))]
    assert files[0].read_text().splitlines() == [
        "step,loss,validation_loss", "10,0.5,", "20,1.0,", "30,2.0,",
    ]  # fmt: skip
    for log in logs():
        log(10, None, {"loss": float("inf")})
    assert json.loads(files[1].read_text()) == {"step": 10, "loss": None}
    assert files[0].read_text() == "step,loss\n10,inf\n"


def test_a_log_serves_one_run_after_another(tmp_path):
    files = [tmp_path / "log.csv", tmp_path / "log.jsonl"]
    logs = [fn.log_csv(files[0]), fn.log_jsonl(files[1])]
    for log in logs:
        for step, loss in ((10, 4.0), (20, 3.0), (10, 2.0), (20, 1.0)):
            log(step, None, {"loss": loss})
    assert files[0].read_text() == "step,loss\n10,2.0\n20,1.0\n"
    rows = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert rows == [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}]


FOREIGN = {
    "text": (b"Dear diary,\n\ntoday\n", "Dear diary"),
    "a line without an end": (b"Dear diary", "Dear diary"),
    "binary": (b"\x00\xff\xfe\n", "can't decode byte 0xff"),
    "no step": (b'{"epoch": 1}\n', '{"epoch": 1}'),
    "a step that is none": (b"step,loss\n1.5,2.0\n", "step"),
    "a row of more": (b"step,loss\n1,2.0,3.0\n", "step"),
    "a list": (b"[1, 2]\n", "[1, 2]"),
    "a number": (b"1\n", "1"),
    "a long line": (b"[" * 200_000 + b"\n", ""),
    "a row without a step": (b"loss,step\n1.0\n", "loss"),
}


@pytest.mark.parametrize("log", [fn.log_csv, fn.log_jsonl])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_log_leaves_what_is_no_log(name, log, tmp_path):
    file, (content, got) = tmp_path / "file", FOREIGN[name]
    late = log(file)
    file.write_bytes(content)
    for work in (lambda: log(file), lambda: late(10, None, {"loss": 0.5})):
        with pytest.raises(ValueError, match="file is no log of a run") as raised:
            work()
        assert got in str(raised.value)
    assert file.read_bytes() == content
    with pytest.raises(ValueError, match="expected a file, got a folder"):
        log(tmp_path)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_line(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("funcnet.host.progress.time.monotonic", lambda: now[0])
    long = {"loss": 0.123456, "learning_rate": 1e-3, "gradient_norm": 7.0, "accuracy": 0.5}
    progress = [
        Progress(100, 300, {**long, "validation_loss": 0.25}, 200.0, 6400.0, 7200.0),
        Progress(200, 300, long, 12.345, 395.0, 150.0),
        Progress(300, 300, long, 12.345, 395.0, 0.0),
    ]
    first = (
        "step 100/300  200 steps/s  6,400 examples/s  2:00:00 left  loss 0.1235  "
        "learning rate 0.001  accuracy 0.5  validation loss 0.25"
    )
    second = (
        "step 200/300  12.3 steps/s  395 examples/s  2:30 left  loss 0.1235  learning rate 0.001  "
        "accuracy 0.5"
    )
    third = second.replace("200/300", "300/300").replace("2:30", "0 s")
    pipe, terminal = io.StringIO(), Terminal()
    reports = [fn.progress_line(pipe), fn.progress_line(terminal)]
    for report in reports:
        for what in progress:
            report(what)
            now[0] += 1.0
        report("ended")
    assert pipe.getvalue() == f"{first}\n{third}\nended\n"
    assert terminal.getvalue() == (
        f"\r{first}\r{second.ljust(len(first))}\r{third}\nended\n"
    ).replace(f"\r{third}", f"\r{third.ljust(len(second))}")


def test_rates_are_without_the_compilation(monkeypatch):
    now, seen = [100.0], []
    monkeypatch.setattr("funcnet.host.progress.time.monotonic", lambda: now[0])

    def later(step, state, metrics):
        now[0] += 10.0 if step == 7 else 2.0

    def report(progress):
        seen.append(progress)
        now[0] += 0.5

    fit(report=report, callbacks=[later], steps=28)
    assert [p.steps_per_second for p in seen[1:]] == [7 / 10.5, 14 / 13.0, 21 / 15.5]
    assert seen[1].examples_per_second == 8 * 7 / 10.5
    assert seen[1].seconds_left == 14 / (7 / 10.5)


BAD = [
    ({"steps": None}, "fit expects steps or epochs, got steps=None and epochs=None"),
    ({"epochs": 2}, "fit expects steps or epochs, got steps=29 and epochs=2"),
    ({"save_every": 10}, "save_every must be a multiple of every, 7, got 10"),
    ({"patience": 2}, "patience needs validation data"),
    ({"every": 0}, "every must be at least 1, got 0"),
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ({"data": iter(()), "steps": None, "epochs": 1}, "epochs are of data that have a length"),
    (
        {"data": Source(), "batch_size": None},
        "for arrays in memory and for streams .* got Source: g",
    ),
    ({"time_limit": float("nan")}, "time_limit must be at least 0 seconds, got nan"),
    ({"time_limit": -1}, "time_limit must be at least 0 seconds, got -1"),
    ({"callbacks": nothing}, r"callbacks must be functions in a list, .*, got <function nothing"),
    ({"callbacks": [None]}, r"callbacks must be functions in a list, .*, got \[None\]"),
    ({"report": True}, "report must be a function, such as print, or None, got True"),
    ({"validation": DATA, "score": "loss"}, "score must be a function of the metrics, .* 'loss'"),
    ({"validation": DATA, "score": fn.sweeps.least("acuracy")}, r"\['accuracy', .* got 'acuracy'"),
    ({"validation": (X[:, :1], LABELS)}, "dense expects 3 features"),
]


@pytest.mark.parametrize(("how", "message"), BAD)
def test_what_it_refuses_before_it_begins(how, message, monkeypatch):
    monkeypatch.setattr(loop, "Saver", None)
    with pytest.raises((ValueError, TypeError), match=message):
        fit(**how)


def test_checkpoints_that_cannot_serve_are_refused(tmp_path):
    checkpoints = fn.Checkpoints(tmp_path)
    with checkpoints, pytest.raises(ValueError, match=r"give Checkpoints\(folder, keep_best=1\)"):
        fit(checkpoints=checkpoints, validation=DATA)
    with pytest.raises(RuntimeError, match="are closed"):
        fit(checkpoints=checkpoints)
    assert not list(tmp_path.iterdir())


def small(loss):
    network = fn.serial(fn.dense(3, 8), fn.tanh, fn.dense(8, 3))
    return fn.trainer(fn.supervised(network, loss), fn.sgd(0.1))


def child():
    """A run in a process of its own, which says when it is at a place and then takes its time."""
    place, folder = sys.argv[1:]
    trainer, callbacks, waits = small(slow_loss), [], []

    def here(*_):
        if not waits:
            waits.append(print(place, flush=True))
            time.sleep(0.5)

    if place == "training":
        callbacks = [here]
    if place == "saving":
        sync = files.sync
        files.sync = lambda file: (here(), sync(file))
    if place == "evaluation":
        loop.score_of = lambda *inputs: (here(), chunks.score_of(*inputs))[1]
    if place == "compilation":
        slow_loss.when_traced = here
    fitted = fn.fit(
        trainer, DATA, KEY, steps=10**7, batch_size=8, every=1000, checkpoints=folder,
        validation=HELD_OUT, callbacks=callbacks, report=print,
    )  # fmt: skip
    print(fitted.reason, int(fitted.state.step), float(fitted.state.params[0]["bias"][0]))


def slow_loss(prediction, target):
    getattr(slow_loss, "when_traced", lambda: None)()
    return fn.cross_entropy(prediction, target)


@pytest.mark.parametrize(
    "place",
    [
        "training",
        *(
            pytest.param(place, marks=pytest.mark.slow)
            for place in ("evaluation", "compilation", "saving")
        ),
    ],
)
def test_sigterm_anywhere_ends_a_process_with_a_checkpoint(place, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", "import test_fit; test_fit.child()", place, str(tmp_path)],
        cwd=os.path.dirname(__file__), stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(fn.__file__))},
    )  # fmt: skip
    while process.stdout.readline().strip() != place:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    *_, said, last = process.communicate()[0].splitlines()
    reason, step, bias = last.split()
    assert (process.returncode, reason) == (0, "SIGTERM")
    assert f"told to stop by SIGTERM: stopped at step {step} of 10000000, saved in" in said
    with fn.Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(small(fn.cross_entropy).init, KEY))
    assert (restored.step, restored.skipped) == (int(step), ())
    assert float(restored.tree.params[0]["bias"][0]) == float(bias)


class Loader:
    """Like PyTorch's: its length is that of its batches, and the last may be shorter."""

    def __init__(self, data=DATA, size=8):
        self.data, self.size = data, size

    def __len__(self):
        return 5

    def __iter__(self):
        for first in range(0, len(self.data[0]), self.size):
            yield [array[first : first + self.size] for array in self.data]


class Dataset:
    """Like PyTorch's: one example at a time."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return X[index], LABELS[index]


def test_epochs_are_of_examples():
    assert chunks.count_steps(Dataset(), 8, None, 2) == 5
    with pytest.raises(ValueError, match="epochs are of data that have a length: give steps"):
        fit(data=Loader(), steps=None, epochs=2)
    for epochs in (-1, float("nan")):
        with pytest.raises(ValueError, match="epochs must be a finite number of at least 0"):
            fit(steps=None, epochs=epochs)


def test_a_run_that_could_not_begin_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="dense expects"):
        fit(data=(X[:, :1], LABELS), checkpoints=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_evaluated_when_asked_and_goes_no_further(tmp_path):
    first = fit(steps=14, checkpoints=tmp_path)
    again = fit(steps=14, checkpoints=tmp_path, validation=DATA)
    assert (again.best_step, again.validation["step"].tolist()) == (14, [14])
    same(again.state, first.state)
    fewer = fit(data=Source(), steps=7, checkpoints=tmp_path)
    assert (fewer.reason, len(fewer.loss)) == ("steps", 0)


def test_a_damaged_best_is_missed_and_not_replaced_by_a_worse(tmp_path):
    told = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    how = {"validation": DATA, "score": lambda metrics: next(told)}
    fit(steps=28, checkpoints=tmp_path, **how)
    with fn.Checkpoints(tmp_path, keep_best=1) as folder:
        (tmp_path / "step-0000000007.safetensors").write_bytes(b"damaged")
        with pytest.warns(UserWarning, match="the best state, of step 7, is lost: HeaderError"):
            fitted = fit(steps=35, checkpoints=folder, **how)
    assert (fitted.best, fitted.best_step) == (None, 7)


def test_a_frozen_run_stays_frozen(tmp_path):
    nowhere = (np.full_like(X, np.nan), LABELS)
    arguments = {"trainer": fn.guard(TRAINER, patience=2), "data": nowhere, "checkpoints": tmp_path}
    ends = [fit(**arguments) for _ in range(2)]
    assert [end.reason for end in ends] == ["frozen", "frozen"]
    assert int(ends[0].state.step) == int(ends[1].state.step)


def test_the_best_is_the_runs_also_when_it_goes_on(tmp_path):
    """Its scores are told by its steps, and the best lies between two saves."""
    told = iter([1.0, 2.0, 3.0, 4.0, 1.5, 9.0, 9.0])
    arguments = {
        "checkpoints": tmp_path, "validation": DATA, "score": lambda metrics: next(told),
        "every": 2, "save_every": 4,
    }  # fmt: skip
    fit(steps=8, **arguments)
    assert fit(steps=12, **arguments).best_step == 2


def test_validation_comes_to_an_end_each_time():
    for data, message in (
        (iter(Loader()), "validation is gone through more than once: .* got an iterator, <gen"),
        (lambda step: DATA, "an evaluation ends: .* got a function of the step, <function"),
        ("folder", "stream expects an iterable"),
    ):
        with pytest.raises(TypeError, match=message):
            fit(validation=data)
