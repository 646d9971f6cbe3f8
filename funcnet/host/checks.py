"""What `fit` asks of its arguments, before anything is begun."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from funcnet.checkpoint import Checkpoints
from funcnet.host.chunks import begin, in_memory, score_of
from funcnet.host.evaluation import held_out
from funcnet.pairs import Fixed, Tree, check_count
from funcnet.sweeps.members import greatest_of, least_of


def multiple(name, value, every) -> int:
    if value is None:
        return every
    if check_count(name, value, 1) % every:
        raise ValueError(f"{name} must be a multiple of every, {every}, got {value}")
    return value


def check_time(time_limit: float | None) -> None:
    if time_limit is not None and not time_limit >= 0:
        raise ValueError(f"time_limit must be at least 0 seconds, got {time_limit}")


def check_callbacks(report, callbacks) -> tuple[Callable[..., Any], ...]:
    if report is not None and not callable(report):
        raise TypeError(f"report must be a function, such as print, or None, got {report!r}")
    functions = tuple(callbacks) if isinstance(callbacks, Iterable) else (None,)
    if not all(map(callable, functions)):
        raise TypeError(
            f"callbacks must be functions in a list, such as [log_csv(path)], got {callbacks!r}"
        )
    return functions


def check_checkpoints(checkpoints: Any, validation: Tree) -> None:
    if not isinstance(checkpoints, Checkpoints):
        return
    checkpoints.check_open()
    if validation is not None and checkpoints.keep_best == 0:
        raise ValueError(
            "validation finds the best state, which a run that continues must know: give "
            "Checkpoints(folder, keep_best=1), got keep_best=0"
        )


def check_validation(trainer, key, validation: Tree, score, patience: int | None) -> Tree:
    """What `held_out` makes of the data; of arrays also whether the trainer can evaluate them, and
    the score rate what comes out."""
    if patience is not None:
        check_count("patience", patience, 1)
    if validation is None:
        if patience is not None:
            raise ValueError("patience needs validation data")
        return None
    if not callable(score):
        raise TypeError(
            f'score must be a function of the metrics, such as least("loss"), got {score!r}'
        )
    validation = held_out(validation)
    if not in_memory(validation):
        return validation
    metrics = jax.eval_shape(score_of, trainer, jax.eval_shape(begin, trainer, key), validation)
    if isinstance(score, Fixed) and score.func in (least_of, greatest_of):
        name = dict(score.static)["name"]
        if name not in metrics:
            raise ValueError(f"score must be of a metric of {sorted(metrics)}, got {name!r}")
    return validation
