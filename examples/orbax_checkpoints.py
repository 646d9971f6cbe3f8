"""A run whose parameters lie on several devices, saved and restored by Orbax.

    pip install . orbax-checkpoint && python examples/orbax_checkpoints.py [FOLDER]

`fn.Checkpoints` writes the whole state from one process. Where the devices belong to many
processes, each has to write its own shards and all have to agree when they are done: that is
Orbax's work, and a run's state is a pytree like any other. Only its key goes as its data. Here two
devices of one process stand in; with `jax.distributed` the same lines run on every host.

It prints:

    parameters on 2 devices, saved after 100 of 200 steps
    restored onto 2 devices; all arrays equal those of the run that did not stop: True
"""

import functools
import sys
import tempfile
from pathlib import Path

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import funcnet as fn

BATCH_SIZE, STEPS = 32, 200


def plain(state):
    """The run's state with its key as numbers."""
    return state._replace(key=jax.random.key_data(state.key))


def typed(state):
    return state._replace(key=jax.random.wrap_key_data(state.key))


def spread(mesh, state):
    """Matrices by columns over the devices, where those divide evenly; all else on each."""

    def place(leaf):
        even = leaf.ndim == 2 and leaf.shape[1] % mesh.size == 0
        return NamedSharding(mesh, PartitionSpec(None, "model") if even else PartitionSpec())

    return jax.device_put(state, jax.tree.map(place, state))


def on_devices(state):
    """Over how many devices the first layer's weights are spread."""
    weights = max(jax.tree.leaves(state.params), key=lambda leaf: leaf.size)
    return len({str(shard.index) for shard in weights.addressable_shards})


def same(a, b):
    return all((x == y).all() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def main(folder, steps=STEPS):
    import orbax.checkpoint as ocp

    network = fn.mlp((64, 128, 10))
    trainer = fn.trainer(fn.supervised(network, fn.cross_entropy), fn.adam(1e-3))
    train, _ = fn.datasets.digits()
    mesh = jax.make_mesh((len(jax.devices()),), ("model",), (AxisType.Auto,))
    resume = functools.partial(fn.resume, steps=steps // 2, batch_size=BATCH_SIZE)
    half = jax.jit(lambda state: plain(resume(trainer, train, typed(state)).state))
    state = half(spread(mesh, plain(trainer.init(jax.random.key(0)))))
    path = (Path(folder) / "state").resolve()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state)
        checkpointer.wait_until_finished()
        devices = on_devices(state)
        print(f"parameters on {devices} devices, saved after {steps // 2} of {steps} steps")
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        restored = checkpointer.restore(path, like)
    devices = on_devices(restored)
    equal = same(half(restored), half(state))
    print(
        f"restored onto {devices} devices; all arrays equal those of the run that did not stop: "
        f"{equal}"
    )
    return equal


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    with tempfile.TemporaryDirectory() as temporary:
        main(sys.argv[1] if sys.argv[1:] else temporary)
