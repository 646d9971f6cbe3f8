"""What may happen to a checkpoint, done to it on purpose: killed writers, cut power, damaged and
hostile files, full disks, two writers, donated arrays. Nothing may be lost or silently wrong.

    PYTHONPATH=. python tests/faults.py [--quick] [--only NAME ...] [--json FILE]

prints a table. Processes are forked from this one, which never starts a JAX backend itself: a
forked child costs milliseconds, and one that has a backend of its own half a second.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from faulty import damaged, disk, hostile, killed
from faulty.base import ended, in_child


class Row(NamedTuple):
    fault: str
    run: Callable  # (scratch folder, quick) -> (trials, failures)


ROWS = {
    "kill": Row(
        "SIGKILL before and within each file operation of a save", killed.at_every_operation
    ),
    "power": Row("power cut after each of them, what is not synced lost", killed.power_cut),
    "training": Row("SIGKILL of a training process at random moments", killed.at_any_moment),
    "truncated": Row("truncated files", damaged.truncated),
    "flipped": Row("one bit flipped", damaged.flipped),
    "zeroed": Row("pages of zeros", damaged.zeroed),
    "swapped": Row("files swapped between steps", damaged.swapped),
    "hostile": Row("hostile headers", hostile.hostile),
    "fuzzed": Row("fuzzed files", hostile.fuzzed),
    "failing": Row("each of them fails: disk full, forbidden, broken", disk.failing_operations),
    "disk": Row("file-size limit, permission, full file system", disk.real_disk_errors),
    "writers": Row("saves by two writers in one folder", disk.two_writers),
    "donated": Row("arrays donated during a background save", disk.donated),
}


def measured(row, quick):
    """{trials, failures, seconds} of a row, done in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        result = Path(scratch) / "result.json"

        def work():
            begin = time.perf_counter()
            place = Path(scratch) / "work"
            place.mkdir()
            trials, failures = row.run(place, quick)
            seconds = time.perf_counter() - begin
            found = {"trials": trials, "failures": failures, "seconds": seconds}
            result.write_text(json.dumps(found))

        os.chmod(scratch, 0o755)
        if status := ended(in_child(work)):
            return {"trials": 0, "failures": [f"ended with {status}"], "seconds": 0.0}
        return json.loads(result.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few trials, some 15 seconds")
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--json", help="write the results to this file")
    arguments = parser.parse_args()
    print(f"{'fault':58}{'trials':>8}{'failures':>10}{'seconds':>9}")
    results = {}
    for name in arguments.only:
        results[name] = found = measured(ROWS[name], arguments.quick)
        print(
            f"{ROWS[name].fault:58}{found['trials']:8}{len(found['failures']):10}"
            f"{found['seconds']:9.1f}",
            flush=True,
        )
        for failure in found["failures"][:5]:
            print(f"    {failure}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results))
    sys.exit(any(found["failures"] for found in results.values()))


if __name__ == "__main__":
    main()
