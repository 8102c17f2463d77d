"""A video process: decodes one video that its parent opened, and leaves stills in shared memory.

Messages are packets of JSON over one socket. The process opens nothing, restricts itself before it
reads the first byte, works only while it is asked for a still, and ends when its parent does.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import av
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from PIL import Image

    from moderate.types import Limits

MAX_PACKET = 64 * 1024
"""Bytes; the longest message that either side sends or believes."""

DEMUXERS = {"mp4": "mov", "quicktime": "mov", "matroska": "matroska"}
"""FFmpeg's reader for each kind of file that `sniff` names; it is not left to guess others."""

STILL_HEADER_BYTES = 54  # of a BMP file
_ALIVE_EVERY = 0.2  # seconds between signs of life
_MOST_HELD = 64 << 20  # bytes of packets kept back until it is known whether they are needed


class Unreadable(Exception):  # noqa: N818 - a result, like Undecoded
    """The video cannot be read, or not any further: a code of ErrorCode and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def still_bytes(pixels: int) -> int:
    """The most bytes that a still of so many pixels takes: BMP, 24 bits, rows padded to 4 bytes.

    With one pixel a row the padding is as much as a third.
    """
    return STILL_HEADER_BYTES + 4 * pixels


class Video:
    """A video file opened for reading, its first moving stream alone.

    `alive` is called again and again while there is progress. Frames are numbered by their time
    on display, in seconds from the start of the stream. Raises Unreadable.
    """

    def __init__(
        self, file: Any, demuxer: str, limits: Limits, alive: Callable[[], None], *, skip: bool
    ) -> None:
        import av

        self._limits = limits
        self._alive = alive
        self._skip = skip
        self._due = Fraction(0)
        self.broken = 0
        """Packets and frames that the decoder found damaged."""
        try:
            self._container = av.open(
                file, format=demuxer, options={"max_pixels": str(limits.max_pixels)}
            )
            streams = [s for s in self._container.streams.video if not _is_cover(s)]
        except (OSError, av.error.FFmpegError, UnicodeDecodeError) as error:
            _raise_memory(error)
            said = f"cannot be opened as a video: {_said(error)}"
            ended = isinstance(error, av.error.EOFError)
            raise Unreadable("truncated" if ended else "corrupt_image", said) from None
        if not streams:
            raise Unreadable("not_an_image", "the file has no moving pictures, sound at most")
        self._stream = streams[0]
        context = self._stream.codec_context
        if context is None:
            raise Unreadable("unsupported_format", "the video's codec is not known")
        self._context = context
        self._check_size(context.width, context.height)
        # One thread: what another would add would not be the same on every machine.
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"max_pixels": str(limits.max_pixels)}
        start = self._stream.start_time
        self._start = None if start is None else start * Fraction(self._stream.time_base or 1)

    def stills(self, every: Fraction) -> Iterator[tuple[Fraction, VideoFrame]]:
        """The frame on display at 0, every, 2 every, ... seconds, with that time.

        A frame that stays for longer comes once, under the first of these times. The very first
        frame comes even where it is late, with the time at which it is first on display.
        """
        shown: VideoFrame | None = None
        now = end = Fraction(0)
        for frame in self._decoded():
            if frame is None:  # what comes between is not needed
                shown = None
                continue
            self._check_size(frame.width, frame.height)
            self.broken += frame.is_corrupt
            now = max(now, self._time(frame, end))
            end = now + self._duration(frame)
            if shown is None:
                self._due = max(self._due, now)
            elif self._due < now:
                yield self._due, shown
                self._due = every * math.ceil(now / every)
            shown = frame
        if shown is not None and self._due < end:
            yield self._due, shown
        if not end and self.broken:
            raise Unreadable("corrupt_image", "none of its frames can be decoded")
        self._check_end(end)

    def _decoded(self) -> Iterator[VideoFrame | None]:
        """Frames in the order of display; None where some were left out, being due at no time.

        Packets from one key frame to the next are kept back until it is known whether a frame
        among them is due, which they are not when the next key frame is no later than that.
        """
        import av

        held: list[av.Packet] = []
        held_bytes = 0
        holding = False
        packets = self._container.demux(self._stream)
        while True:
            self._alive()
            try:
                packet = next(packets, None)
            except (OSError, av.error.FFmpegError) as error:
                _raise_memory(error)
                said = f"cannot be read any further: {_said(error)}"
                raise Unreadable("truncated", said) from None
            if packet is None or packet.size == 0:
                break
            self.broken += packet.is_corrupt
            if packet.is_keyframe and self._skip:
                if held and self._is_early(packet):
                    self._context.flush_buffers()
                    yield None
                else:
                    for one in held:
                        yield from self._decode(one)
                held, held_bytes, holding = [packet], packet.size, True
            elif holding:
                held.append(packet)
                held_bytes += packet.size
                if held_bytes > _MOST_HELD:
                    for one in held:
                        yield from self._decode(one)
                    held, holding = [], False
            else:
                yield from self._decode(packet)
        for one in held:
            yield from self._decode(one)
        yield from self._decode(None)

    def _is_early(self, packet: av.Packet) -> bool:
        if packet.pts is None or packet.time_base is None:
            return False
        return bool(packet.pts * packet.time_base - (self._start or 0) <= self._due)

    def _decode(self, packet: av.Packet | None) -> Iterator[VideoFrame]:
        import av

        self._alive()
        try:
            frames = self._context.decode(packet)
        except av.error.DecoderNotFoundError:
            name = self._context.name
            raise Unreadable("unsupported_format", f"no decoder for {name} here") from None
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            _raise_memory(error)
            self.broken += 1  # players go on after damage, too
            return
        for frame in frames:
            self._alive()
            yield frame

    def _time(self, frame: VideoFrame, otherwise: Fraction) -> Fraction:
        base = self._base(frame)
        if frame.pts is None or base is None:
            return otherwise
        time = frame.pts * base
        if self._start is None:
            self._start = time
        return Fraction(time - self._start)

    def _duration(self, frame: VideoFrame) -> Fraction:
        base = self._base(frame)
        if frame.duration and base:
            return Fraction(frame.duration * base)
        rate = self._stream.average_rate or self._stream.guessed_rate
        return 1 / Fraction(rate) if rate else Fraction(1, 25)

    def _base(self, frame: VideoFrame) -> Fraction | None:
        # The last frames, which come when there are no packets any more, have none of their own.
        base = frame.time_base or self._stream.time_base
        return Fraction(base) if base else None

    def _check_size(self, width: int, height: int) -> None:
        limit = self._limits.max_pixels
        if width * height > limit:
            raise Unreadable(
                "too_many_pixels",
                f"frames of {width} x {height} pixels are over the limit of "
                f"{limit / 1e6:g} megapixels; raise it with --max-megapixels",
            )

    def _check_end(self, end: Fraction) -> None:
        """FFmpeg takes a file that was cut off for one that ends."""
        declared = self._declared()
        if declared is not None and declared - end > 1:
            raise Unreadable(
                "truncated",
                f"the pictures end at {float(end):.1f} s of {float(declared):.1f} s",
            )

    def _declared(self) -> Fraction | None:
        """How long the stream claims to be, in seconds."""
        stream = self._stream
        if stream.duration is not None and stream.time_base is not None:
            return Fraction(stream.duration * stream.time_base)
        with suppress(ValueError, ZeroDivisionError):  # Matroska: HH:MM:SS.nnnnnnnnn
            hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
            return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
        if len(self._container.streams) == 1 and self._container.duration is not None:
            return Fraction(self._container.duration, 1_000_000)
        return None


def upright(frame: VideoFrame, reformatter: VideoReformatter) -> Image.Image:
    """The frame as it is to be seen, 8-bit RGB: its display matrix is followed to a right angle.

    One reformatter for all frames: each sets memory aside, which is not given back at once.
    """
    import numpy as np
    from av.sidedata.sidedata import Type
    from PIL import Image

    rgb = reformatter.reformat(frame, format="rgb24", threads=1)
    plane = rgb.planes[0]
    size = (rgb.width, rgb.height)
    image = Image.frombuffer("RGB", size, bytes(plane), "raw", "RGB", plane.line_size, 1)
    del plane, rgb
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None or len(bytes(matrix)) < 36:
        return image
    # libavutil/display.h: x' = a x + c y, y' = b x + d y, with a, b, c, d at 0, 1, 3 and 4.
    values = np.frombuffer(bytes(matrix), np.int32)[[0, 1, 3, 4]].astype(np.int64)
    straight = abs(values[0]) + abs(values[3]) >= abs(values[1]) + abs(values[2])
    a, b, c, d = (int(sign) for sign in np.sign(values))
    if straight:
        flips = {
            (-1, -1): Image.Transpose.ROTATE_180,
            (-1, 1): Image.Transpose.FLIP_LEFT_RIGHT,
            (1, -1): Image.Transpose.FLIP_TOP_BOTTOM,
        }
        turn = flips.get((a, d))
    else:
        turns = {
            (1, -1): Image.Transpose.ROTATE_270,
            (-1, 1): Image.Transpose.ROTATE_90,
            (1, 1): Image.Transpose.TRANSPOSE,
            (-1, -1): Image.Transpose.TRANSVERSE,
        }
        turn = turns.get((b, c))
    return image if turn is None else image.transpose(turn)


class _Sink:
    """Shared memory as a file to write to. An mmap's own flush is a call that is refused here."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.write = memory.write

    def flush(self) -> None:
        """Nothing is held back."""


