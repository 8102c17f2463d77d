"""Files in which a picture is hidden from whoever looks at one frame, one crop or one pixel grid.

What is hidden is drawn by the caller: a test card, or a harmless photograph in its place.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, ImageDraw, ImageOps

pillow_heif.register_heif_opener()

Size = tuple[int, int]
Hidden = Callable[[Size], Image.Image]
"""Draws what is hidden at a size (width, height), RGB."""

PHOTOGRAPHS = Path(__file__).parents[1] / "sample_images"
COVERS = ("photo_cat.jpg", "photo_coffee.jpg", "photo_rocket.jpg", "photo_photographer.jpg")
OTHER = "photo_astronaut.jpg"
"""What controls show where the card would be."""

SMALL = 240, 180  # of the frames of animations


@dataclass(frozen=True)
class File:
    """One file: its way of hiding something, a name, the suffix included, and its bytes.

    reachable says whether weights at all could be expected to see what is hidden.
    """

    way: str
    name: str
    data: bytes
    reachable: bool = True


@cache
def _photograph(name: str) -> Image.Image:
    with Image.open(PHOTOGRAPHS / name) as image:
        return image.convert("RGB")


def photograph(name: str, size: Size) -> Image.Image:
    """A photograph, cropped and scaled to a size."""
    return ImageOps.fit(_photograph(name), size)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image in a format that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image, **options: Any) -> bytes:
    """The image as a JPEG of quality 90."""
    return encoded(image, "JPEG", **{"quality": 90, **options})


def drifting(cover: Image.Image, count: int) -> list[Image.Image]:
    """The cover as a camera that moves sees it, so that no two frames are the same."""
    wide = cover.resize((cover.width + 2 * count, cover.height))
    return [wide.crop((2 * n, 0, 2 * n + cover.width, cover.height)) for n in range(count)]


def with_one(frames: Sequence[Image.Image], place: int, one: Image.Image) -> list[Image.Image]:
    """The frames with that at one place replaced."""
    return [*frames[:place], one, *frames[place + 1 :]]


def pasted(image: Image.Image, patch: Image.Image, at: tuple[int, int]) -> Image.Image:
    """A copy of the image with a patch on it."""
    copy = image.copy()
    copy.paste(patch, at)
    return copy


# GIF ----------------------------------------------------------------------------------------------


def gif_frame(
    image: Image.Image,
    *,
    at: tuple[int, int] = (0, 0),
    hundredths: int = 10,
    disposal: int = 0,
    mask: Image.Image | None = None,
    interlaced: bool = False,
    control: bool = True,
) -> bytes:
    """A frame with a palette of its own; what a mask (L) leaves out is transparent."""
    few = image.quantize(255, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    if mask is not None:
        indices = np.asarray(few).copy()
        indices[np.asarray(mask) < 128] = 255
        palette = bytes(few.getpalette() or ())[: 3 * 255].ljust(3 * 256, b"\0")
        few = Image.fromarray(indices, "P")
        few.putpalette(palette)
    alone = encoded(few, "GIF", interlace=int(interlaced), optimize=False)
    screen = 3 << ((alone[10] & 7) + 1)
    palette = alone[13 : 13 + screen].ljust(3 * 256, b"\0")
    start = 13 + screen
    while alone[start] == 0x21:  # extensions that Pillow wrote
        start += 2
        while alone[start]:
            start += 1 + alone[start]
        start += 1
    left, top, width, height, flags = struct.unpack_from("<4HB", alone, start + 1)
    own = 3 << ((flags & 7) + 1) if flags & 0x80 else 0
    assert (left, top) == (0, 0)
    descriptor = struct.pack("<B4HB", 0x2C, *at, width, height, 0x87 | (flags & 0x40))
    head = b""
    if control:
        bits = disposal << 2 | (mask is not None)
        head = struct.pack("<4BHBB", 0x21, 0xF9, 4, bits, hundredths, 255, 0)
    if own:
        palette = alone[start + 10 : start + 10 + own].ljust(3 * 256, b"\0")
    return head + descriptor + palette + alone[start + 10 + own : -1]


def gif(
    size: Size, frames: Sequence[bytes], version: bytes = b"GIF89a", loop: bool = True
) -> bytes:
    """A GIF of frames."""
    extension = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00" if loop else b""
    return version + struct.pack("<HHBBB", *size, 0x70, 0, 0) + extension + b"".join(frames) + b";"


def in_gif(rng: random.Random, cover: Image.Image, hidden: Hidden) -> Iterator[File]:
    """One frame among others, and pictures that only several frames make."""
    width, height = SMALL
    card = hidden(SMALL)

    def file(name: str, frames: Sequence[bytes], **options: Any) -> File:
        return File("GIF", f"{name}.gif", gif(SMALL, frames, **options))

    for count in (2, 3, 17, 60, 150):
        ordinary, one = [gif_frame(each) for each in drifting(cover, count)], gif_frame(card)
        for place in sorted({0, 1, count // 2, rng.randrange(count), count - 1}):
            frames = [*ordinary[:place], one, *ordinary[place + 1 :]]
            yield file(f"{place + 1} of {count}", frames)
    for disposal in range(4):
        frames = [gif_frame(each, disposal=rng.randrange(4)) for each in drifting(cover, 6)]
        frames[3] = gif_frame(card, disposal=disposal, interlaced=True)
        yield file(f"disposal {disposal}, interlaced", frames)
    plain = [gif_frame(each, control=False) for each in (cover, card)]
    yield file("87a", plain, version=b"GIF87a", loop=False)
    for hundredths in (0, 1, 2):
        frames = [gif_frame(each, hundredths=500) for each in drifting(cover, 30)]
        frames[17] = gif_frame(card, hundredths=hundredths)
        yield file(f"on display for {10 * hundredths} ms", frames)

    # Built up by transparency, on display as a whole, and gone again.
    stripes = [Image.new("L", SMALL) for _ in range(8)]
    for row in range(height):
        ImageDraw.Draw(stripes[row % 8]).line((0, row, width, row), 255)
    built = [gif_frame(cover), *(gif_frame(card, mask=stripe) for stripe in stripes)]
    yield file("built up of lines", [*built, gif_frame(cover)])
    cells = [Image.new("L", SMALL) for _ in range(16)]
    for number in range(16 * 9):
        x, y = number % 12 * 20, number // 12 * 15
        ImageDraw.Draw(cells[rng.randrange(16)]).rectangle((x, y, x + 19, y + 14), fill=255)
    built = [gif_frame(cover), *(gif_frame(card, mask=cell) for cell in cells)]
    yield file("built up of tiles", [*built, *map(gif_frame, drifting(cover, 30))])
    half = Image.new("L", SMALL)
    half.paste(255, (0, 0, width // 2, height))
    left, right = gif_frame(card, mask=half), gif_frame(card, mask=ImageOps.invert(half))
    yield file("two halves", [gif_frame(cover), left, right, gif_frame(cover)])
    quarter = card.crop((width // 2, height // 2, width, height))
    frames = [gif_frame(pasted(card, cover.crop(quarter.getbbox()), (width // 2, height // 2)))]
    yield file("last quarter put in", [*frames, gif_frame(quarter, at=(width // 2, height // 2))])
    # The middle frame is drawn over the card and taken away again.
    dot = gif_frame(cover.crop((0, 0, 1, 1)))
    dim = gif_frame(pasted(card, cover.crop((0, 0, 200, 150)), (20, 15)), hundredths=300)
    over = gif_frame(cover, disposal=3, hundredths=300)
    yield file("comes back by disposal 3", [dim, gif_frame(card, hundredths=0), over, dot])
    big = width * 2 // 5
    patch = hidden((big, big))
    moving = [
        pasted(cover, patch, (n * (width - big) // 19, n * (height - big) // 19)) for n in range(20)
    ]
    yield file("moving patch", [gif_frame(each) for each in moving])
    faded = [Image.blend(cover, card, n / 20) for n in range(21)]
    yield file("fading in", [gif_frame(each) for each in faded])
    around = [*faded, *reversed(faded[:-1])]
    yield file("fading in and out", [gif_frame(each, hundredths=2) for each in around])
    noise = np.random.default_rng(rng.randrange(1 << 30))
    rough = [
        Image.fromarray(noise.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(60)
    ]
    yield file("among noise", [gif_frame(each) for each in with_one(rough, 41, card)])
    flashes = [Image.new("RGB", SMALL, tuple(rng.choices(range(256), k=3))) for _ in range(90)]
    yield file("among flashes", [gif_frame(each) for each in with_one(flashes, 55, card)])
    tiny = [gif_frame(cover.crop((0, 0, 2, 2))), *([gif_frame(cover.crop((0, 0, 1, 1)))] * 560)]
    yield file("behind 560 tiny ones", [*tiny, gif_frame(card), *tiny[:3]])
    yield file("behind 1,500 dots", [gif_frame(cover), *([dot] * 1500), gif_frame(card)])
    yield file("GIF behind it", [gif_frame(cover), b";", gif(SMALL, [gif_frame(card)])])
    larger = pasted(Image.new("RGB", (480, 360)), card, (0, 0))
    yield file("larger than the canvas", [gif_frame(cover), gif_frame(larger)])
    small_first = [gif_frame(cover.crop((0, 0, 60, 45)), at=(20, 20)), gif_frame(card)]
    yield file("small first frame", small_first)
    empty = gif_frame(cover, mask=Image.new("L", SMALL))
    yield file("empty first frame", [empty, gif_frame(card)])
    faint = Image.blend(Image.new("RGB", SMALL, (128, 128, 128)), card, 0.25)
    grey = [Image.new("RGB", SMALL, (128 - n % 3, 128, 128)) for n in range(30)]
    yield file("faint", [gif_frame(each) for each in with_one(grey, 11, faint)])


# WebP ---------------------------------------------------------------------------------------------


def _riff(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) & 1)


def webp(chunks: Sequence[bytes]) -> bytes:
    """A WebP of chunks."""
    return _riff(b"RIFF", b"WEBP" + b"".join(chunks))


def _three(*values: int) -> bytes:
    return b"".join(value.to_bytes(3, "little") for value in values)


def webp_frame(
    image: Image.Image, *, at: tuple[int, int] = (0, 0), milliseconds: int = 100, flags: int = 0
) -> bytes:
    """An ANMF chunk; `at` is even."""
    alone = encoded(image, "WEBP", quality=80)
    place = _three(at[0] // 2, at[1] // 2, image.width - 1, image.height - 1, milliseconds)
    coded = alone[12:]
    if coded.startswith(b"VP8X"):
        coded = coded[18:]
    return _riff(b"ANMF", place + bytes((flags,)) + coded)


def webp_head(size: Size, flags: int) -> bytes:
    """A VP8X chunk."""
    return _riff(b"VP8X", bytes((flags, 0, 0, 0)) + _three(size[0] - 1, size[1] - 1))


def animated_webp(size: Size, frames: Sequence[bytes], *more: bytes) -> bytes:
    """An animation."""
    return webp([webp_head(size, 0x12), _riff(b"ANIM", bytes(6)), *frames, *more])


def in_webp(rng: random.Random, cover: Image.Image, hidden: Hidden) -> Iterator[File]:
    """One frame among others; chunks beside the animation."""
    card = hidden(SMALL)
    still = encoded(cover, "WEBP")
    for count in (2, 20, 50):
        for place in sorted({0, rng.randrange(1, count), count - 1}):
            frames = [webp_frame(each) for each in with_one(drifting(cover, count), place, card)]
            yield File("WebP", f"{place + 1} of {count}.webp", animated_webp(SMALL, frames))
    frames = [webp_frame(each) for each in drifting(cover, 5)]
    frames[2] = webp_frame(card, milliseconds=0, flags=3)
    yield File("WebP", "for 0 ms.webp", animated_webp(SMALL, frames))
    width, height = SMALL
    halves = [
        webp_frame(card.crop((0, 0, width // 2, height)), flags=0),
        webp_frame(card.crop((width // 2, 0, width, height)), at=(width // 2, 0)),
    ]
    everything = [webp_frame(cover), *halves, webp_frame(cover)]
    yield File("WebP", "two halves.webp", animated_webp(SMALL, everything))
    chunk = encoded(card, "WEBP")[12:]
    head = webp_head(SMALL, 0)
    yield File("WebP", "second image chunk.webp", webp([head, still[12:], chunk]))
    yield File("WebP", "first image chunk.webp", webp([head, chunk, still[12:]]))
    without_flag = webp([head, still[12:], webp_frame(card), webp_frame(cover)])
    yield File("WebP", "frames without the flag.webp", without_flag)
    with_still = animated_webp(SMALL, [webp_frame(cover), webp_frame(cover)], chunk)
    yield File("WebP", "still behind the frames.webp", with_still)
    still_first = webp([webp_head(SMALL, 2), chunk, _riff(b"ANIM", bytes(6)), webp_frame(cover)])
    yield File("WebP", "still before the frames.webp", still_first)
    for number in (3, 6, 8):
        turned = pasted(Image.new("RGB", (900, 300), "white"), hidden((300, 300)), (0, 0))
        exif = Image.Exif()
        exif[0x0112] = number
        data = encoded(turned, "WEBP", exif=exif.tobytes())
        yield File("WebP", f"turned by EXIF {number}.webp", data)
    yield File("WebP", "WebP behind it.webp", still + encoded(card, "WEBP"))


# PNG ----------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk."""
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def image_data(image: Image.Image) -> bytes:
    """The content of IDAT of an RGB image."""
    rows = np.asarray(image.convert("RGB"))
    lines = np.concatenate(
        [np.zeros((len(rows), 1), np.uint8), rows.reshape(len(rows), -1)], axis=1
    )
    return zlib.compress(lines.tobytes(), 6)


