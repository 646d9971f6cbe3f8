"""Hypergradients, the derivative of a whole run for the trainer's numbers, and descent by them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcnet import training
from funcnet.evaluation import evaluate
from funcnet.numerics import varied
from funcnet.optimizers import skip_non_finite
from funcnet.pairs import (
    Optimizer,
    Task,
    Trainer,
    Tree,
    check_count,
    check_trainer,
    hyperparameters,
)
from funcnet.sweeps.names import named


class Bijector(NamedTuple):
    """Where a number is learnt: on a line of which each point stands for an allowed value."""

    to_line: Callable[..., Any]
    from_line: Callable[..., Any]  # its inverse


def logit(p):
    """log p - log(1 - p), the inverse of the logistic function."""
    return jnp.log(p) - jnp.log1p(-p)


log_space = Bijector(jnp.log, jnp.exp)
"""Positive numbers, such as rates: equal steps are equal factors."""

logit_space = Bijector(logit, jax.nn.sigmoid)
"""Fractions in (0, 1), such as those of dropout, label smoothing or 1 - b1."""

linear_space = Bijector(jnp.asarray, jnp.asarray)
"""Any number, as it is."""


def forward_value_and_grad(function: Callable[..., Any], has_aux: bool = False):
    """`jax.value_and_grad` by forward mode: one run carries a tangent for each number along.

    The same gradient, with no memory for the steps, in the time of about as many runs as there are
    numbers: for few of them, and for what has no reverse mode, such as `lbfgs`.
    """

    def value_and_grad(x, *args, **context):
        def twice(x):
            result = function(x, *args, **context)
            return (result[0] if has_aux else result), result

        gradient, result = jax.jacfwd(twice, has_aux=True)(x)
        return result, gradient

    return value_and_grad


def validation_loss(trainer: Trainer, state: Any, validation: Tree):
    """The trainer's own loss of a run's state, `evaluate`'s, over the validation data."""
    return evaluate(trainer, state, validation)["loss"]


def outcome(trainer, data, validation, key, *, steps, batch_size, outer_loss):
    """The outer loss of a run from scratch."""
    start = trainer.init(key)
    result = training.resume_rematerialised(
        trainer, data, start, steps=steps, batch_size=batch_size
    )
    return outer_loss(trainer, result.state, validation)


