"""Checks that all data of a HEIC image is in the file, without decoding a pixel.

AVIF has the same container; see `moderate.decode.avif`. libheif leaves tiles of a grid unpainted
that it cannot decode, and reports success, so that it accepts a file that was cut to a twentieth.
Sources: ISO/IEC 14496-12 for boxes, `iloc` and `iref`; ISO/IEC 23008-12 for derived and auxiliary
images; ITU-T H.265, 7.3.1 for NAL units.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from moderate.decode.containers import MAX_FRAMES_COUNTED, Container, DecodeError
from moderate.types import ErrorCode

# Bounds far above those of real files. libheif itself accepts at most 1,000 items in a file.
_MAX_ENTRIES = 20_000  # boxes in a box, items in a list, references of an item
_MAX_EXTENTS = 100_000
_MAX_NAL_UNITS = 100_000
_MAX_PROPERTIES = 32  # of an item whose properties are all looked at

# A box of these kinds that reaches beyond the end of the file was cut. Others may not be boxes at
# all, because some programs append data of their own to a file.
_TOP_LEVEL = frozenset({b"ftyp", b"meta", b"mdat", b"moov", b"moof", b"free", b"skip", b"uuid"})
_SEQUENCE_BRANDS = frozenset({b"msf1", b"hevc", b"hevx", b"hevm", b"hevs", b"avis"})
_ALPHA = (
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\x00",
    b"urn:mpeg:hevc:2015:auxid:1\x00",
    b"urn:mpeg:avc:2015:auxid:1\x00",
)
_DERIVED = frozenset({b"grid", b"iovl", b"iden"})
_CODED = frozenset({b"hvc1", b"av01"})
_FIRST_NON_PICTURE_NAL_UNIT = 32  # nal_unit_type; the types below are slices of an image


@dataclass(frozen=True, slots=True)
class Box:
    """Where a box's content begins and where it ends, in bytes from the start of the file."""

    kind: bytes
    start: int
    end: int


class Fields:
    """Reads the big-endian numbers of a box, one after the other."""

    def __init__(self, data: bytes, box: Box) -> None:
        self._data, self._position, self._end = data, box.start, box.end

    def number(self, size: int) -> int:
        """An unsigned number of `size` bytes. Raises DecodeError beyond the end of the box."""
        position, self._position = self._position, self._position + size
        if self._position > self._end:
            raise corrupt("a list in the header ends early")
        return int.from_bytes(self._data[position : self._position], "big")

    def count(self, size: int, limit: int = _MAX_ENTRIES) -> int:
        """The number of entries that follow. Raises DecodeError where no real file has so many."""
        count = self.number(size)
        if count > limit:
            raise corrupt(f"the header lists over {limit} things")
        return count

    def has_more(self) -> bool:
        """Whether not everything was read yet."""
        return self._position < self._end

    def rest(self) -> Box:
        """The part that was not read yet, as a box."""
        return Box(b"", self._position, self._end)


@dataclass(frozen=True, slots=True)
class _Location:
    """The extents of an item as (offset, length) in the file or, where in_idat, in `idat`."""

    method: int
    extents: tuple[tuple[int, int], ...]


def read_heif(data: bytes) -> Container:
    """Check that all data from which the primary image is decoded lies inside the file.

    That is the data of the primary item, of all items that it is derived from (`dimg`: the tiles of
    a grid, the layers of an overlay) and of their alpha planes. Metadata, thumbnails and depth maps
    may be broken, because they change no pixel. Raises DecodeError: `truncated` for a file that was
    cut, `corrupt_image` for parts that libheif would leave out. libheif judges files without items.
    """
    metas: list[Box] = []
    frames = 1
    with errors_of("HEIC"):
        for box in top_level_boxes(data):
            if box.kind == b"meta":
                metas.append(Box(box.kind, box.start + 4, box.end))
            elif box.kind == b"moov" and _is_sequence(data):
                frames = max(frames, _count_samples(data, box))
        for meta in metas:  # versions of libheif differ in whether they read the first or the last
            Items(data, meta).check()
    return Container(data=data, frames=frames)


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Put a format's name before the message of a DecodeError."""
    try:
        yield
    except DecodeError as error:
        raise DecodeError(error.code, f"{name}: {error.message}") from None


def corrupt(message: str) -> DecodeError:
    """An error of a file that makes no sense."""
    return DecodeError(ErrorCode.CORRUPT_IMAGE, message)


def cut_off(where: str) -> DecodeError:
    """An error of a file that ends too early."""
    return DecodeError(ErrorCode.TRUNCATED, f"the file ends early: {where}")


