"""A run that steps over what is not finite, and stands still where nothing else comes."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.numerics import varied
from funcnet.optimizers.wrappers import all_finite, chosen, spoilt
from funcnet.pairs import Trainer, check_count, check_trainer, fix, partial
from funcnet.training import check_own, replaced


class Guarded(NamedTuple):
    """A guarded run at one moment; it has a run state's fields too."""

    run: Any  # the state of the run within
    skipped: Any  # int32, steps left out before it froze
    in_a_row: Any  # int32, of them since the last one made
    failed_at: Any  # int32, the first of the steps in a row that froze it; -1 while it runs

    @property
    def params(self):
        return self.run.params

    @property
    def state(self):
        return self.run.state

    @property
    def opt_state(self):
        return self.run.opt_state

    @property
    def step(self):
        return self.run.step

    @property
    def key(self):
        return self.run.key

    @property
    def frozen(self):
        """Whether it has failed for good."""
        return self.failed_at >= 0


def guard_init(key, *, init):
    zero = jnp.zeros((), jnp.int32)
    return varied(Guarded(init(key), zero, zero, zero - 1), key)


def guard_step(guarded, batch, *, step, patience):
    check_own(guarded, Guarded)
    run, skipped, in_a_row, failed_at = guarded
    after, metrics = step(run, batch)
    arrived = [metrics[name] for name in ("loss", "gradient_norm") if name in metrics]
    idle = after.step == run.step  # a step that `until` did not make cannot fail
    sound, frozen = idle | (all_finite(arrived) & ~spoilt(run, after)), guarded.frozen
    # Of a step that is not made there remains that it was seen: the next is of the next batch.
    run = chosen(sound & ~frozen, after, replaced(run, step=after.step))
    skipped = skipped + (~sound & ~frozen)
    in_a_row = jnp.where(frozen, in_a_row, jnp.where(sound, 0, in_a_row + 1))
    fails = ~frozen & (in_a_row == patience)
    failed_at = jnp.where(fails, after.step - patience, failed_at)
    return Guarded(run, skipped, in_a_row, failed_at), metrics


def guard(trainer: Trainer, *, patience: int = 3) -> Trainer:
    """The trainer without its steps that are not finite, and frozen after `patience` in a row.

    A step is left out where its loss or its gradient's norm is not finite, or where it would turn a
    finite number of the parameters, the optimizer's state or the network's into one that is not.
    Everything is chosen by `where`, so no NaN is ever applied, nor reaches another member of a
    sweep. Of a step left out `step` alone counts on, so that data and noise are those of the next
    batch; the optimizer's count does not. The losses in a run's history are the batches' own, also
    the infinite ones. A frozen run keeps its last finite parameters, whatever comes, and its
    state's `failed_at` is the first of the steps that froze it. `patience` is a choice, part of the
    structure.

    `run`, `resume` and `evaluate` take the trainer and its state, a `Guarded`, as any other. What
    befalls one member of a sweep changes no bit of another; beside a sweep without a guard the last
    bits may differ, as the compiler fuses other multiplications with additions. In a sweep of small
    networks it costs a fifth to two fifths of a step, since every number is looked at. A derivative
    through a step that was left out may be NaN. Around an optimizer, `skip_non_finite` does the
    like without freezing and without regard to the network's state.
    """
    check_trainer(trainer)
    step = fix(guard_step, patience=check_count("patience", patience, 1))
    return Trainer(
        Partial(guard_init, init=partial(trainer.init)), Partial(step, step=partial(trainer.step))
    )
