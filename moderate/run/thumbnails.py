"""Small images for a report, made of the pixels that the sandboxed decoders give.

The files are read again, by the paths in the results, and used where their bytes are still those
that were scored. Nothing of a file itself gets into the report: the pixels are encoded anew.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any
from urllib.parse import unquote_to_bytes

from PIL import Image

from moderate.cores import available_cores
from moderate.decode.batches import Batch, Passed
from moderate.decode.parts import DecodeOptions
from moderate.decode.pool import DecoderPool
from moderate.decode.resize import PixelSpec
from moderate.decode.sniff import OPTIONAL, SUPPORTED
from moderate.fetch.local import FetchError, read_file
from moderate.run.listing import Listing, Thumbnails
from moderate.types import ImageFacts, Limits

MOST = 200
"""Thumbnails of one page: those of the most severe rows."""

SIDE = 96
"""Pixels of the longer side."""

MOST_FILE_BYTES = 64 << 20
"""Bytes of a file that is read again at the most, whatever size a results file says it has."""

_QUALITY = 70  # of JPEG: about 3 KB each
_MOST_WORKERS = 4
_BATCH = 16
_FORMATS = SUPPORTED | OPTIONAL

_Row = dict[str, Any]


def make_thumbnails(
    listing: Listing,
    limits: Limits,
    *,
    most: int = MOST,
    require_sandbox: bool = False,
) -> Thumbnails:
    """Thumbnails of the first rows of the listing, which those of copies share.

    `limits` apply, except that a file may be as large as its row says. Raises RunError where the
    decoders cannot be started.
    """
    rows = listing.table().slice(0, most).to_pylist()
    missing: Counter[str] = Counter()
    wanted: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        # Rows of errors, of videos and of their frames.
        if row["width"] is None or row["sha256"] is None or row["format"] not in _FORMATS:
            missing["no decoded image of its own"] += 1
        else:
            wanted.setdefault(row["sha256"], []).append(place)
    largest = max([limits.max_file_bytes, *(row["bytes"] or 0 for row in rows)])
    limits = replace(limits, max_file_bytes=min(largest, MOST_FILE_BYTES))
    images: dict[int, bytes] = {}
    found = _decoded({digest: rows[places[0]] for digest, places in wanted.items()}, limits,
                     require_sandbox)  # fmt: skip
    for digest, image in found:
        if isinstance(image, str):
            missing[image] += len(wanted[digest])
        else:
            images |= dict.fromkeys(wanted[digest], image)
    return Thumbnails(images, len(rows), dict(sorted(missing.items())))


def _decoded(
    rows: dict[str, _Row], limits: Limits, require_sandbox: bool
) -> Iterator[tuple[str, bytes | str]]:
    """For each digest a JPEG file, or why there is none."""
    if not rows:
        return
    failed: dict[str, str] = {}

    def files() -> Iterator[tuple[str, bytes | None]]:
        for digest, row in rows.items():
            data = _same_bytes(row, digest, limits.max_file_bytes)
            if isinstance(data, str):
                failed[digest] = data
                yield digest, None
            else:
                yield digest, data

    spec = PixelSpec(SIDE, SIDE, antialias=True)
    options = DecodeOptions(frames="first", views="1", formats=tuple(sorted(OPTIONAL)))
    workers = max(1, min(available_cores(), _MOST_WORKERS, len(rows)))
    with DecoderPool[str](
        (spec,), limits, workers, _BATCH, options=options, require_sandbox=require_sandbox
    ) as pool:
        for result in pool.run(files()):
            if isinstance(result, Passed):
                yield result.item, failed[result.item]
            else:
                yield from _settled(result, rows)
            pool.release(result)


def _settled(batch: Batch[str], rows: dict[str, _Row]) -> Iterator[tuple[str, bytes | str]]:
    # The first pixels are those of the first part of each decoded entry, in their order.
    pixels = iter(batch.pixels()[0])
    for entry in batch.entries:
        if isinstance(entry.outcome, ImageFacts):
            yield entry.item, _jpeg(next(pixels), rows[entry.item])
        else:
            yield entry.item, "could not be decoded again"


def _same_bytes(row: _Row, digest: str, max_bytes: int) -> bytes | str:
    """The file's bytes, or why they are not those that were scored."""
    path = row["path_bytes"] or os.fsencode(row["path"])
    if not path.startswith((b"/", b"./")):
        return "not a local file"
    if b"!/" in path and not os.path.lexists(path):
        return "inside another file"
    why = "cannot be read any more"
    for name in dict.fromkeys((*_absolute(row), path)):
        try:
            data = read_file(name, max_bytes)
        except FetchError:
            continue
        if sha256(data).hexdigest() == digest:
            return data
        why = "changed since the scan"
    return why


def _absolute(row: _Row) -> Iterator[bytes]:
    """The path in the row's URI, which serves in any folder; none where it names no file itself."""
    uri = row.get("uri") or ""
    if uri.startswith("file:///") and "#" not in uri:
        yield unquote_to_bytes(uri.removeprefix("file://"))


def _jpeg(pixels: Any, row: _Row) -> bytes:
    """SIDE x SIDE x 3 pixels as a JPEG file in the proportions of the image."""
    # A results file may say anything.
    width, height = (max(row[side] or 1, 1) for side in ("width", "height"))
    longest = max(width, height)
    size = (max(1, round(SIDE * width / longest)), max(1, round(SIDE * height / longest)))
    image = Image.fromarray(pixels, "RGB").resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()
