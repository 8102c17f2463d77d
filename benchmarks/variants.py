"""Draws odd variants of image files: what formats allow and few programs write."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

SIZE = WIDTH, HEIGHT = 93, 70


def scene(seed: int = 0) -> Image.Image:
    """A smooth drawing without symmetry."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return small.resize(SIZE, Image.Resampling.BICUBIC)


PICTURE = scene()
RGB = np.asarray(PICTURE).astype(np.uint32)
ALPHA = np.asarray(Image.linear_gradient("L").resize(SIZE)).astype(np.uint32)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image in a format that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# BMP ----------------------------------------------------------------------------------------------


def bmp(
    rows: bytes,
    bits: int,
    *,
    header: int = 40,
    compression: int = 0,
    palette: bytes = b"",
    masks: tuple[int, ...] = (),
    colours: int = 0,
    top_down: bool = False,
    size: tuple[int, int] = SIZE,
) -> bytes:
    """A BMP with a header of any length. Masks are in the header, or behind one that is short."""
    width, height = size
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        height = -height if top_down else height
        info = struct.pack(
            *("<IiiHHIIiiII", header, width, height, 1, bits),
            *(compression, len(rows), 2835, 2835, colours, 0),
        )
        stated = struct.pack(f"<{len(masks)}I", *masks)
        if header >= 108:
            info += stated.ljust(16, b"\x00") + b"BGRs"  # LCS_sRGB
        elif header >= 52:
            info += stated
        info = info.ljust(header, b"\x00")[:header]
        info += stated if header < 52 else b""
    offset = 14 + len(info) + len(palette)
    return struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset) + info + palette + rows


def packed(masks: tuple[int, ...], bits: int, alpha: np.ndarray[Any, Any] = ALPHA) -> bytes:
    """The picture's rows, from the bottom up, with its channels where the masks say."""
    channels = [RGB[..., 0], RGB[..., 1], RGB[..., 2], alpha]
    values = np.zeros((HEIGHT, WIDTH), np.uint32)
    for channel, mask in zip(channels, masks, strict=False):
        count, shift = mask.bit_count(), (mask & -mask).bit_length() - 1
        if mask:
            sample = np.round(channel * ((1 << count) - 1) / 255.0).astype(np.uint64)
            values |= (sample << np.uint64(shift)).astype(np.uint32)
    rows = values.astype(f"<u{bits // 8}")[::-1]
    return b"".join(row.tobytes() + b"\x00" * (-len(row.tobytes()) % 4) for row in rows)


def paletted(bits: int) -> tuple[bytes, bytes]:
    """The picture's rows in a palette of 2^bits colours, and the palette with four bytes each."""
    image = PICTURE.quantize(1 << bits, dither=Image.Dither.NONE)
    stored = bytearray()
    for row in np.asarray(image)[::-1]:
        flags = np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()
        line = np.packbits(flags).tobytes()
        stored += line + b"\x00" * (-len(line) % 4)
    colours = np.frombuffer(bytes(image.getpalette() or ()), np.uint8).reshape(-1, 3)
    table = np.zeros((1 << bits, 4), np.uint8)
    table[: len(colours), :3] = colours[: 1 << bits, ::-1]
    return bytes(stored), table.tobytes()


def run_lengths(bits: int, *, skip: bool = False, end: bool = True) -> tuple[bytes, bytes]:
    """The picture in runs of each of the kinds that there are, and the palette."""
    image = PICTURE.quantize(min(1 << bits, 256), dither=Image.Dither.NONE)
    indices = np.asarray(image)[::-1]
    _, palette = paletted(bits)
    coded = bytearray()
    for number, row in enumerate(indices):
        values = row.tolist()
        at = 0
        while at < WIDTH:
            if skip and 20 <= number < 50 and 30 <= at < 60:
                coded += bytes((0, 2, 10, 0))
                at += 10
            elif number % 2 and WIDTH - at >= 3:
                some = values[at : at + 10]
                if bits == 8:
                    literal = bytes(some)
                else:
                    even = [*some, 0][: len(some) + len(some) % 2]
                    literal = bytes(a << 4 | b for a, b in zip(even[::2], even[1::2], strict=True))
                coded += bytes((0, len(some))) if len(some) >= 3 else b""
                coded += literal + b"\x00" * (len(literal) % 2)
                at += len(some)
            else:
                count = 1
                while at + count < WIDTH and count < 200 and values[at + count] == values[at]:
                    count += 1
                coded += bytes((count, values[at] * (17 if bits == 4 else 1)))
                at += count
        coded += b"\x00\x00"
    return bytes(coded) + (b"\x00\x01" if end else b""), palette


