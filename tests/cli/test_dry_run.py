"""`moderate scan --dry-run`: it finds what the scan finds and knows, and writes nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from moderate.cli.main import run
from moderate.report.model import Facts
from moderate.report.terminal import show
from moderate.run import dry_run, inputs
from tests.support.ledgers import begin
from tests.support.pictures import encode, scene
from tests.support.videos import make_video

Captured = pytest.CaptureFixture[str]
URLS = ["http://user:secret@example.org/x.jpg", "https://example.org/y.jpg"]


def picture(number: int) -> bytes:
    return encode(scene((90, 60), seed=number), "PNG")


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder() -> Path:
    """Ten pictures, and what is none in several ways; older than any clock's tick."""
    made = Path("in")
    (made / "deep").mkdir(parents=True)
    for number in range(10):
        (made / f"{number}.png").write_bytes(picture(number))
    (made / "deep/copy.png").write_bytes(picture(3))
    (made / "page.jpg").write_bytes(b"<html>no</html>")
    (made / "empty.png").write_bytes(b"")
    (made / "large.png").write_bytes(picture(11) + bytes(200_000))
    (made / "paper.pdf").write_bytes(b"%PDF-1.4 no")
    (made / "notes.txt").write_text("no picture")
    (made / ".hidden.png").write_bytes(picture(12))
    os.symlink("0.png", made / "link.png")
    time.sleep(0.1)
    return made


def packed() -> list[str]:
    """The same pictures in two archives and two manifests."""
    cells = [picture(number) for number in range(20, 25)]
    with zipfile.ZipFile("a.zip", "w") as archive, tarfile.open("b.tar.gz", "w:gz") as tar:
        for number, data in enumerate(cells):
            archive.writestr(f"x/{number}.png", data)
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        archive.writestr("notes.txt", "no picture")
        archive.writestr("empty.png", "")
    pq.write_table(pa.table({"id": list("abcde"), "image": pa.array(cells)}), "c.parquet")
    pq.write_table(pa.table({"path": [f"in/{number}.png" for number in range(3)]}), "d.parquet")
    return ["a.zip", "b.tar.gz", "c.parquet", "d.parquet"]


def tree() -> dict[str, tuple[int, int, bytes]]:
    """Everything below the working folder and the state: size, time of change and content."""
    found = {}
    for top in (".", os.environ["XDG_STATE_HOME"]):
        for name in sorted(Path(top).rglob("*")):
            status = name.lstat()
            data = name.read_bytes() if name.is_file() else b""
            found[str(name)] = (status.st_size, status.st_mtime_ns, data)
    return found


def look(capsys: Captured, *arguments: str, code: int = 0) -> dict[str, Any]:
    """The JSON of a dry run, which has to leave everything as it was."""
    capsys.readouterr()
    before = tree()
    assert run(["scan", *arguments, "--dry-run", "--log-json"]) == code
    assert tree() == before
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (found,) = (each["summary"] for each in events if each["event"] == "dry_run_finished")
    assert isinstance(found, dict)
    return found


def summary_of(*arguments: str) -> dict[str, Any]:
    assert run(["scan", *arguments, "-q", "--summary", "s.json", "--force"]) == 0
    found = json.loads(Path("s.json").read_text())
    Path("s.json").unlink()
    assert isinstance(found, dict)
    return found


def test_it_counts_what_the_scan_counts(folder: Path, bundle: Path, capsys: Captured) -> None:
    arguments = [str(folder), *packed(), "--weights", str(bundle), "--max-file-size", "100KB"]
    ahead = look(capsys, *arguments)
    assert ahead["known"] == 0
    assert ahead["parquet_rows_not_read"] == ahead["formats"]["not read"]["images"] == 5
    assert [each["kind"] for each in ahead["inputs"]] == [
        *("folder", "archive", "archive", "Parquet", "Parquet")
    ]
    scanned = summary_of(*arguments)
    assert ahead["images"] == scanned["rows"]
    assert ahead["error_codes"] == scanned["error_codes"]
    assert set(ahead["error_codes"]) == {
        *("not_an_image", "empty_file", "file_too_large", "unsupported_format")
    }
    assert ahead["skipped_by_reason"] == scanned["skipped_by_reason"]
    assert ahead["notes"] == scanned["notes"]


