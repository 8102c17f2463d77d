"""How far reduced decoding moves scores, against rounding alone and timm's evaluation transform.

    python benchmarks/parity.py --photos DIR [--count 400] [--bundles starter ...]

The rule for the scale: per network, decoding at a reduced scale moves scores at the 99th
percentile no further from those of the full decode than the yardstick does: the full decode,
resized with the other order of the two passes. README.md here says how to read it.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import patterns
import pillow_heif
import torch
from corpora import draw_photograph, encode_jpeg
from networks import Network, random_network, trained_network
from numpy.typing import NDArray
from PIL import Image, ImageOps
from reporting import cores, machine, print_table, write_json

from moderate.decode.image import Decoded, decode, prepare
from moderate.decode.resample import down_first
from moderate.decode.resize import DRAFT_MARGIN, PixelSpec, resize, source_box
from moderate.testcards import BANDS, CATEGORIES, draw_card
from moderate.types import Limits

REVIEW, BLOCK = 0.30, 0.85  # the thresholds of the policy `balanced`
NEAR = 0.01  # a decision may change where the reference is this near to a threshold
SCALES = (1, 2, 4, 8)  # what libjpeg-turbo decodes to through Pillow's `draft`
MARGINS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # times the model's input
FULL, YARDSTICK = "full, one resize", "full, other order"
RANDOM = ("mobilenetv4_conv_small", "vit_tiny_patch16_384", "mobilenetv3_large_100")
CHUNK = 16


@dataclass(frozen=True)
class Item:
    """One JPEG of the comparison and the group it is counted in."""

    name: str
    group: str
    data: bytes


@dataclass
class Measured:
    """What one way of getting pixels did to one image."""

    way: str
    name: str
    group: str
    reduced: bool
    seconds: float
    pixel_difference: float
    raw: NDArray[np.float32]


@dataclass
class Ways:
    """Pixels of one image by every way, and the CPU seconds each took.

    reference is timm's own, normalised (3 x H x W); None where it is not asked for.
    """

    reference: NDArray[np.float32] | None = None
    pixels: dict[str, NDArray[Any]] = field(default_factory=dict)
    reduced: dict[str, bool] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


# -- pictures


def from_photographs(
    folder: Path, count: int, smallest: int, rng: np.random.Generator
) -> Iterator[Item]:
    """JPEGs of several sizes, crops, qualities and subsamplings from the photographs in `folder`.

    The files as they are come first, where they are JPEGs; then each photograph in turn, large
    ones more often since small ones are never decoded at a reduced scale. Those with a side under
    `smallest` pixels are left out.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    made = 0
    for turn in range(64):
        for path in paths:
            if made >= count:
                return
            with Image.open(path) as opened:
                short = min(opened.size)
                if short < smallest:
                    continue
                if turn == 0 and opened.format == "JPEG":
                    made += 1
                    yield Item(f"{path.name} as it is", "photographs", path.read_bytes())
                    continue
                if turn % 3 and short < 1000:
                    continue
                photograph = ImageOps.exif_transpose(opened).convert("RGB")
            variant, how = _vary(photograph, smallest, rng)
            quality, subsampling = int(rng.integers(70, 96)), int(rng.integers(3))
            made += 1
            yield Item(
                f"{path.name} {how} q{quality} s{subsampling}",
                "photographs",
                encode_jpeg(variant, quality, subsampling),
            )


def _vary(
    photograph: Image.Image, smallest: int, rng: np.random.Generator
) -> tuple[Image.Image, str]:
    """A crop of half to all of each side, half of them made smaller (and so sharper).

    No side is under `smallest` pixels.
    """
    width, height = photograph.size
    share = rng.uniform(0.5, 1.0, 2)
    across, down = max(smallest, int(width * share[0])), max(smallest, int(height * share[1]))
    left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
    picture = photograph.crop((left, top, left + across, top + down))
    if rng.random() < 0.5:
        factor = rng.uniform(0.35, 0.9)
        smaller = (max(smallest, int(across * factor)), max(smallest, int(down * factor)))
        picture = picture.resize(smaller, Image.Resampling.LANCZOS)
    return picture, f"crop {picture.width}x{picture.height}"


