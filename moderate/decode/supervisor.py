"""Supervision of decoder processes: they are started, watched, and replaced when they end.

Which image a decoder gets, and what its answers are worth, is not decided here: see `scheduler`.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from moderate.decode.decoder import Decoder, InMemory
from moderate.decode.fork_server import Ended, Forked, ForkServer, NotForked, ServerGone
from moderate.decode.parts import DecodeOptions
from moderate.decode.process import ChannelClosedError, WrongAnswerError, exit_reason
from moderate.decode.resize import PixelSpec
from moderate.decode.sniff import sniff
from moderate.decode.undecoded import Undecoded
from moderate.errors import RunError
from moderate.types import ErrorCode, Limits

_MAX_FAILED_STARTS = 3  # in a row, before the first decoder of the run was ready
_MAX_FAILED_RESTARTS = 20  # in a row with no decoder left, later: memory may be short for a while
_MAX_PAUSE = 1.0  # seconds before the next attempt
_EXIT_TIMEOUT = 1.0  # seconds between the end of a decoder's channel and its exit
_MAX_WAIT = 1.0  # seconds between two looks at everything when nothing is due


class Alarm:
    """Ends the wait of the decoding thread. Any thread may ring it, without a lock."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def fileno(self) -> int:
        """For selectors: readable when it was rung."""
        return self._receiver.fileno()

    def ring(self) -> None:
        """Wake the decoding thread, now or when it waits next."""
        # A full buffer is an alarm already; a closed socket is a pool that has ended.
        with contextlib.suppress(OSError):
            self._sender.send(b"!")

    def clear(self) -> None:
        """Forget that it was rung."""
        with contextlib.suppress(BlockingIOError):
            while self._receiver.recv(4096):
                pass

    def close(self) -> None:
        """Close its sockets."""
        self._sender.close()
        self._receiver.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoder has answered; its output memory holds the pixels of what it decoded."""

    decoder: Decoder
    outcome: InMemory | Undecoded


@dataclass(frozen=True, slots=True)
class Loss:
    """A decoder that could be given images has ended, or was ended because of what it did.

    had_image says that the image given last had reached it, so that the image may be the cause.
    """

    decoder: Decoder
    reason: str
    code: ErrorCode = ErrorCode.DECODER_CRASHED
    had_image: bool = False


@dataclass(slots=True)
class _Starts:
    """How starting decoders goes: failures in a row, and when to try again."""

    failures: int = 0
    ever_succeeded: bool = False
    next_attempt: float = 0.0  # by time.monotonic()


class Supervisor:
    """Keeps `count` decoders running and reports their answers and losses.

    Everything but its construction belongs to the decoding thread. It starts the fork server, and
    the kernel ends that when the thread ends which started it. on_ready is called on the decoding
    thread with the protections of each new decoder.
    """

    def __init__(
        self,
        specs: tuple[PixelSpec, ...],
        limits: Limits,
        options: DecodeOptions,
        count: int,
        alarm: Alarm,
        *,
        niceness: int,
        require_sandbox: bool,
        on_ready: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._specs = specs
        self._limits = limits
        self._count = count
        self._on_ready = on_ready
        self._start_server = partial(
            ForkServer, specs, limits, options, niceness=niceness, require_sandbox=require_sandbox
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(alarm, selectors.EVENT_READ)
        self._server: ForkServer | None = None
        self._numbers = itertools.count()
        self._decoders: dict[int, Decoder] = {}  # by number
        self._starts = _Starts()
        self._wanted = False
        self._needs_ffmpeg = False

    def usable(self) -> list[Decoder]:
        """The decoders that can be given images, or have one."""
        return [d for d in self._decoders.values() if d.ready and not d.channel_closed]

    def start(self) -> None:
        """Start the decoders, and from now on those that take the place of others."""
        self._wanted = True
        self._start_missing()

    def give(self, decoder: Decoder, data: bytes) -> None:
        """Have an image decoded. Where the decoder is gone already, its loss is reported later."""
        try:
            decoder.give(data)
        except ChannelClosedError:
            self._note_closed_channel(decoder)

    def note_codec(self, data: bytes) -> None:
        """Note whether an image is HEIC: few runs have one, and its faster decoder takes long to
        load.
        """
        self._needs_ffmpeg = self._needs_ffmpeg or sniff(data) == "heif"

    def is_outdated(self, decoder: Decoder) -> bool:
        """Whether a decoder lacks a codec that images need, and those started now have.

        It is not to be given more images: it would decode a damaged HEIC in another way.
        """
        return self._needs_ffmpeg and not decoder.has_ffmpeg

    def retire(self, decoder: Decoder) -> bool:
        """End an idle decoder; False where it has misbehaved since its last answer."""
        in_good_order = not decoder.has_unasked_packet()
        self.end(decoder)
        return in_good_order

    def end(self, decoder: Decoder) -> None:
        """End a decoder, whatever it does. Nothing more is reported of it."""
        if not decoder.channel_closed:
            self._selector.unregister(decoder)
        decoder.end()
        del self._decoders[decoder.number]

    def close(self) -> None:
        """End all processes, and wait until they are gone."""
        for decoder in self._decoders.values():
            decoder.end()
        if self._server:
            self._server.close()
        self._selector.close()

    def events(self, until: float) -> Iterator[Answer | Loss]:
        """Wait for something to happen, not beyond `until` by time.monotonic(), and report it.

        The caller may give images to decoders and end them between two events. Raises RunError
        where no decoder can be started.
        """
        if self._wanted:
            self._start_missing()
        now = time.monotonic()
        wake_up = min([until, *self._due(), now + _MAX_WAIT])
        for key, _ in self._selector.select(max(0.0, wake_up - now)):
            source = key.fileobj
            if isinstance(source, Alarm):
                source.clear()
            elif isinstance(source, ForkServer):
                yield from self._take_server_events(source)
            elif isinstance(source, Decoder) and source.number in self._decoders:
                # One that is not there any more was ended because of another event of this round.
                yield from self._receive(source)
        yield from self._end_overdue()

    # What decoders and their server do

    def _receive(self, decoder: Decoder) -> Iterator[Answer | Loss]:
        try:
            if not decoder.is_sandboxed:
                self._on_ready(decoder.receive_ready())
                self._starts.failures, self._starts.ever_succeeded = 0, True
                return
            outcome = decoder.receive_outcome()
        except WrongAnswerError as error:
            yield from self._lose(decoder, str(error))
        except ChannelClosedError:
            self._note_closed_channel(decoder)
        else:
            yield Answer(decoder, outcome)

    def _note_closed_channel(self, decoder: Decoder) -> None:
        """Wait for the server to report how the process ended, but not for long."""
        if not decoder.channel_closed:
            decoder.channel_closed = True
            decoder.deadline = time.monotonic() + _EXIT_TIMEOUT
            self._selector.unregister(decoder)

    def _take_server_events(self, server: ForkServer) -> Iterator[Loss]:
        for event in server.events():
            if isinstance(event, ServerGone):
                yield from self._lose_server(server, event.reason)
                continue
            decoder = self._decoders.get(event.number)
            if decoder is None:  # it was ended from here
                continue
            if isinstance(event, Forked):
                decoder.pid = event.pid
            elif isinstance(event, NotForked):
                yield from self._lose(decoder, event.reason)
            elif isinstance(event, Ended):
                yield from self._lose(decoder, exit_reason(event.code, "decoder"))

    def _lose_server(self, server: ForkServer, reason: str) -> Iterator[Loss]:
        """Its decoders are gone with it, which no image is to blame for."""
        self._selector.unregister(server)
        self._server = None
        server.close()
        decoders = [decoder for decoder in self._decoders.values() if decoder.server is server]
        starting = [decoder for decoder in decoders if not decoder.ready]
        for decoder in starting:
            self.end(decoder)
        if starting:
            self._note_failed_start(reason)
        for decoder in decoders:
            if decoder.ready:
                self.end(decoder)
                yield Loss(decoder, reason)

    def _end_overdue(self) -> Iterator[Loss]:
        """End the decoders whose time is up."""
        now = time.monotonic()
        for decoder in list(self._decoders.values()):
            if decoder.number not in self._decoders:
                continue
            if decoder.channel_closed:
                if now > decoder.deadline:
                    yield from self._lose(decoder, "the decoder closed its channel")
            elif not decoder.ready:
                if now > decoder.deadline:
                    reason = "one was not ready after a minute; is the machine overloaded?"
                    yield from self._lose(decoder, reason)
            elif decoder.clock and now >= decoder.clock.next_look and decoder.clock.expired():
                limit = self._limits.decode_timeout
                reason = f"decoding took over {limit:g} s; raise the limit with --decode-timeout"
                yield from self._lose(decoder, reason, ErrorCode.DECODE_TIMEOUT)

    def _due(self) -> Iterator[float]:
        """When something has to be looked at even if nobody sends anything."""
        for decoder in self._decoders.values():
            if decoder.channel_closed or not decoder.ready:
                yield decoder.deadline
            elif decoder.clock:
                yield decoder.clock.next_look
        if self._wanted and len(self._decoders) < self._count:
            yield self._starts.next_attempt

    def _lose(
        self, decoder: Decoder, reason: str, code: ErrorCode = ErrorCode.DECODER_CRASHED
    ) -> Iterator[Loss]:
        self.end(decoder)
        if decoder.ready:
            yield Loss(decoder, reason, code, decoder.has_image)
        else:
            self._note_failed_start(reason)

    # Starting decoders

    def _start_missing(self) -> None:
        """Bring the decoders up to their number; where one does not start, go on with the others.

        Raises RunError where none starts.
        """
        while len(self._decoders) < self._count and time.monotonic() >= self._starts.next_attempt:
            try:
                if self._server is None:
                    self._server = self._listen_to(self._start_server())
                if self._needs_ffmpeg and not self._server.has_ffmpeg:
                    self._server.load_ffmpeg()
                number = next(self._numbers)
                decoder = Decoder(self._server, number, self._specs, self._limits)
            except OSError as error:
                self._note_failed_start(f"{error.strerror}; fewer --workers need less")
                return
            self._decoders[number] = decoder
            self._selector.register(decoder, selectors.EVENT_READ)

    def _listen_to(self, server: ForkServer) -> ForkServer:
        try:
            self._selector.register(server, selectors.EVENT_READ)
        except BaseException:
            server.close()
            raise
        return server

    def _note_failed_start(self, reason: str) -> None:
        """Wait longer after each failure in a row. Raises RunError after too many of them."""
        starts = self._starts
        starts.failures += 1
        maximum = _MAX_FAILED_RESTARTS if starts.ever_succeeded else _MAX_FAILED_STARTS
        if starts.failures >= maximum and not any(d.ready for d in self._decoders.values()):
            raise RunError(f"decoder processes do not start: {reason}")
        pause = min(_MAX_PAUSE, 0.02 * 2 ** min(starts.failures, 10))
        starts.next_attempt = time.monotonic() + pause
