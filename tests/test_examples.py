"""The examples run and print what their docstrings show."""

import ast
import contextlib
import importlib.util
import io
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e-?\d+)?")


def output(run):
    printed = io.StringIO()
    # An example may set NumPy's print options, which the next test is not to inherit.
    with contextlib.redirect_stdout(printed), np.printoptions():
        run()
    return printed.getvalue()


def test_first_steps_prints_its_docstring():
    file = EXAMPLES / "first_steps.py"
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    got = output(lambda: runpy.run_path(str(file))).strip().splitlines()
    shown = docstring.splitlines()
    start = next(i for i, line in enumerate(shown) if line.strip() == got[0].strip())
    for a, b in zip(got, shown[start:], strict=True):
        assert NUMBER.sub("#", a).split() == NUMBER.sub("#", b).split()
        for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True):
            # Another processor rounds differently.
            np.testing.assert_allclose(
                float(x.replace(",", "")), float(y.replace(",", "")), rtol=0.02, atol=0.02
            )


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_reaches_its_accuracy_and_checks_its_gradients(tmp_path, monkeypatch):
    digits = load("digits")
    monkeypatch.setattr(digits, "CONTESTANTS", [c for c in digits.CONTESTANTS if c[0] == "SGD"][:1])
    steps = {"batch": 10, "mini-batch": 1500, "stochastic": 10}
    rows = []
    printed = output(lambda: rows.extend(digits.main(steps, seeds=2, picture=tmp_path / "p.png")))
    (row,) = rows
    assert row.trials.test_accuracy[row.best].mean() >= 0.97
    assert (row.name, row.regime) == ("SGD", "mini-batch")
    (error,) = re.findall(r"differ by at most (\S+) of", printed)
    assert float(error) < 1e-9
    with contextlib.suppress(ModuleNotFoundError):
        import matplotlib  # noqa: F401

        assert (tmp_path / "p.png").stat().st_size > 10_000
        return
    assert 'pip install ".[plot]"' in printed


@pytest.mark.slow
def test_digits_whole(tmp_path):
    rows = load("digits").main(picture=tmp_path / "p.png")
    assert max(row.trials.test_accuracy[row.best].mean() for row in rows) >= 0.97
