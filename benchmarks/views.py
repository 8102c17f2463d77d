"""What further parts of images cost, and how many decisions they change.

    python benchmarks/views.py DIR [--weights testcard] [--policy balanced] [--views auto]
                               [--against 1] [--repeats 2] [--json FILE]

The images of a folder are scanned with both settings of `--views`, in turns. Printed are CPU
milliseconds per image, the least of the repeats, all processes and the start included, and the
ratio; then how many images
have further parts, inputs of the models per image, `partly_seen`, and each decision. Where the
folder holds ordinary photographs, what goes to review with the one and not with the other is a
false alarm. The times of decoding alone are of one process, without a sandbox.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reporting import machine, print_table, write_json

import moderate
from moderate.classify.bundle import load_bundle
from moderate.decode.image import Decoded, decode, prepare
from moderate.decode.parts import DecodeOptions, ViewChoice
from moderate.run.options import ScanOptions
from moderate.types import Decision, Limits, Warn

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".heic"})


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def scanned(
    folder: Path, weights: str, policy: str, views: ViewChoice
) -> tuple[float, dict[bytes, Decision]]:
    """CPU seconds of a scan, and the decision on each image."""
    before = cpu_seconds()
    options = ScanOptions([str(folder)], weights, policy, views=views)
    decisions = {row.ref.path: row.decision for row in moderate.scan(options=options)}
    return cpu_seconds() - before, decisions


def decoding(folder: Path, weights: str, every: Sequence[ViewChoice]) -> dict[str, dict[str, Any]]:
    """Of each setting: CPU seconds of decoding, and what came of it."""
    bundle = load_bundle(weights)
    feeding = [
        tuple(place for place, model in enumerate(bundle.card.model) if name in model.categories)
        for name in bundle.card.categories
    ]
    found = {views: {"seconds": 0.0, "several": 0, "parts": 0, "partly_seen": 0} for views in every}
    prepare()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        data = path.read_bytes()
        for views in every:
            options = DecodeOptions(views=views, seen_by=tuple(dict.fromkeys(feeding)))
            start = time.process_time()
            outcome = decode(data, tuple(bundle.specs), Limits(), options)
            found[views]["seconds"] += time.process_time() - start
            if isinstance(outcome, Decoded):
                found[views]["several"] += len(outcome.parts) > 1
                found[views]["parts"] += len(outcome.parts)
                found[views]["partly_seen"] += Warn.PARTLY_SEEN in outcome.facts.warnings
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="testcard")
    parser.add_argument("--policy", default="balanced")
    parser.add_argument("--views", default="auto", choices=("auto", "1", "3", "tiles"))
    parser.add_argument("--against", default="1", choices=("auto", "1", "3", "tiles"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    facts = machine()
    both = (asked.against, asked.views)
    seconds: dict[str, list[float]] = {views: [] for views in both}
    decisions: dict[str, dict[bytes, Decision]] = {}
    for _ in range(asked.repeats):
        for views in both:
            used, decisions[views] = scanned(asked.folder, asked.weights, asked.policy, views)
            seconds[views].append(used)
    decoded = decoding(asked.folder, asked.weights, both)
    count = len(decisions[asked.views])
    rows = []
    for views in both:
        counts = Counter(decisions[views].values())
        rows.append(
            {
                "views": views,
                "images": count,
                "cpu_ms": 1000 * min(seconds[views]) / count,
                "decode_ms": 1000 * decoded[views]["seconds"] / count,
                "with_further_parts": decoded[views]["several"],
                "inputs_per_image": decoded[views]["parts"] / count,
                "partly_seen": decoded[views]["partly_seen"],
                **{decision.value: counts[decision] for decision in Decision},
            }
        )
    changed = sum(
        decision != decisions[asked.against][path]
        for path, decision in decisions[asked.views].items()
    )
    ratio = rows[1]["cpu_ms"] / rows[0]["cpu_ms"]
    print_table(
        f"{count} images, {asked.weights}, {asked.policy}: {changed} decisions changed, "
        f"CPU time x {ratio:.3f}",
        list(rows[0]),
        [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows],
    )
    if asked.json:
        write_json(asked.json, {"machine": facts, "views": rows, "changed": changed})


if __name__ == "__main__":
    main()
