"""Queues with real images, the review command as a process, and a browser on its page."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from moderate.policy.load import load_policy
from moderate.results.targets import open_writers
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Category,
    Column,
    ImageFacts,
    ImageRef,
    Row,
    Warn,
)
from tests.support.animations import saved
from tests.support.browser import Browser
from tests.support.oracle import decide, views
from tests.support.pictures import encode, scene

ROOT = Path(__file__).parents[2]


def review_row(path: Path | str, data: bytes | None, nudity: float = 0.5, **changes: Any) -> Row:
    """A row as a scan writes it; data are the bytes that were scanned, None: no digest is known."""
    loaded = load_policy("balanced")
    scores: dict[Category, float | None] = {**UNSCORED, **dict.fromkeys(CATEGORIES, 0.02)}
    scores[Category.NUDITY] = float(np.float32(nudity))
    decision, reasons = decide(loaded.policy, scores, (), None)
    digest = None if data is None else sha256(data).hexdigest()
    facts = ImageFacts(
        320, 240, "png", 1, len(data or b""), digest, (Warn.SMALL_IMAGE,), unseen=0.2
    )
    row = Row(
        ImageRef(os.fsencode(path)),
        facts,
        scores,
        decision,
        reasons,
        views=views(loaded.policy, scores),
        places={"nudity": "10 to 60 % across and 20 to 70 % down"},
    )
    return replace(row, **changes)


def write_queue(results: Path, rows: Sequence[Row], columns: Sequence[str] = ()) -> Path:
    """A results file of these rows, whose refs carry a text for each of `columns`."""
    loaded = load_policy("balanced")
    audit = {
        "tool": "moderate",
        "run_id": "ab" * 16,
        "policy": loaded.policy.name,
        "policy_sha256": loaded.sha256,
        "policy_json": loaded.policy.model_dump_json(),
    }
    with open_writers([str(results)]) as writers:
        for writer in writers:
            writer.start(audit, [Column(name, pa.string()) for name in columns])
            for row in rows:
                writer.write(row)
            writer.commit({})
    return results


def drawn_queue(folder: Path, count: int, size: tuple[int, int] = (320, 240)) -> Path:
    """Results on `count` drawn images, with nudity from 0.3 up, and the images themselves."""
    rows = []
    for number in range(count):
        path = folder / f"image-{number:03}.png"
        path.write_bytes(data := encode(scene(size, number), "PNG"))
        rows.append(review_row(path, data, 0.3 + 0.5 * number / count))
    return write_queue(folder / "r.csv", rows)


def animation(frames: int = 4) -> bytes:
    return saved("GIF", [scene((120, 80), seed) for seed in range(frames)], duration=100)


class Served:
    """`moderate review` as a process; a context manager. `link` lets one browser in."""

    def __init__(
        self,
        results: Path,
        *options: str,
        port: int = 0,
        reviewer: str = "ada",
        order: str | None = "input",
    ) -> None:
        self._log = open(results.with_name("server.log"), "a+")  # noqa: SIM115
        command = [sys.executable, "-m", "moderate", "review", str(results)]
        if order:
            command.append(f"--order={order}")
        self.process = subprocess.Popen(
            [*command, f"--port={port}", f"--reviewer={reviewer}", *options],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        printed = ""
        for line in self.process.stdout:
            printed += line
            if found := re.match(r"open +(http://\S+)", line):
                self.link = found[1]
                self.origin = self.link.partition("/?")[0]
                self.port = int(self.origin.rpartition(":")[2])
                return
        self._log.seek(0)
        raise RuntimeError(f"it did not start: {printed}{self._log.read()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._log.close()

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


_CODES = {" ": ("Space", 32), "ArrowLeft": ("ArrowLeft", 37), "ArrowRight": ("ArrowRight", 39)}


class ReviewPage(Browser):
    """A browser on the page of a review."""

    def visit(self, link: str) -> None:
        """Open a link and wait for the first image, or what there is instead."""
        self.events.clear()
        self.call("Page.navigate", url=link)
        self.wait_for("document.querySelector('#title')?.textContent.endsWith('.csv') ?? false")
        self.settled()

    def settled(self) -> None:
        """Wait until the current image is shown, or why it cannot be."""
        self.wait_for(
            "['#frame img', '#problem:not([hidden])', '#grid-view:not([hidden]) .thumb img',"
            " '#finished:not([hidden])'].some(each => document.querySelector(each))"
        )

    def shown(self) -> str:
        """The name of the current image."""
        return self.text("#path").rpartition("/")[2]

    def text(self, selector: str) -> str:
        found: str = self.run(f"document.querySelector({selector!r}).textContent")
        return found

    def down(self, key: str, *, shift: bool = False) -> None:
        self._key("keyDown", key, shift)

    def up(self, key: str, *, shift: bool = False) -> None:
        self._key("keyUp", key, shift)

    def tap(self, key: str, *, shift: bool = False) -> None:
        self.down(key, shift=shift)
        self.up(key, shift=shift)

    def _key(self, kind: str, key: str, shift: bool) -> None:
        code, number = _CODES.get(key, ("", ord(key[0].upper())))
        text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
        self.call(
            "Input.dispatchKeyEvent", type=kind, key=key, code=code,
            windowsVirtualKeyCode=number, modifiers=8 * shift, **text,
        )  # fmt: skip

    def decide(self, key: str) -> None:
        """Press the key of a decision, and wait until the next image is there."""
        before = self.text("#counts")
        self.press(key)
        try:
            self.wait_for(f"document.querySelector('#counts').textContent !== {before!r}")
        except AssertionError:
            shown = self.run("document.body.innerText")
            raise AssertionError(f"{key}: not decided. {self.text('#live')} {shown}") from None
        self.settled()


@contextlib.contextmanager
def reviewing_browser(program: str, folder: Path) -> Iterator[ReviewPage]:
    """A browser with a profile of its own in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with ReviewPage(program, folder) as page:
        yield page


def wait_until(condition: Any, what: str, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.02)
