"""Runs of different lengths in one program."""

import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.optimizers.wrappers import chosen
from funcnet.pairs import Trainer, check_trainer, number, partial


def horizon_step(run_state, batch, *, step, horizon):
    after, metrics = step(run_state, batch)
    return chosen(run_state.step < jnp.asarray(horizon), after, run_state), metrics


def until(trainer: Trainer, horizon) -> Trainer:
    """The trainer that makes `horizon` steps: later ones leave the run's state as it is, bit for
    bit, its count of steps too.

    The horizon is a leaf, so `run(..., steps=longest)` of a sweep of horizons is each member's run
    with `steps=horizon`, but for last bits where the compiler fuses other multiplications with
    additions. A fraction counts as the next whole step; float32 counts up to 2^24. Beyond the
    horizon a run's history repeats the loss of the batch that would come next, by the parameters
    that the run ended with. A member that has ended costs as much as one that runs: put like
    lengths together.
    """
    check_trainer(trainer)
    return Trainer(
        partial(trainer.init),
        Partial(horizon_step, step=partial(trainer.step), horizon=number("horizon", horizon, 0.0)),
    )
