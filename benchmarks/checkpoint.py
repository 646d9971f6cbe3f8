"""What a checkpoint costs, with its sums and its syncing, beside what others do without.

    pip install -e . safetensors && python benchmarks/checkpoint.py [--megabytes N] [--json FILE]

float32 arrays of 4 MiB on the host, written to one file in the folder for temporary files and read
back, contestants in turn; Orbax joins in, by its defaults, where it is installed. safetensors
neither syncs nor verifies anything, NumPy does not sync and verifies zip's CRC-32 alone, so ours is
also timed without syncing, and the sums by themselves. Each is first shown to give back the same
bits. Quoted are each round's ratios of times.
"""

import argparse
import hashlib
import importlib.util
import json
import shutil
import statistics
import tempfile
import time
import zlib
from pathlib import Path

import jax
import numpy as np
from safetensors import __version__ as safetensors_version
from safetensors.numpy import load_file, save_file

import funcnet as fn
from funcnet import checkpoint


def without_syncing(path, tree):
    with open(path, "wb") as file:
        checkpoint.write_tree(file, tree)


def sums(path, tree):
    digest = hashlib.sha256()
    for array in tree.values():
        digest.update(array)
        zlib.crc32(array)


def to_one_npz(path, tree):
    np.savez(path.with_suffix(".npz"), **tree)


def from_one_npz(path, tree):
    return dict(np.load(path.with_suffix(".npz")))


class Background:
    """How long a caller is held up by a save whose predecessor is done."""

    def __init__(self, folder):
        self.checkpoints = checkpoint.Checkpoints(folder, keep_last=1)
        self.step = 0

    def __call__(self, path, tree):
        self.step += 1
        self.checkpoints.save(self.step, tree)


def orbax(folder):
    import orbax.checkpoint as ocp

    checkpointer = ocp.StandardCheckpointer()

    def save(path, tree):
        shutil.rmtree(folder, ignore_errors=True)
        checkpointer.save(folder, tree)
        checkpointer.wait_until_finished()

    return save, lambda path, tree: checkpointer.restore(folder, tree)


def spread(above, below):
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    leaves = arguments.megabytes // 4
    tree = {f"leaf.{i}": rng.standard_normal((1024, 1024), np.float32) for i in range(leaves)}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        background = Background(folder / "run")
        contestants = {
            "save": (checkpoint.save, checkpoint.load),
            "save, caller's share": (background, None),
            "save, not synced": (without_syncing, None),
            "the sums alone": (sums, None),
            "safetensors": (lambda p, t: save_file(t, p), lambda p, t: load_file(p)),
            "NumPy, npz": (to_one_npz, from_one_npz),
        }
        if importlib.util.find_spec("orbax"):
            contestants["Orbax"] = orbax(folder / "orbax")
        saving, loading = ({name: [] for name in contestants} for _ in range(2))
        for repetition in range(arguments.rounds + 1):
            for name, (save, load) in contestants.items():
                path = folder / name.replace(" ", "-")
                start = time.perf_counter()
                save(path, tree)
                middle = time.perf_counter()
                background.checkpoints.wait()
                again = time.perf_counter()
                found = load(path, tree) if load else tree
                end = time.perf_counter()
                if not repetition:
                    for leaf in tree:
                        np.testing.assert_array_equal(found[leaf], tree[leaf])
                    continue
                saving[name].append(middle - start)
                loading[name].append(end - again)
        background.checkpoints.close()
    print(
        f"funcnet {fn.__version__}, jax {jax.__version__}, safetensors {safetensors_version}, "
        f"numpy {np.__version__}; {leaves} arrays of 4 MiB, {arguments.rounds} rounds, "
        "median (min to max)"
    )
    print(f"{'':22}{'MB/s':>8}{'its time / ours':>24}{'MB/s':>8}{'its time / ours':>24}")
    size, found = leaves * 2**22 / 1e6, {}
    for name, (_, load) in contestants.items():
        cells = ""
        for way, times in (("save", saving), ("load", loading)):
            if way == "load" and load is None:
                continue
            rate, ratio = size / statistics.median(times[name]), spread(times[name], times["save"])
            cells += f"{rate:8.0f}{ratio:>24}"
            found[f"{way} {name}"] = {"MB/s": rate, "its time / ours": ratio}
        print(f"{name:22}{cells}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
