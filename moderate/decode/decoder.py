"""One decoder process as the run sees it: asked for, given images, heard, ended.

Nothing here waits on a decoder's goodwill: packets are whole or absent, sockets never block, and
what an answer says is checked before it is believed.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import socket
import time
from typing import Any

from moderate.decode.clock import DecodingClock
from moderate.decode.fork_server import ForkServer
from moderate.decode.image import Undecoded
from moderate.decode.resize import Pixels, PixelSpec
from moderate.decode.ring import Layout, allocate
from moderate.decode.worker import MAX_PACKET, MAX_SIDE
from moderate.errors import RunError
from moderate.text import one_line
from moderate.types import ErrorCode, ImageFacts, Limits, Warn

START_TIMEOUT = 60.0
"""Seconds that a decoder may take to be ready, its server's imports included."""

_MAX_FRAMES = 1 << 31


class WrongAnswerError(Exception):
    """The decoder said what no decoder of ours says; its message is for the row."""


class ChannelClosedError(Exception):
    """The decoder has closed its channel, which is how its end is seen first."""


class Decoder:
    """A process that holds at most one image, with input and output memory of its own."""

    def __init__(
        self, server: ForkServer, number: int, specs: tuple[PixelSpec, ...], limits: Limits
    ) -> None:
        """Ask `server` for a decoder, which it knows as `number`.

        Raises OSError where the system has no memory or descriptor left for it.
        """
        self.server = server
        self.number = number
        self.pid: int | None = None
        """Known once the server has forked it."""
        self.is_hardened = False
        """Whether it has said that it is restricted and waits for images."""
        self.channel_closed = False
        self.deadline = time.monotonic() + START_TIMEOUT
        """When it has to be ready; after the end of its channel, when it has to be gone."""
        self.clock: DecodingClock | None = None
        """That of the image it has."""
        self._limits = limits
        self._token = ""
        self._length = 0
        input_bytes = max(1, limits.max_file_bytes)
        layout = Layout(specs, 1, 1)
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as descriptors:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            descriptors.callback(theirs.close)
            on_failure.callback(ours.close)
            ours.setblocking(False)
            input_fd = allocate("moderate-input", input_bytes)
            descriptors.callback(os.close, input_fd)
            output_fd = allocate("moderate-output", layout.nbytes)
            descriptors.callback(os.close, output_fd)
            self._channel = ours
            self._input = mmap.mmap(input_fd, input_bytes)
            on_failure.callback(self._input.close)
            self._output = mmap.mmap(output_fd, layout.nbytes, prot=mmap.PROT_READ)
            server.fork(number, (theirs.fileno(), input_fd, output_fd))
            on_failure.pop_all()
        (arrays,) = layout.arrays(self._output)
        self.pixels: tuple[Pixels, ...] = tuple(array[0] for array in arrays)
        """Views of its output memory, which it can change at any time: H x W x 3 per spec."""

    @property
    def ready(self) -> bool:
        """Whether it can be given images; without its pid there is no clock for them."""
        return self.is_hardened and self.pid is not None

    def fileno(self) -> int:
        """For selectors: readable when there is something to hear."""
        return self._channel.fileno()

    def give(self, data: bytes) -> None:
        """Have `data` decoded. Raises ChannelClosedError where it did not get the task."""
        self._input[: len(data)] = data
        # Nothing of the image before stays behind a shorter one.
        if len(data) < self._length:
            self._input[len(data) : self._length] = bytes(self._length - len(data))
        self._length = len(data)
        # An answer is believed with the token of its task alone: one that comes early, before its
        # image was given, would land on another image.
        self._token = secrets.token_hex(16)
        assert self.pid is not None
        self.clock = DecodingClock(self.pid, self._limits.decode_timeout)
        try:
            self._channel.send(json.dumps([len(data), self._token]).encode())
        except OSError:
            raise ChannelClosedError from None

    def receive_ready(self) -> tuple[str, ...]:
        """The protections that the new process runs under.

        Raises RunError where it refuses to run so, WrongAnswerError, ChannelClosedError.
        """
        message = self._receive()
        if "refused" in message:
            raise RunError(one_line(str(message["refused"])))
        if "failed" in message:
            raise WrongAnswerError(one_line(str(message["failed"])))
        self.is_hardened = True
        return tuple(str(name) for name in message.get("ready", ()))

    def receive_outcome(self) -> ImageFacts | Undecoded:
        """What became of the image given: facts where its pixels are in the output memory.

        Raises WrongAnswerError, ChannelClosedError.
        """
        message = self._receive()
        try:
            if not secrets.compare_digest(message["token"], self._token) or not self._token:
                raise ValueError("the token is not that of the task")
            facts = _facts(message["facts"])
            error = message["error"]
            outcome: ImageFacts | Undecoded = facts
            if error is not None:
                outcome = Undecoded(ErrorCode(error[0]), one_line(str(error[1])), facts)
        except Exception:  # noqa: BLE001 - whatever a compromised decoder says costs one row
            raise WrongAnswerError("the decoder gave a wrong answer") from None
        self._token = ""
        self.clock = None
        return outcome

    def has_said_more(self) -> bool:
        """Whether an idle decoder has sent something that nobody asked for, or closed its end."""
        try:
            self._channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def end(self) -> None:
        """Have the process killed and let go of its memory."""
        self.server.kill(self.number)
        self._channel.close()
        self._input.close()
        # The views in `pixels` keep the output memory mapped as long as they are used.
        self.pixels = ()

    def _receive(self) -> dict[str, Any]:
        try:
            packet = self._channel.recv(MAX_PACKET)
        except OSError:
            packet = b""
        if not packet:
            raise ChannelClosedError
        try:
            message = json.loads(packet)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise WrongAnswerError("the decoder gave a wrong answer")
        return message


def _facts(values: Any) -> ImageFacts:
    """Raises an error of any kind for what a decoder cannot have found."""
    warnings = tuple(Warn(name) for name in values["warnings"])
    if len(set(warnings)) != len(warnings):
        raise ValueError("a warning stands twice")
    return ImageFacts(
        width=_number(values["width"], MAX_SIDE),
        height=_number(values["height"], MAX_SIDE),
        frames=_number(values["frames"], _MAX_FRAMES),
        warnings=warnings,
    )


def _number(value: object, most: int) -> int | None:
    if value is None or (type(value) is int and 0 <= value <= most):
        return value
    raise ValueError(f"{value!r} is not a count")
