"""`fit`: the pure run in compiled chunks, and between them all that has an effect."""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet.checkpoint import Checkpoints
from funcnet.host.checks import (
    check_callbacks,
    check_checkpoints,
    check_time,
    check_validation,
    multiple,
)
from funcnet.host.chunks import chunks, count_steps, leaving
from funcnet.host.chunks import notes as notes_of
from funcnet.host.course import Chunk, Course, Limits
from funcnet.host.evaluation import score_of
from funcnet.host.progress import progress_line
from funcnet.host.saver import Saver
from funcnet.host.signals import listening, to_stderr, told_to_stop
from funcnet.pairs import Trainer, Tree, check_count, check_key, check_trainer
from funcnet.sweeps.members import LEAST_LOSS

LINE = progress_line()


class Fitted(NamedTuple):
    """Where `fit` ended, and the history of the steps that it made."""

    state: Any
    loss: np.ndarray  # [steps], as in a Result
    metrics: dict[str, np.ndarray]  # each [steps]
    validation: dict[str, np.ndarray]  # each [evaluations], and "step"
    best: Any  # the state of the least score; None without evaluations, or if it was damaged
    best_step: int | None
    reason: (
        str  # why it ended: "steps", "patience", "time", "frozen", a signal's or an error's name
    )


def fitted(state, course, reason) -> Fitted:
    history = course.joined()
    loss = history.pop("loss")
    return Fitted(state, loss, history, course.scores(), course.best, course.best_step, reason)


def hand_over(error, state, course) -> None:
    """Put what a run has come to into an error, unless a chunk that failed has consumed it."""
    if isinstance(error, Exception):  # else it is to end at once
        with contextlib.suppress(Exception):
            course.settle()
    if not any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
        error.fitted = fitted(state, course, type(error).__name__)


def passed(step: int, size: int, every: int) -> bool:
    """Whether the last `size` steps reached a multiple of `every`."""
    return step // every > (step - size) // every


def ending(reason, step, course, saver) -> str | None:
    """What to say of a run that ended before its last step."""
    why = {
        "steps": None,
        "patience": f"no better score than {course.best_score:.4g} since step {course.best_step}",
        "time": "out of time",
        "frozen": f"frozen: step {course.failed_at} and those after it were not finite",
    }.get(reason, f"told to stop by {reason}")
    if why is None:
        return None
    text = f"{why}: stopped at step {step} of {course.limits.steps}"
    if reason in ("patience", "frozen"):
        return text
    if saver.checkpoints is None:
        return f"{text}; nothing is saved, fn.resume continues from the result's state"
    return f"{text}, saved in {saver.checkpoints.folder}; the same call continues from there"


