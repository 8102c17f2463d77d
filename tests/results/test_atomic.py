"""Targets appear whole or not at all, and one run at a time writes each."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moderate.errors import OutputError
from moderate.results.atomic import AtomicFile, commit_together, part_path, write_atomic

WRITER = """
import sys
from moderate.results.atomic import AtomicFile
file = AtomicFile(sys.argv[1])
file.file.write(b"of the other run")
file.file.flush()
print("writing", flush=True)
sys.stdin.readline()
print(file.commit(), flush=True)
"""


@contextmanager
def other_run(target: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes the target, and commits it when it is sent a line."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert said(process) == "writing"
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def commits(process: subprocess.Popen[str]) -> str:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    return said(process)


def test_it_is_there_when_it_is_committed_with_its_digest_and_the_usual_mode(
    tmp_path: Path,
) -> None:
    target = tmp_path / "out.csv"
    file = AtomicFile(str(target))
    file.file.write(b"rows")
    assert os.listdir(tmp_path) == [os.path.basename(part_path(str(target)))]
    assert file.seal() == file.commit() == hashlib.sha256(b"rows").hexdigest()
    file.discard()
    assert os.listdir(tmp_path) == ["out.csv"]
    assert target.read_bytes() == b"rows"
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert write_atomic(str(target), b"again") == hashlib.sha256(b"again").hexdigest()
    assert target.read_bytes() == b"again"


@pytest.mark.parametrize("name", ["x" * 255, "\U0001f600" * 63, "a b.csv", ".csv"])
def test_any_name_the_system_takes(tmp_path: Path, name: str) -> None:
    write_atomic(str(tmp_path / name), b"rows")
    assert os.listdir(tmp_path) == [name]


def test_long_names_that_start_alike_do_not_meet(tmp_path: Path) -> None:
    files = [AtomicFile(str(tmp_path / ("x" * 200 + end))) for end in "ab"]
    for file in files:
        file.commit()
    assert len(os.listdir(tmp_path)) == 2


def test_a_name_the_system_does_not_take_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"):
        AtomicFile(str(tmp_path / ("x" * 256)))
    with pytest.raises(OutputError, match="it is a folder"):
        AtomicFile(str(tmp_path))
    with pytest.raises(OutputError, match="No such file"):
        AtomicFile(str(tmp_path / "gone" / "out.csv"))
    assert os.listdir(tmp_path) == []


def test_what_another_process_writes_is_refused_until_it_ends(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with other_run(target) as process:
        with pytest.raises(OutputError, match=r"out\.csv: another run is writing it; wait"):
            AtomicFile(str(target))
        assert commits(process) == hashlib.sha256(b"of the other run").hexdigest()
    assert target.read_bytes() == b"of the other run"
    write_atomic(str(target), b"mine")
    assert target.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_one_process_does_not_write_a_target_twice_either(tmp_path: Path) -> None:
    first = AtomicFile(str(tmp_path / "out.csv"))
    with pytest.raises(OutputError, match="another run is writing it"):
        AtomicFile(os.path.join(tmp_path, "..", tmp_path.name, "out.csv"))
    first.discard()
    AtomicFile(str(tmp_path / "out.csv")).discard()
    assert os.listdir(tmp_path) == []


def test_what_a_killed_run_left_is_taken_over(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("the previous run")
    with other_run(target) as process:
        process.kill()
        process.wait()
    assert sorted(os.listdir(tmp_path)) == [os.path.basename(part_path(str(target))), "out.csv"]
    file = AtomicFile(str(target))
    file.file.write(b"new")
    assert target.read_text() == "the previous run"
    file.commit()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_part_that_is_committed_while_it_is_looked_at_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.csv"
    flock, committed = fcntl.flock, []
    with other_run(target) as process:

        def after_its_commit(descriptor: int, operation: int) -> None:
            if not committed:
                committed.append(commits(process))
                process.wait()
            flock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", after_its_commit)
        file = AtomicFile(str(target))
        assert committed
        assert target.read_bytes() == b"of the other run"
        file.file.write(b"mine")
        file.commit()
    assert target.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_part_that_another_run_removes_before_it_is_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.csv"
    flock, removed = fcntl.flock, []

    def after_its_removal(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(part_path(str(target)))
            os.unlink(removed[0])
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", after_its_removal)
    file = AtomicFile(str(target))
    file.file.write(b"mine")
    file.commit()
    assert removed
    assert target.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["out.csv"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_the_later_run_wins_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    target = tmp_path / "out.csv"
    earlier, later = AtomicFile(str(target)), AtomicFile(str(target))
    earlier.file.write(b"earlier")
    later.file.write(b"later")
    with pytest.raises(OutputError, match="another run has begun to write it"):
        earlier.commit()
    assert not target.exists()
    later.commit()
    assert target.read_bytes() == b"later"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_discarded_file_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    file = AtomicFile(str(target))
    os.unlink(part_path(str(target)))
    Path(part_path(str(target))).write_text("of somebody else")
    file.discard()
    assert Path(part_path(str(target))).read_text() == "of somebody else"


def test_a_part_is_never_followed_nor_written_through(tmp_path: Path) -> None:
    target, precious = tmp_path / "out.csv", tmp_path / "precious"
    part = Path(part_path(str(target)))
    precious.write_text("precious")
    part.symlink_to(precious)
    with pytest.raises(OutputError, match=r"cannot write .*\.part is in the way"):
        AtomicFile(str(target))
    part.unlink()
    os.link(precious, part)
    write_atomic(str(target), b"rows")
    assert (target.read_bytes(), precious.read_text()) == (b"rows", "precious")
    os.mkfifo(part)
    write_atomic(str(target), b"rows again")
    assert target.read_bytes() == b"rows again"
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "precious"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("the previous run")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The limit on a file's size fails a write as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, unlimited[1]))
    try:
        for size in (4001, 1 << 20):  # found out by the last flush, or by the write
            with pytest.raises(OutputError, match=r"cannot write .*out\.json: File too large"):
                write_atomic(str(target), bytes(size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert os.listdir(tmp_path) == ["out.json"]
    assert target.read_text() == "the previous run"


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    real, link = tmp_path / "data" / "rows.csv", tmp_path / "out.csv"
    for before in ("old", None):  # a link may also lead to where nothing is yet
        if before is None:
            real.unlink()
        else:
            real.write_text(before)
            link.symlink_to(real)
        file = AtomicFile(str(link))
        assert file.name == str(link)
        with pytest.raises(OutputError, match="another run is writing it"):
            AtomicFile(str(real))
        file.file.write(b"new")
        file.commit()
        assert link.is_symlink()
        assert real.read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["data", "out.csv"]
    assert os.listdir(tmp_path / "data") == ["rows.csv"]


def test_mode_and_group_of_the_replaced_file_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")
    target.chmod(0o640)
    group = next((g for g in os.getgroups() if g != os.getegid()), os.getegid())
    if os.geteuid() == 0:
        group = 4711
    os.chown(target, -1, group)
    inode = target.stat().st_ino
    write_atomic(str(target), b"new")
    status = target.stat()
    assert status.st_ino != inode
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o640, group)
    target.chmod(0o444)  # the part must stay writable until the end
    write_atomic(str(target), b"newer")
    assert stat.S_IMODE(target.stat().st_mode) == 0o444

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    target.chmod(0o674)
    write_atomic(str(target), b"of another group")
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_nobody_else_can_open_the_part_of_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.csv"
    target.touch(0o600)
    modes = []
    change = os.fchmod

    def noted(descriptor: int, mode: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        change(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", noted)
    write_atomic(str(target), b"private")
    assert modes
    assert set(modes) == {0o600}


def test_what_is_no_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    (tmp_path / "null.csv").symlink_to("/dev/null")
    with pytest.raises(OutputError, match=r"pipe\.csv: it is a named pipe"):
        AtomicFile(str(pipe))
    with pytest.raises(OutputError, match=r"null\.csv: it is a device"):
        AtomicFile(str(tmp_path / "null.csv"))
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["null.csv", "pipe.csv"]


@pytest.mark.parametrize("before", ["old", None])
def test_files_that_belong_together_are_all_replaced_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    rows, facts = tmp_path / "out.csv", tmp_path / "out.csv.meta.json"
    if before:
        rows.write_text(before)
        facts.write_text(before)
    replace = os.replace

    def fail_for_facts(source: str, target: str) -> None:
        if target == str(facts):
            raise OSError(errno.EBUSY, "Device or resource busy")
        replace(source, target)

    for refused in (True, False):
        files = [AtomicFile(str(rows)), AtomicFile(str(facts))]
        for file in files:
            file.file.write(b"new")
        if refused:
            monkeypatch.setattr(os, "replace", fail_for_facts)
            with pytest.raises(OutputError, match=r"meta\.json: Device or resource busy"):
                commit_together(files)
            left = {name: (tmp_path / name).read_text() for name in os.listdir(tmp_path)}
            assert left == (dict.fromkeys(("out.csv", "out.csv.meta.json"), before) if before
                            else {})  # fmt: skip
            monkeypatch.undo()
        else:
            assert list(commit_together(files)) == [str(rows), str(facts)]
    assert (rows.read_text(), facts.read_text()) == ("new", "new")
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "out.csv.meta.json"]
