"""Memory of the process that drives a scan on Ray, by the number of its references.

    python benchmarks/cluster_memory.py 10000 500000

Each size is a list of paths that lead nowhere, so that workers have next to nothing to do and the
driver is what is measured: it walks, settles, counts and writes. Prints the peak resident memory of
the driver alone (VmHWM), without Ray's own processes and workers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(count: int) -> None:
    """Run a scan of so many references and print what it took."""
    from moderate.cluster.plan import plan_on_ray
    from moderate.run.options import ScanOptions
    from moderate.run.scan import run
    from moderate.sources.resolve import InputOptions

    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "list.txt"
        with names.open("w") as file:
            file.writelines(
                f"/nowhere/{number // 1000:05}/{number:09}.jpg\n" for number in range(count)
            )
        options = ScanOptions(
            weights="testcard",
            device="cpu",
            out=[f"{folder}/rows/"],
            reading=InputOptions(files_from=(str(names),)),
        )
        job, executor = plan_on_ray(options)
        begun, cpu = time.monotonic(), time.process_time()
        summary = run(job, lambda item: None, lambda summary, target: "", executor=executor)
        assert summary.rows == count
        peak = next(
            int(line.split()[1])
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM:")
        )
        print(
            f"{count:>9,} references: driver at most {peak / 1024:.0f} MiB, "
            f"{time.process_time() - cpu:.1f} s of CPU, {time.monotonic() - begun:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        measure(int(sys.argv[2]))
    else:
        for size in sys.argv[1:]:  # a process each: a peak cannot be taken back
            subprocess.run([sys.executable, __file__, "--one", size], check=True)
