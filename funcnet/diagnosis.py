"""Where a run that has diverged broke: the step, the batch, the first layer that is not finite."""

import contextlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.data.sources import Stream, as_source
from funcnet.guard import Guarded, guard
from funcnet.host.chunks import chunks, copy
from funcnet.optimizers import global_norm
from funcnet.overview import is_layer, name_of
from funcnet.pairs import Trainer, Tree, check_count, check_trainer, leaf_names, unbind
from funcnet.shuffle import batch_indices
from funcnet.training import bound_loss, count_examples, run_keys

EVERY = 100
"""Steps between looks at whether the run has failed."""


class Layer(NamedTuple):
    """What a layer put out."""

    name: str
    largest: float  # magnitude among what is finite
    not_finite: int  # numbers
    dtype: str


class Diagnosis(NamedTuple):
    """The first step of a run that is not finite; `str` is the account of it."""

    step: int
    first: str  # what was not finite first
    indices: np.ndarray  # [batch_size], the examples
    examples: np.ndarray  # those among them that hold what is not finite
    params: tuple[str, ...]  # the names of leaves that are not finite: before the step,
    layers: tuple[Layer, ...]  # in the order in which they were computed
    loss: float
    gradients: tuple[str, ...]
    gradient_norm: float
    updated: tuple[str, ...]  # and of parameters after the step
    state: Any  # the run's, before the step
    batch: Tree
    loss_scale: float | None  # of a `loss_scaled` trainer
    overflows: tuple[str, ...]  # gradients that are not finite times the scale alone

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines = [f"step {self.step} is not finite, first {self.first}"]
        lines.append(f"  examples {listed(self.indices)}")
        if self.examples.size:
            lines.append(f"  not finite themselves: {listed(self.examples)}")
        for layer in self.layers:
            line = f"  {layer.name:{width}}  up to {layer.largest:.3g} in {layer.dtype}"
            lines.append(line + (f", {layer.not_finite} not finite" if layer.not_finite else ""))
        scale = "" if self.loss_scale is None else f", loss scale {self.loss_scale:g}"
        lines.append(f"  loss {self.loss:.4g}, gradient norm {self.gradient_norm:.4g}{scale}")
        for name, leaves in (
            ("parameters before it", self.params),
            ("gradients", self.gradients),
            ("gradients times the loss scale", self.overflows),
            ("parameters after it", self.updated),
        ):
            if leaves:
                lines.append(f"  not finite among the {name}: {listed(leaves)}")
        return "\n".join(lines)


def listed(items):
    shown = ", ".join(map(str, items[:8]))
    return shown + (f" and {len(items) - 8} more" if len(items) > 8 else "")


def inexact(tree):
    """The leaves that hold numbers which may not be finite."""
    return [np.asarray(x, np.complex128 if jnp.iscomplexobj(x) else np.float64)
            for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]  # fmt: skip


def bad_leaves(tree) -> tuple[str, ...]:
    leaves = zip(leaf_names(tree), jax.tree.leaves(tree), strict=True)
    return tuple(name or "all" for name, leaf in leaves if not all_finite(leaf))


def all_finite(tree) -> bool:
    return all(np.isfinite(x).all() for x in inexact(tree))


def measured(name, y) -> Layer:
    finite = [np.isfinite(x) for x in inexact(y)]
    sizes = [abs(x[f]).max() for x, f in zip(inexact(y), finite, strict=True) if f.any()]
    kinds = ", ".join(dict.fromkeys(str(x.dtype) for x in jax.tree.leaves(y)))
    return Layer(name, float(max(sizes, default=0.0)), sum(int((~f).sum()) for f in finite), kinds)


def watched(apply, path, seen: list[Layer]):
    """`apply` with each layer bound in it, and itself, noting in `seen` what it puts out. Layers
    that are run inside a `scan` or the like are not seen, but what holds them is."""
    function, bound = unbind(apply)

    def watch(keys, value):
        if not is_layer(value):
            return value
        place = jax.tree_util.keystr(keys, simple=True, separator=".")
        return watched(value, f"{path}.{place}" if path else place, seen)

    bound = {
        name: jax.tree_util.tree_map_with_path(
            lambda keys, value, name=name: watch((jax.tree_util.GetAttrKey(name), *keys), value),
            value,
            is_leaf=callable,
        )
        for name, value in bound.items()
    }

    def called(params, state, x, **context):
        y, state = function(params, state, x, **context, **bound)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(y)):
            seen.append(measured(f"{path} {name_of(apply)}".strip(), y))
        return y, state

    return called


def watched_loss(loss, seen: list[Layer]):
    """A supervised loss, also beneath a wrapper that binds it as `loss`, whose network's layers
    note in `seen` what they put out; None of another loss."""
    function, bound = unbind(loss)
    inner = bound.get("loss")
    if is_layer(bound.get("apply")):
        bound = {**bound, "apply": watched(bound["apply"], "", seen)}
    elif callable(inner) and (inner := watched_loss(inner, seen)) is not None:
        bound = {**bound, "loss": inner}
    else:
        return None
    return lambda *inputs, **context: function(*inputs, **context, **bound)


def layers_of(loss, *inputs, **context) -> tuple[Layer, ...]:
    """What each layer of a supervised loss's network puts out; nothing of another loss."""
    seen: list[Layer] = []
    if (found := watched_loss(loss, seen)) is not None:
        found(*inputs, **context)
    return tuple(seen)


