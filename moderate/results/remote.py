"""Result files in an object store: written here, and there only when they are whole."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence

from moderate.results.interface import ResultWriter
from moderate.sources.interface import Column
from moderate.text import path_text, printable
from moderate.types import Row

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_remote(target: str) -> bool:
    """Whether a target is a URI and no local file."""
    return bool(_URI.match(target))


def target_name(target: str) -> str:
    """The part of a target that ends in its suffix: a URI may have options behind it."""
    return target.partition("?")[0] if is_remote(target) else target


def shown_target(target: str) -> str:
    """A target as messages name it: without credentials, fit for a terminal."""
    from moderate.sources.entries import shown

    exact = shown(os.fsencode(target)) if is_remote(target) else os.fsencode(target)
    return printable(path_text(exact))


def send(path: str, uri: str) -> None:
    """Upload a local file, ready to be interrupted by a signal at any time. Raises OutputError."""
    from moderate.fetch.store import upload

    failed: list[BaseException] = []

    def work() -> None:
        try:
            upload(path, uri)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            failed.append(error)

    # The store's client waits where Python's signal handlers do not run.
    thread = threading.Thread(target=work, name="upload", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if failed:
        raise failed[0]


class UploadingWriter(ResultWriter):
    """A writer of a local file, which is sent to `uri` when it is complete.

    An object appears whole or not at all, but streaming into one leaves half of it behind where
    the writer dies: so it takes the room of one more file here. `open_local` makes the writer.
    """

    def __init__(self, uri: str, open_local: Callable[[str], ResultWriter]) -> None:
        self._uri = uri
        self._folder = tempfile.mkdtemp(prefix="moderate-out-")
        self._path = os.path.join(self._folder, os.path.basename(target_name(uri)))
        self._writer = open_local(self._path)

    def start(self, audit: dict[str, str], carried: Sequence[Column] = ()) -> None:
        """See `ResultWriter`."""
        self._writer.start(audit, carried)

    def write(self, row: Row) -> None:
        """See `ResultWriter`."""
        self._writer.write(row)

    def seal(self, facts: dict[str, str]) -> None:
        """See `ResultWriter`."""
        self._writer.seal(facts)

    def commit(self, facts: dict[str, str]) -> dict[str, str]:
        """See `ResultWriter`."""
        written = self._writer.commit(facts)
        name, options = target_name(self._uri), self._uri[len(target_name(self._uri)) :]
        sent = {}
        # What describes the rows first: the rows' own name says that all is there.
        for file in sorted(written, key=len, reverse=True):
            uri = name + file[len(self._path) :] + options
            send(file, uri)
            sent[shown_target(uri)] = written[file]
        self.discard()
        return sent

    def discard(self) -> None:
        """See `ResultWriter`."""
        self._writer.discard()
        shutil.rmtree(self._folder, ignore_errors=True)