def bmps() -> Iterator[tuple[str, bytes]]:
    """BMPs of all kinds."""
    full = (0xFF0000, 0xFF00, 0xFF)
    with_alpha = (*full, 0xFF000000)
    opaque = np.full_like(ALPHA, 255)
    holes = np.where(ALPHA > 128, 255, 0).astype(np.uint32)
    for header in (40, 52, 56, 108, 124):
        for compression in (0, 3, 6):
            for name, alpha in (("gradient", ALPHA), ("zero", 0 * ALPHA), ("full", opaque)):
                masks = with_alpha if header >= 56 or compression == 6 else full
                if header < 52 and compression == 0:
                    masks = ()
                rows = packed(with_alpha, 32, alpha)
                yield (
                    f"32 bits, header {header}, compression {compression}, alpha {name}",
                    bmp(rows, 32, header=header, compression=compression, masks=masks),
                )
    black = packed((0, 0, 0, 0xFF000000), 32, holes)
    for header in (108, 124):
        for compression in (0, 3):
            name = f"32 bits, header {header}, compression {compression}, black in the shape"
            masks = with_alpha
            yield name, bmp(black, 32, header=header, compression=compression, masks=masks)
            name = f"32 bits, header {header}, compression {compression}, no mask of alpha"
            yield name, bmp(black, 32, header=header, compression=compression, masks=full)
    odd = {
        "32 bits, RGBA": (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        "32 bits, ABGR": (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        "32 bits, XBGR": (0xFF000000, 0xFF0000, 0xFF00),
        "32 bits, 10 each": (0x3FF00000, 0xFFC00, 0x3FF),
        "32 bits, 10 each and 2": (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000),
        "32 bits, 11 11 10": (0xFFE00000, 0x1FFC00, 0x3FF),
        "32 bits, 7 18 7": (0xFE000000, 0x1FFFF80, 0x7F),
        "32 bits, 8 1 2 8": (0xFF000000, 0x10000, 0x300, 0xFF),
        "32 bits, no blue": (0xFF0000, 0xFF00, 0),
        "32 bits, no colour, alpha": (0, 0, 0, 0xFF),
        "32 bits, masks overlap": (0xFFFF00, 0xFF00, 0xFF),
        "32 bits, mask with a gap": (0xF0F0000, 0xFF00, 0xFF),
    }
    for name, masks in odd.items():
        header = 124 if len(masks) == 4 else 40
        rows = packed(masks, 32)
        yield name, bmp(rows, 32, header=header, compression=3, masks=masks)
    odd_16 = {
        "16 bits, 5 each": (0x7C00, 0x3E0, 0x1F),
        "16 bits, 5 6 5": (0xF800, 0x7E0, 0x1F),
        "16 bits, 4 each": (0xF00, 0xF0, 0xF, 0xF000),
        "16 bits, 5 5 5 1": (0x7C00, 0x3E0, 0x1F, 0x8000),
        "16 bits, 1 9 2 4": (0x8000, 0x7FC0, 0x30, 0xF),
        "16 bits, 2 3 1": (0x30, 0xE, 0x1),
        "16 bits, 3 10 3": (0xE000, 0x1FF8, 0x7),
    }
    for name, masks in odd_16.items():
        header = 124 if len(masks) == 4 else 40
        rows = packed(masks, 16)
        yield name, bmp(rows, 16, header=header, compression=3, masks=masks)
    five = (0x7C00, 0x3E0, 0x1F)
    for header in (40, 108, 124):
        masks = (0, 0, 0, 0x8000) if header > 40 else ()
        rows = packed((*five, 0x8000), 16)
        yield f"16 bits, header {header}, plain", bmp(rows, 16, header=header, masks=masks)
    for bits in (1, 2, 4, 8):
        rows, palette = paletted(bits)
        three = b"".join(palette[at : at + 3] for at in range(0, len(palette), 4))
        yield f"{bits} bits", bmp(rows, bits, palette=palette)
        yield f"{bits} bits, OS/2", bmp(rows, bits, header=12, palette=three)
        yield f"{bits} bits, OS/2 2, 64 bytes", bmp(rows, bits, header=64, palette=palette)
        yield f"{bits} bits, OS/2 2, 16 bytes", bmp(rows, bits, header=16, palette=palette)
        yield (
            f"{bits} bits, short palette",
            bmp(rows, bits, palette=palette[: 2 << bits], colours=1 << bits - 1),
        )
        yield (
            f"{bits} bits, 300 colours",
            bmp(rows, bits, palette=palette.ljust(1200, b"\x55"), colours=300),
        )
        yield f"{bits} bits, palette overlaps", bmp(rows, bits, palette=palette[: 2 << bits])
        # The place of the pixels is left at zero.
        plain = bmp(rows, bits, palette=palette)
        yield f"{bits} bits, no offset", plain[:10] + bytes(4) + plain[14:]
        yield f"{bits} bits, early offset", plain[:10] + struct.pack("<I", 54) + plain[14:]
    for bits, coding in ((8, 1), (4, 2)):
        rows, palette = run_lengths(bits)
        yield f"run lengths, {bits} bits", bmp(rows, bits, compression=coding, palette=palette)
        yield (
            f"run lengths, {bits} bits, OS/2",
            bmp(rows, bits, header=64, compression=coding, palette=palette),
        )
        yield (
            f"run lengths, {bits} bits, top down",
            bmp(rows, bits, compression=coding, palette=palette, top_down=True),
        )
        rows, palette = run_lengths(bits, end=False)
        yield (
            f"run lengths, {bits} bits, no end",
            bmp(rows, bits, compression=coding, palette=palette),
        )
        rows, palette = run_lengths(bits, skip=True)
        yield (
            f"run lengths, {bits} bits, skipped",
            bmp(rows, bits, compression=coding, palette=palette),
        )
        yield (
            f"run lengths, {bits} bits, cut short",
            bmp(
                rows[: len(rows) // 4 * 2] + b"\x00\x01", bits, compression=coding, palette=palette
            ),
        )
    runs = b"".join(
        b"".join(b"\x01" + bytes(pixel[::-1].astype(np.uint8)) for pixel in row) + b"\x00\x00"
        for row in RGB[::-1]
    )
    yield "run lengths, 24 bits", bmp(runs + b"\x00\x01", 24, header=64, compression=4)
    yield "run lengths, 24 bits, 40 bytes", bmp(runs + b"\x00\x01", 24, compression=4)
    plain = bmp(packed(full, 32), 32)
    yield "32 bits, bytes behind", plain + b"more"
    yield "JPEG in a BMP", bmp(encoded(PICTURE, "JPEG"), 0, compression=4)
    yield "PNG in a BMP", bmp(encoded(PICTURE, "PNG"), 0, compression=5)
    yield (
        "24 bits, masks",
        bmp(encoded(PICTURE, "BMP")[54:], 24, compression=3, masks=(0xFF, 0xFF00, 0xFF0000)),
    )


# EXIF ---------------------------------------------------------------------------------------------


def exif(
    *entries: tuple[int, int, int, int], order: str = "<", start: int = 8, count: int | None = None
) -> bytes:
    """A TIFF block of entries (tag, type, count, value); SHORT values stand in the first bytes."""
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    body = b""
    for tag, kind, number, value in entries:
        if kind == 3 and number == 1:
            body += struct.pack(f"{order}HHIHH", tag, kind, number, value, 0)
        else:
            body += struct.pack(f"{order}HHII", tag, kind, number, value)
    block = mark + struct.pack(f"{order}I", start) + b"\x00" * (start - 8)
    return block + struct.pack(f"{order}H", len(entries) if count is None else count) + body


def exif_blocks() -> Iterator[tuple[str, bytes]]:
    """EXIF blocks with an orientation, well-formed and broken."""
    turned = (0x0112, 3, 1, 6)
    for order in "<>":
        yield f"plain {order}", exif(turned, order=order) + bytes(4)
        yield f"no end {order}", exif(turned, order=order)
    yield "behind a gap", exif(turned, start=30) + bytes(4)
    yield "dangling pointer before", exif((0x8769, 4, 1, 1 << 30), turned) + bytes(4)
    yield "dangling pointer behind", exif(turned, (0x8769, 4, 1, 1 << 30)) + bytes(4)
    yield "pointer to itself", exif(turned, (0x8769, 4, 1, 8)) + bytes(4)
    yield "value outside before", exif((0x010F, 2, 99, 1 << 30), turned) + bytes(4)
    yield "unknown type before", exif((0x010F, 99, 1, 0), turned) + bytes(4)
    yield "dangling next", exif(turned) + b"\xff\xff\xff\x7f"
    yield "count too high", exif(turned, count=2) + bytes(4)
    yield "count far too high", exif(turned, count=65535)
    yield "twice, 6 first", exif(turned, (0x0112, 3, 1, 3)) + bytes(4)
    yield "twice, 3 first", exif((0x0112, 3, 1, 3), turned) + bytes(4)
    yield "as LONG", exif((0x0112, 4, 1, 6)) + bytes(4)
    yield "as BYTE", exif((0x0112, 1, 1, 6)) + bytes(4)
    yield "as LONG, high order", exif((0x0112, 4, 1, 6), order=">") + bytes(4)
    yield "two values", exif((0x0112, 3, 2, 6)) + bytes(4)
    yield "no value", exif((0x0112, 3, 0, 6)) + bytes(4)
    yield "value 9", exif((0x0112, 3, 1, 9)) + bytes(4)
    yield "value 0", exif((0x0112, 3, 1, 0)) + bytes(4)
    yield "twice, 9 last", exif(turned, (0x0112, 3, 1, 9)) + bytes(4)
    yield "twice, 9 first", exif((0x0112, 3, 1, 9), turned) + bytes(4)
    yield "twice, LONG first", exif((0x0112, 4, 1, 3), turned) + bytes(4)
    yield "BigTIFF", b"II+\x00" + exif(turned)[4:] + bytes(4)
    yield "wrong magic", b"II\x00\x00" + exif(turned)[4:] + bytes(4)
    yield "cut in the entry", exif(turned)[:-3]
    yield "cut behind the value", exif(turned)[:-2]
    yield "prefix twice", b"Exif\x00\x00" + exif(turned)


def several_exif_blocks() -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """EXIF blocks of one JPEG, in their order."""
    turned = exif((0x0112, 3, 1, 6)) + bytes(4)
    other = exif((0x0112, 3, 1, 3)) + bytes(4)
    silent = exif((0x010F, 2, 4, 0)) + bytes(4)
    yield "two", (turned, other)
    yield "broken, then good", (b"XX*\x00" + bytes(20), turned)
    yield "outside, then good", (exif(start=8)[:4] + b"\xff\xff\xff\x7f" + bytes(20), turned)
    yield "silent, then good", (silent, turned)
    yield "good, then broken", (turned, b"XX*\x00" + bytes(20))
    yield "empty, then good", (b"", turned)
    yield "short, then good", (b"II*\x00\x08\x00\x00\x00", turned)
    for length in (1, 4, 7):
        yield f"{length} bytes, then good", (b"II*\x00\x08\x00\x00"[:length], turned)
    yield "good, then silent", (turned, silent)


def with_exif(kind: str, block: bytes) -> bytes:
    """The picture as JPEG, PNG or WebP with this EXIF block, raw."""
    if kind == "JPEG":
        data = encoded(PICTURE, kind, quality=95)
        payload = b"Exif\x00\x00" + block
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]
    if kind == "PNG":
        data = encoded(PICTURE, kind)
        return data[:33] + png_chunk(b"eXIf", block) + data[33:]
    data = encoded(PICTURE, "WEBP", lossless=True)
    tail = b"EXIF" + struct.pack("<I", len(block)) + block + b"\x00" * (len(block) % 2)
    return extended(data[12:] + tail, 8)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# PNG ----------------------------------------------------------------------------------------------


def png(depth: int, colour: int, samples: np.ndarray[Any, Any], *chunks: bytes) -> bytes:
    """A PNG of H x W x channels samples of any depth, with chunks before the picture data."""
    rows = b""
    for row in samples.reshape(HEIGHT, -1):
        if depth == 16:
            line = row.astype(">u2").tobytes()
        elif depth == 8:
            line = row.astype(np.uint8).tobytes()
        else:
            bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
            line = np.packbits(bits.ravel()).tobytes()
        rows += b"\x00" + line
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + b"".join(chunks)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def pngs() -> Iterator[tuple[str, bytes]]:
    """PNGs of all colour types and depths, with transparency and colour spaces."""
    grey = np.asarray(PICTURE.convert("L")).astype(np.uint32)
    for depth in (1, 2, 4, 8, 16):
        most = (1 << depth) - 1
        levels = np.round(grey * most / 255.0).astype(np.uint32)
        yield f"grey {depth}", png(depth, 0, levels)
        key = int(np.bincount(levels.ravel()).argmax())
        chunk = png_chunk(b"tRNS", struct.pack(">H", key))
        yield f"grey {depth}, one level transparent", png(depth, 0, levels, chunk)
        if depth <= 8:
            image = PICTURE.quantize(1 << depth, dither=Image.Dither.NONE)
            palette = bytes(image.getpalette() or ())[: 3 << depth]
            stored, plte = np.asarray(image), png_chunk(b"PLTE", palette)
            yield f"palette {depth}", png(depth, 3, stored, plte)
            alphas = bytes((index * 97 + 40) % 256 for index in range((1 << depth) // 2))
            yield (
                f"palette {depth}, half with alpha",
                png(depth, 3, stored, plte, png_chunk(b"tRNS", alphas)),
            )
    wide = RGB * 257
    both = np.dstack([wide, ALPHA * 257])
    yield "RGB 16", png(16, 2, wide)
    key = png_chunk(b"tRNS", struct.pack(">3H", *wide[5, 5]))
    yield "RGB 16, one colour transparent", png(16, 2, wide, key)
    yield "RGBA 16", png(16, 6, both)
    yield "RGBA 8", png(8, 6, both // 257)
    key = png_chunk(b"tRNS", struct.pack(">3H", *RGB[5, 5]))
    yield "RGB 8, one colour transparent", png(8, 2, RGB, key)
    for depth, factor in ((8, 1), (16, 257)):
        yield f"grey and alpha {depth}", png(depth, 4, np.dstack([grey, ALPHA]) * factor)
    background = png_chunk(b"bKGD", struct.pack(">3H", 0, 0, 255))
    yield "RGBA 8, background", png(8, 6, both // 257, background)
    for gamma in (10_000, 45_455, 100_000, 250_000):
        chunk = png_chunk(b"gAMA", struct.pack(">I", gamma))
        yield f"gamma {gamma}", png(8, 2, RGB, chunk)
        yield f"gamma {gamma} and sRGB", png(8, 2, RGB, chunk, png_chunk(b"sRGB", b"\x00"))
    corners = (31270, 32900, 15000, 6000, 30000, 60000, 64000, 33000)  # red and blue exchanged
    chunk = png_chunk(b"cHRM", struct.pack(">8I", *corners))
    yield "corners", png(8, 2, RGB, chunk)
    yield (
        "corners and gamma",
        png(8, 2, RGB, png_chunk(b"gAMA", struct.pack(">I", 45_455)), chunk),
    )
    for name, code in (("P3", (12, 13, 0, 1)), ("BT.2020, PQ", (9, 16, 0, 1))):
        yield f"cICP {name}", png(8, 2, RGB, png_chunk(b"cICP", bytes(code)))


# Colour profiles ----------------------------------------------------------------------------------

# XYZ of red, green and blue, adapted to D50, as their profiles have them.
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139))
P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))
ADOBE = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))


