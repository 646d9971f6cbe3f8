"""Where a run that has diverged broke: the step, the batch, the first layer that is not finite."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.guard import Guarded, guard
from funcnet.overview import is_layer, name_of
from funcnet.pairs import Trainer, Tree, check_trainer, leaf_names, unbind
from funcnet.shuffle import batch_indices
from funcnet.training import bound_loss, check_data, resume, run_keys, take


class Layer(NamedTuple):
    """What a layer put out."""

    name: str
    largest: float  # magnitude among what is finite
    not_finite: int  # numbers


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

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines = [f"step {self.step} is not finite, first {self.first}"]
        lines.append(f"  examples {listed(self.indices)}")
        if self.examples.size:
            lines.append(f"  not finite themselves: {listed(self.examples)}")
        for layer in self.layers:
            line = f"  {layer.name:{width}}  up to {layer.largest:.3g}"
            lines.append(line + (f", {layer.not_finite} not finite" if layer.not_finite else ""))
        lines.append(f"  loss {self.loss:.4g}, gradient norm {self.gradient_norm:.4g}")
        for name, leaves in (
            ("parameters before it", self.params),
            ("gradients", self.gradients),
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
    return Layer(name, float(max(sizes, default=0.0)), sum(int((~f).sum()) for f in finite))


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


def before_failure(trainer, data, state, steps, batch_size):
    """(the trainer without its guard, the run's state before its first step that is not finite,
    whether there is one)."""
    if isinstance(state, Guarded):
        trainer = trainer._replace(step=trainer.step.keywords["step"])
        if state.frozen:
            return trainer, state.run._replace(step=state.failed_at), True
        state = state.run
    zero = jnp.zeros((), jnp.int32)
    start, cautious = Guarded(state, zero, zero, zero - 1), guard(trainer, patience=1)
    end = resume(cautious, data, start, steps=steps, batch_size=batch_size).state
    return trainer, end.run._replace(step=end.failed_at), end.frozen


def diagnose(
    trainer: Trainer, data: Tree, start: Any, *, steps: int, batch_size: int | None
) -> Diagnosis | None:
    """Where a run first fails to be finite within `steps` steps, None if it does not.

    start: the run's key, or a state from which it goes on, such as a checkpoint's; of a `guard`ed
    run that is frozen, its last state, from which nothing need be run again. The step is made once
    more, layer by layer: what is named `first` is the first that is not finite of the parameters,
    the batch, the layers in the order of their calls, the loss, the gradients by leaf and the
    parameters after the update. A layer is what has (params, state, x) for its first arguments; of
    a `repeat` the whole is one. The failing batch is a function of the run's key and the step.
    """
    check_trainer(trainer)
    state = trainer.init(start) if isinstance(start, jax.Array) else start
    if (loss := bound_loss(trainer.step)) is None:
        raise ValueError("diagnose needs a trainer made by trainer(task, optimizer)")
    if not all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(data)):
        raise TypeError(f"diagnose expects arrays, such as a source's batches together, got {data}")
    data, length = check_data(data)
    trainer, state, fails = before_failure(trainer, data, state, steps, batch_size)
    if not fails:
        return None
    data_key, noise_key = run_keys(state.key)
    indices = jnp.arange(length)
    if batch_size is not None:
        indices = batch_indices(data_key, state.step, length, batch_size)
    batch = take(data, indices)
    rows = [~np.isfinite(x).reshape(len(x), -1).all(axis=1) for x in inexact(batch)]
    wrong = np.asarray(indices)[np.any(rows, axis=0)] if rows else np.zeros(0, int)
    context = {"key": jax.random.fold_in(noise_key, state.step), "train": True}
    inputs = (state.params, state.state, batch)
    layers = layers_of(loss, *inputs, **context)
    (value, _), grads = jax.value_and_grad(loss, has_aux=True)(*inputs, **context)
    after, metrics = trainer.step(state, batch)
    params, gradients, updated = map(bad_leaves, (state.params, grads, after.params))
    found = [f"the parameter {name}" for name in params[:1]]
    found += [f"example {index} of the data" for index in wrong[:1]]
    found += [f"the output of {layer.name}" for layer in layers if layer.not_finite][:1]
    found += [] if np.isfinite(value) else [f"the loss, {value}"]
    found += [f"the gradient of {name}" for name in gradients[:1]]
    found += [f"the parameter {name} after the update" for name in updated[:1]]
    found += ["the state after the update"]
    norm = float(metrics.get("gradient_norm", np.nan))
    return Diagnosis(
        int(state.step), found[0], np.asarray(indices), wrong, params, layers, float(value),
        gradients, norm, updated, state, batch,
    )  # fmt: skip
