"""How far a run has come, on stderr: a bar for people, a line or an event now and then for logs."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, cast

from moderate.sources.interface import Source
from moderate.types import Decision, ImageRef, Row, Skipped

if TYPE_CHECKING:
    from moderate.run.row_batch import RowBatch

PLAIN_EVERY = 10.0  # seconds between lines
TICK = 0.5  # seconds between looks at the counts, and between drawings of the bar
WINDOW = 60.0  # seconds that the rate is measured over, which is longer than a batch takes

_LOG = logging.getLogger(__name__)

OnItem = Callable[["Row | RowBatch | Skipped"], None]


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a run is. total and images_per_second are None while they are not known."""

    rows: int
    review: int
    block: int
    errors: int
    total: int | None
    images_per_second: float | None
    seconds: float
    """Since the run began, the loading of the model included."""

    @property
    def share(self) -> float | None:
        """Of the images, those that have a row, 0.0 to 1.0."""
        return self.rows / self.total if self.total else None

    @property
    def seconds_left(self) -> float | None:
        """At the present rate."""
        if self.total is None or self.images_per_second is None:
            return None
        return (self.total - self.rows) / self.images_per_second

    def line(self) -> str:
        """All of it in words."""
        if not self.rows:
            return f"starting, {self.seconds:.0f} s"
        parts = [f"{self.rows:,} images"]
        if self.total is not None and self.share is not None:
            parts = [f"{self.rows:,} of {self.total:,} images ({self.share:.0%})"]
        if self.images_per_second is not None:
            parts.append(f"{self._rate()}/s")
        if self.seconds_left is not None:
            parts.append(f"{_interval(self.seconds_left)} left")
        errors = "1 error" if self.errors == 1 else f"{self.errors:,} errors"
        return ", ".join([*parts, f"{self.review:,} review", f"{self.block:,} block", errors])

    def short_line(self, width: int) -> str:
        """The same in `width` columns, if need be without the share, the rate and the time left."""
        if not self.rows:
            return self.line()
        counts = f"; review {self.review} block {self.block} error {self.errors}"
        parts = [f"{self.rows:,} images"]
        if self.total is not None and self.share is not None:
            left = self.seconds_left
            parts = [
                f"{self.rows:,}/{self.total:,}",
                "" if left is None else f"{_interval(left)} left",
                f"{self.share:.0%}",
            ]
        if self.images_per_second is not None:
            parts.insert(2, f"{self._rate()}/s")
        parts = [part for part in parts if part]
        while len(parts) > 1 and len(" ".join(parts) + counts) > width:
            parts.pop()
        return " ".join(parts) + counts

    def fields(self) -> dict[str, float | None]:
        """All of it as JSON values."""
        return {
            "rows": self.rows,
            "total": self.total,
            "share": _rounded(self.share, 4),
            "images_per_second": _rounded(self.images_per_second, 2),
            "seconds_left": _rounded(self.seconds_left, 1),
            "review": self.review,
            "block": self.block,
            "errors": self.errors,
        }

    def _rate(self) -> str:
        rate = self.images_per_second or 0.0
        return f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}"


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