def profile(corners: tuple[tuple[float, ...], ...], curve: bytes) -> bytes:
    """An ICC profile of three corners and one curve."""

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \x00\x00\x00\x00" + struct.pack(">3i", *(round(v * 65536) for v in values))

    white = (0.9642, 1.0, 0.8249)
    text = b"desc\x00\x00\x00\x00\x00\x00\x00\x05test\x00".ljust(100, b"\x00")
    copyright_ = b"text\x00\x00\x00\x00none\x00"
    tags = {
        b"desc": text,
        b"cprt": copyright_,
        b"wtpt": xyz(white),
        **{
            name: xyz(corner)
            for name, corner in zip((b"rXYZ", b"gXYZ", b"bXYZ"), corners, strict=True)
        },
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + b"\x00" * (-len(data) % 4)
    size = 132 + 12 * len(tags) + len(body)
    header = struct.pack(">I4xI", size, 0x02400000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    header = header.ljust(68, b"\x00") + struct.pack(">3i", *(round(v * 65536) for v in white))
    return header.ljust(128, b"\x00") + table + body


def gamma_curve(value: float) -> bytes:
    """A curve of one exponent."""
    return b"curv\x00\x00\x00\x00" + struct.pack(">IH", 1, round(value * 256))


def table_curve(*values: int) -> bytes:
    """A curve of equidistant points, 0 to 65535."""
    return b"curv\x00\x00\x00\x00" + struct.pack(f">I{len(values)}H", len(values), *values)


def profiles() -> Iterator[tuple[str, bytes]]:
    """Profiles of other colour spaces, and of none that anybody has."""
    yield "sRGB", profile(SRGB, gamma_curve(2.2))
    yield "Display P3", profile(P3, gamma_curve(2.2))
    yield "Adobe RGB", profile(ADOBE, gamma_curve(2.2))
    yield "gamma 1", profile(SRGB, gamma_curve(1))
    yield "gamma 8", profile(SRGB, gamma_curve(8))
    yield "red and blue exchanged", profile((SRGB[2], SRGB[1], SRGB[0]), gamma_curve(2.2))
    yield "colours turned", profile((SRGB[1], SRGB[2], SRGB[0]), gamma_curve(2.2))
    yield "inverted", profile(SRGB, table_curve(65535, 0))
    yield "all black", profile(SRGB, table_curve(0, 0))
    yield "all white", profile(SRGB, table_curve(65535, 65535))
    yield "steps", profile(SRGB, table_curve(*([0] * 8 + [65535] * 8)))


def odd_profiles() -> Iterator[tuple[str, bytes]]:
    """Files whose profile is stored oddly, or is of another kind than the image."""
    inverted = profile(SRGB, table_curve(65535, 0))
    grey = PICTURE.convert("L")
    grey_profile = bytearray(profile(SRGB, table_curve(65535, 0)).replace(b"rTRC", b"kTRC"))
    grey_profile[16:20] = b"GRAY"
    for name, icc in (("RGB", inverted), ("grey", bytes(grey_profile))):
        for kind in ("JPEG", "PNG"):
            yield f"{kind}, grey, {name} profile", encoded(grey, kind, icc_profile=icc)
            yield f"{kind}, RGB, {name} profile", encoded(PICTURE, kind, icc_profile=icc)
        yield (
            f"JPEG, CMYK, {name} profile",
            encoded(PICTURE.convert("CMYK"), "JPEG", icc_profile=icc),
        )
        palette = PICTURE.quantize(64, dither=Image.Dither.NONE)
        yield f"PNG, palette, {name} profile", encoded(palette, "PNG", icc_profile=icc)
    clear = PICTURE.copy()
    clear.putalpha(Image.fromarray(ALPHA.astype(np.uint8)))
    yield "PNG, RGBA, RGB profile", encoded(clear, "PNG", icc_profile=inverted)
    yield "WebP, RGBA, RGB profile", encoded(clear, "WEBP", icc_profile=inverted, lossless=True)
    wide = png(16, 2, RGB * 257)
    chunk = png_chunk(b"iCCP", b"x\x00\x00" + zlib.compress(inverted))
    yield "PNG, RGB 16, RGB profile", wide[:33] + chunk + wide[33:]
    yield "PNG, profile and sRGB", wide[:33] + png_chunk(b"sRGB", b"\x00") + chunk + wide[33:]
    both = chunk + png_chunk(b"gAMA", struct.pack(">I", 10_000))
    yield "PNG, profile and gamma", wide[:33] + both + wide[33:]
    yield "PNG, profile behind the palette", wide[:-12] + chunk + wide[-12:]
    for size, name in ((len(inverted) // 2, "whole"),):
        halves = inverted[:size], inverted[size:]
        for case, order in {
            name: ((1, 2, 0), (2, 2, 1)),
            "in reverse": ((2, 2, 1), (1, 2, 0)),
            "one missing": ((1, 2, 0),),
            "one twice": ((1, 2, 0), (2, 2, 1), (2, 2, 1)),
            "wrong count": ((1, 3, 0), (2, 3, 1)),
        }.items():
            segments = b""
            for number, count, half in order:
                payload = b"ICC_PROFILE\x00" + bytes((number, count)) + halves[half]
                segments += b"\xff\xe2" + struct.pack(">H", len(payload) + 2) + payload
            plain = encoded(PICTURE, "JPEG", quality=95)
            yield f"JPEG, profile in two, {case}", plain[:2] + segments + plain[2:]
    rows = packed((0xFF0000, 0xFF00, 0xFF), 32)
    head = bmp(rows, 32, header=124, masks=(0xFF0000, 0xFF00, 0xFF))
    stated = bytearray(head + inverted)
    stated[14 + 56 : 14 + 60] = b"DEBM"
    stated[14 + 112 : 14 + 120] = struct.pack("<II", len(head) - 14, len(inverted))
    yield "BMP, RGB, RGB profile", bytes(stated)


def with_profile(kind: str, icc: bytes) -> bytes:
    """The picture in a format with a colour profile."""
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if kind == "JPEG":
        options = {"quality": 95}
    return encoded(PICTURE, kind, icc_profile=icc, **options)


# JPEG and others ----------------------------------------------------------------------------------


def jpegs() -> Iterator[tuple[str, bytes]]:
    """JPEGs of other colours than YCbCr."""
    cmyk = PICTURE.convert("CMYK")
    adobe = encoded(cmyk, "JPEG", quality=95)
    yield "CMYK, Adobe", adobe
    at = adobe.index(b"\xff\xee")
    length = int.from_bytes(adobe[at + 2 : at + 4], "big") + 2
    yield "CMYK, no Adobe", adobe[:at] + adobe[at + length :]
    yield "YCCK", adobe[: at + length - 1] + b"\x02" + adobe[at + length :]
    yield "RGB", encoded(PICTURE, "JPEG", quality=95, keep_rgb=True)
    plain = encoded(PICTURE, "JPEG", quality=95)
    app = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    yield "YCbCr, JFIF and Adobe RGB", plain[:20] + app + b"\x00" + plain[20:]
    yield "YCbCr, Adobe RGB", plain[:2] + app + b"\x00" + plain[20:]
    yield "YCbCr, Adobe YCbCr", plain[:2] + app + b"\x01" + plain[20:]
    yield "YCbCr, no marker", plain[:2] + plain[20:]
    frame = plain.index(b"\xff\xc0")
    ids = bytearray(plain[:2] + plain[20:])
    frame -= 18
    ids[frame + 10], ids[frame + 13], ids[frame + 16] = b"RGB"
    scan = ids.index(b"\xff\xda")
    ids[scan + 5], ids[scan + 7], ids[scan + 9] = b"RGB"
    yield "YCbCr, components called RGB", bytes(ids)
    yield "grey", encoded(PICTURE.convert("L"), "JPEG", quality=95)
    yield "progressive", encoded(PICTURE, "JPEG", quality=95, progressive=True)


def extended(chunks: bytes, flags: int) -> bytes:
    """A WebP of chunks behind a VP8X chunk with these flags."""
    sides = (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<II", 10, flags) + sides + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def others() -> Iterator[tuple[str, bytes]]:
    """WebP with alpha, and the smallest."""
    clear = PICTURE.copy()
    clear.putalpha(Image.fromarray(ALPHA.astype(np.uint8)))
    yield "WebP, lossless, alpha", encoded(clear, "WEBP", lossless=True, exact=True)
    yield "WebP, lossy, alpha", encoded(clear, "WEBP", quality=95)
    yield "WebP, lossy", encoded(PICTURE, "WEBP", quality=95)
    small = "524946461400000057454250565038" + "4c080000002f0000000088880c"
    yield "WebP, 28 bytes", bytes.fromhex(small)
    black = Image.new("RGBA", SIZE)
    black.putalpha(clear.getchannel("A").point(lambda value: 255 * (value > 128)))
    for name, image in (("alpha", clear), ("black in the shape", black)):
        lossless = encoded(image, "WEBP", lossless=True, exact=True)
        lossy = encoded(image, "WEBP", quality=95, exact=True)
        chunk = lossless[12:]
        hidden = chunk[:12] + bytes((chunk[12] & 0xEF,)) + chunk[13:]
        yield f"WebP, lossless, {name}, not flagged", lossless[:12] + hidden
        for flags in (0, 0x10):
            yield f"WebP, lossless, {name}, flags {flags}", extended(chunk, flags)
            yield f"WebP, lossless, {name}, not flagged, flags {flags}", extended(hidden, flags)
            yield f"WebP, lossy, {name}, flags {flags}", extended(lossy[30:], flags)
    holes = PICTURE.quantize(64, dither=Image.Dither.NONE)
    yield "GIF, transparent", encoded(holes, "GIF", transparency=9)
    yield "GIF", encoded(holes, "GIF")


def odd_variants() -> dict[str, bytes]:
    """All variants by name."""
    variants = {f"BMP, {name}": data for name, data in bmps()}
    for kind in ("JPEG", "PNG", "WebP"):
        for name, block in exif_blocks():
            variants[f"{kind}, EXIF, {name}"] = with_exif(kind, block)
        if kind == "JPEG":
            for name, blocks in several_exif_blocks():
                data = encoded(PICTURE, kind, quality=95)
                for block in reversed(blocks):
                    payload = b"Exif\x00\x00" + block
                    length = struct.pack(">H", len(payload) + 2)
                    data = data[:2] + b"\xff\xe1" + length + payload + data[2:]
                variants[f"{kind}, several EXIF, {name}"] = data
        else:
            prefixed = b"Exif\x00\x00" + exif((0x0112, 3, 1, 6))
            variants[f"{kind}, EXIF, with a prefix"] = with_exif(kind, prefixed)
    variants |= {f"PNG, {name}": data for name, data in pngs()}
    variants |= {f"JPEG, {name}": data for name, data in jpegs()}
    variants |= dict(others())
    for kind in ("JPEG", "PNG", "WEBP"):
        for name, icc in profiles():
            variants[f"{kind}, profile {name}"] = with_profile(kind, icc)
    variants |= {f"{name}, odd": data for name, data in odd_profiles()}
    return variants
