"""What was scored once is not scored again, and the rows are the same to the last bit."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from moderate.cli.main import run
from moderate.decode.scheduler import Scheduler
from moderate.decode.supervisor import Supervisor
from moderate.errors import DeviceError, OutputError
from moderate.fetch import fetcher
from moderate.results.text_writers import metadata_path
from moderate.state.database import UnavailableError
from moderate.state.known_files import path_digest
from moderate.state.records import FileStat, pack_stat
from moderate.state.scores import ScoreStore
from moderate.stopping import Stopped
from tests.support import passthrough, run_columns
from tests.support.bundles import make_bundle
from tests.support.http_servers import Farm, Request, Server, answer, plain
from tests.support.pictures import encode, scene
from tests.support.videos import make_video

Captured = pytest.CaptureFixture[str]
OPENVINO = "moderate.classify.backends.openvino_backend.OpenVinoBackend"
Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures, one of them broken, one no picture; older than any clock's tick."""
    made = tmp_path / "in"
    made.mkdir()
    for number in range(10):
        (made / f"{number}.png").write_bytes(encode(scene((90, 60), seed=number), "PNG"))
    (made / "5.png").write_bytes((made / "5.png").read_bytes()[:-40])
    (made / "7.png").write_bytes(b"<html>no picture</html>")
    time.sleep(0.1)
    return made


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names of images that a decoder was given."""
    names: list[bytes] = []
    assign = Scheduler._assign

    def counted(self: Scheduler[Any], decoder: Any, task: Any) -> None:
        names.append(task.entry.item.ref.path)
        assign(self, decoder, task)

    monkeypatch.setattr(Scheduler, "_assign", counted)
    return names


def scan(*arguments: str | Path, bundle: Path, out: str = "rows", code: int = 0) -> Rows:
    asked = ["scan", *map(str, arguments), "--weights", str(bundle), "--device", "cpu", "-q"]
    target, summary = Path(f"{out}.jsonl").resolve(), Path(f"{out}.json").resolve()
    assert run([*asked, "--out", str(target), "--summary", str(summary)]) == code
    return without_run(read_rows(out)) if target.exists() else []


def read_rows(out: str = "rows") -> Rows:
    return [json.loads(line) for line in Path(f"{out}.jsonl").read_text().splitlines()]


def without_run(rows: Rows) -> Rows:
    return [{k: v for k, v in row.items() if k not in run_columns.NAMES} for row in rows]


def origins(out: str = "rows") -> tuple[int, int, int, int]:
    counts = json.loads(Path(f"{out}.json").read_text())["origins"]
    return counts["new"], counts["changed"], counts["reused"], counts["duplicate"]


def test_an_unchanged_file_is_not_even_read(
    folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scan(folder, bundle=bundle)
    assert origins() == (10, 0, 0, 0)
    audit = json.loads(Path(metadata_path("rows.jsonl")).read_text())

    def never(*_: object, **__: object) -> bytes:
        raise AssertionError("a file was read")

    monkeypatch.setattr(fetcher, "read_file", never)
    monkeypatch.setattr(Supervisor, "_start_missing", never)
    assert scan(folder, bundle=bundle) == first
    assert origins() == (0, 0, 10, 0)
    again = json.loads(Path(metadata_path("rows.jsonl")).read_text())
    for facts in (audit, again):
        for key in ("run_id", "started", "ended", "sha256"):
            facts.pop(key)
    assert again == audit


def test_a_run_over_known_images_imports_neither_torch_nor_pillow(
    folder: Path, bundle: Path
) -> None:
    scan(folder, bundle=bundle)
    code = (
        "import sys; from moderate.cli.main import run; code = run(sys.argv[1:]);"
        "print(code, 'torch' in sys.modules, 'openvino' in sys.modules)"
    )
    arguments = ["scan", str(folder), "--weights", str(bundle), "--device", "cpu", "-q"]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert result.stdout == "0 False False\n"


def test_only_what_is_new_or_changed_is_decoded(
    folder: Path, bundle: Path, decoded: list[bytes]
) -> None:
    scan(folder, bundle=bundle)
    decoded.clear()
    (folder / "new.png").write_bytes(encode(scene((90, 60), seed=77), "PNG"))
    (folder / "2.png").write_bytes(encode(scene((90, 60), seed=78), "PNG"))  # changed
    (folder / "3.png").touch()
    (folder / "4.png").rename(folder / "renamed.png")
    (folder / "6.png").unlink()
    (folder / "8.png").write_bytes((folder / "9.png").read_bytes())  # changed, to what is known
    time.sleep(0.1)
    rows = scan(folder, bundle=bundle)
    assert sorted(decoded) == [os.fsencode(folder / name) for name in ("2.png", "new.png")]
    assert origins() == (1, 2, 7, 0)
    assert rows == scan(folder, "--no-state", bundle=bundle, out="fresh")
    decoded.clear()
    assert rows == scan(folder, bundle=bundle)
    assert origins() == (0, 0, 10, 0)
    assert not decoded


def test_a_change_that_keeps_size_and_mtime_is_noticed(tmp_path: Path, bundle: Path) -> None:
    """As an archive can make it, which sets any mtime it likes."""
    file = tmp_path / "a.bmp"
    file.write_bytes(encode(scene((64, 64), seed=1), "BMP"))
    os.utime(file, ns=(10**18, 10**18))
    time.sleep(0.1)
    first = scan(file, bundle=bundle)
    file.write_bytes(encode(scene((64, 64), seed=2), "BMP"))
    os.utime(file, ns=(10**18, 10**18))
    assert file.stat().st_size == first[0]["bytes"]
    second = scan(file, bundle=bundle)
    assert origins() == (0, 1, 0, 0)
    assert second[0]["sha256"] != first[0]["sha256"]
    assert second[0]["nudity"] != first[0]["nudity"]


def swap(file: Path, seed: int) -> None:
    """Another content under the same size and mtime."""
    before = file.stat()
    file.write_bytes(encode(scene((64, 64), seed=seed), "BMP"))
    os.utime(file, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


@pytest.fixture
def bitmaps(tmp_path: Path) -> Path:
    """Three bitmaps of the same size and time."""
    made = tmp_path / "bitmaps"
    made.mkdir()
    for number in range(3):
        (made / f"{number}.bmp").write_bytes(encode(scene((64, 64), seed=number), "BMP"))
        os.utime(made / f"{number}.bmp", ns=(10**18, 10**18))
    return made


@pytest.mark.skipif(not passthrough.can_mount(), reason="no FUSE for this user")
def test_where_ctime_is_mtime_a_swapped_image_does_not_keep_its_decision(
    bitmaps: Path, bundle: Path, tmp_path: Path, decoded: list[bytes], capsys: Captured
) -> None:
    """A real file system without a time of change of its own, as FAT and many kinds of FUSE are."""
    point = tmp_path / "point"
    with passthrough.passthrough(bitmaps, point):
        assert (point / "1.bmp").stat().st_ctime_ns == 10**18
        first = scan(point, bundle=bundle)
        assert scan(point, bundle=bundle) == first
        assert origins() == (0, 0, 3, 0)
        assert len(decoded) == 3, "what is read again is not scored again"
        known = (point / "1.bmp").stat()
        swap(bitmaps / "1.bmp", seed=77)
        now = (point / "1.bmp").stat()
        assert (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == (
            *(known.st_size, known.st_mtime_ns, known.st_ctime_ns),
        )
        second = scan(point, bundle=bundle)
    assert origins() == (0, 1, 2, 0)
    assert decoded[3:] == [os.fsencode(point / "1.bmp")]
    assert second[1]["sha256"] == hashlib.sha256((bitmaps / "1.bmp").read_bytes()).hexdigest()
    assert second[1]["nudity"] != first[1]["nudity"]
    assert [second[0], second[2]] == [first[0], first[2]]
    (line,) = capsys.readouterr().err.splitlines()
    assert "1.bmp has another content than before, though its size and times" in line


def test_verify_reads_every_file_and_scores_what_is_new_alone(
    bitmaps: Path, bundle: Path, decoded: list[bytes], capsys: Captured
) -> None:
    """For whoever can change a file unseen: here its entry of the index says what it says now."""
    first = scan(bitmaps, "--state", "state", bundle=bundle)
    time.sleep(0.1)
    assert scan(bitmaps, "--state", "state", "--verify", bundle=bundle) == first
    assert origins() == (0, 0, 3, 0)
    assert len(decoded) == 3
    swap(bitmaps / "2.bmp", seed=78)
    remember(Path("state"), bitmaps / "2.bmp", first[2]["sha256"])
    assert scan(bitmaps, "--state", "state", bundle=bundle) == first, "it is taken for unchanged"
    assert capsys.readouterr().err == ""
    rows = scan(bitmaps, "--state", "state", "--verify", bundle=bundle)
    assert origins() == (0, 1, 2, 0)
    assert len(decoded) == 4
    assert rows[2]["sha256"] != first[2]["sha256"]
    assert "2.bmp has another content than before" in capsys.readouterr().err
    assert scan(bitmaps, "--state", "state", bundle=bundle) == rows
    assert capsys.readouterr().err == ""


def remember(state: Path, file: Path, sha256: str) -> None:
    """Have the state take the file, as it is now, for one of this content."""
    status = file.stat()
    stat = FileStat(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    path = path_digest(os.fsencode(file), os.getcwdb())
    packed = pack_stat(path, bytes.fromhex(sha256), stat)
    with contextlib.closing(sqlite3.connect(state / "scores.sqlite3")) as connection, connection:
        changed = connection.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, 700000, ?)",
            (path, bytes.fromhex(sha256), packed),
        )
        assert changed.rowcount == 1


def png(width: int, height: int) -> bytes:
    """A PNG file whose header claims these sides."""
    header = b"IHDR" + struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + encode(scene((8, 8)), "PNG")[33:]


def bmp(width: int, height: int) -> bytes:
    """A BMP file whose header claims these sides (32 bits with a sign)."""
    made = bytearray(encode(scene((8, 8)), "BMP"))
    made[18:26] = struct.pack("<ii", width, height)
    return bytes(made)


@pytest.mark.parametrize("state", ["--state=state", "--no-state"])
def test_a_number_that_a_file_claims_costs_its_own_image_only(
    folder: Path, bundle: Path, state: str
) -> None:
    rows = scan(folder, state, bundle=bundle)
    claims = {
        "a.png": png(2**31, 1), "b.png": png(2**32 - 1, 2**32 - 1), "c.png": png(1, 2**31),
        "d.bmp": bmp(2**31 - 1, 1), "e.bmp": bmp(1, -(2**31)), "f.bmp": bmp(-(2**31), -(2**31)),
        "g.bmp": bmp(8, -8),
    }  # fmt: skip
    for name, data in claims.items():
        (folder / name).write_bytes(data)
    for number, moment in enumerate((16_725_225_600, -10_000_000_000, 2**62)):
        try:  # as `tar xf` restores it; how far it goes is the file system's to say
            os.utime(folder / f"{number}.png", (moment, moment))
        except OverflowError:
            os.utime(folder / f"{number}.png", (2**33, 2**33))
    time.sleep(0.1)
    for _ in range(2):
        again = scan(folder, state, f"--out={Path('rows.parquet').resolve()}", bundle=bundle)
        assert [row for row in again if Path(row["path"]).name not in claims] == rows
        odd = {Path(row["path"]).name: row for row in again if Path(row["path"]).name in claims}
        assert odd.keys() == claims.keys()
        assert all(row["status"] == "error" for name, row in odd.items() if name != "g.bmp")
        assert odd["b.png"]["error_code"] == "too_many_pixels"
        assert odd["b.png"]["width"] in (2**32 - 1, None)
        assert pq.read_table("rows.parquet")["width"].to_pylist() == [row["width"] for row in again]


def test_a_length_that_a_server_announces_costs_its_own_image_only(
    tmp_path: Path, bundle: Path
) -> None:
    farm = Farm()
    try:
        picture = encode(scene((90, 60), seed=1), "PNG")
        huge = [str(number) for number in (2**31, 2**63 - 1, 2**63, 2**64, 10**30)]
        behaviours = {f"/{n}": plain(answer(picture, Content_Length=n), keep=False) for n in huge}
        server = farm.start(Server({**behaviours, "/good": plain(answer(picture))}))
        Path("urls.txt").write_text("".join(f"{server.url(f'/{n}')}\n" for n in [*huge, "good"]))
        rows = scan(
            *("urls.txt", "--allow-host", "127.0.0.1", "--url-timeout", "20"),
            f"--out={Path('rows.parquet').resolve()}", bundle=bundle,
        )  # fmt: skip
    finally:
        farm.close()
    assert [row["status"] for row in rows] == [*["error"] * len(huge), "ok"]
    assert pq.read_table("rows.parquet")["bytes"].to_pylist() == [row["bytes"] for row in rows]
    assert all(row["bytes"] is None or row["bytes"] < 2**63 for row in rows)


def test_a_file_as_young_as_the_clocks_tick_is_read_again(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderate.run.local_files._FINE_TICK", 3600 * 10**9)
    monkeypatch.setattr("moderate.run.local_files._COARSE_TICK", 3600 * 10**9)
    (tmp_path / "a.png").write_bytes(encode(scene((64, 64)), "PNG"))
    reads = []
    read_file = fetcher.read_file

    def counted(path: bytes, *arguments: Any, **options: Any) -> bytes:
        reads.append(path)
        return read_file(path, *arguments, **options)

    monkeypatch.setattr(fetcher, "read_file", counted)
    for _ in range(3):
        scan(tmp_path / "a.png", bundle=bundle)
    assert len(reads) == 3
    assert origins() == (0, 0, 1, 0)


def test_copies_are_decoded_once_and_have_a_row_each(
    folder: Path, bundle: Path, decoded: list[bytes]
) -> None:
    shutil.copy(folder / "1.png", folder / "1copy.png")
    shutil.copy(folder / "1.png", folder / "sub.jpg")  # with a warning of its own
    shutil.copy(folder / "5.png", folder / "5copy.png")
    shutil.copy(folder / "7.png", folder / "7copy.png")
    time.sleep(0.1)
    rows = {Path(row["path"]).name: row for row in scan(folder, bundle=bundle)}
    assert len(rows) == 14
    assert len(decoded) == 9
    assert origins() == (10, 0, 0, 4)
    copies = {
        name: Path(row["duplicate_of"]).name for name, row in rows.items() if row["duplicate_of"]
    }
    assert copies == {"1copy.png": "1.png", "sub.jpg": "1.png", "5copy.png": "5.png",
                      "7copy.png": "7.png"}  # fmt: skip
    for copy, original in copies.items():
        for key in (
            "status",
            "decision",
            "nudity",
            "sha256",
            "error_code",
            "error_message",
            "width",
        ):
            assert rows[copy][key] == rows[original][key], (copy, key)
    assert "extension_mismatch" in rows["sub.jpg"]["warnings"]
    decoded.clear()
    again = {Path(row["path"]).name: row for row in scan(folder, bundle=bundle)}
    assert again == rows
    assert origins() == (0, 0, 14, 0)
    without = {
        Path(row["path"]).name: row for row in scan(folder, "--no-state", bundle=bundle, out="n")
    }
    assert without == rows
    assert len(decoded) == 9


def test_a_copy_that_comes_in_first_is_still_the_copy(
    tmp_path: Path, bundle: Path, decoded: list[bytes]
) -> None:
    """URLs arrive in any order; rows and what they are copies of stay those of the input."""
    picture, other = (encode(scene((90, 60), seed=seed), "PNG") for seed in (1, 2))
    waiting = 0.6

    async def slowly(request: Request) -> bool:
        await asyncio.sleep(waiting)
        await request.send(answer(picture))
        return True

    farm = Farm()
    try:
        behaviours = {"/slow": slowly, "/other": plain(answer(other)), "*": plain(answer(picture))}
        server = farm.start(Server(behaviours))
        names = ["/slow", "/other", *(f"/{number}" for number in range(20))]
        Path("urls.txt").write_text("".join(f"{server.url(name)}\n" for name in names))
        arguments = ["urls.txt", "--allow-host", "127.0.0.1", "--batch-size", "3"]
        rows = scan(*arguments, bundle=bundle)
        assert [row["path"] for row in rows] == [server.url(name) for name in names]
        assert [row["duplicate_of"] for row in rows] == [None, None, *[server.url("/slow")] * 20]
        assert [row["origin"] for row in read_rows()] == ["new", "new", *["duplicate"] * 20]
        assert len({row["nudity"] for row in rows}) == 2
        assert len(decoded) == 2
        waiting = 0.0
        assert scan(*arguments, bundle=bundle) == rows
    finally:
        farm.close()
    assert origins() == (0, 0, 22, 0)
    assert len(decoded) == 2


def test_members_of_archives_and_data_urls_share_scores_with_files(
    folder: Path, bundle: Path, decoded: list[bytes]
) -> None:
    rows = scan(folder, bundle=bundle)
    decoded.clear()
    with tarfile.open("all.tar", "w") as tar:
        tar.add(folder, "in")
    packed = scan("all.tar", bundle=bundle)
    assert origins() == (0, 0, 10, 0)
    assert not decoded
    assert [row["nudity"] for row in packed] == [row["nudity"] for row in rows]


def test_frames_of_videos_are_scored_once(
    tmp_path: Path, bundle: Path, decoded: list[bytes]
) -> None:
    pictures = (scene((64, 48), seed=number // 10) for number in range(40))
    make_video(tmp_path / "clip.mp4", pictures)
    rows = scan("clip.mp4", "--video-every", "1", bundle=bundle)
    assert len(decoded) == 4
    decoded.clear()
    assert scan("clip.mp4", "--video-every", "1", bundle=bundle) == rows
    assert {row["origin"] for row in read_rows()} == {"reused"}, "the video as its frames"
    assert read_rows()[-1]["scored_at"] == max(row["scored_at"] for row in read_rows())
    assert not decoded


def test_rescore_and_retry_errors(folder: Path, bundle: Path, decoded: list[bytes]) -> None:
    rows = scan(folder, bundle=bundle)
    decoded.clear()
    assert scan(folder, "--retry-errors", bundle=bundle) == rows
    assert decoded == [os.fsencode(folder / "5.png")]
    assert origins() == (2, 0, 8, 0)
    decoded.clear()
    assert scan(folder, "--rescore", bundle=bundle) == rows
    assert len(decoded) == 9
    assert origins() == (10, 0, 0, 0)


def test_another_policy_needs_no_image_other_weights_need_all(
    folder: Path, bundle: Path, tmp_path: Path, decoded: list[bytes]
) -> None:
    rows = scan(folder, bundle=bundle)
    decoded.clear()
    strict = scan(folder, "--policy", "strict", bundle=bundle)
    assert not decoded
    assert [row["nudity"] for row in strict] == [row["nudity"] for row in rows]
    assert strict[5]["decision"] == "block"
    assert rows[5]["decision"] == "review"
    other = make_bundle(tmp_path / "other", seed=5)
    changed = scan(folder, bundle=other)
    assert len(decoded) >= 8
    assert changed[0]["nudity"] != rows[0]["nudity"]
    assert scan(folder, bundle=bundle) == rows


def test_limits_are_kept_by_what_is_known_too(folder: Path, bundle: Path) -> None:
    rows = scan(folder, bundle=bundle)
    for limit, code in (("--max-megapixels=0.005", "too_many_pixels"),
                        ("--max-file-size=100", "file_too_large")):  # fmt: skip
        limited = scan(folder, limit, bundle=bundle, code=2)
        assert sum(row["error_code"] == code for row in limited) >= 8
        assert limited == scan(folder, limit, "--no-state", bundle=bundle, out="fresh", code=2)
    assert scan(folder, bundle=bundle) == rows


def test_a_reason_that_depends_on_the_name_is_not_that_of_another_name(
    tmp_path: Path, bundle: Path
) -> None:
    data = b"some text that is no picture"
    codes = {}
    for name in ("a.jpg", "b.xbm", "c.jpg", "d.xbm"):
        (tmp_path / name).write_bytes(data)
        (row,) = scan(tmp_path / name, bundle=bundle, code=2)
        codes[name] = (row["error_code"], row["error_message"])
    assert codes["a.jpg"] == codes["c.jpg"] == ("not_an_image", "the bytes are text, not an image")
    assert codes["b.xbm"] == codes["d.xbm"]
    assert codes["b.xbm"][0] == "unsupported_format"


def test_errors_of_the_moment_are_tried_again(folder: Path, bundle: Path) -> None:
    # Large enough to take many times the limit on any machine, and the others far less than it.
    (folder / "0.png").write_bytes(encode(Image.new("RGB", (8_000, 6_000)), "PNG"))
    time.sleep(0.1)
    rows = scan(folder, "--decode-timeout", "0.05", bundle=bundle)
    assert rows[0]["error_code"] == "decode_timeout"
    assert scan(folder, bundle=bundle)[0]["status"] == "ok"
    assert origins() == (1, 0, 9, 0)


def test_a_file_that_is_not_read_is_new_once(folder: Path, bundle: Path) -> None:
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe.png")
    (folder / "big.png").write_bytes(bytes(200_000))
    time.sleep(0.1)
    unread = ("big.png", "empty.png", "pipe.png")
    limit = ("--max-file-size", "100KB")

    def nightly(*options: str) -> dict[str, str]:
        scan(folder, *limit, *options, bundle=bundle)
        rows = {Path(row["path"]).name: row for row in read_rows()}
        assert all(rows[name]["status"] == "error" for name in unread if name in rows)
        return {name: rows[name]["origin"] for name in unread if name in rows}

    assert nightly() == dict.fromkeys(unread, "new")
    assert nightly() == dict.fromkeys(unread, "reused")
    assert nightly("--only", "new,changed", "--fail-on", "review") == {}
    assert nightly("--only", "new", "--retry-errors") == dict.fromkeys(unread, "new")

    (folder / "big.png").write_bytes(bytes(210_000))
    (folder / "empty.png").write_bytes(encode(scene((90, 60), seed=79), "PNG"))
    (folder / "1.png").write_bytes(b"")
    time.sleep(0.1)
    scan(folder, *limit, "--only", "changed", bundle=bundle)
    assert [Path(row["path"]).name for row in read_rows()] == ["1.png", "big.png", "empty.png"]


def test_another_limit_does_not_change_a_file(
    folder: Path, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan(folder, bundle=bundle)
    scan(folder, "--max-file-size", "100", bundle=bundle, code=2)
    assert {row["origin"] for row in read_rows() if row["error_code"] == "file_too_large"} == {
        "new"
    }
    scan(folder, bundle=bundle)
    assert {row["origin"] for row in read_rows()} == {"reused"}
    assert "another content" not in caplog.text


def test_rows_say_when_they_were_scored_and_only_writes_what_is_new(
    folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderate.run.pipeline.time.time", lambda: 1_000_000_000.9)
    scan(folder, bundle=bundle)
    first = {Path(row["path"]).name: row for row in read_rows()}
    run_id = json.loads(Path(metadata_path("rows.jsonl")).read_text())["run_id"]
    for name, row in first.items():
        failed = name in ("5.png", "7.png")
        assert row["scored_at"] == (None if failed else "2001-09-09T01:46:40Z")
        assert (row["origin"], row["run_id"]) == ("new", run_id)

    monkeypatch.setattr("moderate.run.pipeline.time.time", lambda: 1_100_000_000.0)
    (folder / "2.png").write_bytes(encode(scene((90, 60), seed=78), "PNG"))  # changed
    (folder / "new.png").write_bytes(encode(scene((90, 60), seed=77), "PNG"))
    shutil.copy(folder / "new.png", folder / "new2.png")
    (folder / "new.jpg").write_bytes(b"<html>no picture, and new</html>")
    (folder / "old.png").write_bytes((folder / "3.png").read_bytes())  # known by its content
    time.sleep(0.1)
    scan(folder, "--only", "changed,new", "--fail-on", "never", bundle=bundle, out="tonight")
    tonight = {Path(row["path"]).name: row for row in read_rows("tonight")}
    assert {name: row["origin"] for name, row in tonight.items()} == {
        "2.png": "changed", "new.jpg": "new", "new.png": "new",
    }  # fmt: skip
    assert {row["scored_at"] for row in tonight.values()} == {None, "2004-11-09T11:33:20Z"}
    summary = json.loads(Path("tonight.json").read_text())
    assert summary["left_out"] == {"duplicate": 1, "reused": 10}
    assert (summary["rows"], summary["errors"], summary["total"]) == (3, 1, 14)
    assert origins("tonight") == (2, 1, 10, 1)
    facts = json.loads(Path(metadata_path("tonight.jsonl")).read_text())
    assert (facts["only"], facts["left_out"]) == ("new,changed", "10 reused, 1 duplicate")

    # Nothing is new: no rows, and no error. What is reused keeps the time of its scores.
    assert scan(folder, "--only", "new,changed", "--fail-on", "review", bundle=bundle) == []
    scan(folder, bundle=bundle)
    times = {Path(row["path"]).name: row["scored_at"] for row in read_rows()}
    assert times["3.png"] == times["old.png"] == "2001-09-09T01:46:40Z"
    assert times["2.png"] == times["new2.png"] == "2004-11-09T11:33:20Z"
    # An error that is tried again is new again.
    scan(folder, "--only", "new", "--retry-errors", bundle=bundle, out="retried", code=0)
    assert [Path(row["path"]).name for row in read_rows("retried")] == [
        "5.png", "7.png", "new.jpg",
    ]  # fmt: skip


def test_what_a_run_scored_that_broke_off_is_new_in_the_run_that_finishes_it(
    folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(folder, "--state", "state", bundle=bundle)
    for number in range(20, 24):
        (folder / f"{number}.png").write_bytes(encode(scene((90, 60), seed=number), "PNG"))
    shutil.copy(folder / "20.png", folder / "21-copy.png")
    (folder / "24.png").write_bytes(b"<html>no picture, and new</html>")
    shutil.copytree("state", "undisturbed")
    only = ("--only", "new,changed", "--fail-on", "never")
    # Times of scores are whole seconds. What was scored in the second in which the broken run
    # began is shown as new once more, because the other way round an image would never be shown.
    time.sleep(1.1)
    expected = scan(folder, *only, "--state", "undisturbed", bundle=bundle)

    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    for _ in range(2):  # one after the other
        with monkeypatch.context() as broken:
            broken.setattr("moderate.results.atomic.AtomicFile.seal", full)
            scan(folder, *only, "--state", "state", bundle=bundle, out="broken", code=2)
    finished = scan(folder, *only, "--state", "state", bundle=bundle, out="finished")
    assert [Path(row["path"]).name for row in finished] == [
        "20.png", "21.png", "22.png", "23.png", "24.png",
    ]  # fmt: skip
    assert finished == expected
    assert scan(folder, *only, "--state", "state", bundle=bundle, out="next") == []


def test_a_damaged_state_is_put_aside_and_the_run_goes_on(
    folder: Path, bundle: Path, capsys: Captured
) -> None:
    rows = scan(folder, "--state", "state", bundle=bundle)
    for file in Path("state").glob("*.sqlite3"):
        file.write_bytes(os.urandom(file.stat().st_size))
    assert scan(folder, "--state", "state", bundle=bundle) == rows
    assert capsys.readouterr().err.count("is damaged; it was put aside") == 2
    assert origins() == (10, 0, 0, 0)
    assert len(list(Path("state").glob("*.corrupt-*"))) == 2
    assert scan(folder, "--state", "state", bundle=bundle) == rows
    assert origins() == (0, 0, 10, 0)


def test_scores_changed_behind_our_back_are_not_believed(folder: Path, bundle: Path) -> None:
    rows = scan(folder, "--state", "state", bundle=bundle)
    with sqlite3.connect("state/scores.sqlite3") as connection:
        connection.execute("UPDATE outcomes SET payload = zeroblob(length(payload))")
    connection.close()
    assert scan(folder, "--state", "state", bundle=bundle) == rows
    assert origins() == (10, 0, 0, 0)


def test_a_state_folder_that_cannot_be_used(
    folder: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("")
    scan(folder, "--state", "file/state", bundle=bundle, code=2)
    assert capsys.readouterr().err.startswith("moderate: error: --state: ")
    assert not Path("rows.jsonl").exists()
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("file").resolve()))
    scan(folder, bundle=bundle)  # nobody asked for it: the run is worth more
    assert "going on without" in capsys.readouterr().err
    scan(folder, "--no-state", bundle=bundle)
    assert capsys.readouterr().err == ""


def test_a_user_without_a_home_has_no_state_unless_it_is_named(
    folder: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderate.folders.user_state_path", no_home)
    rows = scan(folder, bundle=bundle)
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no home folder" in line
    assert "use --state DIR or --no-state" in line
    for arguments in (["--no-state"], ["--state", "state"], ["--state", "state"]):
        assert scan(folder, *arguments, bundle=bundle) == rows
        assert capsys.readouterr().err == ""
    assert origins() == (0, 0, 10, 0)
    for command in (["state", "info"], ["runs", "list"]):
        assert run(command) == 2
        assert "use --state DIR" in capsys.readouterr().err
        assert run([*command, "--state", "state"]) == 0
    capsys.readouterr()
    assert run(["explain", "rows.jsonl", rows[0]["path"]]) == 0
    assert "has no home folder" in capsys.readouterr().out


def no_home(*_: object) -> Path:
    raise RuntimeError("could not determine the home directory")


def test_without_state_nothing_is_left(
    folder: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    scan(folder, "--no-state", bundle=bundle)
    scan(folder, "--state", "elsewhere", bundle=bundle)
    assert not (tmp_path / "home").exists()
    scan(folder, "--state", "a", "--no-state", bundle=bundle, code=2)


def test_what_broke_off_is_not_finished_with_other_weights(
    folder: Path, bundle: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise Stopped(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("moderate.run.summary.Summary.count", stopped)
        scan(folder, bundle=bundle, code=130)
    other = make_bundle(tmp_path / "other", seed=5)
    scan(folder, bundle=other, code=2)
    said = capsys.readouterr().err
    assert "which broke off at" in said
    assert "add --rescore to begin again" in said
    assert not Path("rows.jsonl").exists()
    scan(folder, bundle=other, out="elsewhere")
    scan(folder, "--rescore", bundle=other)
    scan(folder, bundle=bundle)  # what was completed may be done again with any


def test_the_state_may_lie_among_the_images(folder: Path, bundle: Path) -> None:
    """Its files must not be opened: SQLite would lose its locks on them."""
    state = folder / "state"
    rows = scan(folder, "--state", state, bundle=bundle)
    for arguments in (["--all-files"], [], ["--all-files"]):
        again = scan(folder, *arguments, "--state", state, bundle=bundle)
        kept = [row for row in again if "/state/" not in row["path"]]
        assert kept == rows
        named = [row for row in again if "sqlite3" in row["path"]]
        assert all(row["error_code"] == "not_an_image" for row in named)
        assert all(row["bytes"] is None for row in named), "none was read"


def test_copies_of_what_was_reused_do_not_wait_for_a_state_that_failed(
    folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    scan(folder / "1.png", bundle=bundle)
    shutil.copy(folder / "1.png", folder / "9copy.png")
    lookup = ScoreStore.by_content

    def failing(self: ScoreStore, *arguments: Any) -> Any:
        if arguments[0] == [hashlib.sha256((folder / "9.png").read_bytes()).digest()]:
            raise UnavailableError("gone")
        return lookup(self, *arguments)

    monkeypatch.setattr(ScoreStore, "by_content", failing)
    rows = scan(folder, bundle=bundle)
    assert "the run goes on" in capsys.readouterr().err
    assert len(rows) == 11
    assert rows[-1]["nudity"] == rows[1]["nudity"]


def test_a_video_met_in_an_archive_is_still_sampled_where_it_is_a_file(
    tmp_path: Path, bundle: Path
) -> None:
    make_video(tmp_path / "clip.mp4", (scene((64, 48), seed=number // 10) for number in range(40)))
    with tarfile.open("all.tar", "w") as tar:
        tar.add("clip.mp4")
    scan("clip.mp4", bundle=bundle, code=2)
    rows = scan("all.tar", "clip.mp4", "--video-every", "1", bundle=bundle)
    assert rows[0]["error_message"] == "videos are read from local files only"
    assert len(rows) == 6
    assert rows[-1]["status"] == "ok"
    assert scan("all.tar", "clip.mp4", "--video-every", "1", bundle=bundle) == rows


def test_a_refused_run_does_not_hide_the_one_that_broke_off(
    folder: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise Stopped(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("moderate.run.summary.Summary.count", stopped)
        scan(folder, bundle=bundle, code=130)
    other = make_bundle(tmp_path / "other", seed=5)
    for _ in range(3):
        scan(folder, bundle=other, code=2)


def test_a_state_that_is_busy_at_first_is_waited_for(folder: Path, bundle: Path) -> None:
    scan(folder, "--state", "state", bundle=bundle)
    other = sqlite3.connect("state/scores.sqlite3", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(3.0, lambda: other.execute("COMMIT")).start()
    scan(folder, "--state", "state", bundle=bundle)
    assert origins() == (0, 0, 10, 0)


def test_scores_of_the_end_wait_for_a_busy_state(folder: Path, bundle: Path) -> None:
    Path("state").mkdir()
    scan(folder / "0.png", "--state", "state", bundle=bundle)
    other = sqlite3.connect("state/scores.sqlite3", isolation_level=None, check_same_thread=False)
    record = ScoreStore.record
    held = []

    def busy(self: ScoreStore, *arguments: Any) -> None:
        if not held:
            held.append(other.execute("BEGIN IMMEDIATE"))
            threading.Timer(4.0, lambda: other.execute("COMMIT")).start()
        record(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreStore, "record", busy)
        scan(folder, "--state", "state", bundle=bundle)
    assert held
    scan(folder, "--state", "state", bundle=bundle)
    assert origins() == (0, 0, 10, 0)


def test_the_backend_of_reused_scores_is_the_one_that_made_them(
    folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise DeviceError("OpenVINO cannot run it")

    backends = []
    with monkeypatch.context() as patch:
        patch.setattr(
            "moderate.classify.backends.openvino_backend.OpenVinoBackend.__init__", broken
        )
        scan(folder, bundle=bundle)
        backends.append(json.loads(Path(metadata_path("rows.jsonl")).read_text())["backend"])
    scan(folder, bundle=bundle)
    backends.append(json.loads(Path(metadata_path("rows.jsonl")).read_text())["backend"])
    assert backends == ["torch", "torch"]


def test_with_standard_error_closed_the_run_is_done(folder: Path, bundle: Path) -> None:
    command = [sys.executable, "-m", "moderate", "scan", str(folder), "--weights", str(bundle)]
    script = f"{shlex.join([*command, '--device', 'cpu', '--out', 'rows.csv'])} 2>&-"
    subprocess.run(["sh", "-c", script], check=True, stdout=subprocess.DEVNULL)
    assert len(Path("rows.csv").read_text().splitlines()) == 11
