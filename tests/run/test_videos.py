"""Videos in a scan: a row for each frame, then one for the file, between images and in order."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

import moderate
from moderate import Category, Decision, ErrorCode, Row, Warn
from moderate.cli.main import run
from moderate.decode.video import VideoOptions
from moderate.errors import UsageError
from moderate.run.options import ScanOptions
from moderate.run.pipeline import LocalEngine
from moderate.run.scan import plan
from moderate.sources.directory import WalkOptions
from moderate.sources.resolve import InputOptions
from moderate.types import CATEGORIES, Limits, Status
from tests.support.installing import how_to_install
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene
from tests.support.videos import CONTAINERS, grey, make_sound, make_video

Captured = pytest.CaptureFixture[str]


def scan(*inputs: Path, bundle: Path, every: float | None = 1.0, **options: object) -> list[Row]:
    video = None if every is None else VideoOptions(every)
    asked = ScanOptions(inputs=inputs, weights=str(bundle), device="cpu", video=video)
    with LocalEngine(plan(replace(asked, **options))) as engine:  # type: ignore[arg-type]
        return [item for item in engine.rows() if isinstance(item, Row)]


def name(row: Row) -> str:
    return os.fsdecode(row.ref.path).rpartition("/clip")[2]


def clip(folder: Path, suffix: str = "mp4", frames: int = 40) -> Path:
    """Four seconds of ten frames a second, whose scores differ."""
    pictures = (scene((64, 48), seed=number // 10) for number in range(frames))
    return make_video(folder / f"clip.{suffix}", pictures)


def policy(folder: Path, **lines: str) -> str:
    file = folder / "policy.toml"
    names = ("nudity", "sexual_activity", "suggestive", "violence", "drug_use")
    limits = lines.pop("limits", "{ review = 0.98, block = 0.99 }")
    head = ['name = "test"', *(f"{key} = {value}" for key, value in lines.items())]
    file.write_text("\n".join([*head, "[categories]", *(f"{n} = {limits}" for n in names)]) + "\n")
    return str(file)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_row_for_each_frame_and_one_for_the_file(
    tmp_path: Path, bundle: Path, suffix: str
) -> None:
    file = clip(tmp_path, suffix)
    *frames, whole = scan(tmp_path, bundle=bundle)
    assert [name(row) for row in frames] == [f".{suffix}!/00:00:0{n}.000" for n in range(4)]
    assert whole.ref.path == os.fsencode(file)
    data = file.read_bytes()
    facts = whole.facts
    assert (facts.width, facts.height, facts.frames) == (64, 48, 4)
    assert (facts.bytes, facts.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert facts.format == CONTAINERS[suffix][2]
    assert facts.warnings == ()
    for category in CATEGORIES:
        scores = [row.scores[category] for row in frames]
        assert len(set(scores)) == 4
        assert whole.scores[category] == max(scores)  # type: ignore[type-var]
    assert whole.decision is max((row.decision for row in frames), key=lambda one: one.severity)
    for row in frames:
        assert (row.facts.width, row.facts.height, row.facts.frames) == (64, 48, 1)
        assert row.facts.format == facts.format
        assert (row.facts.bytes, row.facts.sha256) == (None, None)


def test_a_frame_scores_as_the_same_picture_does(tmp_path: Path, bundle: Path) -> None:
    picture = scene((64, 48), seed=3)
    file = make_video(tmp_path / "clip.mkv", [picture] * 3, codec="ffv1")
    import av

    with av.open(str(file)) as container:
        next(container.decode(video=0)).to_image().save(tmp_path / "still.png")
    frame, whole, still = scan(tmp_path, bundle=bundle)
    for category in CATEGORIES:
        assert frame.scores[category] == pytest.approx(still.scores[category], abs=1e-5)
        assert whole.scores[category] == frame.scores[category]


def test_the_reasons_name_the_frame(tmp_path: Path, bundle: Path) -> None:
    file = clip(tmp_path)
    *frames, _ = scan(file, bundle=bundle)
    best = max(frames, key=lambda row: row.scores[Category.VIOLENCE] or 0)
    limit = (best.scores[Category.VIOLENCE] or 0) - 1e-4
    rules = policy(tmp_path)
    text = (
        Path(rules).read_text().replace("violence = { review = 0.98", "violence = { review = 0.0")
    )
    Path(rules).write_text(text.replace("0.0, block = 0.99", f"{limit / 2}, block = {limit}"))
    *frames, whole = scan(file, bundle=bundle, policy=rules)
    assert whole.decision is Decision.BLOCK
    at = os.fsdecode(best.ref.path).rpartition("!/")[2]
    (reason,) = whole.reasons
    assert reason.startswith("violence 0.")
    assert reason.endswith(f" at {at}")
    assert Decision.BLOCK in {row.decision for row in frames}


def test_images_and_videos_keep_the_order_whatever_the_batches(
    tmp_path: Path, bundle: Path
) -> None:
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(encode(scene((80, 60), seed=number), "PNG"))
    for number in (1, 4):
        clip(tmp_path).rename(tmp_path / f"{number}x.mp4")
    (tmp_path / "5x.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(500))
    plain = scan(tmp_path, bundle=bundle, every=None)
    pictures = {row.ref: row.scores for row in plain if row.status is Status.OK}
    base: list[Row] = []
    for batch, workers in ((32, 2), (1, 1), (2, 1), (3, 2), (5, 1)):
        rows = scan(tmp_path, bundle=bundle, batch_size=batch, workers=workers)
        names = [os.fsdecode(row.ref.path).removeprefix(f"{tmp_path}/") for row in rows]
        expected = []
        for file in sorted(os.listdir(tmp_path)):
            if file in ("1x.mp4", "4x.mp4"):
                expected += [f"{file}!/00:00:0{second}.000" for second in range(4)]
            expected.append(file)
        assert names == expected
        base = base or rows
        for one, two in zip(base, rows, strict=True):
            assert one.facts == two.facts
            assert one.decision == two.decision
            for category in CATEGORIES:
                assert one.scores[category] == pytest.approx(two.scores[category], abs=1e-5)
        for row in rows:
            if row.ref in pictures:
                for category in CATEGORIES:
                    wanted = pictures[row.ref][category]
                    assert row.scores[category] == pytest.approx(wanted, abs=1e-5)
    broken = next(row for row in base if row.ref.name == b"5x.mp4")
    assert broken.error is not None
    assert broken.facts.frames is None


@pytest.mark.parametrize(
    ("data", "file", "code"),
    [
        (b"", "clip.mp4", ErrorCode.EMPTY_FILE),
        (os.urandom(9000), "clip.mp4", ErrorCode.CORRUPT_IMAGE),
        (b"<html>gone</html>", "clip.mp4", ErrorCode.NOT_AN_IMAGE),
        (b"\x1aE\xdf\xa3" + bytes(3000), "clip.jpg", ErrorCode.CORRUPT_IMAGE),
        (b"RIFF\xff\xff\xff\xffAVI LIST" + bytes(3000), "clip.avi", ErrorCode.CORRUPT_IMAGE),
        (b"\x00\x00\x01\xba" + bytes(3000), "clip.mpg", ErrorCode.CORRUPT_IMAGE),
        (b"FLV\x01" + bytes(3000), "clip.flv", ErrorCode.UNSUPPORTED_FORMAT),
    ],
)
def test_a_video_that_cannot_be_read_is_one_error_row(
    tmp_path: Path, bundle: Path, data: bytes, file: str, code: ErrorCode
) -> None:
    (tmp_path / file).write_bytes(data)
    (row,) = scan(tmp_path, bundle=bundle)
    assert row.error is not None
    assert row.error.code is code
    assert row.decision is Decision.REVIEW
    assert row.facts.bytes == (len(data) or row.facts.bytes)
    assert set(row.scores.values()) == {None}


def test_sound_alone_and_a_picture_called_a_video(tmp_path: Path, bundle: Path) -> None:
    make_sound(tmp_path / "clip.mp4")
    (tmp_path / "picture.mp4").write_bytes(encode(scene(), "PNG"))
    sound, picture = scan(tmp_path, bundle=bundle)
    assert sound.error is not None
    assert sound.error.code is ErrorCode.NOT_AN_IMAGE
    assert picture.error is None
    assert Warn.EXTENSION_MISMATCH in picture.facts.warnings


def test_a_video_that_breaks_off_is_decided_as_an_error_too(tmp_path: Path, bundle: Path) -> None:
    noisy = (Image.effect_noise((128, 96), 80).convert("RGB") for _ in range(80))
    file = make_video(tmp_path / "clip.mkv", noisy)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    *frames, broken, whole = scan(file, bundle=bundle, policy=policy(tmp_path, on_error='"block"'))
    assert len(frames) >= 3
    assert {row.status for row in frames} == {Status.OK}
    assert broken.error is not None
    assert broken.error.code is ErrorCode.TRUNCATED
    assert whole.error is None
    assert whole.facts.frames == len(frames)
    assert whole.facts.warnings == (Warn.VIDEO_INCOMPLETE,)
    assert whole.decision is Decision.BLOCK
    at = os.fsdecode(broken.ref.path).rpartition("!/")[2]
    assert whole.reasons == (f"error truncated: on_error block at {at}",)


def test_more_frames_than_are_taken(tmp_path: Path, bundle: Path) -> None:
    *frames, whole = scan(clip(tmp_path), bundle=bundle, video=VideoOptions(0.5, max_frames=3))
    assert len(frames) == whole.facts.frames == 3
    assert whole.facts.warnings == (Warn.VIDEO_INCOMPLETE,)


def test_the_limits_of_files_and_of_frames(tmp_path: Path, bundle: Path) -> None:
    file = clip(tmp_path)
    size = file.stat().st_size
    *_, whole = scan(file, bundle=bundle, limits=Limits(max_file_bytes=10))
    assert whole.error is None, "the limit for images is not that of videos"
    (row,) = scan(file, bundle=bundle, video=VideoOptions(1, max_bytes=size - 1))
    assert row.error is not None
    assert row.error.code is ErrorCode.FILE_TOO_LARGE
    assert "--max-video-size" in row.error.message
    assert row.facts.bytes == size
    (row,) = scan(file, bundle=bundle, limits=Limits(max_pixels=64 * 48 - 1))
    assert row.error is not None
    assert row.error.code is ErrorCode.TOO_MANY_PIXELS


def test_a_limit_counts_a_video_once(tmp_path: Path, bundle: Path) -> None:
    file = clip(tmp_path)
    rows = scan(file, file, file, bundle=bundle, limit=2)
    assert [name(row) for row in rows].count(".mp4") == 2
    assert len(rows) == 10


def test_without_the_option_the_message_names_it(tmp_path: Path, bundle: Path) -> None:
    for suffix in CONTAINERS:
        clip(tmp_path, suffix, frames=2)
    rows = scan(tmp_path, bundle=bundle, every=None)
    assert len(rows) == len(CONTAINERS)
    for row in rows:
        assert row.error is not None
        assert row.error.code is ErrorCode.UNSUPPORTED_FORMAT
        assert "--video-every" in row.error.message


def test_other_places_than_local_files_are_named(tmp_path: Path, bundle: Path) -> None:
    file = clip(tmp_path)
    with zipfile.ZipFile(tmp_path / "dump.zip", "w") as archive:
        archive.write(file, "clip.mp4")
    (row,) = scan(tmp_path / "dump.zip", bundle=bundle)
    assert row.error is not None
    assert row.error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert row.error.message == "videos are read from local files only"


def test_links_are_not_followed_unasked(tmp_path: Path, bundle: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    clip(outside)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "clip.mp4").symlink_to(outside / "clip.mp4")
    assert scan(folder, bundle=bundle) == []
    walk = InputOptions(walk=WalkOptions(follow_symlinks=True))
    rows = scan(folder, bundle=bundle, reading=walk)
    assert len(rows) == 5
    assert all(Warn.SYMLINK_OUTSIDE in row.facts.warnings for row in rows)


def test_columns_of_a_manifest_go_to_every_row(
    tmp_path: Path, bundle: Path, capsys: Captured
) -> None:
    clip(tmp_path)
    (tmp_path / "in.csv").write_text("path,id\nclip.mp4,seven\n")
    with contextlib.chdir(tmp_path):
        arguments = ["in.csv", "--keep", "id", "--weights", str(bundle), "--video-every", "2"]
        code = run(["scan", *arguments, "--out", "o.csv", "--out", "o.parquet", "--device", "cpu"])
    assert code == 0, capsys.readouterr().err
    with (tmp_path / "o.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    ending = ["clip.mp4!/00:00:00.000", "clip.mp4!/00:00:02.000", "clip.mp4"]
    assert [row["path"].rpartition("/clip")[2] for row in rows] == [
        end.removeprefix("clip") for end in ending
    ]
    assert {row["id"] for row in rows} == {"seven"}
    assert pq.read_table(tmp_path / "o.parquet").column("frames").to_pylist() == [1, 1, 2]


def test_a_run_given_up_leaves_no_process(tmp_path: Path, bundle: Path) -> None:
    before = children()
    pictures = (grey(number) for number in range(3000))
    file = make_video(tmp_path / "clip.mkv", pictures)
    video = VideoOptions(0.1)
    asked = ScanOptions(inputs=[file] * 3, weights=str(bundle), device="cpu", video=video)
    with LocalEngine(plan(replace(asked, batch_size=2))) as engine:
        next(iter(engine.rows()))
    deadline = 100
    while children() - before and deadline:
        deadline -= 1
        subprocess.run(["sleep", "0.1"], check=True)
    assert not children() - before


def children() -> set[int]:
    found = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{entry}/cmdline").read_bytes()
            if int(words[1]) == os.getpid() and b"video_worker" in command:
                found.add(int(entry))
    return found


HIDDEN = """
import sys
class Hider:
    def find_spec(self, name, path=None, target=None):
        if name == "av" or name.startswith("av."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hider())
