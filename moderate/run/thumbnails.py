"""Small images for a report, made of the pixels that the sandboxed decoders give.

The files are read again, by the paths in the results, and used where their bytes are still those
that were scored. Nothing of a file itself gets into the report: the pixels are encoded anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from moderate.cores import available_cores
from moderate.decode.batches import Batch, Passed
from moderate.decode.jpeg import as_jpeg
from moderate.decode.parts import DecodeOptions
from moderate.decode.pool import DecoderPool
from moderate.decode.resize import PixelSpec
from moderate.decode.sniff import OPTIONAL, SUPPORTED
from moderate.run.listing import Listing, Thumbnails
from moderate.sources.originals import OriginalError, Originals
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
    originals = Originals(limits)  # without a fetcher: a report asks nothing of other machines

    def files() -> Iterator[tuple[str, bytes | None]]:
        for digest, row in rows.items():
            try:
                yield digest, originals.read(row)
            except OriginalError as error:
                failed[digest] = error.problem.value
                yield digest, None

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
            row = rows[entry.item]
            size = (row["width"] or 1, row["height"] or 1)
            yield entry.item, as_jpeg(next(pixels), size, SIDE, _QUALITY, optimize=True)
        else:
            yield entry.item, "could not be decoded again"
