"""How far a run has come, on stderr: a bar for people, a line now and then for logs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import IO, Any, cast

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from moderate.report.terminal import console
from moderate.sources.interface import Source
from moderate.types import ImageRef, Row, Skipped

PLAIN_EVERY = 10.0  # seconds between lines

_LOG = logging.getLogger(__name__)

OnItem = Callable[[Row | Skipped], None]


@contextmanager
def progress_on(
    stream: IO[str] | None, mode: str, sources: Sequence[Source] | None, max_rows: int | None
) -> Iterator[OnItem]:
    """A function to call with every item of the run. mode: auto, bar, plain, json or none.

    stream is None where a daemon has closed it. json logs an event `progress` where plain prints a
    line, with rows and images_per_second. sources are counted to show how much is left, where there
    is one row for each input.
    """
    if stream is None:
        yield lambda item: None
        return
    if mode == "auto":
        mode = "bar" if stream.isatty() else "none"
    stream = cast("IO[str]", _Expendable(stream))
    if mode == "bar":
        yield from _bar(stream, sources, max_rows)
    elif mode == "plain":
        yield _now_and_then(lambda line, rows, rate: print(line, file=stream, flush=True))
    elif mode == "json":
        _LOG.setLevel(logging.INFO)
        yield _now_and_then(_log)
    else:
        yield lambda item: None


class _Expendable:
    """A stream whose failures are nobody's loss.

    A run outlives the terminal that was closed, and the full disk of its log.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _bar(
    stream: IO[str], sources: Sequence[Source] | None, max_rows: int | None
) -> Iterator[OnItem]:
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console(stream), transient=True) as bar:
        task = bar.add_task("images", total=None)

        def count(countable: Sequence[Source]) -> None:
            bar.update(task, total=_count(countable, max_rows))

        # Counting walks the folders a second time, beside the run: only a person who watches pays.
        if sources and all(source.countable for source in sources):
            threading.Thread(target=count, args=(sources,), name="count", daemon=True).start()

        def advance(item: Row | Skipped) -> None:
            if isinstance(item, Row):
                bar.advance(task)

        yield advance


def _count(sources: Sequence[Source], max_rows: int | None) -> int:
    images = (item for item in chain.from_iterable(sources) if isinstance(item, ImageRef))
    return sum(1 for _ in islice(images, max_rows))


def _now_and_then(tell: Callable[[str, int, float], None]) -> OnItem:
    """Tell a line, the rows so far, and rows per second, every PLAIN_EVERY seconds."""
    rows, started = 0, time.monotonic()
    due = started + PLAIN_EVERY

    def advance(item: Row | Skipped) -> None:
        nonlocal rows, due
        rows += isinstance(item, Row)
        now = time.monotonic()
        if now >= due:
            due = now + PLAIN_EVERY
            rate = rows / (now - started)
            tell(f"moderate: {rows} images, {rate:.1f}/s", rows, rate)

    return advance


def _log(line: str, rows: int, rate: float) -> None:
    fields = {"rows": rows, "images_per_second": round(rate, 2)}
    message = line.removeprefix("moderate: ")
    _LOG.info("%s", message, extra={"event": "progress", "fields": fields})


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        """Images per second so far."""
        speed: Any = task.finished_speed or task.speed
        return Text(f"{speed:.1f} images/s" if speed else "")
