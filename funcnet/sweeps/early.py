"""Early stopping inside the program: each run ends when its validation score has ceased to fall."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.evaluation import evaluate
from funcnet.numerics import varied
from funcnet.pairs import Trainer, Tree, check_count, check_trainer, number
from funcnet.sweeps.members import LEAST_LOSS
from funcnet.training import resume


class Watch(NamedTuple):
    """All that an early-stopped run is at one moment."""

    state: Any  # the run's, the last
    best: Any  # the state whose score was best; the first one while no score was finite
    best_score: Any  # infinite while no score was finite
    waited: Any  # int32, evaluations since the best


class Stopped(NamedTuple):
    """Where an early-stopped run ended, and its history; arrays are [steps // every], and NaN from
    the end on."""

    watch: Watch
    scores: Any
    metrics: dict[str, Any]  # of the validation data
    loss: Any  # mean of the training batches since the evaluation before

    @property
    def stopped_at(self):
        """The number of steps after which it ended."""
        return self.watch.state.step


def watch(state: Any) -> Watch:
    """An early-stopped run's beginning, from a run's state."""
    state = jax.tree.map(jnp.asarray, state)
    return Watch(state, state, jnp.full((), jnp.inf, float), jnp.zeros((), jnp.int32))


def watched(before: Watch, state, score, min_improvement):
    """The watch after one more evaluation."""
    # Nothing is less than the first best, which is infinite, by an amount; anything finite is less.
    better = jnp.isfinite(score) & (score < before.best_score - min_improvement)
    best = jax.tree.map(lambda x, y: jnp.where(better, x, y), state, before.best)
    best_score = jnp.where(better, score, before.best_score)
    return Watch(state, best, best_score, jnp.where(better, 0, before.waited + 1))


def resume_early_stopping(
    trainer: Trainer,
    data: Tree,
    validation: Tree,
    start: Watch,
    *,
    steps: int,
    batch_size: int | None,
    every: int,
    patience,
    min_improvement=0.0,
    score: Callable[..., Any] = LEAST_LOSS,
) -> Stopped:
    """Train on from where an early-stopped run ended, `stopped.watch`, bit for bit as if it had not
    stopped, or from `watch(state)`: see `early_stopping`."""
    every, patience = check_count("every", every, 1), number("patience", patience, 1.0)
    chunks, rest = divmod(check_count("steps", steps, 0), every)
    if rest:
        raise ValueError(f"steps must be a multiple of every, got {steps} and {every}")

    def chunk(watch):
        result = resume(trainer, data, watch.state, steps=every, batch_size=batch_size)
        metrics = evaluate(trainer, result.state, validation)
        value = score(metrics)
        after = watched(watch, result.state, value, min_improvement)
        return after, (value, metrics, result.loss.mean())

    def going(carry):
        index, watch, _ = carry
        return (index < chunks) & (watch.waited < patience)

    def body(carry):
        index, watch, history = carry
        watch, entries = chunk(watch)
        history = jax.tree.map(lambda h, e: h.at[index].set(e), history, entries)
        return index + 1, watch, history

    start = varied(start, (trainer, data, validation, patience, min_improvement))
    entries = jax.eval_shape(chunk, start)[1]
    wide = jax.tree.map(lambda e: jnp.promote_types(e.dtype, jnp.float32), entries)
    history = jax.tree.map(lambda dtype: jnp.full(chunks, jnp.nan, dtype), wide)
    _, end, history = lax.while_loop(going, body, (0, start, varied(history, start)))
    return Stopped(end, *history)


def early_stopping(
    trainer: Trainer,
    data: Tree,
    validation: Tree,
    key,
    *,
    steps: int,
    batch_size: int | None,
    every: int,
    patience,
    min_improvement=0.0,
    score: Callable[..., Any] = LEAST_LOSS,
) -> Stopped:
    """Train until `patience` evaluations in a row were none of them better than the best, or for
    `steps` batches, and keep the best run state.

    The run is evaluated on `validation` after `every` batches. Least is best: a score is better
    where it is finite and score < best - min_improvement. `score` is a function of the metrics,
    `least("loss")` or `greatest("accuracy")` or any other. A run whose scores are never finite
    ends with the state that it began with as its best.

    A `while_loop` over chunks: it costs the steps that are made. Under `vmap` it ends when all
    members have, and a member that has ended stays as it is, bit for bit; `patience` and
    `min_improvement` are numbers, also one a member, and `steps`, `every` and `batch_size` are
    static. It has no reverse-mode derivative.
    """
    check_trainer(trainer)
    return resume_early_stopping(
        trainer,
        data,
        validation,
        watch(trainer.init(key)),
        steps=steps,
        batch_size=batch_size,
        every=every,
        patience=patience,
        min_improvement=min_improvement,
        score=score,
    )
