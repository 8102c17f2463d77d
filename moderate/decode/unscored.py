"""What a file holds besides its picture and is not scored with it, as its row names it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

from PIL import Image

from moderate.decode import pixels
from moderate.decode.containers import read_jpeg
from moderate.decode.embedded import MOST_EMBEDDED, find_embedded, scored_by_itself
from moderate.decode.thumbnail_places import PALETTE_THUMBNAIL, RGB_THUMBNAIL, exif_thumbnail
from moderate.decode.thumbnails import shows_the_same

THUMBNAIL_DIFFERS = "thumbnail that differs"
THUMBNAIL_UNREAD = "thumbnail that is not readable"

_MOST_COMPARED = 6  # pictures of one file
_MOST_BYTES = 8 << 20  # of a picture that is compared
_MOST_PIXELS = 16_000_000
# A progressive JPEG costs a pass over all pixels for each of its scans.
_MOST_PROGRESSIVE_PIXELS = 1_000_000
_FEWEST_PIXELS = 64  # of a thumbnail
_COMPARED_SIDE = 160  # pixels; of a preview that is decoded at a reduced scale


def unscored_content(
    data: bytes,
    kind: str,
    picture: Image.Image,
    *,
    turn: int = 1,
    exif: bytes | None = None,
    scored_kinds: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Descriptions of what the file of this kind holds and that is not scored.

    picture is the RGB picture of the file, turned by the EXIF orientation `turn` if it is. exif is
    the block of a format that keeps it among the data of the picture. What shows the same as the
    picture is left out: previews and thumbnails of cameras. scored_kinds are scored in rows of
    their own. A thumbnail that cannot be read costs the picture nothing but this mention of it.
    Raises MemoryError.
    """
    found = find_embedded(data, kind)
    scored = set(scored_by_itself(found, scored_kinds))
    others = [each for each in found.others if each not in scored]
    thumbnails: list[Callable[[], Image.Image | None]] = [
        _reader(data[each.start : each.end], each.kind) for each in found.copies
    ]
    if kind in ("heif", "avif"):
        if exif and (place := _thumbnail_in(exif)):
            thumbnails.append(_reader(exif[slice(*place)]))
        if b"thmb" in data:
            thumbnails += _heif_thumbnails(data)
    texts = []
    for read in thumbnails[:_MOST_COMPARED]:
        if reason := _judged(picture, turn, read):
            texts.append(reason)
    if len(thumbnails) > _MOST_COMPARED:
        texts.append(THUMBNAIL_UNREAD)
    for index, each in enumerate(others):
        is_preview = (
            each.kind == "jpeg"
            and index < _MOST_COMPARED
            and _judged(picture, turn, _reader(data[each.start : each.end])) is None
        )
        if not is_preview:
            texts.append(each.description)
    return tuple(dict.fromkeys(texts))[:MOST_EMBEDDED]


def _judged(picture: Image.Image, turn: int, read: Callable[[], Image.Image | None]) -> str | None:
    """Why a small copy is reported; None for one that shows what the picture shows."""
    try:
        copy = read()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow raises almost any class
        return THUMBNAIL_UNREAD
    if copy is None:
        return None
    if shows_the_same(picture, pixels.upright(copy, turn)):
        return None
    return THUMBNAIL_DIFFERS


def _thumbnail_in(exif: bytes) -> tuple[int, int] | None:
    return exif_thumbnail(exif, 6 if exif.startswith(b"Exif\x00\x00") else 0, len(exif))


def _reader(data: bytes, kind: str = "jpeg") -> Callable[[], Image.Image | None]:
    if kind in (RGB_THUMBNAIL, PALETTE_THUMBNAIL):
        return partial(_read_uncompressed, data, kind)
    return partial(_read_small, data)


def _read_uncompressed(data: bytes, kind: str) -> Image.Image | None:
    """A thumbnail of JFIF; None for one that is too small to show anything or not there."""
    size, start = (data[0], data[1]), 2
    if size[0] * size[1] < _FEWEST_PIXELS:
        return None
    if kind == RGB_THUMBNAIL:
        return Image.frombytes("RGB", size, data[start : start + 3 * size[0] * size[1]])
    palette, start = data[start : start + 768], start + 768
    image = Image.frombytes("P", size, data[start : start + size[0] * size[1]])
    image.putpalette(palette)
    return image.convert("RGB")


def _read_small(data: bytes) -> Image.Image | None:
    """A JPEG at a small size; None for what is no JPEG. Raises what Pillow and `read_jpeg` raise.

    A missing end marker is added, because viewers show such thumbnails, too.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    if len(data) > _MOST_BYTES:
        raise ValueError("too large to be compared")
    container = read_jpeg(data + b"\xff\xd9")
    with Image.open(io.BytesIO(container.data), formats=["JPEG"]) as image:
        progressive = image.info.get("progressive") or image.info.get("progression")
        most = _MOST_PROGRESSIVE_PIXELS if progressive else _MOST_PIXELS
        if image.width * image.height > most:
            raise ValueError("too large to be compared")
        image.draft("RGB", (_COMPARED_SIDE, _COMPARED_SIDE))
        image.load()
        return pixels.to_rgb(image)[0].copy()


def _heif_thumbnails(data: bytes) -> Iterator[Callable[[], Image.Image | None]]:
    """Readers of the thumbnails (`thmb`) of the primary image."""
    import pillow_heif

    try:
        file = pillow_heif.open_heif(io.BytesIO(data))
        primary = file[file.primary_index]
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - of an AVIF, libheif need not read what libavif reads
        yield _unreadable
        return
    for index in count():
        try:
            thumbnail = primary.get_thumbnail(index)
        except IndexError:
            return
        if index > _MOST_COMPARED:
            return
        yield partial(_heif_thumbnail, thumbnail)


def _unreadable() -> Image.Image:
    raise ValueError("the file cannot be searched for thumbnails")


def _heif_thumbnail(thumbnail: object) -> Image.Image:
    size: tuple[int, int] = thumbnail.size  # type: ignore[attr-defined]
    if size[0] * size[1] > _MOST_PROGRESSIVE_PIXELS:
        raise ValueError("too large to be compared")
    image: Image.Image = thumbnail.to_pillow()  # type: ignore[attr-defined]
    return pixels.to_rgb(image)[0]