# Boxes --------------------------------------------------------------------------------------------


def _box_at(data: bytes, position: int, end: int) -> Box | None:
    """The box at `position`, which may claim to end after `end`; None where there is none."""
    size = int.from_bytes(data[position : position + 4], "big")
    kind, start = data[position + 4 : position + 8], position + 8
    if size == 1:
        size = int.from_bytes(data[start : start + 8], "big")
        start += 8
    elif size == 0:
        size = end - position
    return Box(kind, start, position + size) if start <= position + size else None


def top_level_boxes(data: bytes) -> Iterator[Box]:
    """The boxes that a file begins with. Raises DecodeError for a box that was cut."""
    position, count = 0, 0
    while position + 8 <= len(data):
        box = _box_at(data, position, len(data))
        if box is None:
            return
        if box.end > len(data):
            if box.kind in _TOP_LEVEL:
                name = box.kind.decode()
                raise cut_off(f"in the {name} box")
            return
        yield box
        position, count = box.end, count + 1
        if count > _MAX_ENTRIES:
            raise corrupt(f"there are over {_MAX_ENTRIES} boxes")


def children(data: bytes, parent: Box) -> Iterator[Box]:
    """The boxes in a box. One that claims to end after it ends with it, as in libheif."""
    position, count = parent.start, 0
    while position + 8 <= parent.end:
        box = _box_at(data, position, parent.end)
        if box is None or count == _MAX_ENTRIES:
            raise corrupt("the boxes make no sense")
        yield replace(box, end=min(box.end, parent.end))
        position, count = box.end, count + 1


def descend(data: bytes, parents: list[Box], kind: bytes) -> list[Box]:
    """All boxes of a kind that lie right in one of the parents."""
    return [box for parent in parents for box in children(data, parent) if box.kind == kind]


def _is_sequence(data: bytes) -> bool:
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 1024)]
    return any(brands[at : at + 4] in _SEQUENCE_BRANDS for at in range(0, len(brands), 4))


def _count_samples(data: bytes, moov: Box) -> int:
    """The largest number of frames in a track. They are not decoded, but viewers show them."""
    tables = [moov]
    for kind in (b"trak", b"mdia", b"minf", b"stbl", b"stsz"):
        tables = descend(data, tables, kind)
    counts = []
    for table in tables:
        fields = Fields(data, table)
        fields.number(8)  # version and flags, size of all samples
        counts.append(min(fields.number(4), MAX_FRAMES_COUNTED))
    return max(counts, default=1)


# Items --------------------------------------------------------------------------------------------


