"""Stills of videos: the right frames at the right times, upright, and videos meant to harm."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moderate.decode.sandbox import Protection
from moderate.decode.video import PassedOverError, Still, VideoError, VideoOptions, VideoSampler
from moderate.decode.video_worker import DEMUXERS, Unreadable, Video
from moderate.types import ErrorCode, Limits
from tests.support.patience import PATIENCE
from tests.support.videos import CONTAINERS, GREYS, corners, grey, make_sound, make_video

LIMITS = Limits()


@contextmanager
def sampling(
    path: Path, every: float, limits: Limits = LIMITS, *, exact: bool = False, **options: float
) -> Iterator[tuple[VideoSampler, Iterator[Still]]]:
    sampler = VideoSampler(VideoOptions(every, **options), limits, exact=exact)  # type: ignore[arg-type]
    fd = os.open(path, os.O_RDONLY)
    stills = sampler.sample(fd, CONTAINERS[path.suffix[1:]][2])
    try:
        yield sampler, stills
    finally:
        stills.close()  # type: ignore[attr-defined]
        os.close(fd)


def sample(path: Path, every: float, limits: Limits = LIMITS, **options: float) -> list[Still]:
    with sampling(path, every, limits, **options) as (_, stills):  # type: ignore[arg-type]
        return list(stills)


def until_error(
    path: Path, every: float, limits: Limits = LIMITS, **options: float
) -> tuple[list[Still], VideoError]:
    found = []
    with (
        sampling(path, every, limits, **options) as (_, stills),
        pytest.raises(VideoError) as error,
    ):  # type: ignore[arg-type]
        for still in stills:
            found.append(still)
    assert "\n" not in str(error.value)
    return found, error.value


def picture(still: Still) -> Image.Image:
    with Image.open(io.BytesIO(still.data)) as image:
        image.load()
        assert image.mode == "RGB"
        assert image.size == (still.width, still.height)
        return image


def number(still: Still) -> int:
    """Of the frame, by its grey, which has to be right to within a quarter of a step."""
    level = picture(still).getpixel((30, 20))[0]  # type: ignore[index]
    assert abs(level - 10 * round(level / 10)) <= 2
    return round(level / 10)


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize(
    ("every", "exact"), [(0.5, False), (2.5, False), (1.3, False), (1.3, True)]
)
def test_the_frame_on_display_at_each_time(
    tmp_path: Path, suffix: str, every: float, exact: bool
) -> None:
    file = make_video(tmp_path / f"a.{suffix}", map(grey, range(73)))
    stills = sample(file, every, exact=exact)
    times = [n * every for n in range(100) if n * every < 7.3]
    assert [still.seconds for still in stills] == pytest.approx(times)
    assert [number(still) for still in stills] == [int(time * 10 + 1e-9) % GREYS for time in times]


def test_a_time_between_frames_shows_the_one_before(tmp_path: Path) -> None:
    times = [0, 4, 59, 60, 61, 200]
    file = make_video(tmp_path / "a.mkv", map(grey, range(6)), times=times)
    stills = sample(file, 1)
    # Frame 1 is on display from 0.4 to 5.9 s, frame 4 from 6.1 to 20.
    assert [(s.seconds, number(s)) for s in stills] == [(0, 0), (1, 1), (6, 3), (7, 4), (20, 5)]


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9", "libsvtav1"])
def test_other_codecs_are_decoded_in_the_sandbox(tmp_path: Path, codec: str) -> None:
    pictures = (grey(n).resize((128, 128)) for n in range(12))
    file = make_video(tmp_path / "a.mkv", pictures, codec=codec)
    assert [number(still) for still in sample(file, 0.4)] == [0, 4, 8]


def test_a_single_frame_and_a_distance_beyond_the_end(tmp_path: Path) -> None:
    (still,) = sample(make_video(tmp_path / "a.mp4", [grey(7)]), 0.1)
    assert (still.seconds, number(still), still.width, still.height) == (0, 7, 64, 48)
    (still,) = sample(make_video(tmp_path / "b.mp4", map(grey, range(9))), 86_400)
    assert number(still) == 0


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize(
    ("rotation", "hflip", "expected"),
    [
        (None, False, (RED, GREEN, BLUE, WHITE)),
        (90, False, (GREEN, WHITE, RED, BLUE)),  # counter-clockwise
        (180, False, (WHITE, BLUE, GREEN, RED)),
        (270, False, (BLUE, RED, WHITE, GREEN)),
        (0, True, (GREEN, RED, WHITE, BLUE)),
        (180, True, (BLUE, WHITE, RED, GREEN)),
        (90, True, (WHITE, GREEN, BLUE, RED)),
        (270, True, (RED, BLUE, GREEN, WHITE)),
    ],
)
def test_stills_are_upright(
    tmp_path: Path, rotation: int | None, hflip: bool, expected: tuple[tuple[int, ...], ...]
) -> None:
    file = make_video(tmp_path / "a.mp4", [corners()] * 3, rotation=rotation, hflip=hflip)
    image = picture(sample(file, 1)[0])
    turned = rotation in (90, 270)
    assert image.size == ((48, 64) if turned else (64, 48))
    right, bottom = image.width - 6, image.height - 6
    found = [image.getpixel(place) for place in ((5, 5), (right, 5), (5, bottom), (right, bottom))]
    for colour, wanted in zip(found, expected, strict=True):
        assert [channel > 128 for channel in colour] == [channel > 128 for channel in wanted]  # type: ignore[union-attr]


def test_the_moving_stream_counts_and_sound_may_be_longer(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", map(grey, range(12)), sound=4)
    assert [number(still) for still in sample(file, 1)] == [0, 10]


def test_ten_thousand_frames_and_the_most_that_are_taken(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mkv", (grey(n // 50) for n in range(10_000)), rate=50)
    stills = sample(file, 20)
    assert [number(still) for still in stills] == [(n * 20) % GREYS for n in range(10)]
    found, error = until_error(file, 0.1, max_frames=7)
    assert len(found) == 7
    assert isinstance(error, PassedOverError)
    assert str(error) == "the frames after the first 7 were passed over"
    assert len(sample(file, 20, max_frames=10)) == 10, "exactly as many are all"


def test_memory_does_not_grow_with_the_stills(tmp_path: Path) -> None:
    wide = [Image.new("RGB", (1280, 720), (n, n, n)) for n in range(0, 250, 50)]
    file = make_video(tmp_path / "a.mov", (wide[n % 5] for n in range(220)), rotation=90)
    with sampling(file, 0.1) as (sampler, stills):
        used = []
        for count, _ in enumerate(stills):
            if count in (20, 219):
                process = sampler._process
                assert process is not None
                status = Path(f"/proc/{process.pid}/status").read_text()
                used.append(int(status.partition("VmRSS:")[2].split()[0]) // 1024)
    assert len(used) == 2
    assert used[1] - used[0] < 40, "MiB; 200 frames kept would be 270"


# Hostile and broken ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "mpg"])
def test_a_file_that_was_cut_off(tmp_path: Path, suffix: str) -> None:
    options = {"movflags": "faststart"} if suffix == "mp4" else {}
    random = np.random.default_rng(0)  # where a noisy file is cut decides what is found of it
    noisy = (
        Image.fromarray(random.normal(128, 80, (96, 128)).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
        for _ in range(80)
    )
    file = make_video(tmp_path / f"a.{suffix}", noisy, options=options)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    found, error = until_error(file, 0.5)
    assert 4 <= len(found) <= 12
    assert error.code is ErrorCode.TRUNCATED
    assert not isinstance(error, PassedOverError)


def test_an_index_that_is_missing(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", map(grey, range(30)))  # its index is at the end
    file.write_bytes(file.read_bytes()[:-500])
    found, error = until_error(file, 0.5)
    assert (found, error.code) == ([], ErrorCode.TRUNCATED)
    assert "cannot be opened as a video" in str(error)


def test_damage_in_the_middle_is_passed_over_and_told(tmp_path: Path) -> None:
    noisy = (Image.effect_noise((128, 96), 80).convert("RGB") for _ in range(80))
    file = make_video(tmp_path / "a.mp4", noisy)
    data = bytearray(file.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    file.write_bytes(data)
    found, error = until_error(file, 0.5)
    assert found[-1].seconds == 7.5
    assert isinstance(error, PassedOverError)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mpg"])
@pytest.mark.parametrize("data", [b"", b"\x00" * 5000, bytes(range(256)) * 40, os.urandom(50_000)])
def test_bytes_that_are_no_video(tmp_path: Path, suffix: str, data: bytes) -> None:
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(data)
    found, error = until_error(file, 1)
    assert (found, error.code) == ([], ErrorCode.CORRUPT_IMAGE)


def test_the_reader_is_the_one_named(tmp_path: Path) -> None:
    """FFmpeg has readers for playlists and lists of files; nothing makes it use them."""
    file = tmp_path / "a.mp4"
    file.write_bytes(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n")
    assert until_error(file, 1)[1].code is ErrorCode.CORRUPT_IMAGE


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_sound_alone(tmp_path: Path, suffix: str) -> None:
    found, error = until_error(make_sound(tmp_path / f"a.{suffix}"), 1)
    assert (found, error.code) == ([], ErrorCode.NOT_AN_IMAGE)


def test_a_video_without_frames(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mkv", map(grey, range(12)))
    data = file.read_bytes()
    file.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # before the first Cluster
    found, error = until_error(file, 1)
    assert found == []
    assert error.code is ErrorCode.TRUNCATED


def test_frames_over_the_limit_of_pixels(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", map(grey, range(12)))
    found, error = until_error(file, 1, Limits(max_pixels=64 * 48 - 1))
    assert (found, error.code) == ([], ErrorCode.TOO_MANY_PIXELS)
    assert "64 x 48" in str(error)
    assert "--max-megapixels" in str(error)
    assert sample(file, 1, Limits(max_pixels=64 * 48))


@pytest.mark.parametrize("size", [16_000, 65_000])
def test_a_header_that_claims_huge_frames(tmp_path: Path, size: int) -> None:
    file = make_video(tmp_path / "a.mov", map(grey, range(12)), codec="mjpeg")
    data = file.read_bytes()
    honest, huge = struct.pack(">HH", 64, 48), struct.pack(">HH", size, size)
    assert honest in data
    frame = struct.pack(">HH", 48, 64), struct.pack(">HH", size, size)  # of JPEG: height first
    file.write_bytes(data.replace(honest, huge).replace(*frame))
    found, error = until_error(file, 1)
    assert found == []
    assert error.code in {ErrorCode.TOO_MANY_PIXELS, ErrorCode.CORRUPT_IMAGE}


def test_frames_that_need_more_memory_than_there_is(tmp_path: Path) -> None:
    big = Image.new("RGB", (7680, 4320))
    file = make_video(tmp_path / "a.mkv", [big] * 4, codec="mjpeg")
    found, error = until_error(file, 0.1, Limits(max_decoder_bytes=256 << 20))
    assert (found, error.code) == ([], ErrorCode.OUT_OF_MEMORY)
    assert "--max-decoder-memory" in str(error)
    assert len(sample(file, 0.2)) == 2


def test_a_process_that_is_killed_on_the_way(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", map(grey, range(40)))
    with sampling(file, 0.5) as (sampler, stills):
        assert number(next(stills)) == 0
        process = sampler._process
        assert process is not None
        process.kill()
        with pytest.raises(VideoError, match="killed by SIGKILL") as error:
            next(stills)
    assert error.value.code is ErrorCode.DECODER_CRASHED


@pytest.mark.parametrize(
    ("frame", "whole", "said"),
    [(0.5, 60.0, "--decode-timeout"), (60.0, 0.5, "the video took over 0.5 s")],
)
def test_a_process_that_hangs_is_ended(
    tmp_path: Path, frame: float, whole: float, said: str
) -> None:
    file = make_video(tmp_path / "a.mp4", map(grey, range(40)))
    with sampling(file, 0.5, Limits(decode_timeout=frame), timeout=whole) as (sampler, stills):
        next(stills)
        process = sampler._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(VideoError, match=said) as error:
            next(stills)
        assert process.returncode == -signal.SIGKILL
    assert error.value.code is ErrorCode.DECODE_TIMEOUT


def test_nothing_is_left_of_a_video_given_up(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", map(grey, range(40)))
    before = set(os.listdir("/proc/self/fd"))
    with sampling(file, 0.5) as (sampler, stills):
        next(stills)
        process = sampler._process
        assert process is not None
    assert process.returncode == -signal.SIGKILL
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_process_is_restricted_while_it_decodes(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", map(grey, range(40)))
    with sampling(file, 0.5) as (sampler, stills):
        next(stills)
        process = sampler._process
        assert process is not None
        status = Path(f"/proc/{process.pid}/status").read_text()
        limits = Path(f"/proc/{process.pid}/limits").read_text()
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (facts["Seccomp"].strip(), facts["NoNewPrivs"].strip()) == ("2", "1")
    assert int(facts["CapPrm"], 16) == 0
    open_files = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert open_files.split()[3:5] == ["3", "3"]


RESTRICTED = """
import json, os, sys
from moderate.decode.sandbox import harden
from moderate.decode.video_worker import Video, _prepare
from moderate.types import Limits
import av
file = open(sys.argv[1], "rb", buffering=0)
_prepare()
active = harden(512 << 20) if sys.argv[2] == "hardened" else []
def attempt(act):
    try:
        act()
    except OSError as error:
        return type(error).__bases__[-1].__name__ if "av" in type(error).__module__ else "OSError"
    return "done"