def control(number: int, size: Size, **changes: int) -> bytes:
    """An fcTL chunk."""
    asked = {"x": 0, "y": 0, "delay": 1, "per": 10, "dispose": 0, "blend": 0, **changes}
    values = (number, *size, *asked.values())
    return chunk(b"fcTL", struct.pack(">5I2H2B", *values))


def png(size: Size, *chunks: bytes, colour: int = 2, depth: int = 8) -> bytes:
    """A PNG of chunks between its header and its end."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def apng(
    frames: Sequence[Image.Image], default: Image.Image | None = None, **changes: int
) -> bytes:
    """An animation; with a default image that is not part of it, or its first frame as that."""
    size = frames[0].size
    chunks = [chunk(b"acTL", struct.pack(">II", len(frames), 0))]
    number = 0
    if default is not None:
        chunks.append(chunk(b"IDAT", image_data(default)))
    for index, frame in enumerate(frames):
        chunks.append(control(number, size, **changes))
        number += 1
        if index or default is not None:
            chunks.append(chunk(b"fdAT", struct.pack(">I", number) + image_data(frame)))
            number += 1
        else:
            chunks.append(chunk(b"IDAT", image_data(frame)))
    return png(size, *chunks)


def in_png(rng: random.Random, cover: Image.Image, hidden: Hidden) -> Iterator[File]:
    """One frame among others; the default image apart; frames whose control chunks are odd."""
    card = hidden(SMALL)

    def file(name: str, data: bytes) -> File:
        return File("PNG", f"{name}.png", data)

    for count in (2, 20, 40):
        for place in sorted({0, rng.randrange(1, count), count - 1}):
            frames = with_one(drifting(cover, count), place, card)
            yield file(f"{place + 1} of {count}", apng(frames))
    yield file("one frame, default differs", apng([card], cover))
    yield file("default of a one-frame animation", apng([cover], card))
    yield file("default of a long animation", apng(drifting(cover, 40), card))
    yield file("for 0 ms", apng(with_one(drifting(cover, 20), 9, card), delay=0))
    cover_data, card_data = chunk(b"IDAT", image_data(cover)), image_data(card)
    frame = chunk(b"fdAT", struct.pack(">I", 1) + card_data)
    count_2, count_1 = (chunk(b"acTL", struct.pack(">II", n, 0)) for n in (2, 1))
    first, second = control(0, SMALL), control(1, SMALL)
    late = chunk(b"fdAT", struct.pack(">I", 2) + card_data)
    yield file("acTL behind the image", png(SMALL, cover_data, count_2, first, frame))
    yield file("promises one frame of two", png(SMALL, count_1, first, cover_data, second, late))
    over = chunk(b"fdAT", struct.pack(">I", 9) + card_data)
    yield file(
        "numbers out of order", png(SMALL, count_2, first, cover_data, control(5, SMALL), over)
    )
    yield file("two controls for one", png(SMALL, count_2, first, second, cover_data, second, late))
    yield file("control without data", png(SMALL, count_2, first, second, cover_data, late))
    half = SMALL[0] // 2, SMALL[1]
    left = control(1, half, x=0, y=0, blend=1)
    right = control(3, half, x=half[0], y=0, blend=1)
    halves = [
        chunk(b"fdAT", struct.pack(">I", n) + image_data(card.crop((x, 0, x + half[0], half[1]))))
        for n, x in ((2, 0), (4, half[0]))
    ]
    last = [control(5, SMALL), chunk(b"fdAT", struct.pack(">I", 6) + image_data(cover))]
    count_4 = chunk(b"acTL", struct.pack(">II", 4, 0))
    parts = [count_4, first, cover_data, left, halves[0], right, halves[1], *last]
    yield file("two halves", png(SMALL, *parts))
    whole = png(SMALL, chunk(b"IDAT", card_data))
    for kind in (b"prVt", b"zTXt", b"tEXt"):
        yield file(
            f"in a chunk {kind.decode()}", png(SMALL, cover_data, chunk(kind, b"a\0\0" + whole))
        )
    yield file("two headers", whole[:33] + png(SMALL, cover_data)[8:])
    yield file(
        "image data in two pieces", png(SMALL, cover_data, chunk(b"tEXt", b"a\0b"), cover_data)
    )
    yield file("PNG behind it", png(SMALL, cover_data) + whole)


# Pictures of one file -----------------------------------------------------------------------------


def indexed_jpeg(pictures: Sequence[bytes], offsets: Sequence[int] | None = None) -> bytes:
    """JPEGs one behind the other, and a multi-picture index of them in the first."""
    count = len(pictures)
    length = 8 + 2 + 3 * 12 + 4 + 16 * count
    segment = 4 + 4 + length
    first = len(pictures[0]) + segment
    base = 2 + 8  # of offsets: the TIFF header of the index, behind SOI and the segment's head
    entries, at = b"", first
    for number, picture in enumerate(pictures):
        size = len(picture) + (0 if number else segment)
        offset = 0 if not number else at - base
        if offsets is not None and number:
            offset += offsets[number - 1]
        entries += struct.pack("<IIIHH", 0x030000 if not number else 0x020002, size, offset, 0, 0)
        at += len(picture) if number else 0
    tags = struct.pack("<H", 3)
    tags += struct.pack("<HHI4s", 0xB000, 7, 4, b"0100")
    tags += struct.pack("<HHII", 0xB001, 4, 1, count)
    tags += struct.pack("<HHII", 0xB002, 7, 16 * count, 8 + 2 + 36 + 4)
    index = b"II*\0" + struct.pack("<I", 8) + tags + bytes(4) + entries
    app2 = b"\xff\xe2" + struct.pack(">H", 2 + 4 + len(index)) + b"MPF\0" + index
    return pictures[0][:2] + app2 + pictures[0][2:] + b"".join(pictures[1:])


def in_several_pictures(rng: random.Random, cover: Image.Image, hidden: Hidden) -> Iterator[File]:
    """MPO, HEIC, AVIF, TIFF and icons."""
    card = hidden(SMALL)
    covers = [jpeg(each) for each in drifting(cover, 4)]
    hidden_jpeg = jpeg(card)
    yield File("MPO", "second.jpg", indexed_jpeg([covers[0], hidden_jpeg]))
    yield File("MPO", "first.jpg", indexed_jpeg([hidden_jpeg, covers[0]]))
    yield File("MPO", "last of four.jpg", indexed_jpeg([*covers[:3], hidden_jpeg]))
    for name, offset in (("behind the end", 1 << 20), ("in the middle", -500), ("two late", 2)):
        data = indexed_jpeg([covers[0], hidden_jpeg], [offset])
        yield File("MPO", f"offset {name}.jpg", data)
    many = [covers[0], *([covers[1]] * 70), hidden_jpeg]
    yield File("MPO", "last of 72.jpg", indexed_jpeg(many))
    data = indexed_jpeg([covers[0], covers[1]]) + hidden_jpeg
    yield File("MPO", "not in the index.jpg", data)
    nested = indexed_jpeg([covers[1], hidden_jpeg])
    yield File("MPO", "index in the second picture.jpg", indexed_jpeg([covers[0], nested]))
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = pasted(Image.new("RGB", (600, 200), "white"), hidden((200, 200)), (0, 0))
    yield File("MPO", "second, turned.jpg", indexed_jpeg([covers[0], jpeg(tall, exif=exif)]))

    for count, place in ((2, 1), (3, 0), (20, 15)):
        frames = with_one(drifting(cover, count), place, card)
        data = encoded(frames[0], "HEIF", save_all=True, append_images=frames[1:])
        yield File("HEIC", f"{place + 1} of {count}.heic", data)
    frames = with_one(drifting(cover, 3), 2, card)
    for primary in (0, 2):
        options = {"save_all": True, "append_images": frames[1:], "primary_index": primary}
        data = encoded(frames[0], "HEIF", **options)
        yield File("HEIC", f"3 of 3, primary {primary + 1}.heic", data)
    for count, place in ((2, 1), (8, 0), (20, 15)):
        frames = with_one(drifting(cover, count), place, card)
        options = {"append_images": frames[1:], "duration": 50, "speed": 9, "save_all": True}
        yield File("AVIF", f"{place + 1} of {count}.avif", encoded(frames[0], "AVIF", **options))
    for count, place in ((2, 1), (20, 15)):
        frames = with_one(drifting(cover, count), place, card)
        data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
        yield File("TIFF", f"{place + 1} of {count}.tif", data)
    for name, sides in (("small", (48, 128)), ("large", (128, 48))):
        pictures = [hidden((sides[0],) * 2), cover.resize((sides[1],) * 2)]
        yield File("ICO", f"{name}.ico", icon(pictures))


def icon(pictures: Sequence[Image.Image]) -> bytes:
    """A Windows icon of PNGs."""
    files = [encoded(each, "PNG") for each in pictures]
    at, entries = 6 + 16 * len(files), b""
    for picture, data in zip(pictures, files, strict=True):
        sides = (picture.width & 255, picture.height & 255)
        entries += struct.pack("<4BHHII", *sides, 0, 0, 1, 32, len(data), at)
        at += len(data)
    return struct.pack("<HHH", 0, 1, len(files)) + entries + b"".join(files)


# Shapes -------------------------------------------------------------------------------------------


def in_shapes(rng: random.Random, cover: Image.Image, hidden: Hidden) -> Iterator[File]:
    """Long and tall pictures, with the card at their short side's size or near."""
    name = rng.choice(COVERS)
    for size in ((1200, 400), (400, 1200), (4000, 300), (300, 4000), (10000, 200), (20000, 100)):
        across = size[0] >= size[1]
        side, length = min(size), max(size)
        ground = wide_photograph(name, size)
        for share in (0.0, rng.uniform(0.15, 0.4), rng.uniform(0.6, 0.9), 1.0):
            for height in (1.0, 0.8):
                own = round(height * side)
                along, down = round(share * (length - own)), (side - own) // 2
                at = (along, down) if across else (down, along)
                image = pasted(ground, hidden((own, own)), at)
                where = f"{size[0]} x {size[1]}, {own} px at {along}"
                kind = "png" if share in (0.0, 1.0) and side > 150 else "jpg"
                data = encoded(image, "PNG") if kind == "png" and length < 5000 else jpeg(image)
                yield File("long", f"{where}.{kind if length < 5000 else 'jpg'}", data)
    for size in ((1200, 400), (1600, 900), (900, 1600), (1500, 1000), (1000, 1500), (1990, 1000)):
        for share in (0.4, 0.7):
            side = round(share * min(size))
            at = rng.choice((0, size[0] - side)), rng.choice((0, size[1] - side))
            data = jpeg(pasted(wide_photograph(name, size), hidden((side, side)), at))
            # What is not long has no tiles, and the card is as small in it as it is in the whole.
            seen = max(size) if max(size) < 2 * min(size) else 1.75 * min(size)
            what = f"{size[0]} x {size[1]}, {side} px at {at[0]}, {at[1]}.jpg"
            yield File("corner", what, data, reachable=side > 0.38 * seen)


