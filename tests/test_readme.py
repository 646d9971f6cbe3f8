"""Every code block of the README runs, in order, and prints what it says it prints."""

import contextlib
import io
import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(python|text)\n(.*?)```", README, re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


def test_blocks_print_what_the_readme_shows():
    assert [kind for kind, _ in BLOCKS] == ["python", "text"] * 4
    namespace: dict = {}
    for (_, code), (_, shown) in zip(BLOCKS[::2], BLOCKS[1::2], strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        got = printed.getvalue()
        assert NUMBER.sub("#", got).split() == NUMBER.sub("#", shown).split()
        for line, wanted in zip(got.splitlines(), shown.splitlines(), strict=True):
            # On another processor 2,000 steps round differently, and derivatives through them.
            relative = 0.05 if "d loss" in line else 1e-6
            absolute = 0.01 if "accuracy" in line else 0.0
            for a, b in zip(NUMBER.findall(line), NUMBER.findall(wanted), strict=True):
                assert abs(float(a) - float(b)) <= relative * abs(float(b)) + absolute
