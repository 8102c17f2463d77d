"""One decoder process as the run sees it: requested, given images, listened to, ended.

Nothing in this module waits for a decoder: packets arrive whole or not at all, sockets never block,
and every answer is checked before it is believed.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import secrets
import socket
import time
from dataclasses import dataclass
from typing import Any

from moderate.decode.clock import DecodingClock
from moderate.decode.fork_server import ForkServer
from moderate.decode.parts import MOST_PARTS, Part, checked_parts
from moderate.decode.process import (
    ChannelClosedError,
    WrongAnswerError,
    active_sandbox,
    packet_channel,
    receive,
)
from moderate.decode.resize import Pixels, PixelSpec
from moderate.decode.ring import Layout, allocate
from moderate.decode.undecoded import Undecoded
from moderate.decode.worker import MAX_SIDE
from moderate.text import one_line
from moderate.types import ErrorCode, ImageFacts, Limits, PdqHash, Warn

START_TIMEOUT = 60.0
"""Seconds that a decoder may take to be ready, its server's imports included."""

_MAX_FRAMES = 1 << 31
_MAX_EMBEDDED = 20
_EMBEDDED = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,/()%-]{0,119}")
_PDQ = re.compile(r"[0-9a-f]{64}")
_NAME = "decoder"  # in messages


@dataclass(frozen=True, slots=True)
class InMemory:
    """An image whose parts are in its decoder's output memory, in order."""

    facts: ImageFacts
    parts: tuple[Part, ...]


class Decoder:
    """A process that holds at most one image, with input and output memory of its own.

    Used by the decoding thread alone.
    """

    def __init__(
        self, server: ForkServer, number: int, specs: tuple[PixelSpec, ...], limits: Limits
    ) -> None:
        """Ask `server` for a decoder, which it knows by `number`.

        Raises OSError where the system has no memory or descriptor left for it.
        """
        self.server = server
        self.number = number
        self.has_ffmpeg = server.has_ffmpeg
        """Whether it was forked after its server had loaded FFmpeg."""
        self.pid: int | None = None
        """Known once the server has forked the decoder."""
        self.is_sandboxed = False
        """Whether it has reported that it is restricted and waits for images."""
        self.channel_closed = False
        self.deadline = time.monotonic() + START_TIMEOUT
        """When it has to be ready; once its channel is closed, when it has to be gone."""
        self.clock: DecodingClock | None = None
        """The clock of the image that it decodes."""
        self.has_image = False
        """Whether the image given last has reached it and is not answered yet."""
        self._limits = limits
        self._token = ""
        self._input_length = 0
        input_bytes = max(1, limits.max_file_bytes)
        layout = Layout(specs, MOST_PARTS, 1)
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as descriptors:
            channel, decoder_end = packet_channel()
            descriptors.callback(decoder_end.close)
            on_failure.callback(channel.close)
            input_fd = allocate("moderate-input", input_bytes)
            descriptors.callback(os.close, input_fd)
            output_fd = allocate("moderate-output", layout.nbytes)
            descriptors.callback(os.close, output_fd)
            self._channel = channel
            self._input = mmap.mmap(input_fd, input_bytes)
            on_failure.callback(self._input.close)
            self._output = mmap.mmap(output_fd, layout.nbytes, prot=mmap.PROT_READ)
            server.fork(number, (decoder_end.fileno(), input_fd, output_fd))
            on_failure.pop_all()
        (arrays,) = layout.arrays(self._output)
        self.pixels: tuple[Pixels, ...] = arrays
        """Views of its output memory, MOST_PARTS x H x W x 3 per spec. It can change them at any
        time."""

    @property
    def ready(self) -> bool:
        """Whether it can be given images. Without its pid there is no clock for them."""
        return self.is_sandboxed and self.pid is not None

    def fileno(self) -> int:
        """For selectors: readable when there is a packet, or the channel is closed."""
        return self._channel.fileno()

    def give(self, data: bytes) -> None:
        """Have `data` decoded. Raises ChannelClosedError where the decoder did not get the task."""
        self._input[: len(data)] = data
        # Erase what a longer image before this one has left behind its end.
        if len(data) < self._input_length:
            self._input[len(data) : self._input_length] = bytes(self._input_length - len(data))
        self._input_length = len(data)
        # An answer counts only with the token of its task. Otherwise an answer sent early, before
        # its image was given, would be taken for that of another image.
        self._token = secrets.token_hex(16)
        assert self.pid is not None
        self.clock = DecodingClock(self.pid, self._limits.decode_timeout)
        try:
            self._channel.send(json.dumps([len(data), self._token]).encode())
        except OSError:
            raise ChannelClosedError from None
        self.has_image = True

    def receive_ready(self) -> tuple[str, ...]:
        """The protections that the new process runs under.

        Raises RunError where it refuses to run without others, WrongAnswerError where it could not
        get ready, ChannelClosedError.
        """
        sandbox = active_sandbox(receive(self._channel, _NAME), _NAME)
        self.is_sandboxed = True
        return sandbox

    def receive_outcome(self) -> InMemory | Undecoded:
        """The outcome of the image given: its parts where their pixels are in the output memory.

        Raises WrongAnswerError, ChannelClosedError.
        """
        message = receive(self._channel, _NAME)
        try:
            if not secrets.compare_digest(message["token"], self._token) or not self._token:
                raise ValueError("the token is not that of the task")
            facts = _checked_facts(message["facts"])
            error = message["error"]
            outcome: InMemory | Undecoded
            if error is None:
                outcome = InMemory(facts, checked_parts(message["parts"]))
            else:
                outcome = Undecoded(ErrorCode(error[0]), one_line(str(error[1])), facts)
        except Exception:  # noqa: BLE001 - whatever a compromised decoder sends costs one row
            raise WrongAnswerError(f"the {_NAME} gave a wrong answer") from None
        self._token = ""
        self.clock = None
        self.has_image = False
        return outcome

    def has_unasked_packet(self) -> bool:
        """Whether an idle decoder has sent a packet that nobody asked for, or closed its end."""
        try:
            self._channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def end(self) -> None:
        """Have the process killed and release its memory."""
        self.server.kill(self.number)
        self._channel.close()
        self._input.close()
        # The output memory stays mapped as long as somebody uses views of it.
        self.pixels = ()