def serve(channel: socket.socket, file_fd: int, still_fd: int) -> None:
    """Give one still for each packet that asks for one. The first packet says how."""
    from moderate.decode.sandbox import harden, missing
    from moderate.types import Limits

    start = json.loads(channel.recv(MAX_PACKET))
    limits = Limits(**start["limits"])
    file = os.fdopen(file_fd, "rb", buffering=0)
    stills = mmap.mmap(still_fd, 0)
    os.close(still_fd)
    os.nice(start["niceness"])
    reformatter = _prepare()
    active = harden(limits.max_decoder_bytes)
    if start["require_sandbox"] and (lacking := missing(active)):
        raise RuntimeError(
            f"--require-sandbox: this system lacks {', '.join(lacking)}; see 'moderate doctor'"
        )
    _send(channel, {"ready": active})
    last = time.monotonic()

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last > _ALIVE_EVERY:
            last = time.monotonic()
            _send(channel, {"alive": True})

    video: Video | None = None
    frames: Iterator[tuple[Fraction, VideoFrame]] | None = None
    while channel.recv(MAX_PACKET):
        try:
            if frames is None:
                video = Video(file, start["demuxer"], limits, alive, skip=start["skip"])
                frames = video.stills(Fraction(start["every"]))
            found = next(frames, None)
            if found is None:
                _send(channel, {"end": video.broken if video else 0})
                return
            seconds = float(found[0])
            image = upright(found[1], reformatter)
            del found
            gc.collect()  # PyAV ties a frame and its side data into a ring: it would stay
            stills.seek(0)
            image.save(cast("IO[bytes]", _Sink(stills)), "BMP")
            size = {"bytes": stills.tell(), "width": image.width, "height": image.height}
            del image
            _send(channel, {"seconds": seconds, **size})
        except Unreadable as error:
            _send(channel, {"error": [error.code, str(error)]})
            return
        except MemoryError:
            said = "decoding needs more memory than --max-decoder-memory allows"
            _send(channel, {"error": ["out_of_memory", said]})
            return


