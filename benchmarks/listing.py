"""How fast lists and manifests name their entries, how soon the first comes, and in what memory.

Nothing is fetched or scored. Each reading is a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reporting import machine, print_table, write_json

KINDS = ("list", "URL list", "CSV", "JSONL", "Parquet", "Parquet bytes")
SUFFIXES = {"CSV": "csv", "JSONL": "jsonl", "Parquet": "parquet", "Parquet bytes": "parquet"}
KEPT = "uploader"  # the column that manifests carry along
IMAGE_BYTES = 500  # of each image in `Parquet bytes`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    result: dict[str, Any] = {"machine": machine(), "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            for count in options.counts:
                file = Path(folder) / f"entries.{SUFFIXES.get(kind, 'txt')}"
                write(kind, count, file)
                read = in_a_process(kind, file)
                if read["entries"] != count:
                    raise SystemExit(f"{kind}: {read['entries']} entries of {count}")
                result["runs"].append({"what": kind, "file_bytes": file.stat().st_size, **read})
    print_table(
        "Lists and manifests, read without fetching",
        ["what", "entries", "file MB", "first after s", "entries/s", "memory MB"],
        [
            [
                one["what"],
                one["entries"],
                f"{one['file_bytes'] / 1e6:.1f}",
                f"{one['first_seconds']:.3f}",
                f"{one['entries'] / one['seconds']:,.0f}",
                f"{one['peak_bytes'] / 1e6:.0f}",
            ]
            for one in result["runs"]
        ],
    )
    if options.json:
        write_json(options.json, result)


def in_a_process(kind: str, file: Path) -> dict[str, Any]:
    """What `measure` finds in a fresh process."""
    command = [sys.executable, __file__, "--measure", kind, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(kind: str, file: str) -> dict[str, Any]:
    """Read `file` to its end: seconds from before it is opened, bytes of peak resident memory."""
    from moderate.sources.columns import ManifestOptions
    from moderate.sources.manifest import list_or_manifest

    begun = time.perf_counter()
    source = list_or_manifest(file, ManifestOptions(keep=(KEPT,) if kind in SUFFIXES else ()))
    first: float | None = None
    entries = 0
    for ref in source:
        if first is None:
            first = time.perf_counter() - begun
        assert not getattr(ref, "error", None), ref
        entries += 1
    return {
        "entries": entries,
        "first_seconds": first or 0.0,
        "seconds": time.perf_counter() - begun,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Peak resident memory of this process. Linux's ru_maxrss begins with what the parent had."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def write(kind: str, count: int, file: Path) -> None:
    """A list or manifest of `count` entries."""
    writers: dict[str, Callable[[int, Path], None]] = {
        "Parquet": write_parquet,
        "Parquet bytes": write_parquet_bytes,
    }
    if kind in writers:
        writers[kind](count, file)
        return
    lines: dict[str, Callable[[int], str]] = {
        "list": name,
        "URL list": lambda number: "https://images.example.com/" + name(number),
        "CSV": lambda number: f"{name(number)},user {number % 7}",
        "JSONL": lambda number: json.dumps({"path": name(number), KEPT: f"user {number % 7}"}),
    }
    with open(file, "w") as stream:
        if kind == "CSV":
            stream.write(f"path,{KEPT}\n")
        stream.writelines(lines[kind](number) + "\n" for number in range(count))


def name(number: int) -> str:
    """A path such as dumps have."""
    return f"uploads/2024/{number % 366:03}/{number:09}.jpg"


def chunks(count: int) -> Iterator[range]:
    """0 to `count` in row groups' worth."""
    for start in range(0, count, 100_000):
        yield range(start, min(count, start + 100_000))


def write_parquet(count: int, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("path", pa.string()), (KEPT, pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        for numbers in chunks(count):
            columns = [[name(n) for n in numbers], [f"user {n % 7}" for n in numbers]]
            writer.write_table(pa.table(columns, schema=schema))


def write_parquet_bytes(count: int, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), (KEPT, pa.string())])
    noise = os.urandom(IMAGE_BYTES)
    with pq.ParquetWriter(file, schema) as writer:
        for numbers in chunks(count):
            images = [
                {"bytes": n.to_bytes(8, "big") + noise[8:], "path": f"{n:09}.jpg"} for n in numbers
            ]
            columns = [pa.array(images, image), [f"user {n % 7}" for n in numbers]]
            writer.write_table(pa.table(columns, schema=schema))


if __name__ == "__main__":
    main()