from moderate.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("option", [["--video-every", "1"], []])
def test_without_pyav_the_option_is_one_clear_line(
    tmp_path: Path, bundle: Path, option: list[str]
) -> None:
    file = clip(tmp_path)
    told = subprocess.run(
        [sys.executable, "-c", HIDDEN, "scan", file, "--weights", bundle, "--device=cpu", *option],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if option:
        assert told.returncode == 2
        needed = f"--video-every needs PyAV; {how_to_install('video')}"
        assert re.fullmatch(f"moderate: error: {needed}\n", told.stderr)
    else:
        assert told.returncode == 2
        assert "no image could be scored: the only row is an error" in told.stderr


@pytest.mark.parametrize("every", ["0", "0.05", "-1", "nan"])
def test_distances_that_make_no_sense(
    tmp_path: Path, bundle: Path, every: str, capsys: Captured
) -> None:
    file = clip(tmp_path, frames=2)
    assert run(["scan", str(file), "--weights", str(bundle), "--video-every", every]) == 2
    assert "--video-every" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--video-every"):
        scan(file, bundle=bundle, every=float(every))


def test_the_plain_scan_of_python_refuses_videos(tmp_path: Path, bundle: Path) -> None:
    (row,) = moderate.scan(clip(tmp_path, frames=2), weights=str(bundle), device="cpu")
    assert row.error is not None
    assert "--video-every" in row.error.message


# Segments and the early end ---------------------------------------------------------------------


def violence(rows: list[Row]) -> list[float]:
    return [row.scores[Category.VIOLENCE] or 0.0 for row in rows]


def by_violence(folder: Path, review: float, block: float, label: str = "") -> str:
    """A policy that only violence, and a label, have thresholds in that can be reached."""
    file = Path(policy(folder, limits="{ review = 1.0, block = 1.0 }"))
    limits = f"{{ review = {review!r}, block = {block!r} }}"
    text = file.read_text().replace(
        "violence = { review = 1.0, block = 1.0 }", f"violence = {limits}"
    )
    file.write_text(text + (f'[labels."{label}"]\nreview = 0.0\nblock = 1.0\n' if label else ""))
    return str(file)


def test_segments_and_the_same_by_decide(tmp_path: Path, bundle: Path) -> None:
    file = clip(tmp_path, "mpg", frames=38)
    *frames, whole = scan(file, bundle=bundle)
    scores = violence(frames)
    assert whole.segments is None or json.loads(whole.segments)
    assert (whole.facts.duration, whole.facts.frames_scored) == (pytest.approx(3.8), 4)
    limit = sorted(scores)[-2]  # two of the four frames are over it
    rules = by_violence(tmp_path, limit, max(scores))
    *frames, whole = scan(file, bundle=bundle, policy=rules)
    over = [score >= limit for score in scores]
    expected = []
    for number, is_over in enumerate(over):
        end = min(number + 1.0, 3.8)
        if is_over and number and over[number - 1]:
            expected[-1]["end"], expected[-1]["maximum"] = end, max(scores)
        elif is_over:
            expected.append(
                {"category": "violence", "start": float(number), "end": end}
                | {"maximum": scores[number]}
            )
    for each in expected:
        each["decision"] = "block" if each["maximum"] == max(scores) else "review"
        each["maximum"] = pytest.approx(each["maximum"], abs=1e-6)
    assert whole.segments is not None
    assert json.loads(whole.segments) == expected
    assert [row.segments for row in frames] == [None] * 4

    base = ["scan", str(file), "--weights", str(bundle), "--device=cpu", "--video-every=1"]
    scanned, decided = tmp_path / "a.parquet", tmp_path / "b.csv"
    assert run([*base, "-o", str(scanned), "-q"]) == 0
    assert run(["decide", str(scanned), "--policy", rules, "-o", str(decided)]) == 0
    with decided.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["segments"] for row in rows] == ["", "", "", "", whole.segments]
    assert rows[-1]["duration"] == "3.8"


