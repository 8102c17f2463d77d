"""Targets: refused before any work where they could not be written, and opened together."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moderate.analysis.calibrate import check_bundle_out
from moderate.errors import OutputError, UsageError
from moderate.exports.forms import check_exports, parse_report
from moderate.results.atomic import AtomicFile
from moderate.results.targets import (
    check_overwriting,
    check_reports,
    check_targets,
    open_texts,
    read_identities,
)


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (["out.xlsx"], UsageError, ".parquet"),
        (["gone/out.csv"], OutputError, "no folder"),
        (["-", "-.jsonl"], UsageError, "standard output"),
    ],
)
def test_wrong_targets_are_refused_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    targets: list[str],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        check_targets(targets)


@pytest.mark.parametrize(
    ("target", "local", "message"),
    [
        ("x.txt", False, r"--summary x\.txt: the suffix decides the format; use one of \.json"),
        (".md", False, None),
        ("x.HTML", False, None),
        ("s3://bucket/x.md", True, "reports are written to local files"),
        ("x\0.md", False, "holds a NUL"),
        ("gone/x.md", False, "no folder"),
        ("folder.md", False, "it is a folder"),
    ],
)
def test_reports_that_could_not_be_written_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    local: bool,
    message: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.md").mkdir()
    if message is None:
        check_reports("--summary", [target], local=local)
        return
    with pytest.raises((UsageError, OutputError), match=message):
        check_reports("--summary", [target], local=local)


def test_no_target_is_an_input_or_another_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in.csv", "in.csv.meta.json"):
        Path(name).touch()
    os.link("in.csv", "same.csv")
    inputs = read_identities(["in.csv", None, "gone.csv"])
    check_overwriting(["out.csv", "-"], ["out.md"], inputs, force=True)
    check_overwriting(["out.parquet"], ["out.parquet.meta.json"], inputs, force=True)
    for results, files in ((["same.csv"], []), ([], ["./in.csv.meta.json"])):
        with pytest.raises(UsageError, match="is an input"):
            check_overwriting(results, files, inputs, force=True)
    for results, files in (
        (["a.csv", "./a.csv"], []),
        (["a.csv"], ["a.csv.meta.json"]),
        (["s3://b/a.parquet?region=x"], ["s3://b/a.parquet"]),
    ):
        with pytest.raises(UsageError, match="would be written twice"):
            check_overwriting(results, files, inputs, force=True)


def test_what_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.md"), str(tmp_path / "b.md")
    with open_texts([first, second]) as files:
        for file in files:
            file.seal("caf\u00e9 \ud800")
        (name,) = files[0].commit()
    assert name == first
    assert Path(first).read_bytes() == "caf\u00e9 \\ud800".encode()
    assert os.listdir(tmp_path) == ["a.md"]
    held = AtomicFile(second)
    with pytest.raises(OutputError, match="another run"), open_texts([first, second]):
        pass
    held.discard()
    assert os.listdir(tmp_path) == ["a.md"]


def test_places_where_nothing_can_be_written_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.csv")
    Path("closed").mkdir()
    Path("facts.csv.meta.json").mkdir()
    Path("loop.csv").symlink_to("loop.csv")
    Path("mounted here.csv").touch()
    mounts = tmp_path / "mountinfo"
    place = str(tmp_path).replace(" ", "\\040")
    mounts.write_text(f"29 1 254:0 /x {place}/mounted\\040here.csv rw - ext4 /dev/vda rw\nshort\n")
    monkeypatch.setattr("moderate.mounts.MOUNTS", str(mounts))
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, *a, **k: "closed" not in str(path) and access(path, *a, **k)
    )
    for target, message in (
        ("pipe.csv", "it is a named pipe, not a regular file; use - for standard output"),
        ("/dev/stdout", "it stands for an open file; use - for standard output"),
        ("/dev/null", "it is a device"),
        ("closed/out.csv", "nothing can be written in the folder .*closed"),
        ("facts.csv", r"facts\.csv\.meta\.json: it is a folder"),
        ("loop.csv", "symbolic links"),
        ("mounted here.csv", "it is mounted by itself.*mount the folder"),
    ):
        with pytest.raises(OutputError, match=f"^cannot write .*{message}"):
            check_targets([target])


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_targets(["x.csv"]),
        lambda: check_targets(["x.parquet"]),
        lambda: check_targets(["x/"], ("decision",)),
        lambda: check_reports("--summary", ["x.json"]),
        lambda: check_exports([parse_report("sarif:x.sarif")]),
        lambda: check_bundle_out("x"),
    ],
)
def test_a_folder_that_takes_no_file_is_found_by_trying_one(
    check: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc is, whose permissions say that root may write, or a file system that is full."""
    monkeypatch.chdir(tmp_path)
    check()
    assert os.listdir() == []

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(OutputError, match=r"nothing can be written in the folder .* \(No space"):
        check()


def test_a_file_of_another_user_in_a_shared_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "link.csv").symlink_to(tmp_path / "precious.csv")
    (shared / "rows.csv").touch()
    check_targets([str(shared / "link.csv"), str(shared / "rows.csv")])
    user = os.geteuid() + 1
    lstat = os.lstat

    def of_another(path: str) -> os.stat_result:
        status = list(lstat(path))
        status[4] = user + 1
        return os.stat_result(status)

    monkeypatch.setattr(os, "lstat", of_another)
    with pytest.raises(OutputError, match="a symbolic link of another user's"):
        check_targets([str(shared / "link.csv")])
    # Also one that was laid there after the check.
    with pytest.raises(OutputError, match=r"link\.csv: it is a symbolic link of another user's"):
        AtomicFile(str(shared / "link.csv"))
    assert not list(tmp_path.glob(".precious*"))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(OutputError, match="it belongs to another user"):
        check_targets([str(shared / "rows.csv")])
