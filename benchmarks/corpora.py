"""Corpora drawn by code: phone photographs, mixed formats, small JPEGs, with photographs' texture.

python benchmarks/corpora.py DIR [--corpus phone|mixed|small ...] [--count 60]
"""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

VERSION = 1  # of the drawing: a cached corpus of another version is drawn again
BASES = 5  # pictures drawn from nothing; the others are these moved, recoloured, with other noise
NOISE = 5.0  # standard deviation of sensor noise, in levels of 255
ORIENTATION = 0x0112  # EXIF tag
FORMATS = ("jpg", "webp", "jpg", "png", "heic")  # of the mixed corpus, in turn
WORDS = "offer open today street market 24h platform exit no parking news Tuesday price list"


@dataclass(frozen=True)
class Corpus:
    """What a corpus is made of: (width, height) in pixels and file suffixes, taken in turn."""

    size: tuple[int, int]
    suffixes: tuple[str, ...]
    turned: bool = False


CORPORA = {
    "phone": Corpus((4032, 3024), ("jpg",), turned=True),
    "mixed": Corpus((1600, 1200), FORMATS),
    "small": Corpus((640, 480), ("jpg",)),
}


def make(folder: Path, name: str, count: int) -> Path:
    """The folder with `count` files of that corpus; drawn if it is not there yet."""
    corpus = CORPORA[name]
    out = folder / f"{name}-{count}"
    marker = folder / f"{name}-{count}.json"
    wanted = {"version": VERSION, "name": name, "count": count}
    if marker.is_file() and json.loads(marker.read_text()) == wanted:
        return out
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(name))
    bases = [draw_photograph(seed, corpus.size) for seed in range(min(BASES, count))]
    grain = rng.normal(0, NOISE, (corpus.size[1], corpus.size[0], 3)).astype(np.int8)
    for number in range(count):
        picture = Image.fromarray(_vary(np.asarray(bases[number % len(bases)]), grain, rng))
        suffix = corpus.suffixes[number % len(corpus.suffixes)]
        orientation = 6 if corpus.turned and number % 3 == 1 else 1
        data = encode(picture, suffix, int(rng.integers(85, 93)), orientation)
        (out / f"{number:05}.{suffix}").write_bytes(data)
    marker.write_text(json.dumps(wanted))
    return out


def encode(picture: Image.Image, suffix: str, quality: int, orientation: int = 1) -> bytes:
    """The picture as a file: JPEG and WebP of that quality, HEIC of a phone's, PNG."""
    out = io.BytesIO()
    if suffix == "jpg":
        return encode_jpeg(picture, quality, 2, orientation)
    if suffix == "webp":
        picture.save(out, "WEBP", quality=quality, method=2)
    elif suffix == "heic":
        pillow_heif.from_pillow(picture).save(out, quality=60)
    else:
        picture.save(out, "PNG", compress_level=4)
    return out.getvalue()


