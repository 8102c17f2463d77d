"""How much of what the machine's cores could do `moderate scan` reaches on the CPU.

    python benchmarks/bound.py [--cache DIR] [--count 256] [--repeat 3] [--json FILE]

The bound is the rate at which all cores could do the same decoding and the same forward passes,
each measured alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from corpora import CORPORA, make
from limits import bundle_specs, decode_limit, files_of, forward_limit, shared_bound
from networks import random_bundle
from processes import check_scan, run, scan_command
from reporting import machine, print_table, write_json

TARGET = 0.85
MODELS = ("mobilenetv4_conv_small", "vit_tiny_patch16_384")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="keeps corpora and bundles between runs")
    parser.add_argument("--count", type=int, default=256, help="images of each corpus")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--corpora", nargs="*", choices=list(CORPORA), default=list(CORPORA))
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="timm architectures")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    how = {"precision": options.precision, "backend": options.backend}
    flags = ("--device", "cpu", *(w for k, v in how.items() for w in (f"--{k}", v)))
    result: dict[str, Any] = {"machine": machine(), "target": TARGET, **how, "results": []}
    with tempfile.TemporaryDirectory() as temporary:
        cache = options.cache or Path(temporary)
        for model in options.models:
            bundle = random_bundle(cache / model, model)
            for corpus in options.corpora:
                folder = make(cache, corpus, options.count)
                measured = [
                    _measure(folder, bundle, flags, how, options.batch)
                    for _ in range(options.repeat)
                ]
                medians = {
                    key: statistics.median(one[key] for one in measured) for key in measured[0]
                }
                result["results"].append({"model": model, "corpus": corpus, **medians})
    print_table(
        f"Images/s on the CPU, {options.backend} in {options.precision}",
        ["model", "corpus", "decode alone", "parts", "model alone", "bound", "end to end", "share"],
        [
            [
                one["model"],
                one["corpus"],
                *(
                    f"{one[key]:.1f}"
                    for key in ("decode", "parts", "forward", "bound", "end_to_end")
                ),
                f"{one['share']:.0%}",
            ]
            for one in result["results"]
        ],
    )
    for one in result["results"]:
        print(f"{one['model']}, {one['corpus']}: target {TARGET:.0%}: {one['share']:.0%}")
    if options.json:
        write_json(options.json, result)


def _measure(
    folder: Path, bundle: Path, flags: tuple[str, ...], how: dict[str, str], batch: int
) -> dict[str, float]:
    """One pass of the three, side by side in time."""
    files = files_of(folder)
    done = run(scan_command(folder, bundle, *flags, batch=batch))
    check_scan(done, len(files))
    decode = decode_limit(files, bundle_specs(bundle))
    forward = forward_limit(bundle, len(files), batch=batch, **how)
    rate = done.steady_rate(batch) or done.rate()
    bound = shared_bound(decode, forward)
    return {
        "decode": decode.rate,
        "decode_cpu_ms": decode.cpu_seconds * 1000,
        "parts": decode.parts,
        "forward": forward.rate,
        "forward_cpu_ms": forward.cpu_seconds * 1000,
        "bound": bound,
        "end_to_end": rate,
        "end_to_end_with_start": done.rate(),
        "share": rate / bound,
        "rows": len(done.rows),
    }


if __name__ == "__main__":
    main()