def fit(
    trainer: Trainer,
    data: Any,
    key: Any,
    *,
    batch_size: int | None,
    steps: int | None = None,
    epochs: float | None = None,
    every: int = 100,
    validation: Tree = None,
    validate_every: int | None = None,
    score: Callable[..., Any] = LEAST_LOSS,
    patience: int | None = None,
    time_limit: float | None = None,
    checkpoints: Checkpoints | str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    callbacks: Sequence[Callable[..., Any]] = (),
    report: Callable[[Any], Any] | None = LINE,
) -> Fitted:
    """Train for `steps`, or ceil(epochs n / batch_size), as `run` does, bit for bit, in compiled
    chunks of `every` steps; between them it reports, evaluates, saves, and can be stopped.

        fitted = fn.fit(trainer, train, key, epochs=10, batch_size=32, validation=test,
                        checkpoints="runs/a", callbacks=[fn.log_csv("runs/a.csv")])

    data: arrays in memory, as for `run`, or a source of `funcnet.data`.
    report: is handed a `Progress` at the end of each chunk, and sentences. By default they are
    printed by `progress_line()`; `print` is another, and None is silent.
    validation: data to `evaluate` on after `validate_every` steps and the last, or what
    `evaluate_in_parts` takes, but an iterator. The state whose `score`, a function of the metrics
    such as `least("loss")` or `greatest("accuracy")`, is least is kept as `best`, and after
    `patience` evaluations that were no better the run ends.
    checkpoints: a `Checkpoints`, or a folder, of which the last three and the best are kept. The
    run continues from the newest whole one, with the key that it had, and with its patience, where
    the best one is kept. It is saved after `save_every` steps, when its score is the best, and at
    its end, whatever the reason, with the score if it was just evaluated.
    callbacks: functions of (step, state, metrics) at the end of each chunk, such as
    `log_csv(path)`; metrics are numbers by name, the means of the chunk's steps (of the learning
    rate the last), `validation_...` where it was evaluated, and `skipped` of a `guard`ed trainer.
    The state is valid until they return, for the next chunk consumes it.

    What a callback or the data raise is raised after a checkpoint of the last state. Whatever is
    raised after the first chunk, as by a save that fails twice, has the `Fitted` so far as its
    attribute `fitted`, but for an error in a chunk that consumed the state. A run that ends early
    has taken more batches of a stream than it used, as they are read ahead.

    `validate_every` and `save_every` are multiples of `every`, which is their default. Without
    `validation` and `callbacks` a chunk is dispatched before the metrics of the last are fetched.
    After `time_limit` seconds, SIGINT (Ctrl-C) or SIGTERM the run ends with its chunk, saved, and
    `reason` says so; a second Ctrl-C raises at once. A frozen run ends too. Where `jax.distributed`
    is initialised its preemption notice counts, and SIGTERM is left to it; checkpoints are those of
    one process.
    """
    check_trainer(trainer)
    check_key(key)
    every = check_count("every", every, 1)
    steps = count_steps(data, batch_size, steps, epochs)
    validate_every = multiple("validate_every", validate_every, every)
    save_every = multiple("save_every", save_every, every)
    check_time(time_limit)
    callbacks = check_callbacks(report, callbacks)
    check_checkpoints(checkpoints, validation)
    with contextlib.ExitStack() as stack:
        heard = stack.enter_context(listening(None if report is None else to_stderr))
        validation = check_validation(trainer, key, validation, score, patience)
        saver = stack.enter_context(Saver(checkpoints))
        state, step = saver.start(trainer, key, report)
        course = Course(step, Limits(steps, patience, time_limit), score, report)
        course.failed_at = int(notes_of(state).get("failed_at", -1))
        if validation is not None and (best := saver.best(validate_every, state)) is not None:
            course.recall(*best)
        how: dict[str, Any] = {"steps": steps, "every": every, "batch_size": batch_size}
        ahead = stack.enter_context(leaving(chunks(trainer, data, state, heard, **how)))
        reason, rank, begun = "steps", None, step
        try:
            for size, examples, advance in ahead:
                told = told_to_stop(heard, step // every) or course.reason_to_stop()
                if told is not None:
                    reason = told
                    break
                result, notes = advance(state)
                state, step, rank = result.state, step + size, None
                history = {**result.metrics, "loss": result.loss}
                course.expect(Chunk(step, size, examples, history, notes))
                if validation is not None and (passed(step, size, validate_every) or step == steps):
                    jax.block_until_ready(result.loss)
                    if not heard:
                        rank = course.judge(step, state, score_of(trainer, state, validation))
                if callbacks or validation is not None:
                    metrics = course.settle()
                    for callback in callbacks:
                        callback(step, state, metrics)
                if passed(step, size, save_every) or course.best_step == step:
                    saver.save(step, state, rank)
            else:
                reason = heard[0] if heard else reason
            if validation is not None and step == steps and course.evaluated != step and not heard:
                rank = course.judge(step, state, score_of(trainer, state, validation))
            course.settle()
            saver.finish(step, state, rank)
            reason = "frozen" if course.failed_at >= 0 else reason
            course.say(ending(reason, step, course, saver))
            ahead.close()
        except BaseException as error:
            if step > begun:
                saver.rescue(step, state, rank, error)
                hand_over(error, state, course)
            raise
        return fitted(state, course, reason)
