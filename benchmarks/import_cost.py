"""What `import funcnet` adds to `import jax`, in fresh processes.

pip install -e . && python benchmarks/import_cost.py
"""

import json
import statistics
import subprocess
import sys

ROUNDS = 15
CODE = """
import json, time
start = time.perf_counter()
import jax
middle = time.perf_counter()
import funcnet
print(json.dumps([middle - start, time.perf_counter() - middle]))
"""

shares = []
for _ in range(ROUNDS + 1):
    printed = subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True).stdout
    jax_seconds, funcnet_seconds = json.loads(printed)
    shares.append(funcnet_seconds / jax_seconds)
shares = shares[1:]
print(
    f"import funcnet takes {statistics.median(shares):.1%} of the time of import jax "
    f"({min(shares):.1%} to {max(shares):.1%}, {ROUNDS} processes)"
)