def _prepare() -> VideoReformatter:
    """Import and load whatever a video may need: afterwards nothing can be opened."""
    import io
    import pkgutil

    import av
    import numpy as np
    from av.video.reformatter import VideoReformatter
    from PIL import Image

    # PyAV imports its parts when they are first needed.
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name not in {"av.__main__", "av.datasets"}:
            importlib.import_module(module.name)
    av.logging.set_level(None)
    frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
    reformatter = VideoReformatter()
    upright(reformatter.reformat(frame, format="yuv420p", threads=1), reformatter).save(
        io.BytesIO(), "BMP"
    )
    Image.init()
    gc.freeze()  # what is here by now need not be looked through again and again
    return reformatter


def _send(channel: socket.socket, said: dict[str, Any]) -> None:
    channel.send(json.dumps(said).encode())


def _is_cover(stream: Any) -> bool:
    import av

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _raise_memory(error: BaseException) -> None:
    if isinstance(error, MemoryError):
        raise MemoryError from None


def _said(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)[:200]


def main() -> None:
    """Run on the descriptors given as arguments: socket, file, stills."""
    channel_fd, file_fd, still_fd = (int(argument) for argument in sys.argv[1:4])
    with socket.socket(fileno=channel_fd) as channel:
        try:
            serve(channel, file_fd, still_fd)
        except (ConnectionError, KeyboardInterrupt):
            return
        except Exception as error:  # noqa: BLE001 - the parent tells the user
            _send(channel, {"failed": f"{type(error).__name__}: {error}"[:1000]})
            sys.exit(1)


if __name__ == "__main__":
    main()
