"""Stills of a video as the run sees them: one process per video, started, asked and ended."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import mmap
import os
import selectors
import socket
import subprocess
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from moderate.decode.clock import WALL_FACTOR, DecodingClock, cpu_time
from moderate.decode.process import (
    ChannelClosedError,
    WrongAnswerError,
    active_sandbox,
    how_it_ended,
    packet_channel,
    receive,
    send,
    start,
)
from moderate.decode.ring import allocate
from moderate.decode.sniff import VIDEO_FORMATS
from moderate.decode.video_worker import DEMUXERS, still_bytes
from moderate.decode.video_worker import LEAST_EVERY as _LEAST_EVERY
from moderate.errors import RunError, UsageError
from moderate.installing import how_to_install
from moderate.text import one_line
from moderate.types import ErrorCode, Limits

LEAST_EVERY = float(_LEAST_EVERY)
"""Seconds; the smallest distance between two stills."""

StopLevel = Literal["never", "review", "block"]
"""The decision on a frame from which on the rest of its video is not scored."""

_START_TIMEOUT = 60.0  # seconds that a process may take to import its codecs on a busy machine
_NAME = "video process"  # in messages
_MOST_SECONDS = 1e9  # of a video


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """How videos are sampled: every so many seconds, and what one video may cost.

    timeout is the CPU seconds for decoding a whole video; a frame has Limits.decode_timeout. Frames
    of a video that would give fewer than min_frames are closer together, LEAST_EVERY at the least.
    stop_on ends a video with the first frame whose decision is as severe.
    """

    every: float
    max_bytes: int = 2 * 1024**3
    max_frames: int = 1000
    timeout: float = 3600.0
    min_frames: int = 1
    stop_on: StopLevel = "never"

    def check(self) -> None:
        """Raise UsageError for values that make no sense."""
        if not LEAST_EVERY <= self.every < float("inf"):
            raise UsageError(f"--video-every: use {LEAST_EVERY:g} seconds or more")
        is_number = isinstance(self.min_frames, int)
        if not (is_number and 1 <= self.min_frames <= self.max_frames):
            raise UsageError(f"--min-frames {self.min_frames}: use 1 to {self.max_frames:,}")
        if self.stop_on not in get_args(StopLevel):
            levels = ", ".join(get_args(StopLevel))
            raise UsageError(f"--video-stop-on {self.stop_on!r}: use one of {levels}")


@dataclass(frozen=True, slots=True)
class Still:
    """A frame as a file of its own (BMP), upright.

    seconds is the time at which it is shown, every how far apart the stills of this video are.
    """

    seconds: float
    every: float
    data: bytes
    width: int
    height: int


class VideoError(Exception):
    """The video cannot be read, or not any further; the message is for its row."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class PassedOverError(VideoError):
    """The video was read, but not all of it.

    Parts are damaged, it has too many frames, or more moving pictures than one.
    """


def require_pyav() -> None:
    """Raises UsageError where the extra is not installed."""
    try:
        is_installed = importlib.util.find_spec("av") is not None
    except ImportError:
        is_installed = False
    if not is_installed:
        raise UsageError(f"--video-every needs PyAV; {how_to_install('video')}")


def video_kind(kind: str | None, suffix: str | None) -> str | None:
    """The kind of video to read a file as. kind is what `sniff` says of its bytes.

    Where the bytes look like nothing known, the name's suffix decides. None for what is not a video
    that can be sampled.
    """
    return VIDEO_FORMATS.get(kind or suffix or "")


class VideoSampler:
    """Stills of one video after the other, each decoded in a process that ends with the video.

    Used by the reading thread. `close` may be called from another thread, and ends the video that
    is being sampled.
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
        self._settings = {
            "limits": asdict(limits),
            "every": str(options.every),
            "min_frames": options.min_frames,
            "skip": not exact,
            "niceness": niceness,
            "require_sandbox": require_sandbox,
        }
        self.closed = False
        self.seconds: float | None = None
        """How long the last video is that was sampled to its end; None where the end is unknown."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def still_bytes(self) -> int:
        """The largest number of bytes that `Still.data` can have."""
        return still_bytes(self._limits.max_pixels)

    def close(self) -> None:
        """End the process, if there is one. What `sample` gives afterwards is of no use."""
        # First the flag, then the process: `sample` sets and reads them the other way round, so
        # that a process which is started at this moment is ended by one of the two threads.
        self.closed = True
        if process := self._process:
            process.kill()

    def sample(self, fd: int, kind: str) -> Generator[Still, None, None]:
        """Stills of the video that is open for reading as `fd`, which stays open.

        At most options.max_frames. kind is as `video_kind` gives it. Raises VideoError after the
        last still that there is, and RunError where the process cannot be started.
        """
        memory_bytes = self.still_bytes
        self.seconds = None
        os.lseek(fd, 0, os.SEEK_SET)  # the position is shared with the process
        with contextlib.ExitStack() as stack:
            channel, process_end = packet_channel()
            stack.callback(channel.close)
            with process_end:
                memory_fd = allocate("moderate-still", memory_bytes)
                try:
                    memory = stack.enter_context(mmap.mmap(memory_fd, memory_bytes))
                    descriptors = (process_end.fileno(), fd, memory_fd)
                    process = start("moderate.decode.video_worker", descriptors)
                finally:
                    os.close(memory_fd)
            stack.callback(_end, process)
            self._process = process
            if self.closed:
                return
            conversation = _Conversation(
                channel, process, self._limits.decode_timeout, self.options.timeout
            )
            conversation.start({**self._settings, "demuxer": DEMUXERS[kind]})
            yield from self._stills(conversation, memory)

    def _stills(self, conversation: _Conversation, memory: mmap.mmap) -> Iterator[Still]:
        last = -1.0
        for _ in range(self.options.max_frames):
            answer = conversation.ask()
            if "end" in answer:
                self._finish(answer["end"], last)
                return
            still = _checked_still(answer, memory)
            if still is None or still.seconds <= last:
                raise VideoError(ErrorCode.DECODER_CRASHED, conversation.end_reason())
            last = still.seconds
            yield still
        answer = conversation.ask()
        if "end" not in answer:
            reason = f"the frames after the first {self.options.max_frames} were passed over"
            raise PassedOverError(ErrorCode.CORRUPT_IMAGE, reason)
        self._finish(answer["end"], last)

    def _finish(self, end: Any, last: float) -> None:
        """Note how long the video is. Raises PassedOverError where it was not seen as a whole."""
        damaged = others = True
        if isinstance(end, dict):
            damaged, others = bool(end.get("broken")), bool(end.get("others"))
            seconds = end.get("seconds")
            if isinstance(seconds, float) and last <= seconds < _MOST_SECONDS:
                self.seconds = seconds
        if damaged:
            reason = "parts of the video are damaged and were passed over"
            raise PassedOverError(ErrorCode.CORRUPT_IMAGE, reason)
        if others:
            reason = "the video has further moving pictures, which were passed over"
            raise PassedOverError(ErrorCode.CORRUPT_IMAGE, reason)


