"""The fault matrix: few trials of each here, the whole of it with `pytest -m slow`."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from faults import ROWS

import funcnet as fn


@functools.cache
def matrix(*options):
    """The table, in a process that has no devices and so can fork."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        script = Path(__file__).with_name("faults.py")
        command = [sys.executable, str(script), "--json", str(file), *options]
        environment = os.environ | {"PYTHONPATH": str(Path(fn.__file__).parents[1])}
        told = subprocess.run(command, capture_output=True, text=True, env=environment)
        results = json.loads(file.read_text()) if file.exists() else {}
        return results, told.stdout + told.stderr


# The fewest trials that count, few and many.
TRIALS = {
    "flipped": (1_000, 10_000),
    "fuzzed": (2_000, 100_000),
    "kill": (25, 25),
    "training": (4, 200),
    "donated": (50, 1_000),
}


@pytest.mark.parametrize("name", ROWS)
def test_nothing_is_lost_or_silently_wrong(name):
    results, printed = matrix("--quick")
    assert name in results, printed
    assert not results[name]["failures"], printed
    assert results[name]["trials"] >= TRIALS.get(name, (1, 1))[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_the_long_way(name):
    results, printed = matrix()
    assert name in results, printed
    assert not results[name]["failures"], printed
    assert results[name]["trials"] >= TRIALS.get(name, (1, 1))[1]