def _checked_facts(values: Any) -> ImageFacts:
    """Raises an error of any kind for facts that no honest decoder reports."""
    warnings = tuple(Warn(name) for name in values["warnings"])
    if len(set(warnings)) != len(warnings):
        raise ValueError("a warning stands twice")
    return ImageFacts(
        width=_checked_count(values["width"], MAX_SIDE),
        height=_checked_count(values["height"], MAX_SIDE),
        frames=_checked_count(values["frames"], _MAX_FRAMES),
        warnings=warnings,
        frames_scored=_checked_count(values["frames_scored"], _MAX_FRAMES),
        unseen=_checked_share(values["unseen"]),
        embedded=tuple(map(_checked_embedded, values["embedded"][:_MAX_EMBEDDED])),
        pdq=_checked_pdq(values["pdq"]),
    )


def _checked_pdq(value: Any) -> PdqHash | None:
    if value is None:
        return None
    digits, quality = value
    if not (_PDQ.fullmatch(digits) and type(quality) is int and 0 <= quality <= 100):
        raise ValueError("not a hash")
    return PdqHash(bytes.fromhex(digits), quality)


def _checked_share(value: object) -> float | None:
    if value is None or (isinstance(value, (int, float)) and 0 <= value <= 1):
        return value
    raise ValueError(f"{value!r} is not a share")


def _checked_embedded(text: object) -> str:
    if isinstance(text, str) and _EMBEDDED.fullmatch(text):
        return text
    raise ValueError("not how anything embedded is described")


def _checked_count(value: object, maximum: int) -> int | None:
    if value is None or (type(value) is int and 0 <= value <= maximum):
        return value
    raise ValueError(f"{value!r} is not a count")
