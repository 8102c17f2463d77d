"""Pictures for a reviewer's browser: pixels of the sandboxed decoders, encoded anew.

Whatever is wrong with a file, no byte of it reaches the browser. A few threads read, in the order
in which pictures are asked for, so that one that hangs does not hold up those behind it; what is
read is decoded by another. All pictures are kept for a while.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from moderate.decode.batches import Batch
from moderate.decode.jpeg import as_jpeg
from moderate.decode.parts import DecodeOptions, Part
from moderate.decode.pool import DecoderPool
from moderate.decode.resize import PixelSpec
from moderate.decode.sniff import OPTIONAL
from moderate.fetch.fetcher import Fetcher
from moderate.fetch.options import HttpOptions
from moderate.sources.originals import OriginalError, Originals
from moderate.types import ImageFacts, Limits

SIDE = 1280
"""Pixels of the longer side at the most."""

THUMBNAIL_SIDE = 256
"""The same of the small pictures in the strip and the grid."""

KEPT = 96
"""Pictures that are kept, of about 300 kB each."""

READERS = 4
"""Images that are read at a time; as many, with the decoders', are in memory."""

_QUALITY = 85
_HELD_SECONDS = 0.05  # somebody waits, and whoever decides asks for one image at a time
_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame: JPEG files in two sizes, and what it is of the file."""

    large: bytes
    small: bytes
    frame: int
    milliseconds: int | None


@dataclass(frozen=True, slots=True)
class _Wanted:
    number: int
    row: Mapping[str, Any]
    coming: Future[list[Picture]]


class Pictures:
    """A context manager. Raises RunError where decoders cannot be started."""

    def __init__(
        self, limits: Limits, http: HttpOptions, *, workers: int = 2, require_sandbox: bool = False
    ) -> None:
        self._limits = limits
        self._fetcher = Fetcher(limits, http)
        self._originals = Originals(limits, self._fetcher)
        options = DecodeOptions(views="1", formats=tuple(sorted(OPTIONAL)))
        self._pool: DecoderPool[_Wanted] = DecoderPool(
            (PixelSpec(SIDE, SIDE),),
            limits,
            workers,
            1,
            options=options,
            require_sandbox=require_sandbox,
            # While the results are read: the first image is waited for.
            at_once=True,
            held_seconds=_HELD_SECONDS,
        )
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Future[list[Picture]]] = OrderedDict()
        self._asked: queue.SimpleQueue[_Wanted | None] = queue.SimpleQueue()
        self._read: queue.SimpleQueue[tuple[_Wanted, bytes] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(READERS)
        self._ended = False
        self._thread = threading.Thread(target=self._serve, name="pictures", daemon=True)
        self._readers = [
            threading.Thread(target=self._read_originals, name=f"originals-{number}", daemon=True)
            for number in range(READERS)
        ]
        self._error: BaseException | None = None

    def __enter__(self) -> Pictures:
        """Start to serve."""
        self._fetcher.__enter__()
        self._pool.__enter__()
        for thread in [self._thread, *self._readers]:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; whoever waits for a picture gets none."""
        self._ended = True
        self._read.put(None)
        self._room.release(READERS)
        for _reader in self._readers:
            self._asked.put(None)
        # So that the pool is not ended while it begins; a hanging image is not waited for.
        self._thread.join(timeout=_END_SECONDS)
        self._pool.__exit__()
        self._fetcher.__exit__()
        with self._lock:
            for coming in self._kept.values():
                coming.cancel()

    def ask(
        self, number: int, row: Mapping[str, Any], *, again: bool = False
    ) -> Future[list[Picture]]:
        """The frames of the image of a row, which may be of many; fails with OriginalError.

        number is what the row is known by. again: what failed is tried once more.
        """
        with self._lock:
            coming = self._kept.get(number)
            if again and coming is not None and coming.done() and coming.exception():
                coming = None
            if coming is not None:
                self._kept.move_to_end(number)
                return coming
            coming = self._kept[number] = Future()
            if self._error is not None:
                coming.set_exception(OriginalError("the decoders have ended; see the terminal"))
                return coming
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._asked.put(_Wanted(number, row, coming))
        return coming

    def _serve(self) -> None:
        try:
            for result in self._pool.run(self._files()):
                if isinstance(result, Batch):
                    self._settle(result)
                self._pool.release(result)
        except BaseException as error:  # noqa: BLE001 - told to whoever asks next
            with self._lock:
                self._error = error
                waiting = [each for each in self._kept.values() if not each.done()]
            for coming in waiting:
                _fail(coming, "the decoders have ended; see the terminal")

    def _files(self) -> Iterator[tuple[_Wanted, bytes | None]]:
        while (read := self._read.get()) is not None:
            self._room.release()
            yield read

    def _read_originals(self) -> None:
        """The work of one reader. It may hang in a file: it is not waited for at the end."""
        while (wanted := self._asked.get()) is not None:
            self._room.acquire()
            if self._ended:
                return
            try:
                data = self._originals.read(wanted.row)
            except OriginalError as error:
                _fail(wanted.coming, str(error))
            except Exception as error:  # noqa: BLE001 - one image must not end the queue
                _fail(wanted.coming, f"it cannot be read: {type(error).__name__}")
            else:
                self._read.put((wanted, data))  # whoever takes it releases the room
                continue
            self._room.release()

    def _settle(self, batch: Batch[_Wanted]) -> None:
        pixels = iter(batch.pixels()[0])
        for entry in batch.entries:
            wanted, outcome = entry.item, entry.outcome
            if isinstance(outcome, ImageFacts):
                size = outcome.width or 1, outcome.height or 1
                frames = [
                    _picture(array, size, part)
                    for array, part in zip(pixels, entry.parts, strict=False)
                ]
                _give(wanted.coming, frames)
            elif outcome is not None:
                _fail(wanted.coming, outcome.message)


def _picture(pixels: Any, size: tuple[int, int], part: Part) -> Picture:
    """SIDE x SIDE x 3 pixels in the proportions of the image, twice."""
    large, small = (
        as_jpeg(pixels, size, min(side, max(size)), _QUALITY) for side in (SIDE, THUMBNAIL_SIDE)
    )
    return Picture(large, small, part.frame, part.milliseconds)


def _give(coming: Future[list[Picture]], pictures: list[Picture]) -> None:
    if coming.set_running_or_notify_cancel():
        coming.set_result(pictures)


def _fail(coming: Future[list[Picture]], reason: str) -> None:
    if coming.set_running_or_notify_cancel():
        coming.set_exception(OriginalError(reason))
