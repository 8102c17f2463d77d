"""A video process: decodes one video that its parent opened, and leaves stills in shared memory.

Messages are packets of JSON over one socket. The process opens nothing, restricts itself before it
reads the first byte, works only while it is asked for a still, and ends when its parent does. It
has one thread.
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

from moderate.decode.process import MAX_PACKET, enter_sandbox, send, send_failure

if TYPE_CHECKING:
    import av
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from PIL import Image

    from moderate.types import Limits

DEMUXERS = {"mp4": "mov", "quicktime": "mov", "matroska": "matroska"}
"""FFmpeg's reader for each kind of file that `sniff` names, so that it cannot guess another."""

STILL_HEADER_BYTES = 54  # of a BMP file
_ALIVE_EVERY = 0.2  # seconds between signs of life
_MAX_HELD_BYTES = 64 << 20  # of packets kept back until it is known whether they are needed


class Unreadable(Exception):  # noqa: N818 - a result, like Undecoded
    """The video cannot be read, or not any further: a code of ErrorCode and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def still_bytes(pixels: int) -> int:
    """The most bytes that a still of so many pixels takes: BMP, 24 bits, rows padded to 4 bytes.

    With one pixel per row, a pixel and its padding take 4 bytes.
    """
    return STILL_HEADER_BYTES + 4 * pixels


class Video:
    """A video file opened for reading, of which only the first moving stream is read.

    `alive` is called repeatedly while there is progress. The time of a frame is when it is shown,
    in seconds from the start of the stream. Raises Unreadable.
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
            code = "truncated" if isinstance(error, av.error.EOFError) else "corrupt_image"
            raise Unreadable(code, f"cannot be opened as a video: {_reason(error)}") from None
        if not streams:
            raise Unreadable("not_an_image", "the file has no moving pictures, sound at most")
        self._stream = streams[0]
        context = self._stream.codec_context
        if context is None:
            raise Unreadable("unsupported_format", "the video's codec is not known")
        self._context = context
        self._check_size(context.width, context.height)
        # With several threads, the result would not be the same on every machine.
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"max_pixels": str(limits.max_pixels)}
        start = self._stream.start_time
        self._start = None if start is None else start * Fraction(self._stream.time_base or 1)

    def stills(self, every: Fraction) -> Iterator[tuple[Fraction, VideoFrame]]:
        """The frame that is shown at 0, every, 2 every, ... seconds, with that time.

        A frame that is shown for longer comes once, with the first of these times. The very first
        frame comes even where it is late, with the time at which it is first shown.
        """
        shown: VideoFrame | None = None
        now = end = Fraction(0)
        for frame in self._decoded():
            if frame is None:  # the frames left out are not needed
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
        """Frames in the order of display; None where some were left out that are due at no time.

        Packets from one key frame to the next are kept back until it is known whether a frame
        among them is due. None is where the next key frame is not later than the time that is due.
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
                reason = f"cannot be read any further: {_reason(error)}"
                raise Unreadable("truncated", reason) from None
            if packet is None or packet.size == 0:
                break
            self.broken += packet.is_corrupt
            if packet.is_keyframe and self._skip:
                if held and self._is_early(packet):
                    self._context.flush_buffers()
                    yield None
                else:
                    for held_packet in held:
                        yield from self._decode(held_packet)
                held, held_bytes, holding = [packet], packet.size, True
            elif holding:
                held.append(packet)
                held_bytes += packet.size
                if held_bytes > _MAX_HELD_BYTES:
                    for held_packet in held:
                        yield from self._decode(held_packet)
                    held, holding = [], False
            else:
                yield from self._decode(packet)
        for held_packet in held:
            yield from self._decode(held_packet)
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
        # The last frames, which come after the last packet, have no time base of their own.
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
        """Raise Unreadable for a file that was cut off, which FFmpeg does not report."""
        declared = self._declared_seconds()
        if declared is not None and declared - end > 1:
            raise Unreadable(
                "truncated",
                f"the pictures end at {float(end):.1f} s of {float(declared):.1f} s",
            )

    def _declared_seconds(self) -> Fraction | None:
        """The duration that the stream declares, in seconds."""
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
    """The frame as it is shown, 8-bit RGB: rotated as its display matrix says, to a right angle.

    Use one reformatter for all frames: each reserves memory, which is not returned at once.
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
    """Shared memory as a file to write to. The sandbox does not allow an mmap's own flush."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.write = memory.write

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


def serve(channel: socket.socket, file_fd: int, still_fd: int) -> None:
    """Answer each packet with one still. The first packet holds the settings."""
    from moderate.types import Limits

    settings = json.loads(channel.recv(MAX_PACKET))
    limits = Limits(**settings["limits"])
    file = os.fdopen(file_fd, "rb", buffering=0)
    stills = mmap.mmap(still_fd, 0)
    os.close(still_fd)
    os.nice(settings["niceness"])
    reformatter = _prepare()
    require_sandbox = bool(settings["require_sandbox"])
    if not enter_sandbox(channel, limits.max_decoder_bytes, require_sandbox=require_sandbox):
        return
    last_sign = time.monotonic()

    def alive() -> None:
        nonlocal last_sign
        if time.monotonic() - last_sign > _ALIVE_EVERY:
            last_sign = time.monotonic()
            send(channel, {"alive": True})

    video: Video | None = None
    frames: Iterator[tuple[Fraction, VideoFrame]] | None = None
    while channel.recv(MAX_PACKET):
        try:
            if frames is None:
                video = Video(file, settings["demuxer"], limits, alive, skip=settings["skip"])
                frames = video.stills(Fraction(settings["every"]))
            shown = next(frames, None)
            if shown is None:
                send(channel, {"end": video.broken if video else 0})
                return
            seconds = float(shown[0])
            image = upright(shown[1], reformatter)
            del shown
            # PyAV's frames and their side data refer to each other: only this frees them.
            gc.collect()
            stills.seek(0)
            image.save(cast("IO[bytes]", _Sink(stills)), "BMP")
            size = {"bytes": stills.tell(), "width": image.width, "height": image.height}
            del image
            send(channel, {"seconds": seconds, **size})
        except Unreadable as error:
            send(channel, {"error": [error.code, str(error)]})
            return
        except MemoryError:
            reason = "decoding needs more memory than --max-decoder-memory allows"
            send(channel, {"error": ["out_of_memory", reason]})
            return


def _prepare() -> VideoReformatter:
    """Import and load whatever a video may need, because nothing can be opened afterwards."""
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
    gc.freeze()  # collecting garbage need not look at what is loaded by now
    return reformatter


def _is_cover(stream: Any) -> bool:
    import av

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _raise_memory(error: BaseException) -> None:
    if isinstance(error, MemoryError):
        raise MemoryError from None


def _reason(error: Exception) -> str:
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
            send_failure(channel, error)
            sys.exit(1)


if __name__ == "__main__":
    main()
