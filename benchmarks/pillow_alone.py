"""Whether the faster decoders change what becomes of files: a scan as it is, and by Pillow alone.

    python benchmarks/pillow_alone.py --weights NAME [DIR ...] [--damaged 2] [--json FILE]

Scans the files of the folders, the odd variants, and damaged copies of both, twice. The second
time Pillow and libheif decode everything, in full. README.md here says how to read it.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from processes import MODERATE, run
from reporting import machine, print_table, write_json
from variants import odd_variants

from moderate.policy.load import load_policy

NEAR = 0.03  # of a threshold: a decision may differ where a score is this near to one
SAMPLES = Path(__file__).parents[1] / "sample_images"
OUTCOME = ("status", "error_code", "width", "height", "format", "frames", "frames_scored", "unseen")

# Python imports it at the start of every process, the fork server of the decoders among them.
ALONE = """
from moderate.decode import hevc, inflate, resample, webp

hevc.load_ffmpeg = lambda: None
resample._one_pass = inflate.isal_zlib = webp.libwebp = lambda: None
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", help="with files of your own")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--policy", default="balanced")
    parser.add_argument("--damaged", type=int, default=2, help="damaged copies of each file")
    parser.add_argument("--no-odd", action="store_true", help="leave the odd variants out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "files")
        folder.mkdir()
        for number, (name, data) in enumerate(_files(options)):
            (folder / f"{number:06d} {name}"[:200]).write_bytes(data)
        alone = Path(temporary, "alone")
        alone.mkdir()
        (alone / "sitecustomize.py").write_text(ALONE)
        fast = _scan(folder, options)
        slow = _scan(folder, options, "--exact-decode", alone=alone)
    result = _compare(fast, slow, options.policy)
    print_table(
        f"{options.weights}: the decoders as installed, against Pillow and libheif in full",
        ["files", "scored by both", "other outcome", "p99", "max", "other decision", "not near"],
        [
            [
                result["files"],
                result["scored"],
                len(result["other_outcome"]),
                f"{result['p99']:.4f}",
                f"{result['max']:.4f}",
                len(result["other_decision"]),
                len(result["not_near"]),
            ]
        ],
    )
    for key in ("other_outcome", "not_near"):
        for line in result[key][:20]:
            print(f"{key.replace('_', ' ')}: {line}")
    if options.json:
        write_json(options.json, {"machine": machine(), "weights": options.weights, **result})
    if result["other_outcome"] or result["not_near"]:
        raise SystemExit(1)


def _files(options: argparse.Namespace) -> Iterator[tuple[str, bytes]]:
    """Every file by a name for it, each followed by its damaged copies."""
    rng = random.Random(0)
    sources: list[tuple[str, bytes]] = []
    for folder in (SAMPLES, *options.folders):
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        sources += [(path.name, path.read_bytes()) for path in paths]
    if not options.no_odd:
        sources += [(name.replace("/", " "), data) for name, data in odd_variants().items()]
    for name, data in sources:
        yield name, data
        for _ in range(options.damaged if data else 0):
            how, damaged = _damage(rng, data)
            yield f"{how} {name}", damaged


def _damage(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """The file cut short, with flipped bits, or with a stretch set to zero or moved."""
    how = rng.choice(("cut", "bits", "head", "zeros", "moved"))
    start = rng.randrange(len(data))
    if how == "cut":
        return how, data[:start]
    changed = bytearray(data)
    if how in {"bits", "head"}:  # most headers end within the first 2 kB
        reach = len(data) if how == "bits" else min(len(data), 2048)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        return how, bytes(changed)
    stop = min(len(data), start + rng.randint(1, 512))
    changed[start:stop] = bytes(stop - start) if how == "zeros" else data[: stop - start]
    return how, bytes(changed)


def _scan(
    folder: Path, options: argparse.Namespace, *more: str, alone: Path | None = None
) -> dict[str, dict[str, str]]:
    """The rows of a scan by path; with `alone`, Pillow and libheif decode everything."""
    path = [str(alone)] if alone else []
    if before := os.environ.get("PYTHONPATH"):
        path.append(before)
    done = run(
        (
            *MODERATE,
            str(folder),
            *("--weights", options.weights, "--policy", options.policy, "--no-state"),
            *("--device", "cpu", "--out", "-", "--quiet", *more),
        ),
        {"PYTHONPATH": os.pathsep.join(path)},
    )
    if done.returncode != 0:
        raise SystemExit(f"moderate scan ended with {done.returncode}:\n{done.said[-2000:]}")
    return {row["path"]: row for row in csv.DictReader((done.header, *done.rows))}


def _compare(
    fast: dict[str, dict[str, str]], slow: dict[str, dict[str, str]], policy: str
) -> dict[str, Any]:
    if fast.keys() != slow.keys():
        raise SystemExit(f"{len(fast)} rows against {len(slow)}")
    limits = load_policy(policy).policy.categories
    other_outcome, other_decision, not_near, distances = [], [], [], []
    for path, one in fast.items():
        other = slow[path]
        name = Path(path).name
        changed = [f"{key} {one[key]} / {other[key]}" for key in OUTCOME if one[key] != other[key]]
        if changed:
            other_outcome.append(f"{name}: {', '.join(changed)}")
            continue
        if one["status"] != "ok":
            continue
        scored = [category for category in limits if one[category] and other[category]]
        distances.append(max((abs(float(one[c]) - float(other[c])) for c in scored), default=0.0))
        if one["decision"] != other["decision"]:
            other_decision.append(name)
            near = any(
                abs(float(other[category]) - threshold) <= NEAR
                for category in scored
                for threshold in (limits[category].review, limits[category].block)
            )
            if not near:
                scores = ", ".join(f"{c} {one[c]} / {other[c]}" for c in scored)
                not_near.append(f"{name}: {one['decision']} / {other['decision']}: {scores}")
    return {
        "files": len(fast),
        "scored": len(distances),
        "errors": Counter(row["error_code"] for row in slow.values() if row["error_code"]),
        "p99": float(np.quantile(distances, 0.99)) if distances else 0.0,
        "max": max(distances, default=0.0),
        "other_outcome": other_outcome,
        "other_decision": other_decision,
        "not_near": not_near,
    }


if __name__ == "__main__":
    main()