def generated(count: int, rng: np.random.Generator) -> Iterator[Item]:
    """Drawn pictures with the spectrum of photographs, 800 to 4,000 pixels across."""
    for number in range(count):
        width = int(rng.integers(800, 4001))
        picture = draw_photograph(int(rng.integers(2**31)), (width, width * 3 // 4))
        data = encode_jpeg(picture, int(rng.integers(80, 93)), int(rng.integers(3)))
        yield Item(f"generated {number}", "generated", data)


def cards(count: int, rng: np.random.Generator) -> Iterator[Item]:
    """Test cards of 500 to 3,000 pixels: what the testcard weights score high."""
    for number in range(count):
        band = BANDS[number % len(BANDS)]
        category = None if band == "clean" else CATEGORIES[number % len(CATEGORIES)]
        size = (int(rng.integers(500, 3000)), int(rng.integers(500, 3000)))
        picture = draw_card(category, band, number, size)
        yield Item(f"card {number}", "cards", encode_jpeg(picture, int(rng.integers(70, 96)), 2))


def fine_patterns(folder: Path | None, rng: np.random.Generator) -> Iterator[Item]:
    """Halftones, dithering, checkers and line screens of pictures: what reduction may alias."""
    picture = draw_photograph(7, (2400, 2400))
    if folder:
        for path in sorted(folder.rglob("*")):
            with Image.open(path) as opened:
                if min(opened.size) >= 2000:
                    picture = ImageOps.fit(opened.convert("RGB"), (2400, 2400))
                    break
    for name, drawn in patterns.draw_all(picture, rng):
        yield Item(name, "patterns", encode_jpeg(drawn, 90, 2))


# -- ways of getting pixels


def _opened(data: bytes, scale: int) -> Image.Image:
    """The JPEG as upright RGB, decoded at 1/scale."""
    image = Image.open(io.BytesIO(data))
    if scale > 1:
        image.draft(image.mode, (image.width // scale, image.height // scale))
    return ImageOps.exif_transpose(image).convert("RGB")


def scale_for(margin: float, spec: PixelSpec, size: tuple[int, int]) -> int:
    """The largest scale that leaves `margin` times the model's input. size is upright."""
    left, top, right, bottom = source_box(spec, size)
    ratio = min((right - left) / spec.width, (bottom - top) / spec.height) / margin
    return max(scale for scale in SCALES if scale <= max(1.0, ratio))


def _exact_box(
    spec: PixelSpec, size: tuple[int, int], image: Image.Image
) -> tuple[float, float, float, float]:
    """The full picture's box in the reduced one, whose last row and column may be partly beyond."""
    box = source_box(spec, size)
    scale = max(1, round(size[0] / image.width))
    left, top, right, bottom = (edge / scale for edge in box)
    return left, top, min(right, image.width), min(bottom, image.height)


class Pictures:
    """One JPEG at every scale, decoded when first asked for; CPU seconds are kept with each."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._at: dict[int, tuple[Image.Image, float]] = {}

    def at(self, scale: int) -> tuple[Image.Image, float]:
        """The upright picture decoded at 1/scale, and the CPU seconds that took."""
        if scale not in self._at:
            begun = time.process_time()
            image = _opened(self.data, scale)
            self._at[scale] = image, time.process_time() - begun
        return self._at[scale]


def by_every_way(pictures: Pictures, network: Network, options: argparse.Namespace) -> Ways:
    """Pixels by each way. Seconds are CPU time of the process, which load leaves alone."""
    spec, kernel = network.spec, network.kernel
    full, decoded = pictures.at(1)
    size = full.size
    ways = Ways()
    if not options.rule:
        begun = time.process_time()
        ways.reference = np.asarray(network.transform(full))
        ways.seconds["timm"] = decoded + time.process_time() - begun

    def add(way: str, make: Callable[[], NDArray[Any]], extra: float, reduced: bool) -> None:
        begun = time.process_time()
        ways.pixels[way] = make()
        ways.seconds[way] = extra + time.process_time() - begun
        ways.reduced[way] = reduced

    box = source_box(spec, size)
    shape = (spec.width, spec.height)

    def with_gap(gap: float) -> NDArray[Any]:
        return np.asarray(full.resize(shape, kernel, box=box, reducing_gap=gap))

    def unrounded() -> NDArray[Any]:
        bands = [
            np.asarray(band.convert("F").resize(shape, kernel, box=box)) for band in full.split()
        ]
        return np.stack(bands, axis=-1).clip(0, 255)

    def other_order() -> NDArray[Any]:
        left, top, right, bottom = box
        width, height = shape
        if down_first(size, shape):
            across = full.resize((width, size[1]), kernel, box=(left, 0, right, size[1]))
            return np.asarray(across.resize(shape, kernel, box=(0, top, width, bottom)))
        down = full.resize((size[0], height), kernel, box=(0, top, size[0], bottom))
        return np.asarray(down.resize(shape, kernel, box=(left, 0, right, height)))

    def reduced(scale: int) -> NDArray[Any]:
        image, _ = pictures.at(scale)
        return np.asarray(image.resize(shape, kernel, box=_exact_box(spec, size, image)))

    if options.unrounded:
        add("full, resized without rounding", unrounded, decoded, False)
    for gap in options.gaps:
        shrinks = (box[2] - box[0]) / spec.width / gap >= 2
        add(f"full, reducing_gap {gap:g}", lambda gap=gap: with_gap(gap), decoded, shrinks)
    add(YARDSTICK, other_order, decoded, False)
    add(FULL, lambda: resize(full, spec), decoded, False)
    full_way = _last(ways)
    done: dict[int, tuple[NDArray[Any], float]] = {1: full_way}
    for margin in sorted(options.margins, reverse=True):
        scale = scale_for(margin, spec, size)
        way = f"margin {margin:g}"
        if scale not in done:
            _, cost = pictures.at(scale)
            add(way, lambda scale=scale: reduced(scale), cost, True)
            done[scale] = _last(ways)
        ways.pixels[way], ways.seconds[way] = done[scale]
        ways.reduced[way] = scale > 1
    if not options.rule:
        reduces = scale_for(DRAFT_MARGIN, spec, size) > 1
        add("moderate", lambda: _by_moderate(pictures.data, spec), 0.0, reduces)
    return ways


def _last(ways: Ways) -> tuple[NDArray[Any], float]:
    way = next(reversed(ways.pixels))
    return ways.pixels[way], ways.seconds[way]


def _by_moderate(data: bytes, spec: PixelSpec) -> NDArray[Any]:
    outcome = decode(data, (spec,), Limits(max_pixels=10**9))
    if not isinstance(outcome, Decoded):
        raise SystemExit(f"a picture of the comparison could not be decoded: {outcome.message}")
    return np.asarray(outcome.pixels[0])


# -- scores


def measure(
    items: Sequence[Item], networks: Sequence[Network], options: argparse.Namespace
) -> list[list[list[Measured]]]:
    """Per network and item the raw outputs by each way, the reference (way `timm`) first.

    With --rule there is no reference.
    """
    results: list[list[list[Measured]]] = [[] for _ in networks]
    end = time.monotonic() + 60 * options.minutes
    for start in range(0, len(items), CHUNK):
        if time.monotonic() > end:
            break
        chunk = items[start : start + CHUNK]
        torch.set_num_threads(1)  # as in a data loader's worker
        by_item: list[list[Ways]] = []
        for item in chunk:
            pictures = Pictures(item.data)
            by_spec: dict[Any, Ways] = {}
            for network in networks:
                if network.feeding not in by_spec:
                    by_spec[network.feeding] = by_every_way(pictures, network, options)
            by_item.append([by_spec[network.feeding] for network in networks])
        torch.set_num_threads(cores())
        for index, network in enumerate(networks):
            all_ways = [ways[index] for ways in by_item]
            results[index] += _score_ways(chunk, all_ways, network)
        print(f"\r{start + len(chunk)} of {len(items)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return results


def _score_ways(
    items: Sequence[Item], all_ways: Sequence[Ways], network: Network
) -> list[list[Measured]]:
    mean = np.asarray(network.mean, np.float32)
    std = np.asarray(network.std, np.float32)
    unique: dict[bytes, NDArray[np.float32]] = {}  # most ways give one picture the same pixels
    for ways in all_ways:
        if ways.reference is not None:
            unique[ways.reference.tobytes()] = ways.reference
        for pixels in ways.pixels.values():
            key = pixels.tobytes()
            if key not in unique:
                unique[key] = ((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)
    raw = dict(zip(unique, network.raw(list(unique.values())), strict=True))
    rows = []
    for item, ways in zip(items, all_ways, strict=True):
        row = []
        levels: NDArray[Any] = ways.pixels[FULL].astype(np.float32)
        if ways.reference is not None:
            levels = (ways.reference.transpose(1, 2, 0) * std + mean) * 255
            outputs = raw[ways.reference.tobytes()]
            row.append(
                Measured("timm", item.name, item.group, False, ways.seconds["timm"], 0.0, outputs)
            )
        for way, pixels in ways.pixels.items():
            difference = float(np.abs(pixels - levels).max())
            row.append(
                Measured(
                    way,
                    item.name,
                    item.group,
                    ways.reduced[way],
                    ways.seconds[way],
                    difference,
                    raw[pixels.tobytes()],
                )
            )
        rows.append(row)
    return rows


def decisions(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """0 approve, 1 review, 2 block by the worst category. scores: N x labels."""
    return np.digitize(scores.max(axis=1), [REVIEW, BLOCK])


def summarise(
    results: list[list[Measured]], score: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> list[dict[str, Any]]:
    """One record per group and way."""
    records = []
    groups = dict.fromkeys(row[0].group for row in results)
    for group in groups:
        rows = [row for row in results if row[0].group == group]
        reference = score(np.stack([row[0].raw for row in rows]))
        worst = reference.max(axis=1)
        near = np.minimum(abs(worst - REVIEW), abs(worst - BLOCK)) <= NEAR
        for index, first in enumerate(rows[0]):
            column = [row[index] for row in rows]
            scores = score(np.stack([cell.raw for cell in column]))
            difference = np.abs(scores - reference).max(axis=1)
            reduced = np.asarray([cell.reduced for cell in column])
            changed = decisions(scores) != decisions(reference)
            part = difference[reduced] if reduced.any() else np.zeros(1)
            records.append(
                {
                    "group": group,
                    "way": first.way,
                    "images": len(rows),
                    "reduced": int(reduced.sum()),
                    "p50": float(np.quantile(difference, 0.5)),
                    "p99": float(np.quantile(difference, 0.99)),
                    "max": float(difference.max()),
                    "worst": column[int(difference.argmax())].name,
                    "p99_reduced": float(np.quantile(part, 0.99)),
                    "changed": int(changed.sum()),
                    "changed_far": int((changed & ~near).sum()),
                    "largest_pixel": max(cell.pixel_difference for cell in column),
                    "cpu_ms": 1000 * sum(cell.seconds for cell in column) / len(column),
                    "score_std": float(reference.std()),
                }
            )
    return records


def against_yardstick(
    results: list[list[Measured]], score: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> list[dict[str, Any]]:
    """Per group and margin: distances from the full decode of the images that it reduces.

    Beside them those of the yardstick on the same images.
    """
    records = []
    for group in dict.fromkeys(row[0].group for row in results):
        rows = [{cell.way: cell for cell in row} for row in results if row[0].group == group]
        for way in rows[0]:
            reduced = [row for row in rows if row[way].reduced]
            if not reduced or way.startswith("full"):
                continue

            def distances(name: str, rows: list[dict[str, Measured]] = reduced) -> NDArray[Any]:
                raw = [np.stack([row[each].raw for row in rows]) for each in (name, FULL)]
                return np.abs(score(raw[0]) - score(raw[1])).max(axis=1)

            own, yardstick = distances(way), distances(YARDSTICK)
            records.append(
                {
                    "group": group,
                    "way": way,
                    "images": len(reduced),
                    "p50": float(np.quantile(own, 0.5)),
                    "p99": float(np.quantile(own, 0.99)),
                    "max": float(own.max()),
                    "yardstick_p50": float(np.quantile(yardstick, 0.5)),
                    "yardstick_p99": float(np.quantile(yardstick, 0.99)),
                    "yardstick_max": float(yardstick.max()),
                }
            )
    return records


def gather(options: argparse.Namespace) -> list[Item]:
    """All pictures of the comparison, in a fixed order."""
    rng = np.random.default_rng(0)
    items: list[Item] = []
    if options.photos:
        items += from_photographs(options.photos, options.count, options.smallest, rng)
    items += generated(options.generated, rng)
    items += cards(options.cards, rng)
    items += islice(fine_patterns(options.photos, rng), options.patterns)
    # In random order, so that a run cut short by --minutes has seen some of everything.
    return [items[index] for index in rng.permutation(len(items))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="a folder of real photographs; none is shipped")
    parser.add_argument("--count", type=int, default=400, help="pictures from the photographs")
    parser.add_argument(
        "--smallest", type=int, default=400, help="shortest side of the pictures, in pixels"
    )
    parser.add_argument("--margins", type=float, nargs="*", default=list(MARGINS))
    parser.add_argument("--generated", type=int, default=60)
    parser.add_argument("--cards", type=int, default=60)
    parser.add_argument("--patterns", type=int, default=1000, help="at most this many")
    parser.add_argument("--models", nargs="*", default=list(RANDOM), help="timm architectures")
    parser.add_argument("--bundles", nargs="*", default=["testcard"], help="trained bundles")
    parser.add_argument(
        "--settle", action="store_true", help="give random batch norms the pictures' statistics"
    )
    parser.add_argument("--gaps", type=float, nargs="*", default=[2.0, 3.0], help="reducing_gap")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop measuring after these")
    parser.add_argument(
        "--unrounded",
        action="store_true",
        help="also the reference resized without Pillow's rounding to 8 bits: how far scores move "
        "by rounding alone (slow)",
    )
    parser.add_argument(
        "--rule",
        action="store_true",
        help="only what the rule compares, in half the time: nothing is compared with timm's",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    prepare()
    pillow_heif.register_heif_opener()
    torch.manual_seed(0)
    items = gather(options)
    counts = {g: sum(i.group == g for i in items) for g in dict.fromkeys(i.group for i in items)}
    print(", ".join(f"{count} {group}" for group, count in counts.items()))
    if not options.photos:
        print("No real photograph among them: give --photos DIR for a result that means anything.")
    out: dict[str, Any] = {"machine": machine(), "pictures": counts, "models": {}}
    networks = [random_network(name) for name in options.models]
    if options.settle:
        sample = [_opened(item.data, 1) for item in items[:: max(1, len(items) // 64)][:64]]
        for network in networks:
            network.settle([np.asarray(network.transform(picture)) for picture in sample])
    networks += [trained_network(name) for name in options.bundles]
    measured = measure(items, networks, options)
    for name, network, results in zip(
        [*options.models, *options.bundles], networks, measured, strict=True
    ):
        photographs = [row for row in results if row[0].group in ("photographs", "generated")]
        network.spread(np.stack([row[0].raw for row in photographs or results]))
        records = [] if options.rule else summarise(results, network.score)
        kind = "trained" if network.trained else "random weights, head spread over 0..1"
        rule = against_yardstick(results, network.score)
        out["models"][Path(name).name] = {"weights": kind, "records": records, "rule": rule}
        print_table(
            f"{Path(name).name} ({kind}): distance from the full decode, against the yardstick's",
            ["pictures", "way", "reduced", "p50", "p99", "max", "by rounding: p50", "p99", "max"],
            [
                [
                    r["group"],
                    r["way"],
                    r["images"],
                    *(f"{r[key]:.4f}" for key in ("p50", "p99", "max")),
                    *(f"{r['yardstick_' + key]:.4f}" for key in ("p50", "p99", "max")),
                ]
                for r in rule
            ],
        )
        if options.rule:
            continue
        print_table(
            f"{Path(name).name} ({kind})",
            [
                "pictures",
                "way",
                "n",
                "reduced",
                "p50",
                "p99",
                "max",
                "p99 of reduced",
                "changed",
                "changed, not near",
                "pixel",
                "CPU ms",
            ],
            [
                [
                    r["group"],
                    r["way"],
                    r["images"],
                    r["reduced"],
                    f"{r['p50']:.4f}",
                    f"{r['p99']:.4f}",
                    f"{r['max']:.4f}",
                    f"{r['p99_reduced']:.4f}",
                    r["changed"],
                    r["changed_far"],
                    f"{r['largest_pixel']:.0f}",
                    f"{r['cpu_ms']:.1f}",
                ]
                for r in records
            ],
        )
    if options.json:
        write_json(options.json, out)


if __name__ == "__main__":
    main()
