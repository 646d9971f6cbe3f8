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
        for a, b in zip(NUMBER.findall(got), NUMBER.findall(shown), strict=True):
            # The same program on another processor rounds differently.
            assert abs(float(a) - float(b)) <= 0.05 * abs(float(b)) + 0.005