def begun(trainer, start):
    """The state that a diagnosis starts from."""
    if isinstance(start, jax.Array):
        return trainer.init(start)
    if not hasattr(start, "step"):
        raise TypeError(
            "diagnose starts from a run's key or from a state of it, such as a checkpoint's, got "
            f"{type(start).__name__}" + (": its .state is one" if hasattr(start, "state") else "")
        )
    return start


def before_failure(trainer, data, state, steps, batch_size):
    """(the trainer without its guard, the run's state before its first step that is not finite,
    whether there is one)."""
    if isinstance(state, Guarded):
        trainer = trainer._replace(step=trainer.step.keywords["step"])
        if state.frozen:
            return trainer, state.run._replace(step=state.failed_at), True
        state = state.run
    zero = jnp.zeros((), jnp.int32)
    cautious, run = guard(trainer, patience=1), copy(Guarded(state, zero, zero, zero - 1))
    last = int(state.step) + check_count("steps", steps, 0)
    ahead = chunks(cautious, data, run, (), steps=last, every=EVERY, batch_size=batch_size)
    with contextlib.closing(ahead):
        for _, _, advance in ahead:
            run = advance(run)[0].state
            if run.frozen:
                return trainer, run.run._replace(step=run.failed_at), True
    return trainer, run.run, False


def batch_of(source, data_key, step, batch_size):
    """(the batch of a step, its examples' indices: in the data, or of a stream in the batch)."""
    if isinstance(source, Stream):
        batch = next(source.read([int(step)], batch_size))
        indices = np.arange(count_examples(batch))
    else:
        indices = np.arange(len(source))
        if batch_size is not None:
            indices = np.asarray(batch_indices(data_key, step, len(source), batch_size))
        batch = source.take(indices)
    return jax.tree.map(jnp.asarray, batch), indices


def overflows(loss, scale, *inputs, **context) -> tuple[str, ...]:
    """The leaves whose gradient is not finite when the loss is scaled."""

    def larger(*inputs):
        value = loss(*inputs, **context)[0]
        return jnp.asarray(scale, value.dtype) * value

    return bad_leaves(jax.grad(larger)(*inputs))


def diagnose(
    trainer: Trainer, data: Any, start: Any, *, steps: int, batch_size: int | None
) -> Diagnosis | None:
    """Where a run first fails to be finite within `steps` steps, None if it does not.

    data: what `fit` took: arrays, another source of examples, or a function from the step to its
    batch, whose examples are then counted in the batch. Batches that come in an order of their own,
    from a loader or another iterable, cannot be had again: `TypeError`.
    start: the run's key, or a state from which it goes on, such as a checkpoint's; of a `guard`ed
    run that is frozen, its last state, from which nothing need be run again. A `Result` or a
    `Fitted` is no state: `TypeError`.

    The step is made once more, layer by layer: what is named `first` is the first that is not
    finite of the parameters, the batch, the layers in the order of their calls, the loss, the
    gradients by leaf and the parameters after the update. A layer is what has (params, state, x)
    for its first arguments; of a `repeat` the whole is one. The failing batch is a function of the
    run's key and the step. The gradients are those of the loss itself: an overflow that
    `loss_scaled` leaves out, as its scale can still give way, is no failure, and where a step of
    such a run fails, `overflows` names the gradients that are not finite only when scaled.
    """
    check_trainer(trainer)
    state = begun(trainer, start)
    if (loss := bound_loss(trainer.step)) is None:
        raise ValueError("diagnose needs a trainer made by trainer(task, optimizer)")
    source = as_source(data)
    if isinstance(source, Stream) and isinstance(source.batches, Iterable):
        raise TypeError(
            "diagnose makes steps again: expected arrays, another source of examples or a function "
            f"from the step to its batch, got an iterable of batches, {source.batches!r}"
        )
    trainer, state, fails = before_failure(trainer, data, state, steps, batch_size)
    if not fails:
        return None
    data_key, noise_key = run_keys(state.key)
    batch, indices = batch_of(source, data_key, state.step, batch_size)
    rows = [~np.isfinite(x).reshape(len(x), -1).all(axis=1) for x in inexact(batch)]
    wrong = indices[np.any(rows, axis=0)] if rows else np.zeros(0, int)
    context = {"key": jax.random.fold_in(noise_key, state.step), "train": True}
    inputs = (state.params, state.state, batch)
    layers = layers_of(loss, *inputs, **context)
    (value, _), grads = jax.value_and_grad(loss, has_aux=True)(*inputs, **context)
    after, metrics = trainer.step(state, batch)
    params, gradients, updated = map(bad_leaves, (state.params, grads, after.params))
    norm, scale = metrics.get("gradient_norm", np.nan), metrics.get("loss_scale")
    scaled: tuple[str, ...] = ()
    if scale is not None:  # of a step that is left out, the norm is reported as 0
        norm, scaled = global_norm(grads), overflows(loss, scale, *inputs, **context)
    found = [f"the parameter {name}" for name in params[:1]]
    whole = "batch" if isinstance(source, Stream) else "data"
    found += [f"example {index} of the {whole}" for index in wrong[:1]]
    found += [f"the output of {layer.name}" for layer in layers if layer.not_finite][:1]
    found += [] if np.isfinite(value) else [f"the loss, {value}"]
    found += [f"the gradient of {name}" for name in gradients[:1]]
    found += [f"the parameter {name} after the update" for name in updated[:1]]
    found += ["the state after the update"]
    return Diagnosis(
        int(state.step), found[0], indices, wrong, params, layers, float(value), gradients,
        float(norm), updated, state, batch, None if scale is None else float(scale),
        tuple(name for name in scaled if name not in gradients),
    )  # fmt: skip