class _Conversation:
    """The run's side of the conversation with a video process, with its clocks.

    Every wait is limited twice: in CPU seconds of the process, so that a busy machine fails no
    honest video, and by a generous wall clock.
    """

    def __init__(
        self,
        channel: socket.socket,
        process: subprocess.Popen[bytes],
        frame_timeout: float,
        timeout: float,
    ) -> None:
        """frame_timeout and timeout are the CPU seconds for a frame and for the whole video."""
        self._channel = channel
        self._process = process
        self._frame_timeout = frame_timeout
        self._timeout = timeout
        self._cpu_left = timeout
        # A process that reports progress, and makes none, ends too.
        self._wall_left = WALL_FACTOR * timeout

    def start(self, settings: dict[str, Any]) -> None:
        """Send the settings and wait until the process is ready. Raises RunError or VideoError."""
        with contextlib.suppress(OSError):  # it died, which waiting for its answer shows
            send(self._channel, settings)
        answer = self._wait(_START_TIMEOUT, "the video process did not start")
        try:
            active_sandbox(answer, _NAME)
        except WrongAnswerError as error:
            if "failed" in answer:
                raise RunError(f"a video process could not start: {error}") from None
            raise VideoError(ErrorCode.DECODER_CRASHED, self.end_reason()) from None

    def ask(self) -> dict[str, Any]:
        """Ask for the next still; the answer of the process. Raises VideoError."""
        with contextlib.suppress(OSError):  # it died, which waiting for its answer shows
            self._channel.send(b"next")
        begun, begun_cpu = time.monotonic(), cpu_time(self._process.pid)
        while True:
            used = cpu_time(self._process.pid) - begun_cpu
            waited = time.monotonic() - begun
            total_reason = f"decoding the video took over {self._timeout:g} s"
            if used >= self._cpu_left or waited >= self._wall_left:
                raise VideoError(ErrorCode.DECODE_TIMEOUT, total_reason)
            limit, reason = self._cpu_left - used, total_reason
            if self._frame_timeout <= limit:
                limit = self._frame_timeout
                reason = (
                    f"decoding a frame took over {limit:g} s; raise the limit with --decode-timeout"
                )
            answer = self._wait(limit, reason)
            if "alive" not in answer:
                break
        self._cpu_left -= used
        self._wall_left -= time.monotonic() - begun
        if "error" in answer:
            raise self._reported_error(answer["error"])
        if "failed" in answer:
            raise VideoError(ErrorCode.DECODER_CRASHED, one_line(str(answer["failed"])))
        return answer

    def end_reason(self) -> str:
        """Why the process is gone, or what else is wrong with it."""
        return how_it_ended(self._process, _NAME)

    def _reported_error(self, error: Any) -> VideoError:
        try:
            return VideoError(ErrorCode(error[0]), one_line(str(error[1])))
        except Exception:  # noqa: BLE001 - whatever a compromised process sends costs one video
            return VideoError(ErrorCode.DECODER_CRASHED, self.end_reason())

    def _wait(self, cpu_seconds: float, reason: str) -> dict[str, Any]:
        """The next packet. Raises VideoError, with `reason` where it takes too long."""
        clock = DecodingClock(self._process.pid, cpu_seconds)
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            while not selector.select(max(0.0, clock.next_look - time.monotonic())):
                if clock.expired():
                    raise VideoError(ErrorCode.DECODE_TIMEOUT, reason)
        try:
            return receive(self._channel, _NAME)
        except (ChannelClosedError, WrongAnswerError):
            raise VideoError(ErrorCode.DECODER_CRASHED, self.end_reason()) from None


def _checked_still(answer: dict[str, Any], memory: mmap.mmap) -> Still | None:
    """None for an answer that no honest process gives."""
    try:
        seconds, every = float(answer["seconds"]), float(answer["every"])
        numbers = (answer["bytes"], answer["width"], answer["height"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(seconds) or not all(type(n) is int and n > 0 for n in numbers):
        return None
    size, width, height = numbers
    if size > len(memory) or max(width, height) >= 1 << 31 or not 0 <= seconds < _MOST_SECONDS:
        return None
    if not LEAST_EVERY <= every < _MOST_SECONDS:
        return None
    return Still(seconds, every, memory[:size], width, height)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
