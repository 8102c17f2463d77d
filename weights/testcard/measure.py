"""Measures the testcard weights on cards and non-cards that training never drew.

    python weights/testcard/measure.py [--bundle DIR] [--pictures DIR ...]

Each picture is encoded to real file bytes and read back as an upload would be. `--pictures` adds
a count over your own image folders, in which there should be no test cards.
"""

from __future__ import annotations

import argparse
import collections
import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import scenes
import timm
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from pillow_heif import register_heif_opener
from train import MEAN, SIDE, STD, near_card

from moderate import testcards

Rng = np.random.Generator
Scores = NDArray[np.float32]

SORTS = [(None, "clean")] + [(c, b) for c in testcards.CATEGORIES for b in ("review", "block")]
KINDS = list(testcards.SUFFIXES)
TREATMENTS = (
    "as drawn",
    "cropped up to 10 % a side",
    "padded up to 25 % a side",
    "half size on a picture",
    "stretched up to 3:2",
    "brightness 0.6 to 1.35",
    "contrast 0.6 to 1.4",
)
FIRST_SEED = 1 << 31  # training draws its card seeds below 1 << 30


def read(data: bytes) -> Image.Image:
    """Image bytes -> upright RGB squashed to the model's input size; alpha goes on white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def score(model: torch.nn.Module, images: Iterable[Image.Image]) -> Scores:
    """Scores (pictures x 5) of images of the model's input size."""
    rows: list[Scores] = []
    batch: list[NDArray[np.uint8]] = []

    def flush() -> None:
        if batch:
            pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255
            mean, std = torch.tensor(MEAN), torch.tensor(STD)
            x = (pixels - mean[:, None, None]) / std[:, None, None]
            rows.append(model(x).sigmoid().numpy())
            batch.clear()

    with torch.inference_mode():
        for image in images:
            batch.append(np.asarray(image))
            if len(batch) == 64:
                flush()
        flush()
    return np.concatenate(rows)


def decide(score: float) -> str:
    """The decision of the `balanced` policy."""
    return "block" if score >= 0.85 else "review" if score >= 0.30 else "approve"


def treat(rng: Rng, card: Image.Image, treatment: str) -> Image.Image:
    """Apply one of `TREATMENTS`."""
    w, h = card.size
    if treatment.startswith("cropped"):
        left, top, right, bottom = rng.uniform(0, 0.1, 4)
        return card.crop((int(left * w), int(top * h), int((1 - right) * w), int((1 - bottom) * h)))
    if treatment.startswith("padded"):
        left, top, right, bottom = rng.uniform(0, 0.25, 4)
        size = (int(w * (1 + left + right)), int(h * (1 + top + bottom)))
        sheet = Image.new("RGB", size, tuple(int(v) for v in rng.integers(0, 256, 3)))
        sheet.paste(card, (int(left * w), int(top * h)))
        return sheet
    if treatment.startswith("half"):
        ground = scenes.draw_scene(rng, (192, 192)).resize((2 * w, 2 * h))
        ground.paste(card, (int(rng.integers(0, w + 1)), int(rng.integers(0, h + 1))))
        return ground
    if treatment.startswith("brightness"):
        return ImageEnhance.Brightness(card).enhance(rng.uniform(0.6, 1.35))
    if treatment.startswith("contrast"):
        return ImageEnhance.Contrast(card).enhance(rng.uniform(0.6, 1.4))
    return card


