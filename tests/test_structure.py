"""Imports point one way, nothing but the rim has effects, and one place states the version."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import funcnet as fn

ROOT = Path(fn.__file__).parent
ORDER = [
    {"version", "pairs", "numerics"},
    {"layers", "metrics", "schedules", "shuffle", "datasets", "checkpoint"},
    {"losses", "combine", "optimizers", "overview", "population", "precision"},
    {"task", "transformer"},
    {"training", "networks", "generate", "augment"},
    {"guard", "data", "loss_scale", "evaluation"},
    {"sweeps"},
    {"chain_rule"},
    {"verify", "verify_optimizer", "pictures", "host"},
    {"diagnosis"},
]
RIM = {"data/feed", "sweeps/programs"}
"""What compiles, below the rank of those that check."""
FILES_AND_CLOCKS = ("datasets", "checkpoint", "data", "host")
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
FILES = [file for file in sorted(ROOT.rglob("*.py")) if file != ROOT / "__init__.py"]


def imports(file):
    """The dotted names that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way_and_need_jax_alone(file):
    here = file.relative_to(ROOT).with_suffix("").parts[0]
    allowed = {"jax", "numpy", "funcnet"} | ({"matplotlib"} if here == "pictures" else set())
    for name in imports(file):
        package, *inner = name.split(".")
        assert package in sys.stdlib_module_names | allowed
        if package == "funcnet" and inner[0] != here:
            assert RANK[inner[0]] < RANK[here], f"{here} imports {name}"
            assert inner[0] != "chain_rule" or here == "verify", "the witness is independent"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_library_is_pure(file):
    calls = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
    }  # fmt: skip
    effects = {"print", "jax.config.update", "time.time", "time.perf_counter"}
    if file.parent.name not in FILES_AND_CLOCKS:
        effects |= {"open", "time.monotonic"}
    assert not calls & effects
    name = file.relative_to(ROOT).with_suffix("")
    if RANK[name.parts[0]] < RANK["verify"] and str(name) not in RIM:
        nodes = ast.walk(ast.parse(file.read_text()))
        assert "jax.jit" not in {ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute)}


def test_everything_named_is_there_and_documented():
    for name in fn.__all__:
        value = getattr(fn, name)
        assert not callable(value) or value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'adamm'"):
        fn.adamm  # noqa: B018


def test_importing_does_not_load_the_witness_or_start_a_device():
    code = (
        "import sys, funcnet; from jax._src import xla_bridge; "
        "print('funcnet.chain_rule' in sys.modules, xla_bridge.backends_are_initialized())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.split() == ["False", "False"], printed.stderr
