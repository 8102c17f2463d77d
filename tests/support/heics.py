"""HEIC files put together box by box: grids of tiles, alpha planes, and every way to store them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from tests.support.pictures import encode

ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\x00"


@dataclass(frozen=True)
class Item:
    """One item: its type, its data, and the boxes of its properties."""

    number: int
    kind: bytes
    data: bytes
    properties: tuple[bytes, ...] = ()
    in_idat: bool = False


@dataclass(frozen=True)
class Heic:
    """A file to be. references are (type, from, to), pieces is the number of extents of an item."""

    items: tuple[Item, ...]
    references: tuple[tuple[bytes, int, tuple[int, ...]], ...] = ()
    primary: int = 1
    iloc_version: int = 1
    offset_size: int = 4
    length_size: int = 4
    base_size: int = 0
    index_size: int = 0
    pieces: int = 1
    wide: bool = False  # numbers of items in 32 bits
    brand: bytes = b"heic"
    behind: bytes = b""
    unlisted: frozenset[int] = field(default_factory=frozenset)  # items that `iloc` leaves out

    def build(self) -> bytes:
        """The bytes of the file."""
        start = len(self._head({}))
        places, at = {}, start + 8
        for item in self.items:
            if not item.in_idat:
                places[item.number], at = at, at + len(item.data)
        stored = b"".join(item.data for item in self.items if not item.in_idat)
        return self._head(places) + box(b"mdat", stored) + self.behind

    def _head(self, places: dict[int, int]) -> bytes:
        number = ">I" if self.wide else ">H"
        properties = list(dict.fromkeys(p for item in self.items for p in item.properties))
        associations = b"".join(
            struct.pack(">HB", item.number, len(item.properties))
            + bytes(properties.index(p) + 1 for p in item.properties)
            for item in self.items
        )
        parts = {
            part for kind, _, targets in self.references if kind == b"dimg" for part in targets
        }
        entries = b"".join(
            full_box(
                b"infe",
                3 if self.wide else 2,
                struct.pack(number, item.number) + b"\x00\x00" + item.kind + b"\x00",
                flags=int(item.number in parts),
            )
            for item in self.items
        )
        references = b"".join(
            box(
                kind,
                struct.pack(number, source)
                + struct.pack(">H", len(targets))
                + b"".join(struct.pack(number, target) for target in targets),
            )
            for kind, source, targets in self.references
        )
        in_idat = b"".join(item.data for item in self.items if item.in_idat)
        return box(b"ftyp", self.brand + bytes(4) + self.brand + b"mif1heic") + full_box(
            b"meta",
            0,
            full_box(b"hdlr", 0, bytes(4) + b"pict" + bytes(13))
            + full_box(b"pitm", int(self.wide), struct.pack(number, self.primary))
            + full_box(b"iinf", 0, struct.pack(">H", len(self.items)) + entries)
            + (full_box(b"iref", int(self.wide), references) if references else b"")
            + box(
                b"iprp",
                box(b"ipco", b"".join(properties))
                + full_box(b"ipma", 0, struct.pack(">I", len(self.items)) + associations),
            )
            + self._iloc(places)
            + (box(b"idat", in_idat) if in_idat else b""),
        )

    def _iloc(self, places: dict[int, int]) -> bytes:
        listed = [item for item in self.items if item.number not in self.unlisted]
        sizes = self.offset_size << 12 | self.length_size << 8 | self.base_size << 4
        out = struct.pack(">H", sizes | (self.index_size if self.iloc_version else 0))
        out += struct.pack(">I" if self.iloc_version == 2 else ">H", len(listed))
        in_idat = 0
        for item in listed:
            out += struct.pack(">I" if self.iloc_version == 2 else ">H", item.number)
            if self.iloc_version:
                out += struct.pack(">H", int(item.in_idat))
            at = in_idat if item.in_idat else places.get(item.number, 0)
            in_idat += len(item.data) if item.in_idat else 0
            base = at if self.base_size else 0
            step = -(-len(item.data) // self.pieces)
            out += bytes(2) + base.to_bytes(self.base_size, "big") + struct.pack(">H", self.pieces)
            for piece in range(self.pieces):
                offset = at - base + piece * step
                length = min(step, len(item.data) - piece * step)
                out += bytes(self.index_size if self.iloc_version else 0)
                out += offset.to_bytes(self.offset_size, "big")
                out += length.to_bytes(self.length_size, "big")
        return full_box(b"iloc", self.iloc_version, out)


def box(kind: bytes, content: bytes) -> bytes:
    """One box of ISO/IEC 14496-12."""
    return struct.pack(">I", 8 + len(content)) + kind + content


def full_box(kind: bytes, version: int, content: bytes, flags: int = 0) -> bytes:
    """One box with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags) + content)