def test_what_is_known_is_known_as_the_scan_knows_it(
    folder: Path, bundle: Path, capsys: Captured
) -> None:
    arguments = [str(folder), "--weights", str(bundle)]
    scanned = summary_of(*arguments)
    ahead = look(capsys, *arguments)
    assert ahead["known"] + 1 == ahead["images"] == scanned["rows"]  # an empty file is no secret
    assert ahead["error_codes"] == scanned["error_codes"]
    assert ahead["to_score"] == 0
    shutil.copy(folder / "4.png", folder / "new name.png")
    (folder / "5.png").write_bytes(picture(55))
    time.sleep(0.1)
    ahead = look(capsys, *arguments)
    assert (ahead["known"], ahead["to_score"]) == (scanned["rows"] - 2, 2)
    assert ahead["copies"] is None
    ahead = look(capsys, *arguments, "--verify")
    assert (ahead["known_by"], ahead["to_score"]) == ("content", 1)
    assert look(capsys, *arguments, "--rescore")["known"] == 0
    assert look(capsys, *arguments, "--no-state")["known"] == 0
    origins = summary_of(*arguments)["origins"]
    assert (origins["new"], origins["changed"]) == (0, 1)


def test_with_verify_copies_are_seen_and_archives_and_manifests_are_read(
    folder: Path, bundle: Path, capsys: Captured
) -> None:
    arguments = [str(folder), *packed(), "--weights", str(bundle)]
    ahead = look(capsys, *arguments, "--verify")
    assert ahead["parquet_rows_not_read"] == 0
    assert "not read" not in ahead["formats"]
    # deep/copy.png, the pictures of the second archive and of the manifest, the paths of the other
    assert ahead["copies"] == 1 + 5 + 5 + 3
    assert ahead["to_score"] == 11 + 5


