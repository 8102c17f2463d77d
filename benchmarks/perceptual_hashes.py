"""How near the PDQ hashes of versions of photographs are, beside those of another implementation.

    python benchmarks/perceptual_hashes.py --photos DIR [--count 500] [--json FILE]

Where the package pdqhash is installed (it compiles the authors' C++), the same distances are shown
by it on all pixels, and on the same pixels its bits are compared with ours.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from reporting import machine, print_table, write_json

from moderate.decode.pdq import hash_of_pixels, pdq_hash

NEAR = 31  # bits, as `--near-duplicates` compares
LARGEST = 1600  # pixels of the longer side
CHECKED = 5  # of every so many photographs, the bits on the same pixels are compared


def recompressed(image: Image.Image) -> Image.Image:
    """As JPEG of quality 40."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def halved(image: Image.Image) -> Image.Image:
    """In half the size."""
    size = (max(8, image.width // 2), max(8, image.height // 2))
    return image.resize(size, Image.Resampling.LANCZOS)


def cropped(image: Image.Image) -> Image.Image:
    """Without 3 % on each side."""
    width, height = image.size
    left, top = width * 3 // 100, height * 3 // 100
    return image.crop((left, top, width - left, height - top))


def with_text(image: Image.Image) -> Image.Image:
    """With a bar of text over the lowest 15 %."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    width, height = image.size
    draw.rectangle((0, height * 85 // 100, width, height), fill="black")
    place = (width // 20, height * 87 // 100)
    draw.text(place, "SAMPLE TEXT", fill="white", font_size=max(10, height // 12))
    return image


def mirrored(image: Image.Image) -> Image.Image:
    """Left and right exchanged."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


VERSIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 40": recompressed,
    "half the size": halved,
    "cropped by 3 % on each side": cropped,
    "text over the lowest 15 %": with_text,
    "mirrored": mirrored,
}


def photographs(folder: Path, count: int) -> list[Image.Image]:
    """So many readable images of a folder, evenly from all, as RGB, the longer side LARGEST."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    found: list[Image.Image] = []
    for file in files[:: max(1, len(files) // count)]:
        try:
            image = Image.open(file).convert("RGB")
        except (OSError, ValueError):
            continue
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS, reducing_gap=2)
        found.append(image)
        if len(found) == count:
            break
    return found


def other_hash(image: Image.Image) -> bytes:
    """The hash by pdqhash on all pixels."""
    import pdqhash

    bits, _ = pdqhash.compute(np.ascontiguousarray(np.asarray(image)))
    return np.packbits(bits.astype(np.uint8)).tobytes()


def distance(one: bytes, other: bytes) -> int:
    """In how many bits two hashes differ."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def summary(distances: Sequence[int]) -> dict[str, float]:
    """Mean, 95th percentile, maximum, and the share of distances that count as near."""
    values = np.array(distances)
    return {
        "mean": float(values.mean()),
        "p95": float(np.percentile(values, 95)),
        "max": float(values.max()),
        "near": float((values <= NEAR).mean()),
    }


def measure(images: Sequence[Image.Image], *, beside: bool) -> dict[str, Any]:
    """Distances of versions, and with `beside` those by pdqhash and between the two."""
    ours: dict[str, list[int]] = {name: [] for name in VERSIONS}
    others: dict[str, list[int]] = {name: [] for name in VERSIONS}
    apart: list[int] = []
    equal = compared = 0
    for number, image in enumerate(images):
        own = pdq_hash(image).bits
        other = other_hash(image) if beside else b""
        if beside:
            apart.append(distance(own, other))
            if number % CHECKED == 0:
                compared += 1
                equal += hash_of_pixels(np.asarray(image)).bits == other
        for name, make in VERSIONS.items():
            version = make(image)
            ours[name].append(distance(own, pdq_hash(version).bits))
            if beside:
                others[name].append(distance(other, other_hash(version)))
    result: dict[str, Any] = {
        "images": len(images),
        "versions": {name: summary(values) for name, values in ours.items()},
    }
    if beside:
        result["pdqhash"] = {name: summary(values) for name, values in others.items()}
        result["apart"] = summary(apart)
        result["same_pixels"] = {"compared": compared, "equal": equal}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    images = photographs(options.photos, options.count)
    if not images:
        parser.error(f"{options.photos} holds no image that can be read")
    result = measure(images, beside=find_spec("pdqhash") is not None)

    def shown(by: str, name: str) -> str:
        if by not in result:
            return "-"
        one = result[by][name]
        return f"{one['mean']:.1f}, {100 * one['near']:.0f} %"

    print_table(
        f"{result['images']} photographs against versions of themselves: mean distance, "
        f"share within {NEAR}",
        ["version", "moderate", "pdqhash on all pixels"],
        [[name, shown("versions", name), shown("pdqhash", name)] for name in VERSIONS],
    )
    if "apart" in result:
        apart, same = result["apart"], result["same_pixels"]
        print(
            f"moderate to pdqhash on all pixels: mean {apart['mean']:.1f}, 95 % within "
            f"{apart['p95']:.0f}, at most {apart['max']:.0f}; on the same pixels "
            f"{same['equal']} of {same['compared']} equal"
        )
    if options.json:
        write_json(options.json, {"machine": machine(), **result})


if __name__ == "__main__":
    main()
