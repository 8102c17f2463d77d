"""Stills of a video as its run sees them: a process of its own started, asked, heard, ended."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import mmap
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from moderate.decode.clock import WALL_FACTOR, DecodingClock, cpu_time
from moderate.decode.process import environment, how_it_ended
from moderate.decode.ring import above_standard, allocate
from moderate.decode.sniff import VIDEO_FORMATS
from moderate.decode.video_worker import DEMUXERS, MAX_PACKET, still_bytes
from moderate.errors import RunError, UsageError
from moderate.native import ROOT
from moderate.text import one_line
from moderate.types import ErrorCode, Limits

LEAST_EVERY = 0.1
"""Seconds; the least distance of two stills."""

_START_TIMEOUT = 60.0  # seconds a process may take to import its codecs on a busy machine

NEEDS_PYAV = "--video-every needs PyAV; install it with: pip install 'moderate[video]'"


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """How videos are sampled: every so many seconds, and what one may cost.

    timeout is in CPU seconds of decoding one whole video; a frame has Limits.decode_timeout.
    """

    every: float
    max_bytes: int = 2 * 1024**3
    max_frames: int = 1000
    timeout: float = 3600.0


@dataclass(frozen=True, slots=True)
class Still:
    """A frame as a file of its own (BMP), upright. seconds is when it is on display."""

    seconds: float
    data: bytes
    width: int
    height: int


class VideoError(Exception):
    """The video cannot be read, or not any further; its message is for the row."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class PassedOverError(VideoError):
    """The video was read, but not all of it: some was damaged, or it has too many frames."""


def require_pyav() -> None:
    """Raises UsageError where the extra is not installed."""
    try:
        found = importlib.util.find_spec("av")
    except ImportError:
        found = None
    if found is None:
        raise UsageError(NEEDS_PYAV)


def video_kind(kind: str | None, suffix: str | None) -> str | None:
    """The kind of video to read a file as, by what `sniff` made of its bytes.

    Bytes that look like nothing are taken for what the name's suffix says. None for no video that
    is read here.
    """
    return VIDEO_FORMATS.get(kind or suffix or "")


