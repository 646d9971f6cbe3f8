"""Four virtual devices, so that sharded programs are tested on any machine, and programs compiled
in a quarter of the time: most run once, so they are optimised little, fused loops are emitted the
old way, which is the quicker one, and each program is a single module. The README is tested, and
bits are compared, with programs compiled as users compile them."""

import contextlib
import gc
import os

import pytest

QUICK = (
    " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + QUICK
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Of the many objects that tracing makes few are garbage: to look for it often is a tenth of all.
gc.set_threshold(200_000, 50, 1000)


@pytest.fixture(scope="session", autouse=True)
def started(request):
    """By name, what a module has to `start_beside` before the first test, for a second core to run
    meanwhile."""
    modules = {item.module for item in request.session.items if hasattr(item, "module")}
    with contextlib.ExitStack() as stack:
        processes = {
            m.__name__: stack.enter_context(m.start_beside())
            for m in modules
            if "start_beside" in vars(m)
        }
        yield processes
        for process in processes.values():
            process.kill()