def wide_photograph(name: str, size: Size) -> Image.Image:
    """A photograph and its mirror images, side by side, to fill a long picture."""
    side = min(size)
    tile = photograph(name, (min(size[0], 2 * side), min(size[1], 2 * side)))
    image = Image.new("RGB", size)
    for row, top in enumerate(range(0, size[1], tile.height)):
        for column, left in enumerate(range(0, size[0], tile.width)):
            piece = ImageOps.mirror(tile) if column % 2 else tile
            image.paste(ImageOps.flip(piece) if row % 2 else piece, (left, top))
    return image


def in_sheets(rng: random.Random, cover: Image.Image, hidden: Hidden) -> Iterator[File]:
    """One panel among others."""
    noise = np.random.default_rng(rng.randrange(1 << 30))
    pool = [_photograph(name) for name in COVERS]

    def panel(size: Size) -> Image.Image:
        photo = rng.choice(pool)
        share = rng.uniform(0.6, 1.0)
        width, height = round(share * photo.width), round(share * photo.height)
        left = rng.randint(0, photo.width - width)
        top = rng.randint(0, photo.height - height)
        return ImageOps.fit(photo.crop((left, top, left + width, top + height)), size)

    def sheet(columns: list[int], rows: list[int], gutter: int, ground: Any) -> Image.Image:
        width = sum(columns) + gutter * (len(columns) + 1)
        height = sum(rows) + gutter * (len(rows) + 1)
        if ground == "noise":
            grains = noise.integers(0, 60, (height, width, 3), np.uint8) + np.uint8(180)
            image = Image.fromarray(grains)
        else:
            image = Image.new("RGB", (width, height), ground)
        chosen = rng.randrange(len(columns)), rng.randrange(len(rows))
        y = gutter
        for row, high in enumerate(rows):
            x = gutter
            for column, wide in enumerate(columns):
                shown = hidden if (column, row) == chosen else panel
                image.paste(shown((wide, high)), (x, y))
                x += wide + gutter
            y += high + gutter
        return image

    grounds: list[Any] = ["white", "black", (200, 30, 60), (40, 160, 90), "noise"]
    for count in range(2, 9):
        side = 1200 // count
        for gutter in (0, 12):
            ground = rng.choice(grounds[:4])
            image = sheet([side] * count, [side] * count, gutter, ground)
            data = jpeg(image)
            yield File("sheet", f"{count} x {count}, gutter {gutter}.jpg", data, count < 7)
    for ground in grounds:
        data = jpeg(sheet([300] * 4, [300] * 4, 16, ground))
        yield File("sheet", f"4 x 4, gutter {ground}.jpg", data, ground != "noise")
    for gutter in (0, 10):
        columns = [rng.randint(180, 420) for _ in range(4)]
        rows = [rng.randint(180, 420) for _ in range(4)]
        data = jpeg(sheet(columns, rows, gutter, "white"))
        yield File("sheet", f"unequal, gutter {gutter}.jpg", data, gutter > 0)
        image = sheet([320] * 3, [240], gutter, "white")
        yield File("comic", f"strip of 3, gutter {gutter}.png", encoded(image, "PNG"))
        image = sheet([260] * 6, [320], gutter, "white")
        yield File("comic", f"strip of 6, gutter {gutter}.jpg", jpeg(image))
        image = sheet([400], [300] * 7, gutter, "white")
        yield File("comic", f"scroll of 7, gutter {gutter}.jpg", jpeg(image))
    # A comic page: rows with panels of their own widths.
    width, page = 1000, Image.new("RGB", (1000, 1400), "white")
    y, chosen = 20, (rng.randrange(4), rng.randrange(2))
    for row in range(4):
        widths = [rng.randint(250, 620)]
        widths.append(width - 60 - widths[0])
        x = 20
        for column, wide in enumerate(widths):
            shown = hidden if (row, column) == chosen else panel
            page.paste(shown((wide, 320)), (x, y))
            x += wide + 20
        y += 340
    yield File("comic", "page of 8.png", encoded(page, "PNG"))