def encode_jpeg(
    picture: Image.Image, quality: int, subsampling: int, orientation: int = 1
) -> bytes:
    """A JPEG file. subsampling is 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0 as phones write."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, subsampling=subsampling, exif=exif.tobytes())
    return out.getvalue()


def draw_photograph(seed: int, size: tuple[int, int]) -> Image.Image:
    """An RGB picture of (width, height) with what makes photographs costly to decode.

    Objects of every size that hide one another ("dead leaves", whose edges and spectrum are those
    of natural scenes: Lee, Mumford and Huang, 2001), texture whose amplitude falls as 1/f, flat
    areas, lettering, and sensor noise.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    scene = Image.new("RGB", size, _colour(rng))
    flatness = Image.new("L", size, 90)
    pens = ImageDraw.Draw(scene), ImageDraw.Draw(flatness)
    for _ in range(700):
        # Radii by an inverse cube law, the large ones first being mostly covered later.
        radius = height * min(0.35, 0.008 / np.sqrt(1 - rng.random() * 0.999))
        _draw_leaf(pens, rng, (rng.random() * width, rng.random() * height), radius)
    for _ in range(4):
        _draw_sign(pens, rng, size)
    levels = np.asarray(scene, np.float32)
    texture = _fractal(rng, size) * (np.asarray(flatness, np.float32) / 8)
    light = 0.75 + 0.5 * _ramp(rng, size)
    levels = (levels + texture[..., None]) * light[..., None]
    levels += rng.standard_normal(levels.shape, np.float32) * NOISE
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Mostly muted, as outdoors and indoors are."""
    grey = rng.uniform(30, 220)
    red, green, blue = (grey + rng.normal(0, 28, 3)).clip(0, 255)
    return int(red), int(green), int(blue)


Pens = tuple[ImageDraw.ImageDraw, ImageDraw.ImageDraw]


def _draw_leaf(
    pens: Pens, rng: np.random.Generator, centre: tuple[float, float], radius: float
) -> None:
    corners = int(rng.integers(3, 24))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = radius * rng.uniform(0.7, 1.0, corners)
    outline = [
        (centre[0] + r * np.cos(a), centre[1] + 0.8 * r * np.sin(a))
        for a, r in zip(angles, reach, strict=True)
    ]
    pens[0].polygon(outline, fill=_colour(rng))
    pens[1].polygon(outline, fill=int(rng.choice([0, 15, 60, 120, 180])))


def _draw_sign(pens: Pens, rng: np.random.Generator, size: tuple[int, int]) -> None:
    width, height = size
    left, top = rng.random() * width * 0.7, rng.random() * height * 0.8
    right, bottom = left + width * 0.25, top + height * 0.18
    pens[0].rectangle((left, top, right, bottom), fill=(235, 232, 225))
    pens[1].rectangle((left, top, right, bottom), fill=10)
    letter = max(8, height // int(rng.integers(30, 90)))
    font = ImageFont.load_default(letter)
    words = WORDS.split()
    for line in np.arange(top + letter / 2, bottom - letter, letter * 1.3):
        text = " ".join(rng.choice(words, 6))
        pens[0].text((left + letter, line), text[:34], font=font, fill=(25, 25, 35))


def _fractal(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """Noise of standard deviation 1 with equal power in every octave down to two pixels."""
    total = np.zeros((size[1], size[0]), np.float32)
    cells = 4
    octaves = 0
    while cells * 2 <= size[1]:
        noise = rng.standard_normal((cells, cells * size[0] // size[1]), np.float32)
        layer = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        total += np.asarray(layer)
        cells *= 2
        octaves += 1
    return total / np.float32(np.sqrt(octaves))


def _ramp(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    across = np.linspace(0, rng.uniform(0.2, 1), size[0], dtype=np.float32)
    down = np.linspace(rng.uniform(0, 0.5), 0, size[1], dtype=np.float32)
    return across[None, :] * 0.7 + down[:, None]


def _vary(
    base: NDArray[np.uint8], grain: NDArray[np.int8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Another picture of a base: moved, mirrored, in other light, with other noise."""
    moved = np.roll(base, tuple(rng.integers(base.shape[:2])), (0, 1))
    moved = moved[:, ::-1] if rng.random() < 0.5 else moved
    gain, gamma = rng.uniform(0.8, 1.2, 3), rng.uniform(0.8, 1.25)
    ramp = np.arange(256) / 255
    tables = [(255 * (ramp**gamma) * g).clip(0, 255).astype(np.int16) for g in gain]
    noise = np.roll(grain, tuple(rng.integers(base.shape[:2])), (0, 1))
    out = np.empty_like(base)
    for channel, table in enumerate(tables):
        noisy = table[moved[..., channel]] + noise[..., channel]
        out[..., channel] = noisy.clip(0, 255)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpus", nargs="*", choices=list(CORPORA), default=list(CORPORA))
    parser.add_argument("--count", type=int, default=60)
    options = parser.parse_args()
    for name in options.corpus:
        out = make(options.folder, name, options.count)
        sizes = [path.stat().st_size for path in out.iterdir()]
        print(f"{out}: {len(sizes)} files, {np.mean(sizes) / 1e6:.2f} MB each on average")


if __name__ == "__main__":
    main()
