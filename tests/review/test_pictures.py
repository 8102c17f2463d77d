"""Only pixels reach the browser, and only those of the files that were scanned."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderate.decode.video import VideoOptions, VideoSampler
from moderate.fetch.options import HttpOptions
from moderate.review.pictures import KEPT, READERS, SIDE, THUMBNAIL_SIDE, Pictures
from moderate.sources.originals import OriginalError, Originals, Problem
from moderate.text import timestamp
from moderate.types import Limits
from tests.support.animations import saved
from tests.support.pictures import encode, scene
from tests.support.videos import make_video


@pytest.fixture(scope="module")
def pictures() -> Iterator[Pictures]:
    with Pictures(Limits(), HttpOptions(allow_private=True), workers=1) as pictures:
        yield pictures


_numbers = iter(range(1, 10**6))


def row(path: Path | str, data: bytes) -> dict[str, Any]:
    exact = os.fsencode(path)
    return {
        "path": exact.decode("utf-8", "backslashreplace"),
        "path_bytes": None if exact.isascii() else exact,
        "sha256": sha256(data).hexdigest(),
    }


def shown(pictures: Pictures, path: Path | str, data: bytes) -> list[Image.Image]:
    found = pictures.ask(next(_numbers), row(path, data)).result(timeout=60)
    return [Image.open(io.BytesIO(each.large)) for each in found]


def why_not(pictures: Pictures, path: Path | str, data: bytes) -> str:
    with pytest.raises(OriginalError) as caught:
        shown(pictures, path, data)
    return str(caught.value)


@pytest.mark.parametrize("size", [(1600, 900), (300, 700), (2600, 20), (1, 1)])
def test_pixels_are_encoded_anew_in_their_proportions(
    pictures: Pictures, tmp_path: Path, size: tuple[int, int]
) -> None:
    drawn = scene(size)
    data = encode(drawn, "PNG")
    (tmp_path / "a.png").write_bytes(data)
    (found,) = pictures.ask(next(_numbers), row(tmp_path / "a.png", data)).result(timeout=60)
    large, small = (Image.open(io.BytesIO(each)) for each in (found.large, found.small))
    scale = min(1, SIDE / max(size))
    assert large.size == tuple(max(1, round(each * scale)) for each in size)
    assert max(small.size) == min(THUMBNAIL_SIDE, max(size))
    assert large.format == small.format == "JPEG"
    assert large.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    reference = drawn.convert("RGB").resize(large.size, Image.Resampling.BICUBIC)
    apart = np.abs(np.asarray(large, float) - np.asarray(reference, float))
    assert apart.mean() < 12


def test_frames_of_an_animation_come_one_by_one(pictures: Pictures, tmp_path: Path) -> None:
    frames = [scene((60, 40), seed) for seed in range(4)]
    data = saved("GIF", frames, duration=100)
    (tmp_path / "a.gif").write_bytes(data)
    found = pictures.ask(next(_numbers), row(tmp_path / "a.gif", data)).result(timeout=60)
    assert [each.frame for each in found] == [0, 1, 2, 3]
    assert [each.milliseconds for each in found] == [0, 100, 200, 300]


def test_members_of_archives_are_found_again(pictures: Pictures, tmp_path: Path) -> None:
    data = encode(scene((60, 40)), "PNG")
    folder = tmp_path / "odd!"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("x/y.png", data)
    assert len(shown(pictures, f"{folder}/a.zip!/x/y.png", data)) == 1
    assert "no such member" in why_not(pictures, f"{folder}/a.zip!/x/z.png", data)
    (folder / "b.png").write_bytes(data)
    assert "part of another file" in why_not(pictures, f"{folder}/b.png!/other.png", data)


def test_what_is_gone_or_changed_is_not_shown(pictures: Pictures, tmp_path: Path) -> None:
    data = encode(scene((60, 40)), "PNG")
    path = tmp_path / "a.png"
    assert "No such file" in why_not(pictures, path, data)
    path.write_bytes(encode(scene((60, 40), 2), "PNG"))
    assert "changed since it was scanned" in why_not(pictures, path, data)
    for hostile in (b"<svg onload=alert(1)>", b"<html><script>alert(1)</script>", b"GIF89a cut"):
        path.write_bytes(hostile)
        assert why_not(pictures, path, hostile)
    assert "***" not in why_not(pictures, "https://h/a.png?sig=***", data)
    none = {"path": str(path), "sha256": None}
    with pytest.raises(OriginalError, match="no digest"):
        pictures.ask(next(_numbers), none).result(timeout=60)
    path.write_bytes(data)
    assert len(shown(pictures, path, data)) == 1, "the next one is served"
    os.mkfifo(tmp_path / "pipe")
    assert why_not(pictures, tmp_path / "pipe", data)


def test_a_picture_is_decoded_once_and_only_so_many_are_kept(
    pictures: Pictures, tmp_path: Path
) -> None:
    data = encode(scene((60, 40)), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    known = next(_numbers)
    first = pictures.ask(known, row(tmp_path / "a.png", data))
    assert pictures.ask(known, row(tmp_path / "a.png", data)) is first
    for _ in range(KEPT):
        last = pictures.ask(next(_numbers), {"path": "x", "sha256": None})
    with pytest.raises(OriginalError):
        last.result(timeout=60)
    assert pictures.ask(known, row(tmp_path / "a.png", data)) is not first


def test_an_image_does_not_wait_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderate.decode.scheduler._MAX_HELD_SECONDS", 3_600.0)
    (tmp_path / "a.png").write_bytes(data := encode(scene((60, 40)), "PNG"))
    with Pictures(Limits(), HttpOptions()) as pictures:
        assert len(shown(pictures, tmp_path / "a.png", data)) == 1


def test_relative_paths_are_found_from_another_folder(pictures: Pictures, tmp_path: Path) -> None:
    data = encode(scene((60, 40)), "PNG")
    (tmp_path / "a #é.png").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/b c.png", data)
    for path, uri in (
        ("./nowhere/a #é.png", (tmp_path / "a #é.png").as_uri()),
        ("./nowhere/a.zip!/in/b c.png", f"{(tmp_path / 'a.zip').as_uri()}#in/b%20c.png"),
    ):
        found = pictures.ask(next(_numbers), {**row(path, data), "uri": uri}).result(timeout=60)
        assert len(found) == 1


def test_the_server_loads_no_codecs() -> None:
    """They take a tenth of a second of its start, and only sandboxed decoders are to use them."""
    script = (
        "import sys, moderate.review.server, moderate.review.run\n"
        "assert 'moderate.decode.pool' in sys.modules\n"
        "assert not {'moderate.decode.image', 'pillow_heif'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_what_is_embedded_in_a_file_is_found_by_its_digest(
    pictures: Pictures, tmp_path: Path
) -> None:
    first, inner = (encode(scene((60 + n, 40), n), "PNG") for n in range(2))
    outer = encode(scene((50, 50), 7), "JPEG") + inner
    holder = encode(scene((300, 200), 3), "JPEG") + first + outer
    (tmp_path / "a.jpg").write_bytes(holder)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/a.jpg", holder)
        archive.writestr("embedded-1.png", inner)
    for path in (f"{tmp_path}/a.jpg", f"{tmp_path}/a.zip!/in/a.jpg"):
        (found,) = shown(pictures, f"{path}!/embedded-1.png", first)
        assert found.size == (60, 40)
        # The numbers of a scan of other kinds.
        assert len(shown(pictures, f"{path}!/embedded-9.png", first)) == 1
        assert "embedded in has changed" in why_not(pictures, f"{path}!/embedded-1.png", b"x")
        assert "embedded in has changed" in why_not(pictures, f"{path}!/embedded-1.gif", first)
    assert len(shown(pictures, f"{tmp_path}/a.zip!/embedded-1.png", inner)) == 1, "a member"
    assert "No such file" in why_not(pictures, f"{tmp_path}/b.jpg!/embedded-1.png", first)


def frames_of(video: Path, every: float) -> dict[str, str]:
    """The digest of each frame that a scan gives a row, by its time."""
    sampler = VideoSampler(VideoOptions(every), Limits())
    with open(video, "rb") as file:
        stills = list(sampler.sample(file.fileno(), video.suffix[1:]))
    return {timestamp(still.seconds): sha256(still.data).hexdigest() for still in stills}


def test_a_frame_of_a_video_is_shown_again(pictures: Pictures, tmp_path: Path) -> None:
    drawn = [scene((64, 48), seed=number) for number in range(30)]
    video = make_video(tmp_path / "clip.mp4", drawn)
    (tmp_path / "motion.jpg").write_bytes(encode(scene((90, 90)), "JPEG") + video.read_bytes())
    frames = frames_of(video, 0.7)
    assert list(frames) == [
        f"00:00:0{text}" for text in ("0.000", "0.700", "1.400", "2.100", "2.800")
    ]
    for path in (video, f"{tmp_path}/motion.jpg!/embedded-1.mp4"):
        for time, digest in frames.items():
            wanted = {"path": f"{path}!/{time}", "sha256": digest}
            (found,) = pictures.ask(next(_numbers), wanted).result(timeout=60)
            large = np.asarray(Image.open(io.BytesIO(found.large)), float)
            frame = drawn[round(float(time[6:]) * 10)]
            assert abs(large - np.asarray(frame, float)).mean() < 25
    wanted = {"path": f"{video}!/00:00:00.700", "sha256": frames["00:00:01.400"]}
    with pytest.raises(OriginalError, match="has changed since it was scanned"):
        pictures.ask(next(_numbers), wanted).result(timeout=60)
    with pytest.raises(OriginalError, match="No such file"):
        gone = {"path": f"{tmp_path}/b.mp4!/00:00:00.000", "sha256": "0" * 64}
        pictures.ask(next(_numbers), gone).result(timeout=60)


def test_an_image_that_hangs_does_not_hold_up_those_behind_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data := encode(scene((60, 40)), "PNG"))
    let_go = threading.Event()
    read = Originals.read

    def hanging(self: Originals, row: dict[str, Any]) -> bytes:
        if row["path"] == "hangs":
            let_go.wait(60)
        return read(self, row)

    with pytest.MonkeyPatch.context() as patch, Pictures(Limits(), HttpOptions()) as pictures:
        patch.setattr(Originals, "read", hanging)
        stuck = [
            pictures.ask(next(_numbers), {"path": "hangs", "sha256": "0" * 64})
            for _ in range(READERS - 1)
        ]
        for _ in range(3 * READERS):
            assert len(shown(pictures, tmp_path / "a.png", data)) == 1
        assert not any(each.done() for each in stuck)
        let_go.set()
        assert all(each.exception(timeout=60) for each in stuck)
        assert len(shown(pictures, tmp_path / "a.png", data)) == 1


def test_a_file_is_found_by_its_uri_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a b#.png").write_bytes(b"data")
    wanted = {**row("./a b#.png", b"data"), "uri": f"file://{tmp_path}/a%20b%23.png"}
    originals = Originals(Limits())
    (tmp_path / "elsewhere").mkdir()
    assert originals.read(wanted) == b"data"
    monkeypatch.chdir("elsewhere")
    assert originals.read(wanted) == b"data"
    Path("a b#.png").write_bytes(b"another")
    assert originals.read(wanted) == b"data"
    for path, uri, problem in (
        ("./a b#.png", None, Problem.CHANGED),
        ("./b.png", None, Problem.GONE),
        ("https://images.example/a.png", None, Problem.ELSEWHERE),
    ):
        with pytest.raises(OriginalError) as caught:
            originals.read({**row(path, b"data"), "uri": uri})
        assert caught.value.problem is problem