def in_borders(rng: random.Random, cover: Image.Image, hidden: Hidden) -> Iterator[File]:
    """The card within borders, and as a patch on grounds of all kinds."""
    noise = np.random.default_rng(rng.randrange(1 << 30))
    size = 1000, 1000
    across = Image.fromarray(np.tile(np.linspace(0, 255, 1000).astype(np.uint8), (1000, 1)))
    gradient = Image.merge("RGB", [across, across.rotate(90), across.rotate(180)])
    grains = noise.normal(128, 14, (1000, 1000, 3)).clip(0, 255).astype(np.uint8)
    texture = noise.integers(0, 256, (63, 63, 3), np.uint8)
    grounds = {
        "black": Image.new("RGB", size, "black"),
        "white": Image.new("RGB", size, "white"),
        "red": Image.new("RGB", size, (190, 40, 40)),
        "gradient": gradient,
        "noise": Image.fromarray(grains),
        "texture": Image.fromarray(texture).resize(size, Image.Resampling.BICUBIC),
        "photograph": photograph(rng.choice(COVERS), size),
    }
    for name, ground in grounds.items():
        for wide, high in ((0.25, 1.0), (1.0, 0.25)):
            box = round(1000 * wide), round(1000 * high)
            side = min(box)
            band = pasted(
                ground, photograph(COVERS[0], box), ((1000 - box[0]) // 2, (1000 - box[1]) // 2)
            )
            at = (1000 - side) // 2 if wide < 1 else rng.randint(0, 1000 - side)
            down = (1000 - side) // 2 if high < 1 else rng.randint(0, 1000 - side)
            image = pasted(band, hidden((side, side)), (at, down))
            plain = name in ("black", "white", "red")
            yield File("band", f"{name}, {box[0]} x {box[1]}.jpg", jpeg(image), reachable=plain)
        for percent in (8, 12, 15, 20, 25, 40):
            side = 10 * percent
            at = rng.randint(0, 1000 - side), rng.randint(0, 1000 - side)
            image = pasted(ground, hidden((side, side)), at)
            # Of a card that is smaller, the test card weights have too few pixels.
            reachable = percent >= 40 or name in ("black", "white", "red")
            yield File(f"{percent} % patch", f"{name}.jpg", jpeg(image), reachable)
    far = Image.new("RGB", (6000, 4000), (250, 250, 248))
    image = pasted(far, hidden((300, 300)), (5200, 3300))
    yield File("full scale", "5 % of a white 24 megapixels.jpg", jpeg(image))
    image = pasted(photograph(COVERS[1], (4800, 4800)), hidden((480, 480)), (200, 4000))
    yield File("full scale", "10 % of a photograph.jpg", jpeg(image), reachable=False)


# Behind and beside --------------------------------------------------------------------------------


def segment(marker: int, payload: bytes) -> bytes:
    """A JPEG segment."""
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(payload)) + payload


