"""The perceptual hash: bit for bit that of the authors' code, of every sort of file."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from moderate.decode.image import Decoded, decode, prepare
from moderate.decode.parts import DecodeOptions
from moderate.decode.pdq import hash_of_pixels, pdq_hash
from moderate.decode.resize import PixelSpec
from moderate.types import Limits, PdqHash
from tests.decode.pdq_patterns import pattern
from tests.support.pictures import encode, exif_block

# width, height, cells, seed; what the package pdqhash 0.2.8, which compiles the authors' C++, gives
REFERENCE = [
    (512, 512, 7, 0, "c7833e70c16fc18f387c316c387c487d3e70c18fc18fb782c783cc93c7833e70", 100),
    (512, 512, 512, 1, "c827a793928eb2202bc8bb9949f84d3b1ca10f60c3f77e955637e122f62a9b93", 100),
    (511, 300, 9, 2, "263419cf29d6d26876225c8a41fa61f2be05a2758b5d2d97d629f620db4993ed", 100),
    (300, 511, 300, 3, "fb758e81b23961ec2c35c04656fb310321aff3a717c458ac139db313f68076ce", 100),
    (64, 64, 8, 4, "e52c3b9179b0fb90ef045a5214ebc07e50fa3f81eb9425ad107b046f06cf44ee", 100),
    (65, 64, 5, 5, "c4f1c6f13b0e9e2793248b62cb72348d6c5b61d8c4f1c6f13b0e9e2793a44b72", 95),
    (128, 129, 128, 6, "f62fe74c5e0c67944274cfa5ca319c36287781f704081d2f6bf260bce70aa7ca", 100),
    (5, 5, 5, 7, "c372c4f13c8d398c64d964d9c6f19b269b26ce73c372c4f13c8d318c64d964d9", 100),
    (6, 512, 6, 8, "64c69b3971e78f6864c670978e3864c69b399e3971c360c664c69b3971c78f68", 100),
    (512, 6, 3, 9, "9a6971c3659671c79a698e389a6971c3659671c79a698e389a6970c3659671c7", 83),
    (100, 40, 1, 10, "2c4b11340000554b000000002c4b2c4b00002c4b113411341134cc532c4b1134", 0),
    (4, 90, 4, 11, "0000000000000000000000000000000000000000000000000000000000000000", 0),
    (640, 640, 11, 12, "cd9a2977473567367c31297783ce98c9b8cad6883265c78c236adc9e12e8b856", 100),
    (33, 77, 33, 13, "88316346b4ef2d35f54a36543e2ea120bd7cac4799e6f96064bb7fea31e5c800", 100),
]
OPTIONS = DecodeOptions(pdq=True)
SPEC = PixelSpec(64, 64)


def scene(size: tuple[int, int], seed: int) -> Image.Image:
    """A picture with detail in every frequency that is hashed."""
    cells = Image.fromarray(pattern(24, 18, 24, seed)[:18])
    return cells.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare()


def hashed(data: bytes, spec: PixelSpec = SPEC) -> PdqHash:
    outcome = decode(data, (spec,), Limits(), OPTIONS)
    assert isinstance(outcome, Decoded), outcome
    assert outcome.facts.pdq is not None
    return outcome.facts.pdq


def distance(one: PdqHash, other: PdqHash) -> int:
    return (int.from_bytes(one.bits) ^ int.from_bytes(other.bits)).bit_count()


@pytest.mark.parametrize(("width", "height", "cells", "seed", "digits", "quality"), REFERENCE)
def test_bits_and_quality_are_those_of_the_authors_code(
    width: int, height: int, cells: int, seed: int, digits: str, quality: int
) -> None:
    found = hash_of_pixels(pattern(width, height, cells, seed))
    assert (found.bits.hex(), found.quality) == (digits, quality)


def test_a_picture_of_one_colour_has_no_quality() -> None:
    assert pdq_hash(Image.new("RGB", (300, 200), (200, 30, 90))).quality == 0


def test_only_where_it_is_asked_for() -> None:
    outcome = decode(encode(scene((90, 70), 0), "PNG"), (PixelSpec(64, 64),), Limits())
    assert isinstance(outcome, Decoded)
    assert outcome.facts.pdq is None


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(200, 140), (2400, 1600)])
def test_a_turned_jpeg_is_hashed_upright(turn: int, size: tuple[int, int]) -> None:
    """Those of the large size are decoded at a reduced scale, and turned afterwards."""
    upright = scene(size, seed=3)
    back = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90,
            8: Image.Transpose.ROTATE_270}[turn]  # fmt: skip
    stored = upright if back is None else upright.transpose(back)
    plain = hashed(encode(upright, "JPEG", quality=92))
    turned = hashed(encode(stored, "JPEG", quality=92, exif=exif_block(turn)))
    assert distance(plain, turned) <= 8
    if back is not None:
        assert distance(plain, hashed(encode(stored, "JPEG", quality=92))) > 60


@pytest.mark.parametrize("side", [32, 512, 1500])
def test_the_models_input_hardly_matters(side: int) -> None:
    data = encode(scene((2400, 1800), seed=5), "JPEG", quality=90)
    assert distance(hashed(data, PixelSpec(side, side)), pdq_hash(scene((2400, 1800), seed=5))) <= 8


def test_transparency_is_on_white_and_cmyk_is_as_it_looks() -> None:
    picture = scene((200, 200), seed=7)
    clear = picture.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((200, 200)))
    white = Image.new("RGBA", (200, 200), "white")
    on_white = Image.alpha_composite(white, clear).convert("RGB")
    assert distance(hashed(encode(clear, "PNG")), pdq_hash(on_white)) <= 2
    cmyk = hashed(encode(picture.convert("CMYK"), "JPEG", quality=95))
    assert distance(cmyk, pdq_hash(picture)) <= 10


def test_the_first_frame_that_is_shown_is_hashed() -> None:
    frames = [scene((128, 128), seed=seed) for seed in (1, 2, 3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    first = pdq_hash(frames[0])
    assert distance(hashed(buffer.getvalue()), first) <= 2
    assert distance(pdq_hash(frames[1]), first) > 31


def test_small_changes_move_few_bits() -> None:
    picture = scene((640, 480), seed=11)
    original = pdq_hash(picture)
    again = hashed(encode(picture.resize((320, 240)), "JPEG", quality=40))
    assert distance(original, again) <= 31
    other = pdq_hash(scene((640, 480), seed=12))
    assert distance(original, other) > 60
    assert np.frombuffer(original.bits, np.uint8).size == 32