def test_no_url_is_fetched_and_none_shows_its_password(
    folder: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr(inputs.Reader, "_fetch", fail)
    Path("list.txt").write_text("\n".join([*URLS, "in/1.png"]))
    weights = ["--weights", str(bundle)]
    ahead = look(capsys, "list.txt", URLS[0], *weights)
    assert (ahead["images"], ahead["not_fetched"], ahead["to_score"]) == (4, 3, 4)
    assert "secret" not in json.dumps(ahead)
    assert run(["scan", "list.txt", URLS[0], *weights, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "3 images from URLs and stores; not done" in shown
    assert "secret" not in shown
    assert "no run that fetched images" in shown.replace("\n         ", " ")


def test_videos_are_counted_in_frames(bundle: Path, capsys: Captured) -> None:
    Path("v").mkdir()
    frames = [Image.new("RGB", (64, 48), (7 * number, 0, 0)) for number in range(35)]
    for suffix in ("mp4", "mpg"):
        make_video(Path(f"v/clip.{suffix}"), frames, rate=10)
    Path("v/1.png").write_bytes(picture(1))
    weights = ["--weights", str(bundle)]
    ahead = look(capsys, "v", *weights, "--video-every", "1")
    assert (ahead["videos"], ahead["video_frames"], ahead["videos_of_unknown_length"]) == (2, 4, 1)
    assert (ahead["images"], ahead["to_score"]) == (3, 5)
    assert look(capsys, "v", *weights)["error_codes"] == {"unsupported_format": 2}
    ahead = look(capsys, "v", *weights, "--video-every", "1", "--max-video-size", "100")
    assert ahead["error_codes"] == {"file_too_large": 2}


def test_time_and_cost_have_a_basis_or_are_unknown(
    folder: Path, bundle: Path, capsys: Captured
) -> None:
    arguments = [str(folder), "--weights", str(bundle), "--device", "cpu", "--hourly-cost", "3.6"]
    assert run(["scan", *arguments, "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "unknown: no run or bench of these weights on this machine yet; run moderate" in shown
    assert f"moderate bench --weights {bundle} --device cpu" in shown
    assert run(["scan", *arguments, "--backend", "openvino", "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"moderate bench --weights {bundle} --device cpu --backend openvino" in shown
    assert run(["scan", *arguments, "--views", "3", "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    # A bench has no views.
    assert "unknown: no run with these weights and settings on this machine yet" in shown
    assert "bench" not in shown
    bench = ["bench", "in", "--weights", str(bundle), "--device", "cpu", "--repeat", "1"]
    assert run([*bench, "--images", "64", "--no-state"]) == 0
    assert not list(Path(os.environ["XDG_STATE_HOME"]).rglob("*.sqlite3"))
    summary_of(str(folder), "--weights", str(bundle), "--limit", "1")

    from moderate.state.database import default_folder
    from moderate.state.ledger import Ledger, RunStatus

    state = default_folder()
    assert state
    ledger = Ledger(state)
    known = ledger.runs(1)[0]
    assert known.counts["speed"]["images"] == 1
    for images in (500, 1000):
        again = begin(ledger)
        again.update(facts=known.facts)
        speed = {**known.counts["speed"], "images": images, "seconds": 100, "startup_seconds": 2}
        again.end(RunStatus.COMPLETED, counts={"speed": speed})
    ledger.close()
    ahead = look(capsys, *arguments)
    assert ahead["seconds"] == {
        "expected": round(ahead["to_score"] / 10 + 2, 1),
        "least": round(ahead["to_score"] / 10 + 2, 1),
        "most": round(ahead["to_score"] / 5 + 2, 1),
    }
    assert ahead["cost"]["expected"] == pytest.approx(ahead["seconds"]["expected"] / 1000)
    assert ahead["basis"][0]["run"] == again.id
    assert run(["scan", *arguments, "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"basis run {again.id[:8]} of" in shown
    assert "10.0 images/s over 1,000 images" in shown
    assert "(the last 2: 5.0 to 10.0)" in shown


def test_a_bench_is_kept_for_it(folder: Path, bundle: Path, capsys: Captured) -> None:
    weights = ["--weights", str(bundle), "--device", "cpu"]
    for name in ("page.jpg", "empty.png", "large.png", "paper.pdf"):
        (folder / name).unlink()
    assert run(["bench", "in", *weights, "--repeat", "1", "--images", "64"]) == 0
    ahead = look(capsys, "in", *weights)
    (basis,) = ahead["basis"]
    assert (basis["run"], basis["images"], basis["device"]) == (None, 64, "cpu")
    assert basis["megapixels"] == pytest.approx(0.0054, abs=0.001)


def test_targets_are_checked_and_not_written(folder: Path, bundle: Path, capsys: Captured) -> None:
    Path("mine.csv").write_text("mine")
    arguments = ["scan", str(folder), "--weights", str(bundle), "--dry-run"]
    for target, said in (("mine.csv", "--force"), ("none/x.csv", "no folder"), ("x.txt", ".csv")):
        assert run([*arguments, "--out", target]) == 2
        assert said in capsys.readouterr().err
    assert run([*arguments, "--report", "junit:x.txt"]) == 2
    targets = ["--out", "x.csv", "--summary", "x.html", "--report", "junit:x.xml"]
    assert run([*arguments, *targets]) == 0
    assert "nothing, and not x.csv, x.xml, x.html" in capsys.readouterr().out
    assert not [name for name in os.listdir() if name.startswith("x.")]
    assert run([*arguments, "--out", "-"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "images found" in err
    assert run([*arguments, "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_it_ends_as_the_scan_would(folder: Path, bundle: Path, capsys: Captured) -> None:
    Path("text").mkdir()
    Path("text/a.txt").write_text("a")
    Path("empty").mkdir()
    for named, code, said in (
        (["none.png"], 2, "none.png does not exist"),
        (["text"], 2, "none of 1 files in text is an image"),
        (["in/page.jpg"], 2, "the only row is an error (1 not_an_image)"),
        (["in/1.png", "none.png"], 2, "some input could not be read"),
        (["empty"], 0, ""),
        (["in/1.png", "in/page.jpg"], 0, ""),
        (["in/1.png", "in/page.jpg", "--max-error-rate", "0.1"], 2, "over --max-error-rate"),
    ):
        assert run(["scan", *named, "--weights", str(bundle), "-q"]) == code, named
        by_scan = capsys.readouterr().err
        assert run(["scan", *named, "--weights", str(bundle), "-q", "--dry-run"]) == code, named
        by_dry_run = capsys.readouterr().err
        assert said in by_scan
        assert said in by_dry_run


def test_limit_and_shards(folder: Path, bundle: Path, capsys: Captured) -> None:
    packed()
    weights = ["--weights", str(bundle)]
    ahead = look(capsys, "c.parquet", "in", *weights, "--limit", "7")
    assert (ahead["images"], ahead["stopped_at_limit"]) == (7, True)
    assert look(capsys, "c.parquet", "in", *weights, "--limit", "3")["images"] == 3
    shares = [look(capsys, "c.parquet", "in", *weights, "--shard", f"{n}/2") for n in (1, 2)]
    whole = look(capsys, "c.parquet", "in", *weights)
    assert sum(share["images"] for share in shares) == whole["images"]


def test_named_files_are_one_input_and_very_many_inputs_are_cut(
    folder: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = ["--weights", str(bundle)]
    names = [f"in/{number}.png" for number in range(10)]
    ahead = look(capsys, *names, "in", *weights)
    assert [each["name"] for each in ahead["inputs"]] == ["10 named files", "in"]
    monkeypatch.setattr(dry_run, "MOST_INPUTS", 2)
    ahead = look(capsys, "in", *packed(), *weights)
    assert [each["name"] for each in ahead["inputs"]] == ["in", "others"]
    assert ahead["input_count"] == 5
    assert sum(each["images"] for each in ahead["inputs"]) == ahead["images"]


def test_a_state_that_is_in_use_damaged_or_newer(
    folder: Path, bundle: Path, capsys: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    from moderate.state.scores import ScoreStore

    weights = ["--weights", str(bundle), "--state", "kept"]
    rows = summary_of("in", *weights)["rows"] - 1
    store = ScoreStore.open(Path("kept"))  # its journal is there, as while another run goes on
    store._database.write(lambda connection: connection.execute("DELETE FROM scopes WHERE id = -9"))
    store._database.write(lambda connection: connection.execute("CREATE TABLE more (id)"))
    assert Path("kept/scores.sqlite3-wal").stat().st_size
    assert run(["scan", "in", *weights, "--dry-run"]) == 0
    assert f"{rows} known without reading" in " ".join(capsys.readouterr().out.split())
    store.close()
    assert look(capsys, "in", *weights)["known"] == rows
    Path("kept/scores.sqlite3").write_bytes(b"damaged" * 1000)
    capsys.readouterr()
    assert run(["scan", "in", *weights, "--dry-run"]) == 0
    assert "0 known without reading" in " ".join(capsys.readouterr().out.split())
    assert "the state cannot be read" in caplog.text
    assert sorted(os.listdir("kept")) == ["running", "runs.sqlite3", "scores.sqlite3"]


def test_hostile_names_stay_on_their_line(bundle: Path, capsys: Captured) -> None:
    Path("in").mkdir()
    name = "\x1b[31m\n\u202e<b>.png"
    Path(f"in/{name}").write_bytes(b"no picture")
    Path(f"in/{name}.d").mkdir()
    Path(f"in/{name}.d/1.png").write_bytes(picture(1))
    assert run(["scan", "in", f"in/{name}.d", "--weights", str(bundle), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\x1b[31m\\n\\u202e<b>.png" in shown


def test_the_report_fits_narrow_terminals(
    folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moderate.report.dry_run import report
    from moderate.run.options import ScanOptions
    from moderate.run.scan import plan

    job = plan(ScanOptions(inputs=["in"], weights=str(bundle)))
    made = report(dry_run.look_ahead(job), job)
    (facts,) = (part for part in made.parts if isinstance(part, Facts))
    assert [fact.label for fact in facts.items if len(fact.label) > facts.label_width] == []
    for width in (60, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        out = io.StringIO()
        show(made, out)
        assert max(map(len, out.getvalue().splitlines())) <= max(width, 80)
