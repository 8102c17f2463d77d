"""How far a run is: sane figures, and a line that fits the terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from moderate.cli.messages import say, speaking
from moderate.report import progress
from moderate.report.progress import Meter, Reading, progress_on
from moderate.sources.interface import Source
from moderate.types import (
    UNSCORED,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
    Skipped,
    SkipReason,
)

HOSTILE = b"\x1b[31m\r\n\xe2\x80\xae evil"
REVIEW = Row(ImageRef(HOSTILE), ImageFacts(), UNSCORED, Decision.REVIEW, ())
BLOCK = Row(ImageRef(HOSTILE), ImageFacts(), UNSCORED, Decision.BLOCK, ())
FAILED = Row(
    ImageRef(HOSTILE),
    ImageFacts(),
    UNSCORED,
    Decision.REVIEW,
    (),
    error=ImageError(ErrorCode.EMPTY_FILE, "empty"),
)
SKIPPED = Skipped(HOSTILE, SkipReason.HIDDEN)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Countable(Source):
    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        yield from [ImageRef(b"a"), SKIPPED, ImageRef(b"b"), ImageRef(b"c"), ImageRef(b"d")]

    @property
    def countable(self) -> bool:
        return True


def reading(**changes: float | None) -> Reading:
    values = {"rows": 1_064, "review": 450, "block": 464, "errors": 7, "total": 1_650}
    fields = {"images_per_second": 170.4, "seconds": 9.0, **values, **changes}
    return Reading(**fields)  # type: ignore[arg-type]


def test_the_rate_counts_neither_the_start_nor_the_first_batch() -> None:
    """A first batch would come at thousands of images per second, or at none."""
    clock = Clock()
    meter = Meter(clock)
    meter.total = 320
    clock.now += 60  # the model is loaded
    assert meter.read().line() == "starting, 60 s"
    for _ in range(32):
        meter.count(REVIEW)
    first = meter.read()
    assert (first.images_per_second, first.seconds_left) == (None, None)
    assert first.line() == "32 of 320 images (10%), 32 review, 0 block, 0 errors"
    clock.now += 4
    assert meter.read().images_per_second is None
    for _ in range(32):
        meter.count(BLOCK)
    assert meter.read().images_per_second == 8
    assert meter.read().seconds_left == 32
    assert meter.read().line() == (
        "64 of 320 images (20%), 8.0/s, 00:32 left, 32 review, 32 block, 0 errors"
    )


def test_the_rate_is_that_of_the_last_minute() -> None:
    """What was remembered comes fast, and says nothing of what is to be scored."""
    clock = Clock()
    meter = Meter(clock)
    for _ in range(10_000):
        meter.count(REVIEW)
        if _ % 5_000 == 0:
            clock.now += 0.5
            meter.read()
    for _ in range(300):
        clock.now += 1
        meter.count(FAILED)
        meter.read()
    assert meter.read().images_per_second == pytest.approx(1.0, rel=0.05)
    assert (meter.read().errors, meter.read().review) == (300, 10_300)


def test_more_rows_than_were_counted_are_no_more_than_all() -> None:
    meter = Meter()
    meter.total = 1
    for item in (REVIEW, SKIPPED, FAILED):
        meter.count(item)
    assert (meter.read().rows, meter.read().total, meter.read().share) == (2, 2, 1.0)


def test_without_a_total_there_is_neither_share_nor_time_left() -> None:
    unknown = reading(total=None)
    assert unknown.line() == "1,064 images, 170/s, 450 review, 464 block, 7 errors"
    fields = unknown.fields()
    assert (fields["total"], fields["share"], fields["seconds_left"]) == (None, None, None)
    assert unknown.short_line(80) == "1,064 images 170/s; review 450 block 464 error 7"


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "1,064/1,650 00:03 left 170/s 64%; review 450 block 464 error 7"),
        (58, "1,064/1,650 00:03 left 170/s; review 450 block 464 error 7"),
        (50, "1,064/1,650; review 450 block 464 error 7"),
    ],
)
def test_a_narrow_terminal_keeps_the_counts(width: int, line: str) -> None:
    assert reading().short_line(width) == line


class Terminal:
    """A pseudo-terminal, what is written to it, and the stream that writes."""

    def __init__(self, columns: int) -> None:
        self.reading, writing = os.openpty()
        self.resize(columns)
        self.stream: IO[str] = os.fdopen(writing, "w", encoding="utf-8")

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.reading, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def written(self) -> str:
        """All of it; the stream is closed."""
        self.stream.close()
        parts = []
        with suppress(OSError):  # the end of a terminal
            while part := os.read(self.reading, 1 << 16):
                parts.append(part)
        return b"".join(parts).decode()


def run_of(
    stream: IO[str] | None, mode: str, monkeypatch: pytest.MonkeyPatch, *, rows: int = 3
) -> list[Reading]:
    """Run with a look at the counts after each row; every reading that was shown."""
    shown: list[Reading] = []
    looks, looked = threading.Semaphore(0), threading.Semaphore(0)

    def tick(meter: Meter, show: progress.Show, over: threading.Event) -> None:
        while looks.acquire() and not over.is_set():
            shown.append(meter.read())
            show(shown[-1])
            looked.release()

    monkeypatch.setattr(progress, "_tick", tick)
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.0)
    with progress_on(stream, mode, [Countable()], None) as on_item:
        for number in range(rows):
            on_item(BLOCK)
            on_item(SKIPPED)
            looks.release()
            if stream is not None and mode not in ("auto", "none"):
                looked.acquire()
            if mode == "bar" and number == 1:
                say("warning", "test", "a message")
        looks.release()
    return shown


@pytest.mark.parametrize("columns", [20, 60, 120])
def test_the_bar_fits_the_terminal_and_goes_away(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal(columns)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    run_of(terminal.stream, "bar", monkeypatch)
    drawn = terminal.written()
    lines = re.split(r"[\r\n]+", drawn)
    assert max(map(len, lines)) <= columns
    assert "3" in drawn
    assert "evil" not in drawn
    assert "\x1b" not in drawn
    # The message has a line of its own; nothing else ends one.
    assert "moderate: a message" in lines
    assert drawn.count("\n") == 1
    assert lines[-1] == "" or not lines[-1].strip()
    assert sys.stderr is terminal.stream


def test_plain_lines_have_the_total_once_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    run_of(stream, "plain", monkeypatch, rows=4)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("moderate: ") for line in lines)
    assert lines[-1].startswith("moderate: 4 of 4 images (100%), ")
    assert lines[-1].endswith(", 0 review, 4 block, 0 errors")


def test_events_have_total_share_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with speaking(as_json=True, debug=False):
        run_of(sys.stderr, "json", monkeypatch, rows=4)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["progress"] * 4
    assert [event["rows"] for event in events] == [1, 2, 3, 4]
    last = events[-1]
    assert (last["total"], last["share"], last["block"]) == (4, 1.0, 4)
    assert last["seconds_left"] == 0
    assert last["images_per_second"] > 0
    assert events[0]["images_per_second"] is None
    assert events[0]["message"].startswith("1 ")


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_nothing_where_nobody_watches(
    mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w") as log:
        assert run_of(log, mode, monkeypatch) == []
    assert (tmp_path / "log").read_text() == ""
    assert run_of(None, "bar", monkeypatch) == []


def test_a_terminal_that_was_closed_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(80)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    os.close(terminal.reading)
    assert len(run_of(terminal.stream, "bar", monkeypatch)) == 3