class Items:
    """The items that the primary image is made of, by a `meta` box."""

    def __init__(self, data: bytes, meta: Box) -> None:
        self._data = data
        self._nal_units_left = _MAX_NAL_UNITS
        # Of extents. Items may share them, so that a small file could ask for endless copies.
        self._bytes_left = 4 * len(data)
        boxes: dict[bytes, Box] = {}
        for box in children(data, meta):
            boxes.setdefault(box.kind, box)
        self._idat = boxes.get(b"idat")
        self._properties = boxes.get(b"iprp")
        self.primary = self._read_primary(boxes.get(b"pitm"))
        self.exif_kinds: list[int] = []
        """Where in the file the four letters `Exif` say what an item is."""
        self.all_listed = True
        """Whether the list of items is as long as it says. libheif leaves out what is beyond."""
        self._kinds = self._read_kinds(boxes.get(b"iinf"))
        self._locations = self._read_locations(boxes.get(b"iloc"))
        self._sources, alpha = self._read_references(boxes.get(b"iref"))
        self._alpha: dict[int, list[int]] = defaultdict(list)
        alpha_items = self.with_property(self._is_alpha) if alpha else {}
        for item, masters in alpha.items():
            for master in masters if item in alpha_items else ():
                self._alpha[master].append(item)

    def check(self) -> None:
        """Raises DecodeError where data of the primary image is missing."""
        for _ in self.checked():
            pass

    def checked(self) -> Iterator[tuple[bytes, bytes]]:
        """The type and the data of each item that the primary image is made of.

        The data is empty but for coded images. Raises DecodeError where some is missing.
        """
        if self.primary is None:
            return
        seen: set[int] = set()
        waiting = [self.primary]
        while waiting:
            item = waiting.pop()
            if item not in seen:
                seen.add(item)
                yield self._kinds.get(item, b""), self._check_data(item)
                waiting += self._alpha.get(item, ())
                waiting += self._sources.get(item, ())
                self._check_codings(item)

    def _check_codings(self, item: int) -> None:
        """Refuse grids of tiles of several codecs: libheif may leave out those of one of them."""
        kinds = {self._kinds.get(source, b"") for source in self._sources.get(item, ())} - _DERIVED
        if self._kinds.get(item) == b"grid" and len(kinds) > 1:
            raise corrupt("the tiles are not all coded alike")

    def kind(self, item: int) -> bytes:
        """The four-letter type of an item."""
        return self._kinds.get(item, b"")

    def sources(self, item: int) -> list[int]:
        """The items that an item is derived from, in order."""
        return self._sources.get(item, [])

    def has_alpha(self, item: int) -> bool:
        """Whether an item has an alpha plane."""
        return item in self._alpha

    def data(self, item: int) -> bytes:
        """The data of an item. Raises DecodeError where some is missing."""
        self._check_data(item)
        location = self._locations[item]
        start = self._idat.start if location.method == 1 and self._idat else 0
        return b"".join(self._data[start + at : start + at + size] for at, size in location.extents)

    def properties_of(self, wanted: set[int]) -> dict[int, list[Box]]:
        """All properties of each wanted item, in their order.

        Raises DecodeError where an item has more than any real one.
        """
        found: dict[int, list[Box]] = {item: [] for item in wanted}
        for item, box in self._associations(lambda _: True):
            if item in found:
                found[item].append(box)
                if len(found[item]) > _MAX_PROPERTIES:
                    raise corrupt(f"a part has over {_MAX_PROPERTIES} properties")
        return found

    def first_byte(self) -> int | None:
        """Where in the file the data of the primary item begins; None where it is not there."""
        location = self._locations.get(-1 if self.primary is None else self.primary)
        return location.extents[0][0] if location and location.extents else None

    def exif(self) -> bytes | None:
        """The first EXIF block, from its TIFF header on; None where none is in the file."""
        for item, kind in self._kinds.items():
            location = self._locations.get(item)
            if kind != b"Exif" or location is None or location.method > 1:
                continue
            start, end = 0, len(self._data)
            if location.method == 1:
                start, end = (self._idat.start, self._idat.end) if self._idat else (0, 0)
            parts, left = [], end - start
            for offset, length in location.extents:
                # No length means all the rest.
                parts.append(
                    self._data[start + offset : min(start + offset + (length or left), end)]
                )
                left -= len(parts[-1])
                if left < 0:
                    break
            block = b"".join(parts)
            # Before it is its distance (ISO/IEC 23008-12, A.2.1).
            if block := block[4 + int.from_bytes(block[:4], "big") :]:
                return block
        return None

    def _check_data(self, item: int) -> bytes:
        kind = self._kinds.get(item, b"")
        location = self._locations.get(item, _Location(0, ()))
        if kind == b"iden":  # shows another item as it is
            return b""
        if location.method > 1:
            raise corrupt("a part is stored in a way that is not read")
        if not any(length for _, length in location.extents):
            raise corrupt("a part has no data")
        start, end = 0, len(self._data)
        if location.method == 1:
            if self._idat is None:
                raise corrupt("a part has no data")
            start, end = self._idat.start, self._idat.end
        for offset, length in location.extents:
            if start + offset + length > end:
                raise cut_off("a part of the image is missing")
        if kind not in _CODED:
            return b""
        self._bytes_left -= sum(length for _, length in location.extents)
        if self._bytes_left < 0:
            raise corrupt("parts of the image share too much data")
        parts = [self._data[start + at : start + at + size] for at, size in location.extents]
        coded = b"".join(parts)
        if kind == b"hvc1":
            self._check_nal_units(coded)
        return coded

    def _check_nal_units(self, coded: bytes) -> None:
        """Refuse a tile of zeros, as an incomplete download leaves it, or of other data."""
        position, has_picture = 0, False
        while position < len(coded):
            after = position + 4 + int.from_bytes(coded[position : position + 4], "big")
            self._nal_units_left -= 1
            if after > len(coded) or self._nal_units_left < 0:
                raise corrupt("a part is not HEVC data")
            if after > position + 4:
                has_picture |= coded[position + 4] >> 1 < _FIRST_NON_PICTURE_NAL_UNIT
            position = after
        if not has_picture:
            raise corrupt("a part holds no picture")

    def _read_primary(self, box: Box | None) -> int | None:
        if box is None:
            return None
        fields = Fields(self._data, box)
        version = fields.number(1)
        fields.number(3)
        return fields.number(4 if version else 2)

    def _read_kinds(self, box: Box | None) -> dict[int, bytes]:
        """The four-letter type of each item."""
        kinds: dict[int, bytes] = {}
        if box is None:
            return kinds
        fields = Fields(self._data, box)
        version = fields.number(1)
        fields.number(3)
        count = fields.number(4 if version else 2)  # which need not be true
        entries = list(children(self._data, fields.rest()))
        self.all_listed = count == len(entries)
        for entry in entries:
            if entry.kind != b"infe":
                continue
            fields = Fields(self._data, entry)
            version = fields.number(1)
            fields.number(3)
            item = fields.number(4 if version > 2 else 2)
            fields.number(2)
            if version >= 2:
                at = fields.rest().start
                kind = fields.number(4).to_bytes(4, "big")
                kinds.setdefault(item, kind)
                self.exif_kinds += [at] if kind == b"Exif" else []
        return kinds

    def _read_locations(self, box: Box | None) -> dict[int, _Location]:
        locations: dict[int, _Location] = {}
        if box is None:
            return locations
        fields = Fields(self._data, box)
        version = fields.number(1)
        fields.number(3)
        sizes = fields.number(2)
        offset_size, length_size, base_size, index_size = (
            sizes >> shift & 15 for shift in (12, 8, 4, 0)
        )
        index_size = index_size if version else 0
        if version > 2 or not {offset_size, length_size, base_size, index_size} <= {0, 4, 8}:
            raise corrupt("it says where its data is in an unknown way")
        total = 0
        for _ in range(fields.count(2 if version < 2 else 4)):
            item = fields.number(2 if version < 2 else 4)
            method = fields.number(2) & 15 if version else 0
            fields.number(2)  # which file; libheif reads this one in any case
            base = fields.number(base_size)
            count = fields.number(2)
            if not offset_size + length_size + index_size:
                count = min(count, 1)  # they take no bytes, so that any number could be claimed
            total += count
            if total > _MAX_EXTENTS:
                raise corrupt(f"the data is in over {_MAX_EXTENTS} pieces")
            extents = []
            for _ in range(count):
                fields.number(index_size)
                offset = fields.number(offset_size)
                extents.append((base + offset, fields.number(length_size)))
            locations.setdefault(item, _Location(method, tuple(extents)))
        return locations

    def _read_references(
        self, box: Box | None
    ) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """What each item is derived from (`dimg`), and what each auxiliary item belongs to."""
        sources: dict[int, list[int]] = {}
        auxiliary: dict[int, list[int]] = {}
        if box is None:
            return sources, auxiliary
        fields = Fields(self._data, box)
        id_size = 4 if fields.number(1) else 2
        fields.number(3)
        for entry in children(self._data, fields.rest()):
            references = {b"dimg": sources, b"auxl": auxiliary}.get(entry.kind)
            if references is not None:
                fields = Fields(self._data, entry)
                item = fields.number(id_size)
                count = fields.count(2, limit=0xFFFF)
                references.setdefault(item, [fields.number(id_size) for _ in range(count)])
        return sources, auxiliary

    def _is_alpha(self, entry: Box) -> bool:
        """Whether a property makes an item an alpha plane."""
        return entry.kind == b"auxC" and self._data.startswith(_ALPHA, entry.start + 4)

    def with_property(self, wanted: Callable[[Box], bool]) -> dict[int, Box]:
        """The items that have a wanted property, with the first such property."""
        found: dict[int, Box] = {}
        for item, box in self._associations(wanted):
            found.setdefault(item, box)
        return found

    def _associations(self, wanted: Callable[[Box], bool]) -> Iterator[tuple[int, Box]]:
        """Each item with each wanted property that it has, in the order of the file."""
        box = self._properties
        if box is None:
            return
        properties = descend(self._data, [box], b"ipco")[:1]
        boxes = {
            index: entry
            for index, entry in enumerate(
                children(self._data, properties[0]) if properties else (), 1
            )
            if wanted(entry)
        }
        for entry in descend(self._data, [box], b"ipma"):
            fields = Fields(self._data, entry)
            version, flags = fields.number(1), fields.number(3)
            index_size = 2 if flags & 1 else 1
            essential = 1 << (8 * index_size - 1)
            for _ in range(fields.number(4)):
                if not fields.has_more():  # libheif accepts that
                    break
                item = fields.number(4 if version else 2)
                for _ in range(fields.number(1)):
                    index = fields.number(index_size) & ~essential
                    if index in boxes:
                        yield item, boxes[index]