def with_thumbnail(data: bytes, thumbnail: bytes, order: str = "<") -> bytes:
    """A JPEG with an EXIF block whose second directory has a thumbnail."""
    return data[:2] + segment(0xE1, b"Exif\0\0" + exif_with(thumbnail, order)) + data[2:]


def exif_with(thumbnail: bytes, order: str = "<") -> bytes:
    """A TIFF header, an empty directory and one with a thumbnail."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    second = struct.pack(order + "H", 2)
    second += struct.pack(order + "HHII", 0x0201, 4, 1, 44)
    second += struct.pack(order + "HHII", 0x0202, 4, 1, len(thumbnail)) + bytes(4)
    return head + struct.pack(order + "IHI", 8, 0, 14) + second + thumbnail


def embedded(rng: random.Random, cover: Image.Image, hidden: Hidden) -> Iterator[File]:
    """Everything behind everything; thumbnails; segments and chunks."""
    card = hidden(SMALL)
    small = hidden((160, 120))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.jpg", jpeg(card))
    inner = {
        "jpg": jpeg(card),
        "png": encoded(card, "PNG"),
        "gif": encoded(card, "GIF"),
        "webp": encoded(card, "WEBP"),
        "bmp": encoded(card, "BMP"),
        "heic": encoded(card, "HEIF"),
        "avif": encoded(card, "AVIF", speed=9),
        "tif": encoded(card, "TIFF"),
        "zip": archive.getvalue(),
        "html": b"<html><body><img src=a.jpg></body></html>" + b" " * 64,
    }
    outer = {
        "jpg": jpeg(cover),
        "png": encoded(cover, "PNG"),
        "gif": encoded(cover, "GIF"),
        "webp": encoded(cover, "WEBP"),
        "bmp": encoded(cover, "BMP"),
        "heic": encoded(cover, "HEIF"),
        "avif": encoded(cover, "AVIF", speed=9),
    }
    for first, data in outer.items():
        for second, more in inner.items():
            padding = bytes(rng.randrange(0, 40))
            yield File("behind", f"{second} behind {first}.{first}", data + padding + more)
    thumbnail = jpeg(small)
    for order in "<>":
        data = with_thumbnail(outer["jpg"], thumbnail, order)
        yield File("thumbnail", f"EXIF {'little' if order == '<' else 'big'}.jpg", data)
    cut = with_thumbnail(outer["jpg"], thumbnail[:-2])
    yield File("thumbnail", "EXIF without an end marker.jpg", cut)
    late = outer["jpg"][:2] + segment(0xE1, b"Exif\0\0" + exif_with(jpeg(cover.resize((160, 120)))))
    late += segment(0xE1, b"Exif\0\0" + exif_with(thumbnail)) + outer["jpg"][2:]
    yield File("thumbnail", "second EXIF block.jpg", late)
    data = outer["png"]
    block = chunk(b"eXIf", exif_with(thumbnail))
    yield File("thumbnail", "PNG eXIf.png", data[:33] + block + data[33:])
    data = encoded(cover, "WEBP", exif=exif_with(thumbnail))
    yield File("thumbnail", "WebP EXIF.webp", data)
    data = encoded(cover, "HEIF", exif=exif_with(thumbnail))
    yield File("thumbnail", "HEIC EXIF.heic", data)
    data = encoded(cover, "AVIF", exif=exif_with(thumbnail), speed=9)
    yield File("thumbnail", "AVIF EXIF.avif", data)
    resource = struct.pack(">4sHHI", b"8BIM", 1036, 0, 28 + len(thumbnail)) + bytes(28) + thumbnail
    photoshop = segment(0xED, b"Photoshop 3.0\0" + resource)
    start = outer["jpg"][:2]
    rest = outer["jpg"][2:]
    yield File("thumbnail", "Photoshop.jpg", start + photoshop + rest)
    yield File(
        "thumbnail",
        "JFXX.jpg",
        start + rest[:18] + segment(0xE0, b"JFXX\0\x10" + thumbnail) + rest[18:],
    )
    grey = segment(0xE0, b"JFXX\0\x13" + bytes((100, 75)) + small.resize((100, 75)).tobytes())
    yield File("thumbnail", "JFXX of RGB.jpg", start + rest[:18] + grey + rest[18:])
    head = rest[:16] + bytes((80, 60)) + small.resize((80, 60)).tobytes()
    head = head[:2] + struct.pack(">H", len(head) - 2) + head[4:]
    yield File("thumbnail", "JFIF of RGB.jpg", start + head + rest[18:])
    for marker in (0xE2, 0xE5, 0xEF, 0xFE):
        data = start + segment(marker, b"hello\0" + thumbnail) + rest
        yield File("segment", f"{marker:X}.jpg", data)
    long = jpeg(hidden((900, 700)), quality=95)
    pieces = [segment(0xE4, long[n : n + 60000]) for n in range(0, len(long), 60000)]
    yield File("segment", f"in {len(pieces)} segments.jpg", start + b"".join(pieces) + rest)
    inside = struct.pack(
        "<2sIHHI", b"BM", len(outer["bmp"]) + len(thumbnail), 0, 0, 54 + len(thumbnail)
    )
    data = inside + outer["bmp"][14:54] + thumbnail + outer["bmp"][54:]
    yield File("segment", "before the pixels.bmp", data)
    chunked = webp([webp_head(SMALL, 0), outer["webp"][12:], _riff(b"HIDE", jpeg(card))])
    yield File("segment", "WebP chunk.webp", chunked)
    free = struct.pack(">I", 8 + len(inner["jpg"])) + b"free" + inner["jpg"]
    yield File("segment", "HEIC box free.heic", outer["heic"] + free)


# Pixels -------------------------------------------------------------------------------------------


def in_pixels(rng: random.Random, cover: Image.Image, hidden: Hidden) -> Iterator[File]:
    """Alpha, depth, colour profiles, CMYK, gamma."""
    size = 400, 300
    card = hidden(size)
    cover = cover.resize(size)
    grey = card.convert("L")

    def file(name: str, data: bytes) -> File:
        return File("alpha", name, data)

    clear = card.copy()
    clear.putalpha(0)
    yield file("under full transparency.png", encoded(clear, "PNG"))
    yield file("under full transparency.webp", encoded(clear, "WEBP", lossless=True, exact=True))
    in_alpha = Image.merge("LA", [Image.new("L", size), grey])
    yield file("drawn in alpha, on black.png", encoded(in_alpha, "PNG"))
    in_white = Image.merge("LA", [Image.new("L", size, 255), grey])
    yield file("white, drawn in alpha.png", encoded(in_white, "PNG"))
    mixed = Image.merge("LA", [Image.new("L", size, 128), grey])
    yield file("grey, drawn in alpha.png", encoded(mixed, "PNG"))
    # On white the cover, on black the card: both are as dim as half of the levels.
    white = np.asarray(cover.convert("L")).astype(np.float32) / 2 + 127.5
    black = np.asarray(grey).astype(np.float32) / 2
    alpha = 255 - (white - black)
    value = np.where(alpha > 0, 255 * black / np.maximum(alpha, 1), 0).clip(0, 255)
    both = np.stack([value, alpha], axis=-1).astype(np.uint8)
    yield file("another on black.png", encoded(Image.fromarray(both, "LA"), "PNG"))
    few = card.quantize(255)
    transparent = bytes(range(255))
    yield file("palette all transparent.png", encoded(few, "PNG", transparency=bytes(255)))
    yield file("palette half transparent.png", encoded(few, "PNG", transparency=transparent))
    one_colour = hidden(size).quantize(2).convert("RGB")
    most = max(one_colour.getcolors() or [(0, (0, 0, 0))])[1]
    yield file("colour key.png", encoded(one_colour, "PNG", transparency=most))
    for header in (40, 56, 108, 124):
        rows = np.asarray(card)[::-1, :, ::-1]
        rows = np.concatenate([rows, np.zeros((*rows.shape[:2], 1), np.uint8)], axis=2).tobytes()
        for compression in (0, 3):
            masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
            head = struct.pack(
                "<IiiHHIIiiII", header, *size, 1, 32, compression, len(rows), 1, 1, 0, 0
            )
            head = (head + masks).ljust(header, b"\0") if header > 40 else head
            if header == 40 and compression:
                head += masks[:12]
            at = 14 + len(head)
            data = struct.pack("<2sIHHI", b"BM", at + len(rows), 0, 0, at) + head + rows
            yield file(f"alpha zero, header {header}, kind {compression}.bmp", data)

    def colour(name: str, data: bytes) -> File:
        return File("colour", name, data)

    rows = np.asarray(card).astype(">u2") * 257
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    sixteen = chunk(b"IDAT", zlib.compress(lines))
    yield colour("16-bit RGB.png", png(size, sixteen, depth=16))
    yield colour("CMYK.jpg", jpeg(card.convert("CMYK")))
    dark = Image.fromarray((255 * (np.asarray(card) / 255.0) ** 6).astype(np.uint8))
    for hundred_thousandth in (272_727, 300_000):
        gamma = chunk(b"gAMA", struct.pack(">I", hundred_thousandth))
        idat = chunk(b"IDAT", image_data(dark))
        yield colour(f"dark, gamma {hundred_thousandth / 100_000:.1f}.png", png(size, gamma, idat))
    profile = matrix_profile(2.2 / 6)
    yield colour("dark, its profile bright.jpg", jpeg(dark, icc_profile=profile))
    yield colour("dark, its profile bright.png", encoded(dark, "PNG", icc_profile=profile))
    yield colour("dark, its profile bright.webp", encoded(dark, "WEBP", icc_profile=profile))
    swapped = Image.merge("RGB", card.split()[::-1])
    exchanged = matrix_profile(2.2, exchanged=True)
    yield colour("exchanged by a profile.jpg", jpeg(swapped, icc_profile=exchanged))
    for number in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = number
        stored = pasted(Image.new("RGB", (900, 300), (230, 230, 230)), hidden((300, 300)), (600, 0))
        yield File("orientation", f"EXIF {number}.jpg", jpeg(stored, exif=exif))


def matrix_profile(gamma: float, *, exchanged: bool = False) -> bytes:
    """An ICC profile with the colours of sRGB, another gamma, and red and blue exchanged."""
    plain = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", plain, 128)
    places = {}
    for entry in range(132, 132 + 12 * count, 12):
        kind, at, length = struct.unpack_from(">4sII", plain, entry)
        places[kind] = entry, at, length
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    at = len(plain)
    plain += curve
    for kind in (b"rTRC", b"gTRC", b"bTRC"):
        struct.pack_into(">II", plain, places[kind][0] + 4, at, 14)
    if exchanged:
        red, blue = (places[kind] for kind in (b"rXYZ", b"bXYZ"))
        struct.pack_into(">II", plain, red[0] + 4, *blue[1:])
        struct.pack_into(">II", plain, blue[0] + 4, *red[1:])
    struct.pack_into(">I", plain, 0, len(plain))
    return bytes(plain)


def in_structure(rng: random.Random, cover: Image.Image, hidden: Hidden) -> Iterator[File]:
    """Structures that decoders read differently."""
    size = 320, 240
    card, cover = hidden(size), cover.resize(size)
    first, second = jpeg(cover), jpeg(card)
    yield File("structure", "two starts.jpg", first[:2] + second)
    yield File("structure", "start within the header.jpg", first[:20] + second)
    yield File("structure", "no end marker, then another.jpg", first[:-2] + second)
    yield File(
        "structure", "other JPEG before the scan.jpg", first[: first.index(b"\xff\xda")] + second
    )
    yield File("structure", "late scans.jpg", late_scans(cover, card))
    yield File("structure", "two frames.jpg", second_scan(first, second))
    yield File("structure", "height set later.jpg", height_set_later(second))
    data = encoded(card, "PNG")
    yield File("structure", "GIF head before a JPEG.gif", b"GIF89a" + bytes(7) + second)
    yield File("structure", "bytes before a PNG.png", b"\n" + data)
    named = encoded(card, "WEBP")
    yield File("structure", "WebP as JPEG.jpg", named)
    yield File(
        "structure", "unknown critical chunk.png", data[:33] + chunk(b"ABCD", b"") + data[33:]
    )
    yield File(
        "structure", "RIFF length too small.webp", named[:4] + struct.pack("<I", 20) + named[8:]
    )


def late_scans(cover: Image.Image, card: Image.Image) -> bytes:
    """A progressive JPEG whose first scans show the cover, and the later ones the card."""
    first = jpeg(cover, progressive=True, quality=90)
    second = jpeg(card, progressive=True, quality=90)
    scan = second.index(b"\xff\xc4")
    return first[:-2] + second[scan:]


def second_scan(first: bytes, second: bytes) -> bytes:
    """A sequential JPEG with the scan of another behind its own."""
    tables = second.index(b"\xff\xdb")
    return first[:-2] + second[tables:]


def height_set_later(data: bytes) -> bytes:
    """A JPEG that states no height in its frame but in a DNL segment behind the scan."""
    frame = data.index(b"\xff\xc0")
    (height,) = struct.unpack_from(">H", data, frame + 5)
    changed = data[: frame + 5] + bytes(2) + data[frame + 7 : -2]
    return changed + segment(0xDC, struct.pack(">H", height)) + b"\xff\xd9"


# Videos -------------------------------------------------------------------------------------------


def in_videos(rng: random.Random, cover: Image.Image, hidden: Hidden) -> Iterator[File]:
    """Shots of half a second to two; nothing where PyAV is not installed."""
    try:
        import av
    except ImportError:
        return
    card = hidden(SMALL)
    for container, codec in (("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")):
        for start, stop in ((0, 3), (25, 45), (80, 100), (32, 38)):
            buffer = io.BytesIO()
            with av.open(buffer, "w", format=container) as file:
                stream = file.add_stream(codec, rate=10)
                stream.width, stream.height, stream.pix_fmt = *SMALL, "yuv420p"
                for number, each in enumerate(drifting(cover, 100)):
                    shown = card if start <= number < stop else each
                    file.mux(stream.encode(av.VideoFrame.from_image(shown)))
                file.mux(stream.encode())
            name = f"{start / 10} to {stop / 10} s.{container}"
            sampled = any(start <= 10 * second < stop for second in range(10))
            yield File("video", name, buffer.getvalue(), reachable=sampled)


WAYS: dict[str, Callable[[random.Random, Image.Image, Hidden], Iterator[File]]] = {
    "gif": in_gif,
    "webp": in_webp,
    "png": in_png,
    "pictures": in_several_pictures,
    "shapes": in_shapes,
    "sheets": in_sheets,
    "borders": in_borders,
    "embedded": embedded,
    "pixels": in_pixels,
    "structure": in_structure,
    "videos": in_videos,
}
"""By name, what draws the files of a way or of several, from a seed, a cover and what is hidden."""
