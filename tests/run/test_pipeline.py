"""Rows come out as soon as all before them are known, whatever goes on behind them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from moderate.run.options import ScanOptions
from moderate.run.pipeline import LocalEngine
from moderate.run.scan import plan
from moderate.sources.interface import Source
from moderate.types import ErrorCode, ImageError, ImageRef, Row
from tests.support.pictures import encode, scene


class Endless(Source):
    """One image, and then inputs that need no decoding, until somebody has seen the image's row."""

    def __init__(self, image: Path) -> None:
        self._image = image
        self.seen = threading.Event()

    def __iter__(self) -> Iterator[ImageRef]:
        """See `Source`."""
        yield ImageRef(bytes(self._image))
        error = ImageError(ErrorCode.BAD_INPUT, "a bad line")
        end = time.monotonic() + 100
        while not self.seen.wait(0.02) and time.monotonic() < end:
            yield ImageRef(b"a line", error=error)


def test_a_scored_image_does_not_wait_for_a_pause_in_the_input(
    tmp_path: Path, bundle: Path
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(encode(scene((80, 60)), "PNG"))
    source = Endless(image)
    job = plan(ScanOptions(inputs=[image], weights=str(bundle), device="cpu", batch_size=1))
    with LocalEngine(replace(job, sources=[source])) as engine:
        rows = engine.rows()
        first = next(rows)
        was_running = not source.seen.is_set()
        source.seen.set()
        others = list(rows)
    assert isinstance(first, Row)
    assert first.error is None
    assert was_running
    assert all(isinstance(row, Row) and row.error for row in others)
