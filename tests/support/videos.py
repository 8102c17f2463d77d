"""Videos for tests, made by FFmpeg itself: frames of one grey each, which tells their number."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

CONTAINERS = {
    "mp4": ("mp4", "libx264", "mp4"),
    "mov": ("mov", "mpeg4", "quicktime"),
    "webm": ("webm", "libvpx", "matroska"),
    "mkv": ("matroska", "libx264", "matroska"),
    "avi": ("avi", "mpeg4", "avi"),
    "mpg": ("mpeg", "mpeg2video", "mpeg"),
    "3gp": ("3gp", "libx264", "3gp"),
}
"""Suffix: FFmpeg's name of the container, an encoder, and what `sniff` says of the file."""

_OPTIONS = {"mpg": {"packetsize": "64"}}
"""Frames here are so small that many of them would share the one time stamp of a packet."""

GREYS = 24
"""Of frame i: 10 * (i % GREYS), as RGB; ten apart, which every encoder here keeps."""


def grey(number: int) -> Image.Image:
    return Image.new("RGB", (64, 48), (10 * (number % GREYS),) * 3)


def corners() -> Image.Image:
    """Red, green, blue, white: top left, top right, bottom left, bottom right."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:] = (255, 0, 0), (0, 255, 0)
    pixels[24:, :32], pixels[24:, 32:] = (0, 0, 255), (255, 255, 255)
    return Image.fromarray(pixels)


def make_video(
    path: Path,
    pictures: Iterable[Image.Image],
    *,
    rate: int = 10,
    times: Iterable[int] | None = None,
    rotation: int | None = None,
    hflip: bool = False,
    options: dict[str, str] | None = None,
    key_every: int = 12,
    codec: str | None = None,
    sound: float = 0.0,
    b_frames: int | None = None,
) -> Path:
    """One frame for each picture, at times in units of 1 / rate second (0, 1, 2, ...)."""
    container, encoder, _ = CONTAINERS[path.suffix[1:]]
    options = _OPTIONS.get(path.suffix[1:], {}) if options is None else options
    with av.open(str(path), "w", format=container, options=options) as file:
        pictures = list(pictures)
        first = pictures[0]
        video = file.add_stream(codec or encoder, rate=rate)
        video.width, video.height, video.pix_fmt = first.width, first.height, _pixels(codec)
        video.codec_context.gop_size = key_every
        video.codec_context.time_base = Fraction(1, rate)
        if b_frames is not None:
            video.codec_context.max_b_frames = b_frames
        if rotation is not None or hflip:
            video.set_display_rotation(rotation or 0, hflip=hflip)
        audio = file.add_stream("libopus", rate=48_000) if sound else None
        for time, picture in zip(times or range(len(pictures)), pictures, strict=True):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = time, Fraction(1, rate)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if audio:
            add_sound(file, audio, sound)
    if codec == "libsvtav1":
        # It gives root's process real-time priority, whose children then starve all others.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def _pixels(codec: str | None) -> str:
    return "yuvj420p" if codec == "mjpeg" else "yuv420p"


def make_sound(path: Path, seconds: float = 1.0) -> Path:
    """A file that a video could be, with sound alone."""
    with av.open(str(path), "w", format=CONTAINERS[path.suffix[1:]][0]) as file:
        add_sound(file, file.add_stream("libopus", rate=48_000), seconds)
    return path


def add_sound(file: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    for start in range(0, int(48_000 * seconds), 960):
        frame = av.AudioFrame(format="s16", layout="stereo", samples=960)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts, frame.sample_rate, frame.time_base = start, 48_000, Fraction(1, 48_000)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