class VideoSampler:
    """Stills of one video after the other, each decoded in a process that ends with it.

    Used by one thread; `close` may be called from another, and ends the video under way.
    """

    def __init__(
        self,
        options: VideoOptions,
        limits: Limits,
        *,
        exact: bool = False,
        niceness: int = 0,
        require_sandbox: bool = False,
    ) -> None:
        """exact decodes every frame, not only the stretches that stills come from."""
        self.options = options
        self._limits = limits
        self._start = {
            "limits": asdict(limits),
            "every": str(options.every),
            "skip": not exact,
            "niceness": niceness,
            "require_sandbox": require_sandbox,
        }
        self.closed = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def still_bytes(self) -> int:
        """The most bytes that `Still.data` has."""
        return still_bytes(self._limits.max_pixels)

    def close(self) -> None:
        """End the process, if there is one. What `sample` gives afterwards is of no use."""
        self.closed = True
        if process := self._process:
            process.kill()

    def sample(self, fd: int, kind: str) -> Iterator[Still]:
        """Stills of the video that is open for reading as `fd`, which stays the caller's.

        Not more than options.max_frames. kind is as `video_kind` gives it. Raises VideoError after
        the last one that there is, and RunError where the process cannot be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs = socket.socket(fileno=above_standard(theirs.detach()))
        ours.setblocking(False)
        memory_bytes = self.still_bytes
        memory_fd = allocate("moderate-still", memory_bytes)
        os.lseek(fd, 0, os.SEEK_SET)  # the position is shared with the process
        descriptors = (theirs.fileno(), fd, memory_fd)
        with contextlib.ExitStack() as stack:
            stack.callback(ours.close)
            try:
                memory = stack.enter_context(mmap.mmap(memory_fd, memory_bytes))
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "moderate.decode.video_worker"]
                    + [str(descriptor) for descriptor in descriptors],
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=ROOT,
                    env=environment(),
                    start_new_session=True,  # a Ctrl-C at the terminal is the parent's to handle
                )
            finally:
                theirs.close()
                os.close(memory_fd)
            stack.callback(_end, process)
            self._process = process
            if self.closed:  # between two looks
                return
            talk = _Talk(ours, process, self._limits.decode_timeout, self.options.timeout)
            talk.start({**self._start, "demuxer": DEMUXERS[kind]})
            yield from self._stills(talk, memory)

    def _stills(self, talk: _Talk, memory: mmap.mmap) -> Iterator[Still]:
        last = -1.0
        for _ in range(self.options.max_frames):
            told = talk.ask()
            if "end" in told:
                if told["end"]:
                    said = "parts of the video are damaged and were passed over"
                    raise PassedOverError(ErrorCode.CORRUPT_IMAGE, said)
                return
            still = _still(told, memory)
            if still is None or still.seconds <= last:
                raise VideoError(ErrorCode.DECODER_CRASHED, talk.last_words())
            last = still.seconds
            yield still
        if talk.ask().get("end") != 0:
            said = f"the frames after the first {self.options.max_frames} were passed over"
            raise PassedOverError(ErrorCode.CORRUPT_IMAGE, said)


class _Talk:
    """The parent's side of the conversation, with its two clocks."""

    def __init__(
        self,
        channel: socket.socket,
        process: subprocess.Popen[bytes],
        frame_timeout: float,
        timeout: float,
    ) -> None:
        self._channel = channel
        self._process = process
        self._frame_timeout = frame_timeout
        self._left = self._timeout = timeout  # CPU seconds
        # A process that says it is alive, and does nothing, ends too.
        self._wall_left = WALL_FACTOR * timeout

    def start(self, told: dict[str, Any]) -> None:
        """Tell the process how, and wait until it is ready. Raises RunError or VideoError."""
        self._send(json.dumps(told).encode())
        answer = self._hear(_START_TIMEOUT, "the video process did not start")
        if "failed" in answer:
            raise RunError(f"a video process could not start: {one_line(str(answer['failed']))}")
        if "ready" not in answer:
            raise VideoError(ErrorCode.DECODER_CRASHED, self.last_words())

    def ask(self) -> dict[str, Any]:
        """What the process says of the next still. Raises VideoError."""
        self._send(b"next")
        begun, begun_cpu = time.monotonic(), cpu_time(self._process.pid)
        while True:
            used = cpu_time(self._process.pid) - begun_cpu
            waited = time.monotonic() - begun
            if used >= self._left or waited >= self._wall_left:
                self._raise_timeout()
            patience = min(self._frame_timeout, self._left - used)
            limit = self._frame_timeout
            said = f"decoding a frame took over {limit:g} s; raise the limit with --decode-timeout"
            if patience < self._frame_timeout:
                said = self._total()
            told = self._hear(patience, said)
            if "alive" not in told:
                break
        self._left -= used
        self._wall_left -= time.monotonic() - begun
        if "error" in told:
            self._raise_told(told["error"])
        if "failed" in told:
            raise VideoError(ErrorCode.DECODER_CRASHED, one_line(str(told["failed"])))
        return told

    def last_words(self) -> str:
        """Why the process is gone, or what else was wrong with it."""
        return how_it_ended(self._process, "video process")

    def _total(self) -> str:
        return f"decoding the video took over {self._timeout:g} s"

    def _raise_timeout(self) -> None:
        raise VideoError(ErrorCode.DECODE_TIMEOUT, self._total())

    def _raise_told(self, told: Any) -> None:
        try:
            code, message = ErrorCode(told[0]), one_line(str(told[1]))
        except Exception:  # noqa: BLE001 - whatever a compromised process says costs one video
            raise VideoError(ErrorCode.DECODER_CRASHED, self.last_words()) from None
        raise VideoError(code, message)

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # it died: hearing it says so
            self._channel.send(message)

    def _hear(self, patience: float, said: str) -> dict[str, Any]:
        """The next message; `patience` is in CPU seconds of the process."""
        clock = DecodingClock(self._process.pid, patience)
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            while not selector.select(max(0.0, clock.next_look - time.monotonic())):
                if clock.expired():
                    raise VideoError(ErrorCode.DECODE_TIMEOUT, said)
        try:
            told = json.loads(self._channel.recv(MAX_PACKET))
            if isinstance(told, dict):
                return told
        except (OSError, ValueError, RecursionError):
            pass
        raise VideoError(ErrorCode.DECODER_CRASHED, self.last_words())


def _still(told: dict[str, Any], memory: mmap.mmap) -> Still | None:
    """None for what an honest process does not say."""
    try:
        seconds = float(told["seconds"])
        numbers = (told["bytes"], told["width"], told["height"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(seconds) or not all(type(n) is int and n > 0 for n in numbers):
        return None
    size, width, height = numbers
    if size > len(memory) or max(width, height) >= 1 << 31 or not 0 <= seconds < 1e9:
        return None
    return Still(seconds, memory[:size], width, height)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