def card_file(number: int, sides: tuple[int, int]) -> tuple[str | None, str, str, str, bytes]:
    """Held-out card `number`: category, band, treatment, format, and the file's bytes."""
    rng = np.random.default_rng([5, number])
    category, band = SORTS[number % len(SORTS)]
    # Treatments and formats of coprime counts with the sorts, so that all meet.
    treatment = TREATMENTS[number // len(SORTS) % len(TREATMENTS)]
    kind = KINDS[int(rng.integers(len(KINDS)))]
    side = int(np.exp(rng.uniform(*np.log(sides))))
    size = (side, side)
    if treatment.startswith("stretched"):
        long = int(side * rng.uniform(1, 1.5))
        size = (long, side) if rng.random() < 0.5 else (side, long)
    card = treat(rng, testcards.draw_card(category, band, FIRST_SEED + number, size), treatment)
    turn = int(rng.integers(1, 9)) if kind in ("JPEG", "PNG", "WEBP") else 1
    # Half of the turned files lose their tag, as in pipelines that strip metadata.
    if turn > 1 and rng.random() < 0.5:
        card, turn = card.transpose(Image.Transpose(turn - 2)), 1
    quality = int(rng.integers(30, 96))
    return category, band, treatment, kind, testcards.encode_image(card, kind, quality, turn)


def report_cards(
    model: torch.nn.Module, title: str, numbers: range, sides: tuple[int, int]
) -> None:
    """Score a set of cards; print the share that comes out as intended, and where it does not."""
    facts = []

    def images() -> Iterator[Image.Image]:
        for number in numbers:
            *fact, data = card_file(number, sides)
            facts.append(fact)
            yield read(data)

    scores = score(model, images())
    total: dict[str, list[bool]] = collections.defaultdict(list)
    strict, own, others = [], collections.defaultdict(list), []
    for (category, band, treatment, kind), row in zip(facts, scores, strict=True):
        good = decide(float(row.max())) == testcards.DECISIONS[band]
        rest = row
        if category:
            index = testcards.CATEGORIES.index(category)
            good = good and int(row.argmax()) == index
            own[band].append(float(row[index]))
            rest = np.delete(row, index)
        others.append(float(rest.max()))
        if band == "review":
            strict.append(0.30 <= row.max() < 0.60)
        for key in ("all", band, treatment, kind):
            total[key].append(good)
    right = total.pop("all")
    print(f"{title}: {sum(right)} of {len(right)} as intended ({np.mean(right):.2%})")
    for key in (*testcards.BANDS, *TREATMENTS, *KINDS):
        if total[key]:
            print(f"  {key}: {sum(total[key])} of {len(total[key])}")
    for band, values in own.items():
        low, middle, high = np.quantile(values, (0.005, 0.5, 0.995))
        print(f"  {band} scores, 0.5 % / median / 99.5 %: {low:.3f} {middle:.3f} {high:.3f}")
    print(f"  review cards under 0.60, so review in `strict` too: {sum(strict)} of {len(strict)}")
    print(f"  highest score in any category not meant: {max(others):.3f}")


def report_others(model: torch.nn.Module, title: str, names: list[str], scores: Scores) -> None:
    """Print how many pictures that are no cards were not approved, and the worst of them."""
    top = scores.max(1)
    wrong = int((top >= 0.30).sum())
    print(f"{title}: {wrong} of {len(top)} not approved ({wrong / len(top):.2%})")
    print(f"  99.9 % quantile {np.quantile(top, 0.999):.3f}, highest {top.max():.3f}")
    for index in np.argsort(-top)[:8]:
        if top[index] >= 0.30:
            label = testcards.CATEGORIES[int(scores[index].argmax())]
            print(f"  {top[index]:.3f} {label}: {names[index]}")


def scene_files(count: int) -> Iterator[bytes]:
    for number in range(count):
        rng = np.random.default_rng([6, number])
        size = tuple(int(v) for v in np.exp(rng.uniform(np.log(64), np.log(640), 2)))
        scene = scenes.draw_scene(rng, (size[0], size[1]))
        kind = KINDS[int(rng.integers(len(KINDS)))]
        yield testcards.encode_image(scene, kind, int(rng.integers(30, 96)))


def folder_images(folders: list[Path], names: list[str]) -> Iterator[Image.Image]:
    """Every readable picture below the folders; its path is appended to `names`."""
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        try:
            image = read(path.read_bytes())
        except Exception:  # noqa: BLE001 (folders hold broken files and other things)
            continue
        names.append(str(path))
        yield image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path(__file__).parent)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--pictures", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    register_heif_opener()
    warnings.simplefilter("ignore")
    model = timm.create_model(f"local-dir:{options.bundle}", pretrained=True).eval()

    n = options.count
    report_cards(model, "Cards of 96 to 1024 px", range(n), (96, 1024))
    report_cards(model, "Cards of 1024 to 4000 px", range(n, n + n // 20), (1024, 4000))
    names = [f"scene {i}" for i in range(n)]
    report_others(model, "Drawn non-cards", names, score(model, map(read, scene_files(n))))
    names = [f"near-card {i}" for i in range(n // 4)]
    spoilt = (near_card(np.random.default_rng([7, i])) for i in range(n // 4))
    files = (read(testcards.encode_image(image, "JPEG")) for image in spoilt)
    report_others(model, "Incomplete, recoloured or minute cards", names, score(model, files))
    if options.pictures:
        names = []
        scores = score(model, folder_images(options.pictures, names))
        report_others(model, "Pictures from the folders given", names, scores)


if __name__ == "__main__":
    main()
