"""Peak memory of `moderate scan` with all its processes, by number and size of the images.

python benchmarks/memory.py [--cache DIR] [--counts 1000 20000] [--photos 100] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from corpora import make
from networks import random_bundle
from processes import check_scan, run, scan_command
from reporting import machine, print_table, write_json

ORIGINALS = 50
START_OF_IMAGE, COMMENT = b"\xff\xd8", b"\xff\xfe"  # JPEG markers


def many(parent: Path, originals: Path, count: int) -> Path:
    """A folder of `count` JPEGs made of a few: none has the bytes of another.

    Copies would be decoded once. The folder is as large as it looks: it belongs where it goes away
    with the run.
    """
    files = [(file.suffix, file.read_bytes()) for file in sorted(originals.iterdir())]
    folder = parent / f"many-{originals.name}-{count}"
    folder.mkdir(exist_ok=True)
    for number in range(count):
        suffix, data = files[number % len(files)]
        (folder / f"{number:06}{suffix}").write_bytes(with_comment(data, str(number)))
    return folder


def with_comment(jpeg: bytes, text: str) -> bytes:
    """The JPEG file with a comment segment: the same picture in other bytes."""
    if not jpeg.startswith(START_OF_IMAGE):
        raise ValueError("not a JPEG file")
    said = text.encode()
    # A segment's length counts its own two bytes.
    segment = COMMENT + (len(said) + 2).to_bytes(2, "big") + said
    return START_OF_IMAGE + segment + jpeg[len(START_OF_IMAGE) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="keeps corpora and bundles between runs")
    parser.add_argument("--counts", type=int, nargs="*", default=[1000, 20000])
    parser.add_argument("--photos", type=int, default=100, help="12-megapixel photographs")
    parser.add_argument("--model", default="mobilenetv4_conv_small", help="timm architecture")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="for the scan")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "runs": []}
    if options.cache:
        options.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.cache) as temporary:
        cache = options.cache or Path(temporary)
        bundle = random_bundle(cache / options.model, options.model)
        work = [("640 x 480", "small", count) for count in options.counts]
        work += [("4032 x 3024", "phone", options.photos)] if options.photos else []
        for size, corpus, count in work:
            originals = make(cache, corpus, min(ORIGINALS, count))
            folder = many(Path(temporary), originals, count)
            done = run(scan_command(folder, bundle, *options.options, batch=options.batch))
            check_scan(done, count)
            result["runs"].append(
                {
                    "size": size,
                    "images": count,
                    "rows": len(done.rows),
                    "pss_peak_bytes": done.pss_peak,
                    "rss_peak_bytes": done.rss_peak,
                    "processes": done.processes,
                    "images_per_second": done.rate(),
                }
            )
    print_table(
        "Peak memory of moderate scan, whole process tree",
        ["what", "images", "processes", "memory MB", "memory MB, shared counted twice"],
        [
            [
                one["size"],
                one["images"],
                one["processes"],
                f"{(one['pss_peak_bytes'] or 0) / 1e6:.0f}",
                f"{(one['rss_peak_bytes'] or 0) / 1e6:.0f}",
            ]
            for one in result["runs"]
        ],
    )
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
