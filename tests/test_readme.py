"""Every code block of the README runs, in order, and prints what it says it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(python|text)\n(.*?)```", README, re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
END = "--- end of a block ---"


CODES, SHOWN = ([block for name, block in BLOCKS if name == kind] for kind in ("python", "text"))


def start_beside():
    """What runs all blocks in one process, with the compiler's own settings."""
    script = f"print({END!r})\n".join([*CODES, ""])
    settings = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_blocks_print_what_the_readme_shows(started):
    assert [kind for kind, _ in BLOCKS] == ["python", "text"] * 6
    printed, errors = started["test_readme"].communicate()
    assert started["test_readme"].returncode == 0, errors
    for got, shown in zip(printed.split(f"{END}\n")[:-1], SHOWN, strict=True):
        assert NUMBER.sub("#", got).split() == NUMBER.sub("#", shown).split()
        for line, wanted in zip(got.splitlines(), shown.splitlines(), strict=True):
            # On another processor 2,000 steps round differently, and derivatives through them.
            relative = 0.05 if "d loss" in line or "±" in got else 1e-6
            absolute = 0.01 if "accuracy" in got else 0.0
            for a, b in zip(NUMBER.findall(line), NUMBER.findall(wanted), strict=True):
                assert abs(float(a) - float(b)) <= relative * abs(float(b)) + absolute
