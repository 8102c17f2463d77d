"""What a million, a billion and a hundred billion images cost, and what breaks first.

    python benchmarks/scale.py [--seed 2026] [--json FILE] [--page FILE] [--price NAME=DOLLARS ...]

Arithmetic from measured and assumed inputs, and a simulation of many workers. Every figure of
docs/scale.md stands in a block that `--page` writes; a test compares the two. Nothing is measured
here: `scale_inputs.py` does that, and keeps what it found in scale_inputs.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scale_simulation import Plan, Trouble, simulate

INPUTS = Path(__file__).with_name("scale_inputs.json")
SCALES = {"1e6": 10**6, "1e9": 10**9, "1e11": 10**11}
CORES = {"1e6": 16, "1e9": 1_000, "1e11": 20_000}
SHARDS = {"1e6": 1, "1e9": 64, "1e11": 2_000}
FRAGMENT = 512  # references of `--engine ray`

# Shares of images, an assumption: uploads of a platform, most of them small already.
MIX = {
    "thumbnail jpg": 0.10,
    "small jpg": 0.40,
    "web jpg": 0.25,
    "web png": 0.08,
    "web webp": 0.10,
    "web heic": 0.02,
    "phone jpg": 0.04,
    "phone heic": 0.01,
}

# US dollars. Rounded list prices of large clouds in 2026, without discounts: assumptions.
PRICES = {
    "core_hour": 0.04,
    "gpu_hour": 4.00,
    "get_per_1000": 0.0004,
    "list_per_1000": 0.005,
    "put_per_1000": 0.005,
    "inventory_per_million": 0.0025,
    "gigabyte_month": 0.023,
    "gigabyte_to_another_region": 0.02,
    "gigabyte_to_the_internet": 0.05,
}

ASSUMED = {
    "names_per_list_request": 1_000,  # the most that S3 gives
    "seconds_per_list_request": 0.1,
    "gets_per_second_and_prefix": 5_500,  # which S3 promises
    "manifest_bytes_per_fragment": 200,  # name, digest, rows, size
    "digest_bytes": 32,
    "digest_partitions": 65_536,
    "pixels_per_side": 384,  # of an image that waits for the model
    "target_file_bytes": 256e6,  # of results that are read often
    "preemptible_price": 0.35,  # of the usual price
}

# One H200 with 16 cores: docs/performance.md, "On a GPU".
GPU = {
    "vit_tiny_patch16_384": {"decode_16_cores": 1_484, "forward": 4_951, "end_to_end": 1_023},
    "eva02_base_patch14_448": {"decode_16_cores": 1_330, "forward": 724, "end_to_end": 696},
}
LISTING_BYTES_PER_NAME = 230  # docs/performance.md, "Memory"

SIMULATED_IMAGES = 1 << 25
SIMULATED_CORES = 1_024
FRAGMENTS = (64, 512, 4_096, 32_768)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--price", nargs="*", default=[], metavar="NAME=DOLLARS")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="puts the blocks between the marks of a page")
    options = parser.parse_args()
    prices = dict(PRICES)
    for setting in options.price:
        name, _, value = setting.partition("=")
        if name not in prices:
            parser.error(f"no price {name}: one of {', '.join(prices)}")
        prices[name] = float(value)
    result = model(json.loads(INPUTS.read_text()), prices, options.seed)
    blocks = write_blocks(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.page:
        options.page.write_text(fill(options.page.read_text(), blocks))
    else:
        print("\n\n".join(f"{name}\n{text}" for name, text in blocks.items()))


def model(measured: Mapping[str, Any], prices: Mapping[str, float], seed: int) -> dict[str, Any]:
    """All numbers, by name."""
    images = measured["images"]
    decode_ms = sum(share * images[kind]["decode_ms"] for kind, share in MIX.items())
    image_bytes = sum(share * images[kind]["bytes"] for kind, share in MIX.items())
    score_ms = measured["score_ms"][measured["weights"]]
    other_ms = measured["fixed"]["other_cpu_ms"]
    each = {
        "decode_ms": decode_ms,
        "score_ms": score_ms,
        "other_ms": other_ms,
        "cpu_ms": decode_ms + score_ms + other_ms,
        "bytes": image_bytes,
    }
    return {
        "seed": seed,
        "measured": measured,
        "prices": dict(prices),
        "assumed": ASSUMED,
        "each": each,
        "scales": {
            name: _scale(name, count, each, measured, prices) for name, count in SCALES.items()
        },
        "gpus": {name: _gpu(rates, prices) for name, rates in GPU.items()},
        "simulated": _simulations(each["cpu_ms"] / 1000, seed),
    }


def _scale(
    name: str,
    count: int,
    each: Mapping[str, float],
    measured: Mapping[str, Any],
    prices: Mapping[str, float],
) -> dict[str, float]:
    """Sizes, times and dollars of so many images, on cores alone."""
    rows, shards = measured["bytes_per_row"], SHARDS[name]
    core_hours = count * each["cpu_ms"] / 3.6e6
    lists = count / ASSUMED["names_per_list_request"]
    fragments = count / FRAGMENT
    gigabytes = count * each["bytes"] / 1e9
    parquet = count * rows["parquet"]
    return {
        "core_hours": core_hours,
        "cores": CORES[name],
        "hours": core_hours / CORES[name],
        "read_bytes": gigabytes * 1e9,
        "read_bytes_per_second": gigabytes * 1e9 / (core_hours / CORES[name] * 3600),
        "gets_per_second": count / (core_hours / CORES[name] * 3600),
        "list_seconds": lists * ASSUMED["seconds_per_list_request"],
        "names_bytes": count * LISTING_BYTES_PER_NAME,
        "state_bytes": count * measured["fixed"]["state_bytes_per_image"],
        "csv_bytes": count * rows["csv"],
        "parquet_bytes": parquet,
        "fragment_bytes": count * rows[f"parquet of {FRAGMENT} rows"],
        "fragments": fragments,
        "manifest_bytes": fragments * ASSUMED["manifest_bytes_per_fragment"],
        "files_after_merge": max(1.0, parquet / ASSUMED["target_file_bytes"]),
        "digest_bytes": count * ASSUMED["digest_bytes"],
        "digest_partition_bytes": count * ASSUMED["digest_bytes"] / ASSUMED["digest_partitions"],
        "collisions_of_8_bytes": count**2 / 2 / 2**64,
        "collisions_of_16_bytes": count**2 / 2 / 2**128,
        "dollars_cores": core_hours * prices["core_hour"],
        "dollars_cores_preemptible": core_hours
        * prices["core_hour"]
        * ASSUMED["preemptible_price"],
        "dollars_get": count / 1000 * prices["get_per_1000"],
        "dollars_list": lists / 1000 * prices["list_per_1000"],
        "dollars_list_by_each_shard": shards * lists / 1000 * prices["list_per_1000"],
        "dollars_inventory": count / 1e6 * prices["inventory_per_million"],
        "dollars_put": 2 * fragments / 1000 * prices["put_per_1000"],
        "dollars_results_a_year": 12 * parquet / 1e9 * prices["gigabyte_month"],
        "dollars_another_region": gigabytes * prices["gigabyte_to_another_region"],
        "dollars_internet": gigabytes * prices["gigabyte_to_the_internet"],
    }


def _gpu(rates: Mapping[str, float], prices: Mapping[str, float]) -> dict[str, float]:
    """How many cores feed a GPU, and what a million images cost as measured and when fed."""
    per_core = rates["decode_16_cores"] / 16
    feeding = rates["forward"] / per_core
    measured = (16 * prices["core_hour"] + prices["gpu_hour"]) / (rates["end_to_end"] * 3600)
    fed = (feeding * prices["core_hour"] + prices["gpu_hour"]) / (rates["forward"] * 3600)
    return {
        "decode_per_core": per_core,
        "forward": rates["forward"],
        "cores_to_feed": feeding,
        "gpu_share_at_16_cores": rates["end_to_end"] / rates["forward"],
        "dollars_per_million_at_16_cores": measured * 1e6,
        "dollars_per_million_fed": fed * 1e6,
    }


def _simulations(seconds_per_image: float, seed: int) -> list[dict[str, Any]]:
    """Plans with all troubles at once, and one plan with each trouble alone."""
    found = []

    def add(name: str, plan: Plan, trouble: Trouble) -> None:
        outcome = simulate(SIMULATED_IMAGES, seconds_per_image, plan, trouble, seed)
        found.append(
            {
                "name": name,
                "fragment": plan.fragment,
                "by_prefix": plan.by_prefix,
                "second_attempts": plan.second_attempts,
                **dataclasses.asdict(outcome),
                "stretch": outcome.stretch,
            }
        )

    base = Plan(FRAGMENT, workers=SIMULATED_CORES)
    for fragment in FRAGMENTS:
        for by_prefix in (False, True):
            for second in (False, True):
                if fragment >= FRAGMENT or not (by_prefix or second):
                    plan = dataclasses.replace(
                        base, fragment=fragment, by_prefix=by_prefix, second_attempts=second
                    )
                    add("all", plan, Trouble())
    calm = Trouble(slow_share=0, preemptions_per_hour=0, failed_attempts=0, lost_answers=0)
    usual = Trouble()
    alone = {
        "none": calm,
        "slow machines": dataclasses.replace(calm, slow_share=usual.slow_share),
        "lost machines": dataclasses.replace(calm, preemptions_per_hour=usual.preemptions_per_hour),
        "failed attempts": dataclasses.replace(calm, failed_attempts=usual.failed_attempts),
        "lost answers": dataclasses.replace(calm, lost_answers=usual.lost_answers),
    }
    for name, trouble in alone.items():
        for fragment in (FRAGMENT, FRAGMENTS[-1]):
            add(name, dataclasses.replace(base, fragment=fragment), trouble)
    return found


def write_blocks(result: Mapping[str, Any]) -> dict[str, str]:
    """The Markdown of each block of the page, by name."""
    return {
        "inputs": _inputs(result),
        "prices": _prices(result),
        "each": _each(result),
        "work": _by_scale(result, WORK),
        "limits": _by_scale(result, LIMITS),
        "money": _by_scale(result, MONEY),
        "gpus": _gpus(result),
        "plans": _plans(result),
        "alone": _alone(result),
        "facts": _facts(result),
    }


WORK = {
    "core hours": ("core_hours", "number"),
    "cores, as an example": ("cores", "number"),
    "hours on them": ("hours", "number"),
    "bytes of images": ("read_bytes", "bytes"),
    "bytes to read per second": ("read_bytes_per_second", "bytes"),
    "GET requests per second": ("gets_per_second", "number"),
}
LIMITS = {
    "listing, one request after the other": ("list_seconds", "time"),
    "names of one folder in memory": ("names_bytes", "bytes"),
    "state of one run (SQLite)": ("state_bytes", "bytes"),
    "one CSV file": ("csv_bytes", "bytes"),
    "Parquet in large files": ("parquet_bytes", "bytes"),
    "Parquet in fragments of 512": ("fragment_bytes", "bytes"),
    "fragments of 512": ("fragments", "number"),
    "a manifest of them": ("manifest_bytes", "bytes"),
    "files of 256 MB after a merge": ("files_after_merge", "number"),
    "SHA-256 digests": ("digest_bytes", "bytes"),
    "one of 65,536 parts of them": ("digest_partition_bytes", "bytes"),
    "expected collisions of 8 bytes of them": ("collisions_of_8_bytes", "number"),
    "of 16 bytes": ("collisions_of_16_bytes", "number"),
}
MONEY = {
    "cores": ("dollars_cores", "dollars"),
    "cores that can be taken away": ("dollars_cores_preemptible", "dollars"),
    "GET, one per image": ("dollars_get", "dollars"),
    "LIST, once": ("dollars_list", "dollars"),
    "LIST, by each shard (1, 64, 2,000)": ("dollars_list_by_each_shard", "dollars"),
    "an inventory by the store instead": ("dollars_inventory", "dollars"),
    "PUT, two per fragment": ("dollars_put", "dollars"),
    "results in Parquet, kept a year": ("dollars_results_a_year", "dollars"),
    "reading from another region": ("dollars_another_region", "dollars"),
    "reading through the internet": ("dollars_internet", "dollars"),
}


def _inputs(result: Mapping[str, Any]) -> str:
    images = result["measured"]["images"]
    return _table(
        ["image", "share (assumed)", "CPU ms to decode", "bytes"],
        [
            [kind, f"{share:.0%}", f"{images[kind]['decode_ms']:.1f}", f"{images[kind]['bytes']:,}"]
            for kind, share in MIX.items()
        ],
    )


def _prices(result: Mapping[str, Any]) -> str:
    return _table(
        ["assumed", "US dollars"],
        [[f"`{name}`", f"{price:g}"] for name, price in result["prices"].items()],
    )


def _each(result: Mapping[str, Any]) -> str:
    each, measured = result["each"], result["measured"]
    rows = measured["bytes_per_row"]
    return _table(
        ["per image", ""],
        [
            ["decoding, CPU ms", f"{each['decode_ms']:.1f}"],
            [f"scoring by `{measured['weights']}`, CPU ms", f"{each['score_ms']:.1f}"],
            ["all the rest, CPU ms", f"{each['other_ms']:.1f}"],
            ["together, CPU ms", f"{each['cpu_ms']:.1f}"],
            ["images per second and core", f"{1000 / each['cpu_ms']:.1f}"],
            ["bytes of the image", f"{each['bytes']:,.0f}"],
            *([f"bytes of its row, {name}", f"{value:,.0f}"] for name, value in rows.items()),
            ["bytes in the state", f"{measured['fixed']['state_bytes_per_image']:,.0f}"],
            ["CPU seconds of a start, not per image", f"{measured['start_cpu_seconds']:.1f}"],
        ],
    )


def _by_scale(result: Mapping[str, Any], lines: Mapping[str, tuple[str, str]]) -> str:
    scales = result["scales"]
    return _table(
        ["", *(f"{name} images" for name in scales)],
        [
            [label, *(_value(scale[key], unit) for scale in scales.values())]
            for label, (key, unit) in lines.items()
        ],
    )


def _gpus(result: Mapping[str, Any]) -> str:
    return _table(
        [
            "model on one H200, 640 x 480 JPEGs",
            "images/s decoded per core",
            "images/s scored",
            "cores that feed it",
            "busy at 16 cores",
            "$ per million at 16 cores",
            "$ per million, fed",
        ],
        [
            [
                f"`{name}`",
                f"{gpu['decode_per_core']:.0f}",
                f"{gpu['forward']:,}",
                f"{gpu['cores_to_feed']:.0f}",
                f"{gpu['gpu_share_at_16_cores']:.0%}",
                f"{gpu['dollars_per_million_at_16_cores']:.2f}",
                f"{gpu['dollars_per_million_fed']:.2f}",
            ]
            for name, gpu in result["gpus"].items()
        ],
    )


def _plans(result: Mapping[str, Any]) -> str:
    return _table(
        ["images per fragment", "order", "second attempts", "time", "wasted", "fixed", "twice"],
        [
            [
                f"{one['fragment']:,}",
                "by prefix" if one["by_prefix"] else "mixed",
                "yes" if one["second_attempts"] else "no",
                f"{one['stretch']:.2f}x",
                f"{one['wasted']:.1%}",
                f"{one['fixed']:.1%}",
                f"{one['written_twice']:,}",
            ]
            for one in result["simulated"]
            if one["name"] == "all"
        ],
    )


def _alone(result: Mapping[str, Any]) -> str:
    by_trouble: dict[str, dict[int, Mapping[str, Any]]] = {}
    for one in result["simulated"]:
        if one["name"] != "all":
            by_trouble.setdefault(one["name"], {})[one["fragment"]] = one
    sizes = (FRAGMENT, FRAGMENTS[-1])
    return _table(
        [
            "trouble",
            *(f"time at {size:,}" for size in sizes),
            *(f"wasted at {size:,}" for size in sizes),
        ],
        [
            [
                name,
                *(f"{found[size]['stretch']:.2f}x" for size in sizes),
                *(f"{found[size]['wasted']:.1%}" for size in sizes),
            ]
            for name, found in by_trouble.items()
        ],
    )


def _facts(result: Mapping[str, Any]) -> str:
    """Sentences of the page that have figures of their own."""
    large, each = result["scales"]["1e11"], result["each"]
    images = result["measured"]["images"]
    heavy = ("phone jpg", "phone heic")
    share = sum(MIX[kind] for kind in heavy)
    part = sum(MIX[kind] * images[kind]["decode_ms"] for kind in heavy) / each["decode_ms"]
    pixels = ASSUMED["pixels_per_side"] ** 2 * 3 * FRAGMENT
    plan, trouble = Plan(FRAGMENT), Trouble()
    prefixes = large["gets_per_second"] / ASSUMED["gets_per_second_and_prefix"]
    start = result["measured"]["start_cpu_seconds"]
    return "\n".join(
        [
            f"- {share:.0%} of the images, those of phones, take {part:.0%} of the decoding.",
            f"- A fragment of {FRAGMENT} is {FRAGMENT * each['cpu_ms'] / 1000:.0f} core seconds. "
            f"A start costs {start:.1f}: as much as {start * 1000 / each['cpu_ms']:.0f} images.",
            f"- Decoded for a model of {ASSUMED['pixels_per_side']} pixels, a fragment is "
            f"{pixels / 1e6:.0f} MB in Ray's object store.",
            f"- 1e11 images on {CORES['1e11']:,} cores need {prefixes:.1f} times the requests "
            "per second that S3 promises for one prefix.",
            "- Copies that are a fifth of 1e11 images, and are found before they are decoded, save "
            f"{_value(0.2 * large['dollars_cores'], 'dollars')} of cores, and no request.",
            f"- Simulated: {SIMULATED_IMAGES:,} images on {SIMULATED_CORES:,} cores in machines "
            f"of {plan.machine}, seed {result['seed']}. {trouble.slow_share:.0%} of machines run "
            f"at {trouble.slow_speed:.2f} of the speed, {trouble.preemptions_per_hour:.0%} are "
            f"taken away per hour and replaced after {trouble.replacement_seconds:.0f} s, "
            f"{trouble.failed_attempts:.1%} of attempts fail, and {trouble.lost_answers:.2%} "
            f"succeed without anybody learning of it. An attempt has {plan.fixed_seconds} s of "
            f"fixed cost. By prefix, {plan.run:,} images in a row are of a kind, whose costs are "
            f"lognormal with a deviation of {plan.spread:g}.",
        ]
    )


def _value(value: float, unit: str) -> str:
    """A number in three digits with its unit."""
    if unit == "bytes":
        for size, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if value >= size:
                return (
                    f"{value / size:.3g} {name}" if value < 1e18 else f"{value / size:,.0f} {name}"
                )
        return f"{value:.0f} B"
    if unit == "time":
        for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
            if value >= 2 * size:
                return f"{value / size:.3g} {name}"
        return f"{value:.3g} s"
    text = f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
    return f"${text}" if unit == "dollars" else text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(page: str, blocks: Mapping[str, str]) -> str:
    """The page with each block between its marks. Raises SystemExit for marks without a block."""

    def put(match: re.Match[str]) -> str:
        name = match[1]
        if name not in blocks:
            raise SystemExit(f"no block is called {name}")
        return f"<!-- scale: {name} -->\n{blocks[name]}\n<!-- end -->"

    return re.sub(r"<!-- scale: (\w+) -->\n.*?<!-- end -->", put, page, flags=re.DOTALL)


if __name__ == "__main__":
    main()