said = [attempt(lambda: av.open(sys.argv[1])), attempt(lambda: open(sys.argv[1], "rb"))]
frames = sum(1 for _ in Video(file, "mov", Limits(), lambda: None, skip=True).stills(1))
os.write(1, json.dumps([list(active), said, frames]).encode())
"""


def test_ffmpeg_itself_can_open_nothing_but_reads_what_was_opened(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", map(grey, range(40)))

    def child(mode: str) -> list[list[str]]:
        told = subprocess.run(
            [sys.executable, "-c", RESTRICTED, file, mode],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            check=True,
            timeout=PATIENCE,
        )
        return json.loads(told.stdout)  # type: ignore[no-any-return]

    assert child("free") == [[], ["done", "done"], 4]
    active, said, frames = child("hardened")
    assert Protection.SECCOMP in active
    assert said == ["PermissionError", "OSError"]
    assert frames == 4


# Containers with their own ways. In this process, which is quicker than one for each video. -------


def steps(count: int, first: int = 0) -> Iterator[Image.Image]:
    """Frames whose grey changes every ten frames, which is once a second."""
    return (grey(first + number // 10) for number in range(count))


def shown(path: Path, every: float = 1, least: int = 1) -> tuple[list[tuple[float, int]], Video]:
    """The time and grey of each still, and the video."""
    with path.open("rb", buffering=0) as file:
        demuxer = DEMUXERS[CONTAINERS[path.suffix[1:]][2]]
        video = Video(file, demuxer, LIMITS, lambda: None, skip=True)
        distance = video.distance(Fraction(str(every)), least)
        return [
            (float(time), round(int(frame.to_ndarray(format="rgb24")[20, 30, 0]) / 10))
            for time, frame in video.stills(distance)
        ], video


@pytest.mark.parametrize("suffix", ["avi", "mpg"])
def test_frames_that_are_decoded_in_another_order(tmp_path: Path, suffix: str) -> None:
    found, video = shown(make_video(tmp_path / f"a.{suffix}", steps(40), b_frames=2))
    assert found == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert (video.broken, float(video.end)) == (0, 4)


def test_an_avi_without_an_index_is_whole(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.avi", steps(30))
    data = bytearray(file.read_bytes())
    without = data[: data.rindex(b"idx1")]
    without[4:8] = struct.pack("<I", len(without) - 8)
    file.write_bytes(without)
    found, video = shown(file)
    assert found == [(0, 0), (1, 1), (2, 2)]
    assert video.broken == 0
    without[4:8] = bytes(4)  # as a recording has it that was never finished
    file.write_bytes(without)
    assert shown(file)[0] == found


def test_frames_that_an_avi_repeats_do_not_end_it(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.avi", steps(30))
    data = file.read_bytes()
    place = data.index(b"movi") + 4
    changed = bytearray(data[:place])
    for number in range(30):
        assert data[place : place + 4] == b"00dc"
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        end = place + 8 + size + size % 2
        changed += data[place:end] + (b"00dc" + bytes(4)) * (10 if number == 4 else 0)
        place = end
    changed[4:8] = struct.pack("<I", len(changed) - 8)
    file.write_bytes(changed)
    assert shown(file)[0] == [(0, 0), (1, 0), (2, 1), (3, 2)]


@pytest.mark.parametrize("suffix", ["avi", "mpg"])
@pytest.mark.parametrize("kept", [0.5, 0.8])
def test_a_cut_at_the_edge_of_a_packet(tmp_path: Path, suffix: str, kept: float) -> None:
    noisy = [Image.effect_noise((128, 96), 80).convert("RGB") for _ in range(40)]
    file = make_video(tmp_path / f"a.{suffix}", noisy, options={})
    data = file.read_bytes()
    shown(file)
    place = int(len(data) * kept)
    cut = place // 2048 * 2048 if suffix == "mpg" else data.index(b"00dc", place)
    file.write_bytes(data[:cut])
    with pytest.raises(Unreadable, match="cut off at") as error:
        shown(file)
    assert error.value.code == "truncated"


def test_timestamps_that_start_again_hide_nothing(tmp_path: Path) -> None:
    first = make_video(tmp_path / "a.mpg", steps(30), b_frames=2).read_bytes()
    file = make_video(tmp_path / "b.mpg", steps(30, first=10), b_frames=2)
    file.write_bytes(first + file.read_bytes())
    found, _ = shown(file)
    assert found == [(0, 0), (1, 1), (2, 2), (3, 10), (4, 11), (5, 12)]


def test_packets_that_are_falsely_called_key_frames_are_damage(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", steps(60), codec="mpeg4", key_every=100)
    found, video = shown(file, 5)
    assert (found, video.broken) == ([(0, 0), (5, 5)], 0)
    # Without this table, every frame of an MP4 counts as a key frame.
    file.write_bytes(file.read_bytes().replace(b"stss", b"free"))
    assert shown(file, 5)[1].broken


def test_a_second_moving_stream_is_told(tmp_path: Path) -> None:
    import av

    file = tmp_path / "a.mkv"
    with av.open(str(file), "w", format="matroska") as container:
        streams = [container.add_stream("mpeg4", rate=10) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for stream, first in zip(streams, (0, 10), strict=True):
            for place, image in enumerate(steps(20, first)):
                frame = av.VideoFrame.from_image(image)
                frame.pts, frame.time_base = place, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    found, error = until_error(file, 1)
    assert [number(still) for still in found] == [0, 1]
    assert isinstance(error, PassedOverError)
    assert str(error) == "the video has further moving pictures, which were passed over"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mpg"])
def test_the_least_number_of_frames(tmp_path: Path, suffix: str) -> None:
    file = make_video(tmp_path / f"a.{suffix}", map(grey, range(24)))
    times = [round(time, 3) for time, _ in shown(file, 5, 6)[0]]
    assert times == [0, 0.4, 0.8, 1.2, 1.6, 2.0]
    assert len(shown(file, 1, 3)[0]) == 3, "as many as there are anyway"
    assert len(shown(file, 5, 1000)[0]) == 24, "not closer together than a tenth of a second"


def test_the_sampler_gives_the_distance_and_the_end(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mpg", map(grey, range(24)))
    with sampling(file, 5, min_frames=3) as (sampler, stills):
        assert {round(still.every, 3) for still in stills} == {0.8}
        assert sampler.seconds == pytest.approx(2.4)


@pytest.mark.parametrize("suffix", ["avi", "mpg", "3gp"])
def test_damaged_files_give_stills_or_one_error(tmp_path: Path, suffix: str) -> None:
    file = make_video(tmp_path / f"a.{suffix}", steps(30))
    whole, chance = file.read_bytes(), random.Random(suffix)
    for attempt in range(60):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 3, 30, 200))):
            data[chance.randrange(len(data) if attempt % 3 else 400)] = chance.randrange(256)
        file.write_bytes(data[: chance.randrange(len(data))] if attempt % 4 == 0 else data)
        # OSError is that of the conversion here, which the process words as an error.
        with contextlib.suppress(Unreadable, MemoryError, OSError):
            shown(file)