class Meter:
    """Counts rows on the thread of the run, and is read on another.

    The rate is that since the first rows were seen, over `WINDOW` at most: neither the loading of
    the model counts nor the first batch, whose rows come all at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total: int | None = None
        self._clock = clock
        self._begun = clock()
        self._rows = self._review = self._block = self._errors = 0
        self._seen: deque[tuple[float, int]] = deque()

    def count(self, item: Row | RowBatch | Skipped) -> None:
        """Take one item of the run into the counts."""
        if isinstance(item, Row):
            self._review += item.decision is Decision.REVIEW
            self._block += item.decision is Decision.BLOCK
            self._errors += item.error is not None
            self._rows += 1
        elif not isinstance(item, Skipped):
            severity = item.decided.severity
            self._review += int((severity == Decision.REVIEW.severity).sum())
            self._block += int((severity == Decision.BLOCK.severity).sum())
            self._rows += len(item)

    def read(self) -> Reading:
        """The counts, and the rate since earlier readings."""
        now, rows = self._clock(), self._rows
        if rows:
            self._seen.append((now, rows))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()
        since, before = self._seen[0] if self._seen else (now, rows)
        return Reading(
            rows=rows,
            review=self._review,
            block=self._block,
            errors=self._errors,
            # Files may have come since they were counted.
            total=None if self.total is None else max(self.total, rows),
            images_per_second=(rows - before) / (now - since) if rows > before else None,
            seconds=now - self._begun,
        )


@contextmanager
def progress_on(
    stream: IO[str] | None, mode: str, sources: Sequence[Source] | None, max_rows: int | None
) -> Iterator[OnItem]:
    """A function to call with every item of the run. mode: auto, bar, plain, json or none.

    stream is None where a daemon has closed it. json logs an event `progress` where plain prints a
    line. sources are counted to show how much is left, where there is one row for each input: at
    once for a bar, and for the others shortly before the first line.
    """
    if mode == "auto":
        mode = "bar" if stream is not None and stream.isatty() else "none"
    if stream is None or mode == "none":
        yield lambda item: None
        return
    stream = cast("IO[str]", _Expendable(stream))
    meter, over = Meter(), threading.Event()
    counting = _Counting(meter, sources, max_rows, over)
    with contextlib.ExitStack() as stack:
        if mode == "bar":
            counting.begin()
            show = stack.enter_context(_bar(stream))
        elif mode == "plain":
            show = _now_and_then(_plain(stream), counting)
        else:
            _LOG.setLevel(logging.INFO)
            show = _now_and_then(_log, counting)
        ticking = threading.Thread(
            target=_tick, args=(meter, show, over), name="progress", daemon=True
        )
        ticking.start()
        try:
            yield meter.count
        finally:
            over.set()
            ticking.join(1.0)  # a terminal that takes nothing must not keep the run from ending


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


@dataclass(slots=True)
class _Counting:
    """Walks the sources a second time, beside the run, to know how many images there are."""

    meter: Meter
    sources: Sequence[Source] | None
    max_rows: int | None
    over: threading.Event

    def begin(self) -> None:
        """Count on a thread of its own, once; nothing where the sources cannot be counted."""
        sources, self.sources = self.sources, None
        if sources and all(source.countable for source in sources):
            threading.Thread(target=self._count, args=(sources,), name="count", daemon=True).start()

    def _count(self, sources: Sequence[Source]) -> None:
        total = 0
        with suppress(Exception):  # the run itself says what is wrong with an input
            for item in chain.from_iterable(sources):
                total += isinstance(item, ImageRef)
                if total == self.max_rows or self.over.is_set():
                    break
            self.meter.total = total


Show = Callable[[Reading], None]


def _tick(meter: Meter, show: Show, over: threading.Event) -> None:
    while not over.wait(TICK):
        show(meter.read())


@contextmanager
def _bar(stream: IO[str]) -> Iterator[Show]:
    """A bar on the last line, which goes away at the end; messages are written above it."""
    # Here, because a run that shows no bar takes less time to start without it.
    from tqdm.contrib import DummyTqdmFile
    from tqdm.std import tqdm

    # A lock between processes, which is tqdm's own choice, would need semaphores.
    tqdm.set_lock(threading.RLock())
    bar: Any = tqdm(
        file=stream, leave=False, dynamic_ncols=True, bar_format="{desc}{bar}", miniters=1
    )

    def show(reading: Reading) -> None:
        bar.n, bar.total = reading.rows, reading.total
        # The text is first, so that it is the bar that gives way on a narrow terminal.
        text = reading.short_line(_width(stream) - 2)
        bar.set_description_str(f"{text} ", refresh=True)

    try:
        with contextlib.redirect_stderr(cast("IO[str]", DummyTqdmFile(stream))):
            yield show
    finally:
        bar.clear()
        bar.close()


def _interval(seconds: float) -> str:
    """So many seconds as [hours:]minutes:seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def _width(stream: IO[str]) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _now_and_then(tell: Show, counting: _Counting) -> Show:
    """Tell a reading every PLAIN_EVERY seconds. A run that is over before is not counted."""
    due = PLAIN_EVERY

    def show(reading: Reading) -> None:
        nonlocal due
        if reading.seconds >= PLAIN_EVERY / 2:
            counting.begin()
        if reading.seconds >= due:
            due = reading.seconds + PLAIN_EVERY
            tell(reading)

    return show


def _plain(stream: IO[str]) -> Show:
    return lambda reading: print(f"moderate: {reading.line()}", file=stream, flush=True)


def _log(reading: Reading) -> None:
    _LOG.info("%s", reading.line(), extra={"event": "progress", "fields": reading.fields()})