def test_segments_of_labels_and_in_words(tmp_path: Path, bundle: Path, capsys: Captured) -> None:
    file, out = clip(tmp_path, frames=20), tmp_path / "o.jsonl"
    base = ["scan", str(file), "--weights", str(bundle), "--device=cpu", "--video-every=1", "-q"]
    assert run([*base, "--keep-labels", "-o", str(out)]) == 0
    row = json.loads(out.read_text().splitlines()[-1])
    label = next(key for key in row if key.startswith("label:"))
    name = label[len("label:") :]
    rules = by_violence(tmp_path, 1.0, 1.0, name)
    assert run([*base, "--policy", rules, "-o", str(out), "--force"]) == 0
    row = json.loads(out.read_text().splitlines()[-1])
    (segment,) = json.loads(row["segments"])
    assert (segment["label"], segment["start"], segment["end"]) == (name, 0.0, 2.0)
    capsys.readouterr()
    assert run(["explain", str(out), "clip.mp4"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "00:00:00.000 to 00:00:02.000: label" in said


def test_a_video_ends_with_the_frame_that_decides(tmp_path: Path, bundle: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("clip1.mp4", "clip3.mp4"):
        clip(folder).rename(folder / name)
    (folder / "clip2.png").write_bytes(encode(scene((64, 48), seed=9), "PNG"))
    *frames, _ = scan(folder / "clip1.mp4", bundle=bundle)
    scores = violence(frames)
    best = scores.index(max(scores[:3]))
    rules = by_violence(tmp_path, max(scores[:3]), max(scores[:3]))
    first = next(n for n, score in enumerate(scores) if score >= max(scores[:3]))
    assert first == best < 3
    base: list[tuple[object, ...]] = []
    for batch, workers in ((1, 1), (32, 2), (2, 1)):
        video = VideoOptions(1, stop_on="block")
        rows = scan(
            folder, bundle=bundle, policy=rules, video=video, batch_size=batch, workers=workers
        )
        found = [
            (
                *(row.ref.path, row.facts, row.decision, row.reasons),
                *(row.origin, row.duplicate_of, row.segments),
            )
            for row in rows
        ]
        base = base or found
        assert found == base
    at = f"00:00:0{best}.000"
    for video_name in ("clip1.mp4", "clip3.mp4"):
        of_video = [row for row in rows if f"/{video_name}" in os.fsdecode(row.ref.path)]
        assert len(of_video) == best + 2
        whole = of_video[-1]
        assert whole.decision is Decision.BLOCK
        assert whole.reasons[-1] == f"stopped by --video-stop-on at {at}"
        assert whole.facts.warnings == (Warn.VIDEO_STOPPED,)
        assert (whole.facts.frames, whole.facts.duration) == (best + 1, best + 1.0)


def test_a_video_that_ended_early_is_not_approved_later(tmp_path: Path, bundle: Path) -> None:
    file, out, again = clip(tmp_path), tmp_path / "a.csv", tmp_path / "b.csv"
    strict = by_violence(tmp_path, 0.0, 0.0)
    base = ["scan", str(file), "--weights", str(bundle), "--device=cpu", "--video-every=1", "-q"]
    assert run([*base, "--policy", strict, "--video-stop-on=review", "-o", str(out)]) == 0
    lenient = tmp_path / "lenient.toml"
    presets = Path(moderate.__file__).parent / "policy/presets/permissive.toml"
    text = re.sub(
        r"review = 0\.\d+, block = [01]\.\d+", "review = 1.0, block = 1.0", presets.read_text()
    )
    lenient.write_text(text)
    assert run(["decide", str(out), "--policy", str(lenient), "-o", str(again)]) == 0
    with again.open(newline="") as lines:
        *frames, whole = csv.DictReader(lines)
    assert [frame["decision"] for frame in frames] == ["approve"]
    assert whole["decision"] == "review"
    assert "warning video_stopped: on_warning review" in whole["reasons"]


def test_what_an_early_end_remembers_serves_the_next_run(tmp_path: Path, bundle: Path) -> None:
    file, rules = clip(tmp_path), by_violence(tmp_path, 0.0, 0.0)
    base = ["scan", str(file), "--weights", str(bundle), "--device=cpu", "--video-every=1", "-q"]
    base += ["--policy", rules, "--video-stop-on=block", "--state", str(tmp_path / "state")]
    rows = []
    for name in ("a.jsonl", "b.jsonl"):
        assert run([*base, "-o", str(tmp_path / name)]) == 0
        lines = (tmp_path / name).read_text().splitlines()
        rows.append([json.loads(line) for line in lines])
    assert [len(each) for each in rows] == [2, 2]
    for key in ("path", "decision", "reasons", "violence", "frames", "segments", "duration"):
        assert [row[key] for row in rows[0]] == [row[key] for row in rows[1]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--video-stop-on", "block"], "--video-stop-on goes with --video-every SECONDS"),
        (["--min-frames", "3"], "--min-frames goes with --video-every SECONDS"),
        (["--video-every", "1", "--min-frames", "0"], "--min-frames"),
        (["--video-every", "1", "--video-stop-on", "never mind"], "--video-stop-on"),
    ],
)
def test_options_that_make_no_sense(
    tmp_path: Path, bundle: Path, options: list[str], said: str, capsys: Captured
) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"")
    assert run(["scan", str(file), "--weights", str(bundle), *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "video",
    [VideoOptions(1, min_frames=0), VideoOptions(1, stop_on="maybe")],  # type: ignore[arg-type]
)
def test_options_of_python_that_make_no_sense(
    tmp_path: Path, bundle: Path, video: VideoOptions
) -> None:
    with pytest.raises(UsageError, match=r"--min-frames 0|--video-stop-on 'maybe'"):
        scan(tmp_path, bundle=bundle, video=video)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in list(os.environ):
        if key.startswith("MODERATE_"):
            monkeypatch.delenv(key)
