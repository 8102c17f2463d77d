"""New decisions for a million stored rows, against the decision column alone by hand in pyarrow.

By hand: the scores are compared, the worst decision taken, and the file written with that one
column replaced; no reasons, no views, no checks. The two must agree in every row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from reporting import machine, print_table, write_json

SUFFIXES = ("parquet", "csv", "jsonl")
POLICY = "strict"
BY_HAND = "pyarrow by hand"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3, help="the fastest of so many counts")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=3, metavar=("HOW", "IN", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    result: dict[str, Any] = {"machine": machine(), "rows": options.rows, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        first = f"{folder}/drawn.parquet"
        draw(options.rows, first)
        sources = {suffix: f"{folder}/in.{suffix}" for suffix in SUFFIXES}
        in_a_process("balanced", first, *sources.values())
        hand = f"{folder}/hand.parquet"
        for how in (BY_HAND, *SUFFIXES):
            source = sources["parquet" if how == BY_HAND else how]
            target = hand if how == BY_HAND else f"{folder}/out.{how}"
            runs = [in_a_process(how, source, target) for _ in range(options.repeat)]
            fastest = min(runs, key=lambda run: run["seconds"])
            fastest["peak_bytes"] = max(run["peak_bytes"] for run in runs)
            if how != BY_HAND:
                fastest["agrees"] = decisions(target) == decisions(hand)
            result["runs"].append({"what": how, "file_bytes": os.path.getsize(source), **fastest})
    by_hand = result["runs"][0]["seconds"]
    for run in result["runs"]:
        run["ratio"] = run["seconds"] / by_hand
    print_table(
        f"Deciding again on {options.rows:,} rows, on one core",
        ["what", "file MB", "s", "CPU s", "times by hand", "memory MB", "agrees"],
        [
            [
                run["what"],
                f"{run['file_bytes'] / 1e6:.0f}",
                f"{run['seconds']:.2f}",
                f"{run['cpu_seconds']:.2f}",
                f"{run['ratio']:.2f}",
                f"{run['peak_bytes'] / 1e6:.0f}",
                run.get("agrees", "-"),
            ]
            for run in result["runs"]
        ],
    )
    if options.json:
        write_json(options.json, result)
    if not all(run.get("agrees", True) for run in result["runs"]):
        raise SystemExit("the decisions differ")


def in_a_process(how: str, source: str, *targets: str) -> dict[str, Any]:
    """What `measure` finds in a fresh process."""
    command = [sys.executable, __file__, "--measure", how, source, ",".join(targets)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(how: str, source: str, targets: str) -> dict[str, Any]:
    """Decide on one core, reading and writing included: seconds, CPU seconds, bytes of memory."""
    from moderate.analysis.decide import DecideOptions, redecide

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    begun, cpu = time.perf_counter(), time.process_time()
    if how == BY_HAND:
        decide_by_hand(source, targets)
    else:
        policy = how if how == "balanced" else POLICY
        redecide(DecideOptions(source, policy, targets.split(",")))
    seconds, spent = time.perf_counter() - begun, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": spent, "peak_bytes": peak_bytes()}


def decide_by_hand(source: str, target: str) -> None:
    """As somebody would who needs no more than the decisions."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from moderate.policy.load import load_policy

    policy = load_policy(POLICY).policy
    table = pq.read_table(source)
    blocked: Any = pa.scalar(False)
    reviewed: Any = pa.scalar(False)
    for category, limits in policy.categories.items():
        scores = table[category.value]
        blocked = pc.or_(
            blocked, pc.fill_null(pc.greater_equal(scores, pa.scalar(limits.block, pa.float32())),
                                  False)
        )  # fmt: skip
        low = pc.greater_equal(scores, pa.scalar(limits.review, pa.float32()))
        reviewed = pc.or_(reviewed, pc.fill_null(low, policy.on_unscored == "review"))
    for warning, wanted in policy.on_warning.items():
        told = pc.fill_null(pc.match_substring(table["warnings"], warning.value), False)
        if wanted == "block":
            blocked = pc.or_(blocked, told)
        else:
            reviewed = pc.or_(reviewed, told)
    failed = pc.equal(table["status"], "error")
    decision = pc.if_else(blocked, "block", pc.if_else(reviewed, "review", "approve"))
    decision = pc.if_else(failed, policy.on_error.value, decision)
    place = table.column_names.index("decision")
    pq.write_table(table.set_column(place, "decision", decision), target, compression="zstd")


def decisions(path: str) -> Any:
    """The decision column of a results file."""
    from moderate.results.read import read_results

    return read_results(path).table(["decision"])["decision"].combine_chunks()


def draw(count: int, target: str) -> None:
    """Rows such as a scan of uploads writes: five scores, some errors, some warnings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from moderate.results.parquet_writer import ROW_GROUP_ROWS, arrow_schema
    from moderate.types import CATEGORIES

    drawn = np.random.default_rng(0)
    failed = drawn.random(count) < 0.005
    columns: dict[str, Any] = {
        "path": [f"./uploads/{n % 1000:03}/{n:09}.jpg" for n in range(count)],
        "status": np.where(failed, "error", "ok"),
        "decision": ["review"] * count,
        "width": drawn.integers(100, 4000, count),
        "height": drawn.integers(100, 4000, count),
        "format": np.where(drawn.random(count) < 0.8, "jpeg", "png"),
        "frames": np.ones(count, np.int64),
        "bytes": drawn.integers(1000, 4_000_000, count),
        "sha256": [drawn.bytes(32).hex() for _ in range(count)],
        "warnings": np.where(drawn.random(count) < 0.1, "small_image", "animated; small_image"),
        "error_code": pa.array(["truncated"] * count, mask=~failed),
    }
    columns["warnings"] = pa.array(columns["warnings"], mask=drawn.random(count) < 0.9)
    for category in CATEGORIES:
        scores = drawn.beta(0.3, 6, count).astype(np.float32)
        columns[category.value] = pa.array(scores, mask=failed)
    schema = arrow_schema()
    arrays = [pa.array(columns.get(f.name, pa.nulls(count, f.type)), f.type) for f in schema]
    table = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(table, target, compression="zstd", row_group_size=ROW_GROUP_ROWS)


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
