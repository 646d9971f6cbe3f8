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


def printed(blocks):
    """What each block prints, in one process with the compiler's own settings."""
    script = f"print({END!r})\n".join([*blocks, ""])
    settings = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(f"{END}\n")[:-1]


def test_blocks_print_what_the_readme_shows():
    assert [kind for kind, _ in BLOCKS] == ["python", "text"] * 5
    codes, wanted = ([block for _, block in BLOCKS[start::2]] for start in (0, 1))
    for got, shown in zip(printed(codes), wanted, strict=True):
        assert NUMBER.sub("#", got).split() == NUMBER.sub("#", shown).split()
        for line, wanted in zip(got.splitlines(), shown.splitlines(), strict=True):
            # On another processor 2,000 steps round differently, and derivatives through them.
            relative = 0.05 if "d loss" in line or "±" in got else 1e-6
            absolute = 0.01 if "accuracy" in got else 0.0
            for a, b in zip(NUMBER.findall(line), NUMBER.findall(wanted), strict=True):
                assert abs(float(a) - float(b)) <= relative * abs(float(b)) + absolute