def hypergradient(
    trainer: Trainer,
    data: Tree,
    validation: Tree,
    key,
    *,
    steps: int,
    batch_size: int | None,
    outer_loss: Callable[..., Any] = validation_loss,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> tuple[Any, Trainer]:
    """The validation loss of a run from scratch, and its derivative for every number in the
    trainer: a trainer again, whose numbers `hyperparameters` names.

    Exact, through every step (Maclaurin et al. 2015), with memory for about 2 sqrt(steps) run
    states. `value_and_grad=forward_value_and_grad` takes forward mode. `outer_loss(trainer, state,
    validation)` may be any other differentiable number: to learn the loss's own label smoothing or
    class weights, judge by a loss without them, such as `evaluate` of another trainer. All that is
    drawn is held fixed, so a dropout rate has the derivative through its scale, not its masks.
    `vmap` it over keys, and over trainers.
    """

    check_trainer(trainer)

    def of_trainer(trainer):
        sizes = {"steps": steps, "batch_size": batch_size}
        return outcome(trainer, data, validation, key, **sizes, outer_loss=outer_loss)

    return value_and_grad(of_trainer)(varied(trainer, (data, validation, key)))


class Descent(NamedTuple):
    """Numbers learnt by hypergradients, and how."""

    trainer: Trainer  # with the numbers after the last outer step
    values: dict[str, Any]  # [outer_steps, ...], each learnt number by name, before the outer step
    loss: Any  # [outer_steps], the mean outer loss of the runs with these numbers
    metrics: dict[str, Any]  # [outer_steps], of the outer trainer: "gradient_norm" on the line, ...
    skipped: Any  # int32, outer steps left out, as something in them was not finite


def bijectors(trainer, learnt) -> dict[str, Bijector]:
    """The bijector of each number that is to be learnt, by its name."""
    found = named("learnt", learnt, trainer)
    if not found:
        names = list(hyperparameters(trainer))
        raise ValueError(f"learnt expects at least one of {names}, got {learnt!r}")
    for name, bijector in found.items():
        if not isinstance(bijector, Bijector):
            raise TypeError(
                f"learnt expects a Bijector, such as log_space, for {name!r}, got {bijector!r}"
            )
    return found


def check_start(name, bijector, value):
    """`ValueError` for a number that is known and has no place on its line."""
    if isinstance(value, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():
        place = np.asarray(bijector.to_line(jnp.asarray(value)))
    if not np.isfinite(place).all():
        raise ValueError(
            f"{name} must begin inside its line, as a rate above 0 does in log_space and a "
            f"fraction between 0 and 1 in logit_space, got {value}"
        )


def replaced(trainer, numbers):
    """The trainer with other numbers where there are some of that name."""
    leaves = [numbers.get(name, leaf) for name, leaf in hyperparameters(trainer).items()]
    return jax.tree.structure(trainer).unflatten(leaves)


def hypergradient_descent(
    trainer: Trainer,
    optimizer: Optimizer,
    data: Tree,
    validation: Tree,
    key,
    *,
    learnt: Mapping[str, Bijector] | Callable[[str], Bijector | None],
    outer_steps: int,
    steps: int,
    batch_size: int | None,
    seeds: int = 1,
    outer_loss: Callable[..., Any] = validation_loss,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> Descent:
    """Learn the trainer's own numbers: each outer step is whole runs from scratch, of which the
    optimizer descends the mean validation loss by its hypergradient.

    `learnt` says which numbers and on which line each moves, `{"learning_rate.value": log_space}`,
    where a name is one of `hyperparameters(trainer)`, or an end of it that is no other's; or it is
    a function of the name, None for what stays. Every outer step draws `seeds` keys of its own, one
    a run. Hypergradients now and then explode: clip them, `chain(clip_by_global_norm(1.0),
    adam(0.1))`, which moves a positive number by about a tenth a step. An outer step that is not
    finite is skipped (`skip_non_finite`), so a number must not begin at its line's end, as a rate
    of 0 does in `log_space`. Runs that diverge show no way back: begin with numbers that train.
    For the rest see `hypergradient`.

    A pure function of (trainer, optimizer, data, validation, key): `jit` it, `vmap` it over keys.
    Raises `ValueError` where `learnt` names nothing, and for a number outside of its line where it
    is known, which it is not inside of `jit`, as an argument of it.
    """
    check_trainer(trainer)
    lines = bijectors(trainer, learnt)
    outer_steps = check_count("outer_steps", outer_steps, 0)
    seeds = check_count("seeds", seeds, 1)
    trainer = varied(trainer, (optimizer, data, validation, key))
    for name, bijector in lines.items():
        check_start(name, bijector, hyperparameters(trainer)[name])

    def init(key):
        leaves = hyperparameters(trainer)
        # With a dtype of their own: a Python number's would follow that of what it meets.
        start = {name: jnp.asarray(leaves[name], jnp.result_type(leaves[name])) for name in lines}
        return {name: lines[name].to_line(value) for name, value in start.items()}, ()

    def values_of(line):
        return {name: lines[name].from_line(place) for name, place in line.items()}

    def loss(line, state, batch, *, key=None, train=False):
        of_run = functools.partial(
            outcome, steps=steps, batch_size=batch_size, outer_loss=outer_loss
        )
        moved = replaced(trainer, values_of(line))
        keys = jax.random.split(key, seeds)
        return jax.vmap(lambda key: of_run(moved, *batch, key))(keys).mean(), (state, {})

    outer = training.trainer(Task(init, loss), skip_non_finite(optimizer), value_and_grad)

    def step(state, _):
        values = values_of(state.params)
        state, metrics = outer.step(state, (data, validation))
        return state, (values, metrics)

    state, (values, metrics) = lax.scan(step, varied(outer.init(key), trainer), length=outer_steps)
    moved = replaced(trainer, values_of(state.params))
    return Descent(moved, values, metrics.pop("loss"), metrics, state.opt_state.skipped)
