"""One decoder process as its parent sees it: started, given an image, heard, ended.

Nothing here waits on a decoder's goodwill: packets are whole or absent, sockets never block, and
what an answer says is checked before it is believed.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from moderate.decode.image import Undecoded
from moderate.decode.process import environment, how_it_ended
from moderate.decode.ring import Layout, above_standard, allocate
from moderate.decode.worker import MAX_PACKET
from moderate.errors import RunError
from moderate.native import ROOT
from moderate.text import one_line
from moderate.types import ErrorCode, ImageFacts, Limits, Warn

_START_TIMEOUT = 60.0  # seconds a decoder may take to import its codecs on a busy machine


class DecoderGoneError(Exception):
    """The process died, or said what no decoder of ours says; its message is for the row.

    delivered says whether it had got its image.
    """

    def __init__(self, message: str, *, delivered: bool = True) -> None:
        super().__init__(message)
        self.delivered = delivered


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the ring an image's pixels go."""

    batch: int
    index: int


class Decoder:
    """A process that holds at most one image. `deadline` is when its patience ends, monotonic."""

    def __init__(self, limits: Limits, layout: Layout, ring_fd: int, start: dict[str, Any]) -> None:
        """Start the process; `start` is what it needs to know beside limits and layout.

        Raises OSError where the system has no process, memory or descriptor left for it.
        """
        self._limits = limits
        self.ready = False
        self.busy = False
        self.deadline = time.monotonic() + _START_TIMEOUT
        input_bytes = max(1, limits.max_file_bytes)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs = socket.socket(fileno=above_standard(theirs.detach()))
        ours.setblocking(False)
        self._channel = ours
        try:
            input_fd = allocate("moderate-input", input_bytes)
        except OSError:
            ours.close()
            theirs.close()
            raise
        descriptors = (theirs.fileno(), ring_fd, input_fd)
        try:
            self._input = mmap.mmap(input_fd, input_bytes)
            self.process = subprocess.Popen(
                # -P: a folder of uploads may hold a PIL.py; it must not be imported.
                [sys.executable, "-P", "-m", "moderate.decode.worker", *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what a library prints has no place among our rows
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env=environment(),
                start_new_session=True,  # a Ctrl-C at the terminal is the parent's to handle
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(input_fd)
        told = {
            **start,
            "specs": [asdict(spec) for spec in layout.specs],
            "batch_size": layout.batch_size,
            "batches": layout.batches,
            "limits": asdict(limits),
        }
        with contextlib.suppress(OSError):  # it died at once: hearing it says so
            self._channel.send(json.dumps(told).encode())

    def fileno(self) -> int:
        """For selectors: readable when there is something to hear."""
        return self._channel.fileno()

    def give(self, data: bytes, place: Place) -> None:
        """Have `data` decoded into `place`. Raises DecoderGoneError."""
        self._input[: len(data)] = data
        self.busy = True
        self.deadline = time.monotonic() + self._limits.decode_timeout
        try:
            self._channel.send(json.dumps([len(data), place.batch, place.index]).encode())
        except OSError:
            raise DecoderGoneError(self._last_words(), delivered=False) from None

    def hear_ready(self) -> tuple[str, ...]:
        """The protections that the new process runs under.

        Raises DecoderGoneError; RunError where it refuses to run so.
        """
        told = self._hear()
        if "refused" in told:
            raise RunError(one_line(str(told["refused"])))
        if "failed" in told:
            raise DecoderGoneError(one_line(str(told["failed"])))
        self.ready = True
        return tuple(str(name) for name in told.get("ready", ()))

    def hear_outcome(self) -> ImageFacts | Undecoded:
        """What became of the image given: facts where its pixels are in place.

        Raises DecoderGoneError.
        """
        told = self._hear()
        try:
            facts = _facts(told["facts"])
            error = told["error"]
            outcome: ImageFacts | Undecoded = facts
            if error is not None:
                outcome = Undecoded(ErrorCode(error[0]), one_line(str(error[1])), facts)
        except Exception:  # noqa: BLE001 - whatever a compromised decoder says costs one row
            raise DecoderGoneError(self._last_words()) from None
        self.busy = False
        return outcome

    def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self._channel.close()
        self._input.close()
        self.process.kill()
        self.process.wait()

    def _hear(self) -> dict[str, Any]:
        try:
            told = json.loads(self._channel.recv(MAX_PACKET))
            if isinstance(told, dict):
                return told
        except (OSError, ValueError, RecursionError):
            pass
        raise DecoderGoneError(self._last_words())

    def _last_words(self) -> str:
        return how_it_ended(self.process, "decoder")


def _facts(told: Any) -> ImageFacts:
    return ImageFacts(
        width=_number(told["width"]),
        height=_number(told["height"]),
        frames=_number(told["frames"]),
        warnings=tuple(Warn(name) for name in told["warnings"]),
    )


def _number(told: object) -> int | None:
    """A count that fits its column. Raises ValueError for what a decoder cannot have found."""
    if told is None or (type(told) is int and 0 <= told < 1 << 63):
        return told
    raise ValueError(f"{told!r} is no count")
