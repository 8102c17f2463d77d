"""How long videos say they are, and files that lie about it."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from moderate.decode.sniff import sniff
from moderate.decode.video import VideoOptions, video_kind
from moderate.decode.video_length import declared_seconds, frame_count
from tests.support.videos import make_video


def seconds_of(data: bytes) -> float | None:
    kind = video_kind(sniff(data[:1024]), None)
    assert kind
    return declared_seconds(io.BytesIO(data), kind)


def box(name: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I", 8 + len(data)) + name + data


def movie(*boxes: bytes) -> bytes:
    return box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", *boxes)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi"])
def test_containers_say_how_long_they_are(suffix: str, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (64, 48), (7 * number, 0, 0)) for number in range(35)]
    file = make_video(tmp_path / f"v.{suffix}", pictures, rate=10)
    assert seconds_of(file.read_bytes()) == pytest.approx(3.5, abs=0.15)
    assert seconds_of(file.read_bytes()[:40]) is None


def test_fragments_and_long_numbers() -> None:
    short = box(b"mvhd", struct.pack(">IIIII80x", 0, 0, 0, 1000, 4000))
    assert seconds_of(movie(short)) == 4
    long = box(b"mvhd", struct.pack(">IQQIQ80x", 1 << 24, 0, 0, 600, 1 << 33))
    assert seconds_of(movie(long)) == (1 << 33) / 600
    open_ended = box(b"mvhd", struct.pack(">IIIII80x", 0, 0, 0, 1000, 0))
    extended = box(b"mvex", box(b"mehd", struct.pack(">II", 0, 2500)))
    assert seconds_of(movie(open_ended, extended)) == 2.5
    assert seconds_of(movie(open_ended)) is None


@pytest.mark.parametrize(
    "data",
    [
        movie(box(b"mvhd", struct.pack(">IIIII80x", 0, 0, 0, 1, (1 << 32) - 1))),  # unknown
        movie(box(b"mvhd", struct.pack(">IQQIQ80x", 1 << 24, 0, 0, 1, 1 << 62))),  # no such time
        movie(box(b"mvhd", struct.pack(">IIIII80x", 0, 0, 0, 0, 9))),
        movie(box(b"mvhd", b"\1")),
        movie(struct.pack(">I", 3) + b"mvhd"),
        box(b"ftyp", b"isom\0\0\0\0isom") + box(b"free") * 100_000,
        b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\xff\x15\x49\xa9\x66\x8b\x44\x89\x88" + b"\x7f\xf8" * 4,
        b"\x1aE\xdf\xa3\0\0\0\0\0\0\0\0",
        b"RIFF\x10\0\0\0AVI avih\x38\0\0\0\1\0",
    ],
)
def test_what_makes_no_sense_is_unknown(data: bytes) -> None:
    assert seconds_of(data) is None


def test_frames_of_a_length() -> None:
    assert frame_count(3.5, VideoOptions(every=1)) == 4
    assert frame_count(0.2, VideoOptions(every=10)) == 1
    assert frame_count(10, VideoOptions(every=10, min_frames=20)) == 20
    assert frame_count(1, VideoOptions(every=10, min_frames=500)) == 10  # one each tenth second
    assert frame_count(1e6, VideoOptions(every=1)) == 1000
