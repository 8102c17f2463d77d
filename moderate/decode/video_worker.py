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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any, cast

from moderate.decode.process import MAX_PACKET, enter_sandbox, send, send_failure
from moderate.decode.video_ends import breaks_off, lacks_rows

if TYPE_CHECKING:
    import av
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from PIL import Image

    from moderate.types import Limits

DEMUXERS = {
    **dict.fromkeys(("mp4", "quicktime", "3gp"), "mov"),
    "matroska": "matroska",
    "avi": "avi",
    "mpeg": "mpeg",
    "mpeg-video": "mpegvideo",
}
"""FFmpeg's reader for each kind of file that `sniff` names, so that it cannot guess another."""

LEAST_EVERY = Fraction(1, 10)
"""Seconds; the smallest distance between two stills."""

STILL_HEADER_BYTES = 54  # of a BMP file
_ALIVE_EVERY = 0.2  # seconds between signs of life
_MAX_HELD_BYTES = 64 << 20  # of packets kept back until it is known whether they are needed
_DECLARING = frozenset({"mov", "matroska"})  # FFmpeg only estimates the duration of the others


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
        self._file = file
        self._demuxer = demuxer
        self._limits = limits
        self._alive = alive
        self._skip = skip
        self._due = Fraction(0)
        self._last_packet: av.Packet | None = None
        self._resumed_at: int | None = None  # the time of a packet that decoding goes on with
        self.broken = 0
        """Packets and frames that the decoder found damaged."""
        self.end = Fraction(0)
        """When the last frame so far ends, in seconds."""
        self._open()

    def _open(self) -> None:
        import av

        limits = self._limits
        try:
            self._container = av.open(
                self._file, format=self._demuxer, options={"max_pixels": str(limits.max_pixels)}
            )
            streams = [s for s in self._container.streams.video if not _is_hidden(s)]
        except (OSError, av.error.FFmpegError, UnicodeDecodeError) as error:
            _raise_memory(error)
            # The reader of MPEG goes on to the end of whatever holds no packet.
            is_cut = isinstance(error, av.error.EOFError) and self._demuxer != "mpeg"
            code = "truncated" if is_cut else "corrupt_image"
            raise Unreadable(code, f"cannot be opened as a video: {_reason(error)}") from None
        if not streams:
            raise Unreadable("not_an_image", "the file has no moving pictures, sound at most")
        self._stream = streams[0]
        self.others = len(streams) - 1
        """Further moving streams, of which a player may show another than the first."""
        context = self._stream.codec_context
        if context is None:
            raise Unreadable("unsupported_format", "the video's codec is not known")
        self._context = context
        self._check_size(context.width, context.height)
        # With several threads, the result would not be the same on every machine.
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"max_pixels": str(limits.max_pixels)}
        # AVI numbers frames as they are decoded: with B-frames, the first is not shown at 0.
        start = None if self._demuxer == "avi" else self._stream.start_time
        self._start = None if start is None else start * Fraction(self._stream.time_base or 1)

    def distance(self, every: Fraction, least_stills: int) -> Fraction:
        """How far apart stills have to be, in seconds, so that there are so many of them.

        `every` where that gives as many. Where the file does not declare how long it is, its
        packets are read once to find out, without decoding them. Call it before `stills`.
        """
        if least_stills <= 1:
            return every
        seconds = self._declared_seconds()
        if seconds is None:
            seconds = self._measured_seconds()
            self._container.close()
            self._file.seek(0)
            self._open()
        return min(every, max(LEAST_EVERY, seconds / least_stills))

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
            time = self._time(frame, end)
            if time < now and end:
                # Players go on when a time lies before the one before it, as in MPEG streams that
                # were joined. Times of packets do not say any more which frames are due.
                self._skip, time = False, end
            now = max(now, time)
            self.end = end = now + self._duration(frame)
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
        held: list[av.Packet] = []
        held_bytes = 0
        holding = False
        for packet in self._packets():
            self.broken += packet.is_corrupt
            self._last_packet = packet
            if held and not (self._skip and self._in_order(held, packet)):
                self._skip = holding = False
                for held_packet in held:
                    yield from self._decode(held_packet)
                held = []
            if packet.is_keyframe and self._skip:
                if held and self._is_early(packet):
                    self._context.flush_buffers()
                    self._resumed_at = packet.pts
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

    def _packets(self) -> Iterator[av.Packet]:
        """The stream's packets. Raises Unreadable where the file cannot be read on."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            self._alive()
            try:
                packet = next(packets, None)
            except (OSError, av.error.FFmpegError) as error:
                _raise_memory(error)
                reason = f"cannot be read any further: {_reason(error)}"
                raise Unreadable("truncated", reason) from None
            if packet is None:
                return
            # Without bytes: a frame that AVI repeats, or the sign of the end.
            if packet.size:
                yield packet

    def _measured_seconds(self) -> Fraction:
        """How long the stream is by the times of its packets, as far as they can be read."""
        first: Fraction | None = None
        last = Fraction(0)
        with suppress(Unreadable):
            for packet in self._packets():
                if packet.pts is None or packet.time_base is None:
                    continue
                time = packet.pts * Fraction(packet.time_base)
                first = time if first is None else min(first, time)
                last = max(last, time + (packet.duration or 0) * Fraction(packet.time_base))
        return Fraction(0) if first is None else last - first

    def _in_order(self, held: Sequence[av.Packet], packet: av.Packet) -> bool:
        """Whether what is held is shown before the next key frame, as far as the last of it says.

        Frames may come a little before the one that they need, but not after a later key frame.
        """
        if not packet.is_keyframe:
            return packet.pts is not None
        times = [each.pts for each in held if each.pts is not None]
        is_known = packet.pts is not None and len(times) == len(held)
        return is_known and max(times) < packet.pts

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
            if self._resumed_at is not None:
                self.broken += not self._resumes(frame, self._resumed_at)
                self._resumed_at = None
            yield frame

    def _resumes(self, frame: VideoFrame, key_time: int) -> bool:
        """Whether the first frame after some were left out is the key frame that it should be.

        Which packets are key frames is what the file claims. Where that is wrong, the decoder gives
        a picture that no player shows, or none for a while.
        """
        from av.video.frame import PictureType

        whole = (PictureType.NONE, PictureType.I, PictureType.SI, PictureType.BI)
        is_whole = frame.key_frame or PictureType(frame.pict_type) in whole
        return is_whole and frame.pts is not None and frame.pts <= key_time

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
        declared = self._declared_seconds() if self._demuxer in _DECLARING else None
        if declared is not None and declared - end > 1:
            raise Unreadable(
                "truncated",
                f"the pictures end at {float(end):.1f} s of {float(declared):.1f} s",
            )
        is_cut = breaks_off(self._file, self._demuxer)
        last = self._last_packet
        if not is_cut and last is not None and self._context.name == "mpeg2video":
            is_cut = lacks_rows(bytes(last), self._context.height)
        if is_cut:
            raise Unreadable("truncated", f"the file was cut off at {float(end):.1f} s")

    def _declared_seconds(self) -> Fraction | None:
        """The duration that the stream declares, in seconds."""
        stream = self._stream
        if self._demuxer not in _DECLARING:
            # Of these, only AVI declares anything, and that is a number of frames.
            rate = stream.average_rate if self._demuxer == "avi" else None
            return Fraction(stream.frames) / Fraction(rate) if rate and stream.frames else None
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


def _image(frame: VideoFrame, reformatter: VideoReformatter) -> Image.Image:
    """`upright`. Raises Unreadable for pixels of a kind that FFmpeg cannot convert."""
    import av

    try:
        return upright(frame, reformatter)
    except (OSError, av.error.FFmpegError, ValueError) as error:
        _raise_memory(error)
        reason = f"a frame cannot be shown: {_reason(error)}"
        raise Unreadable("corrupt_image", reason) from None


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
    every = Fraction(0)
    while channel.recv(MAX_PACKET):
        try:
            if frames is None:
                video = Video(file, settings["demuxer"], limits, alive, skip=settings["skip"])
                every = video.distance(Fraction(settings["every"]), settings["min_frames"])
                frames = video.stills(every)
            shown = next(frames, None)
            if shown is None:
                assert video is not None
                end = {"broken": video.broken, "others": video.others, "seconds": float(video.end)}
                send(channel, {"end": end})
                return
            seconds = float(shown[0])
            image = _image(shown[1], reformatter)
            del shown
            # PyAV's frames and their side data refer to each other: only this frees them.
            gc.collect()
            stills.seek(0)
            image.save(cast("IO[bytes]", _Sink(stills)), "BMP")
            size = {"bytes": stills.tell(), "width": image.width, "height": image.height}
            del image
            send(channel, {"seconds": seconds, "every": float(every), **size})
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


def _is_hidden(stream: Any) -> bool:
    """Whether no player shows the stream: it is a cover, or the thumbnails of chapters."""
    import av

    kinds = av.stream.Disposition
    return bool(stream.disposition & (kinds.attached_pic | kinds.timed_thumbnails))


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