def children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each box in a row of boxes."""
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + size]
        at += size


def coded(image: Image.Image, number: int, kind: bytes = b"hvc1") -> Item:
    """A coded item of one image: what pillow-heif wrote, taken out of its file."""
    file = dict(children(encode(image, "HEIF")))
    meta = dict(children(file[b"meta"][4:]))
    properties = list(children(dict(children(meta[b"iprp"]))[b"ipco"]))
    wanted = tuple(box(k, v) for k, v in properties if k in {b"ispe", b"hvcC", b"colr"})
    return Item(number, kind, file[b"mdat"], wanted)


def grid_item(number: int, size: tuple[int, int], columns: int, rows: int) -> Item:
    """A `grid` item, which shows other items as tiles."""
    layout = struct.pack(">4B2H", 0, 0, rows - 1, columns - 1, *size)
    ispe = full_box(b"ispe", 0, struct.pack(">II", *size))
    return Item(number, b"grid", layout, (ispe,), in_idat=True)


def grid(image: Image.Image, tile: int = 64, first: int = 1) -> Heic:
    """An image as a grid of tiles, as phones write it. Item `first` is the grid."""
    columns, rows = -(-image.width // tile), -(-image.height // tile)
    tiles = []
    for y in range(rows):
        for x in range(columns):
            part = image.crop((x * tile, y * tile, (x + 1) * tile, (y + 1) * tile))
            tiles.append(coded(part, first + 1 + len(tiles)))
    whole = grid_item(first, image.size, columns, rows)
    numbers = tuple(item.number for item in tiles)
    return Heic((whole, *tiles), ((b"dimg", first, numbers),), primary=first)


def with_alpha(heic: Heic, alpha: Heic) -> Heic:
    """The first file with the second's primary image, which has other numbers, as alpha plane."""
    auxiliary = full_box(b"auxC", 0, ALPHA)
    items = tuple(
        replace(item, properties=(*item.properties, auxiliary))
        if item.number == alpha.primary
        else item
        for item in alpha.items
    )
    reference = (b"auxl", alpha.primary, (heic.primary,))
    return replace(
        heic,
        items=heic.items + items,
        references=(*heic.references, *alpha.references, reference),
    )


def with_item(heic: Heic, number: int, **changes: object) -> Heic:
    """The file with one item changed."""
    items = [replace(i, **changes) if i.number == number else i for i in heic.items]
    return replace(heic, items=tuple(items))


def sequence(image: Item, samples: int) -> bytes:
    """A `moov` box with one track of so many samples, coded like an item, which are nowhere."""
    (configuration,) = [p for p in image.properties if p[4:8] == b"hvcC"]
    size = struct.pack(">HH", 64, 64)
    described = box(b"hvc1", bytes(7) + b"\x01" + bytes(16) + size + bytes(50) + configuration)
    table = b"".join(
        (
            full_box(b"stsd", 0, struct.pack(">I", 1) + described),
            full_box(b"stts", 0, struct.pack(">III", 1, samples, 1)),
            full_box(b"stsc", 0, struct.pack(">IIII", 1, 1, samples, 1)),
            full_box(b"stsz", 0, struct.pack(">II", 1, samples)),
            full_box(b"stco", 0, struct.pack(">II", 1, 0)),
        )
    )
    media = b"".join(
        (
            full_box(b"mdhd", 0, struct.pack(">IIIII", 0, 0, 1000, samples, 0)),
            full_box(b"hdlr", 0, bytes(4) + b"pict" + bytes(13)),
            box(b"minf", full_box(b"vmhd", 0, bytes(8)) + box(b"stbl", table)),
        )
    )
    track = box(b"trak", full_box(b"tkhd", 0, bytes(80)) + box(b"mdia", media))
    return box(b"moov", full_box(b"mvhd", 0, bytes(96)) + track)


def cut_points(data: bytes, dense: int = 1024, stride: int = 97) -> Sequence[int]:
    """Lengths to cut a file to: all of the first and last `dense` bytes, and some between."""
    last = len(data)
    return sorted(
        {*range(min(dense, last)), *range(max(0, last - dense), last)} | {*range(0, last, stride)}
    )
