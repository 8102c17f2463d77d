"""What finding near duplicates costs: CPU time and memory for random and for clustered hashes.

Nothing is decoded or scored. Each measurement is a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from reporting import machine, print_table, write_json

from moderate.run.near_duplicates import NearDuplicates
from moderate.types import PdqHash

KINDS = ("random", "clustered", "one cluster")
"""clustered: a thousandth as many pictures as hashes, each in versions up to 40 bits from it.

`one cluster`, of versions of a single picture, is the worst case: its time grows with the square.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS[:2]))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]))))
        return
    runs = [in_a_process(kind, count) for kind in options.kinds for count in options.counts]
    print_table(
        "Near duplicates among hashes, on one core",
        ["hashes", "count", "with an earlier one", "CPU s", "µs each", "memory MB"],
        [
            [
                one["what"],
                one["count"],
                one["found"],
                f"{one['cpu_seconds']:.1f}",
                f"{1e6 * one['cpu_seconds'] / one['count']:.0f}",
                f"{one['grown_bytes'] / 1e6:.0f}",
            ]
            for one in runs
        ],
    )
    if options.json:
        write_json(options.json, {"machine": machine(), "runs": runs})


def in_a_process(kind: str, count: int) -> dict[str, Any]:
    """One measurement."""
    command = [sys.executable, __file__, "--measure", kind, str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(kind: str, count: int) -> dict[str, Any]:
    """Take a run's hashes one by one, as rows come."""
    drawn = draw(kind, count)
    before = peak()
    begun = time.process_time()
    near = NearDuplicates()
    found = 0
    for index in range(count):
        hashed = PdqHash(drawn[index].tobytes(), 100)
        found += near.first(b"./pictures/%09d.jpg" % index, hashed) is not None
    seconds = time.process_time() - begun
    near.close()
    return {
        "what": kind,
        "count": count,
        "found": found,
        "cpu_seconds": seconds,
        "grown_bytes": peak() - before,
    }


def draw(kind: str, count: int) -> np.ndarray:
    """Hashes (count, 32), the same in each run."""
    random = np.random.default_rng(0)
    if kind == "random":
        return random.integers(0, 256, (count, 32), np.uint8)
    pictures = 1 if kind == "one cluster" else max(1, count // 1000)
    bits = random.integers(0, 2, (pictures, 256), np.uint8)
    drawn = np.empty((count, 32), np.uint8)
    for start in range(0, count, 10_000):
        some = min(10_000, count - start)
        versions = bits[random.integers(0, pictures, some)]
        shares = random.integers(0, 41, (some, 1)) / 256
        drawn[start : start + some] = np.packbits(
            versions ^ (random.random((some, 256)) < shares), axis=1
        )
    return drawn


def peak() -> int:
    """Bytes of memory that this process has had at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
