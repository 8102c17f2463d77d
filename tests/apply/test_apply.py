"""Files get their places by what was decided, and nothing else happens."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from moderate.apply import operations
from moderate.apply import run as applying
from moderate.apply.plan import absolute, located
from moderate.cli.main import run
from moderate.locks import try_lock
from moderate.policy.load import load_policy
from moderate.results.read import read_results
from moderate.results.targets import open_writers
from moderate.types import Decision, ImageRef, Inline, Row, Url
from tests.support.applying import Commands, make_files, row, snapshot, write_rows
from tests.support.reviewed import write_journal

Captured = pytest.CaptureFixture[str]
ODD_DATA = b"not to be touched"


class Place:
    """A folder of files, and the command on its results."""

    def __init__(self, folder: Path, rows: list[Row] | None = None, count: int = 9) -> None:
        self.folder, self.photos, self.into = folder, folder / "photos", folder / "into"
        made = make_files(self.photos, count) if rows is None else rows
        self.results = write_rows(folder / "rows.csv", made)
        self.before = snapshot(self.photos)

    def run(self, *more: object, to: tuple[str, ...] = ("block", "review")) -> int:
        """Apply."""
        targets = [part for name in to for part in (f"--{name}-to", str(self.into / name))]
        state = ["--state", str(self.folder / "state")]
        return run(["apply", str(self.results), *targets, *state, *map(str, more)])

    def json(self, capsys: Captured, *more: object, **how: Any) -> Any:
        """Apply, and read what is printed for programs; the exit code is its `code`."""
        capsys.readouterr()
        code = self.run("--json", *more, **how)
        printed = capsys.readouterr()
        return {"code": code, **json.loads(printed.out)}

    @property
    def log(self) -> Path:
        """The log that is named by the results."""
        (found,) = self.folder.glob("rows.csv.apply-*.jsonl")
        return found

    def undo(self) -> int:
        """Bring all back."""
        return run(["apply", "--undo", str(self.log)])


def decided(results: Path, journal: Path, out: Path) -> Path:
    """The results with what people decided."""
    read = read_results(str(results))
    facts = {"tool": "moderate", "policy_json": load_policy("balanced").policy.model_dump_json()}
    with_policy = results.with_name("with-policy.jsonl")
    with open_writers([str(with_policy)]) as (writer,):
        writer.start(facts, ())
        for columns, _ in read.parts(read.own):
            writer.write_columns([columns[name] for name in read.own], [])
        writer.seal({})
        writer.commit({})
    given = ["--decisions", str(journal), "--out", str(out), "-q"]
    assert run(["decide", str(with_policy), *given]) == 0
    return out


def put(path: Path, data: bytes = ODD_DATA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def reasons(data: Any) -> dict[str, int]:
    return {each["reason"]: each["rows"] for each in data["not_applied"]}


def test_a_dry_run_tells_all_and_touches_nothing(tmp_path: Path, capsys: Captured) -> None:
    place = Place(tmp_path)
    data = place.json(capsys, "--move")
    assert snapshot(place.photos) == place.before
    assert not place.into.exists()
    assert not list(tmp_path.glob("*apply*"))
    assert (data["code"], data["dry_run"], data["files"]) == (0, True, 6)
    assert data["by_decision"]["block"]["files"] == 3
    assert data["by_decision"]["approve"]["no_folder"] == 3
    assert data["root"] == str(place.photos)
    assert place.run("--move") == 0
    out = capsys.readouterr().out
    assert "would move 6 files (9.5 KB)" in out
    assert "\x1b" not in out
    assert "new\\nline" in out


@pytest.mark.parametrize("kind", ["copy", "move", "link"])
def test_the_tree_is_kept_and_undoing_brings_every_file_back(
    kind: str, tmp_path: Path, capsys: Captured
) -> None:
    place = Place(tmp_path)
    assert place.run(f"--{kind}", "--yes") == 0
    there = snapshot(place.into / "block") | snapshot(place.into / "review")
    assert len(there) == 6
    assert there.items() <= place.before.items()  # bytes, permissions and times
    here = snapshot(place.photos)
    assert here == place.before if kind != "move" else here | there == place.before
    if kind == "link":
        for name in there:
            (found,) = (p for p in place.into.rglob("*") if os.fsencode(p).endswith(b"/" + name))
            assert found.stat().st_nlink == 2
    folder = place.into / "block" / "first"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750  # as its own folder is
    assert place.run(f"--{kind}", "--yes") == 0  # all is done already
    assert snapshot(place.photos) == here
    assert place.undo() == 0
    assert snapshot(place.photos) == place.before
    assert not [path for path in place.into.rglob("*") if path.parent != place.into]
    assert place.undo() == 0
    assert "nothing to bring back" in capsys.readouterr().out


def test_the_command_that_undoes_it_names_the_log_exactly(tmp_path: Path, capsys: Captured) -> None:
    place = Place(tmp_path)
    log = tmp_path / "it's a\x1b[31m\nlog"
    assert place.run("--move", "--yes", "--log", log) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "--undo" in each]
    command = line.partition("moderate ")[2]
    script = f"printf '%s\\0' {command}"
    words = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert run([os.fsdecode(word) for word in words.split(b"\0")[:-1]]) == 0
    assert snapshot(place.photos) == place.before


def test_a_name_that_is_taken_is_never_overwritten(tmp_path: Path, capsys: Captured) -> None:
    place = Place(tmp_path, [], 0)
    names = ["other.jpg", "same.jpg", "free.jpg"]
    rows = [
        row(os.fsencode(put(place.photos / name, name.encode())), name.encode(), Decision.BLOCK)
        for name in names
    ]
    place = Place(tmp_path, rows)
    put(place.into / "block" / "other.jpg")
    put(place.into / "block" / "same.jpg", b"same.jpg")
    data = place.json(capsys, "--copy", "--yes")
    assert (data["code"], data["files"], reasons(data)) == (1, 1, {applying.TAKEN: 1})
    assert data["by_decision"]["block"]["there_already"] == 1
    assert (place.into / "block" / "other.jpg").read_bytes() == ODD_DATA
    data = place.json(capsys, "--move", "--yes")
    assert reasons(data) == {applying.TAKEN: 1, applying.SAME_THERE: 1}
    assert place.undo() == 0
    assert snapshot(place.photos) == place.before
    assert {each.name for each in (place.into / "block").iterdir()} == {"other.jpg", "same.jpg"}


def test_files_that_changed_or_went_are_left_alone(tmp_path: Path, capsys: Captured) -> None:
    place = Place(tmp_path)
    paths = sorted(p for p in place.photos.rglob("*.jpg") if p.parent.name == "first")
    size = paths[0].stat().st_size
    paths[0].chmod(0o600)
    paths[0].write_bytes(b"x" * size)
    paths[1].chmod(0o600)
    paths[1].write_bytes(b"x" * (size + 999_999))
    paths[2].unlink()
    data = place.json(capsys, "--move", "--yes", to=("block",))
    assert data["code"] == 1
    assert sum(reasons(data).values()) == 3
    assert {"another size" in r or "another sha256" in r or r == applying.GONE
            for r in reasons(data)} == {True}  # fmt: skip
    assert snapshot(place.into / "block") == {}


def test_what_is_no_file_of_its_own_is_reported(tmp_path: Path, capsys: Captured) -> None:
    photos, data = tmp_path / "photos", b"bytes"
    inside = Inline(b"")
    archive, video, holder = (put(photos / n, data) for n in ("a.zip", "b.mp4", "c.jpg"))

    def part(of: Path, name: bytes, decision: Decision) -> Row:
        made = row(os.fsencode(of) + b"!/" + name, data, decision)
        return Row(ImageRef(made.ref.path, location=inside), made.facts, made.scores,
                   decision, ())  # fmt: skip

    url = row(b"https://example.com/x.jpg", data, Decision.BLOCK)
    rows = [
        Row(ImageRef(url.ref.path, location=Url("https://example.com/x.jpg")), url.facts,
            url.scores, Decision.BLOCK, ()),
        part(archive, b"1.jpg", Decision.BLOCK),
        part(archive, b"2.jpg", Decision.APPROVE),
        row(os.fsencode(video), data, Decision.BLOCK),
        part(video, b"00:00:01.000", Decision.BLOCK),
        row(os.fsencode(holder), data, Decision.APPROVE),
        part(holder, b"embedded-1.jpg", Decision.BLOCK),
        row(os.fsencode(photos / "locked.jpg"), None, Decision.BLOCK),
        row(os.fsencode(put(photos / "wow!" / "real.jpg", data)), data, Decision.BLOCK),
        row(os.fsencode(put(photos / "twice.jpg", data)), data, Decision.BLOCK),
        row(os.fsencode(photos / "twice.jpg"), data, Decision.BLOCK),
        row(os.fsencode(put(photos / "both.jpg", data)), data, Decision.BLOCK),
        row(os.fsencode(photos / "both.jpg"), data, Decision.APPROVE),
    ]  # fmt: skip
    place = Place(tmp_path, rows)
    done = place.json(capsys, "--move", "--yes", to=("block", "approve"))
    from moderate.apply import plan

    assert done["code"] == 1
    assert reasons(done) == {
        plan.NOT_LOCAL: 1, plan.INSIDE: 2, plan.HOLDS_WORSE: 1, plan.NO_DIGEST: 1,
        plan.DISAGREEING: 2,
    }  # fmt: skip
    assert done["inside"] == [{"path": str(archive), "approve": 1, "review": 0, "block": 1}]
    assert (done["rows_of_parts"], done["rows_again"]) == (2, 1)
    moved = {os.fsdecode(name) for name in snapshot(place.into / "block")}
    assert moved == {"b.mp4", "wow!/real.jpg", "twice.jpg"}


@pytest.mark.parametrize("relative", [False, True])
def test_a_member_counts_to_its_archive_whatever_its_name(
    relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    from moderate.apply import plan

    monkeypatch.chdir(tmp_path)
    archive, other = put(tmp_path / "photos" / "a.zip"), put(tmp_path / "photos" / "b.zip")
    beside = put(tmp_path / "photos" / "evil.jpg")
    (tmp_path / "photos" / "folder!").mkdir()
    start = b"./photos/" if relative else os.fsencode(archive.parent) + b"/"

    def member(of: bytes) -> Row:
        made = row(start + of, ODD_DATA, Decision.BLOCK)
        return Row(ImageRef(made.ref.path, location=Inline(b"")), made.facts, made.scores,
                   Decision.BLOCK, ())  # fmt: skip

    rows = [
        row(start + b"a.zip", ODD_DATA, Decision.APPROVE),
        row(start + b"evil.jpg", ODD_DATA, Decision.APPROVE),
        member(b"a.zip!/../evil.jpg"),
        member(b"b.zip!/x/../../../evil.jpg"),
        member(b"b.zip!/..!/nul\0"),
        member(b"folder!/../evil.jpg"),
    ]
    place = Place(tmp_path, rows)
    done = place.json(capsys, "--move", "--yes", to=("block", "approve"))
    assert reasons(done) == {plan.HOLDS_WORSE: 1, plan.INSIDE: 2, plan.NOT_PLAIN: 1}
    assert done["inside"] == [{"path": str(other), "approve": 0, "review": 0, "block": 2}]
    assert (archive.exists(), other.exists(), beside.exists()) == (True, True, False)


def test_what_is_in_a_file_is_found_from_another_folder(tmp_path: Path, capsys: Captured) -> None:
    from moderate.apply import plan

    holder, zipped = put(tmp_path / "photos" / "c #1.jpg"), put(tmp_path / "photos" / "a.zip")
    columns = "path,uri,status,decision,bytes,sha256\n"
    lines = [
        f"./photos/{holder.name}{name},{holder.parent.as_uri()}/c%20%231.jpg{at},ok,{said}"
        for name, at, said in (
            ("", "", f"approve,{len(ODD_DATA)},{hashlib.sha256(ODD_DATA).hexdigest()}"),
            ("!/embedded-1.jpg", "#embedded-1.jpg", "block,,"),
        )
    ]
    lines.append(f"./photos/a.zip!/b/1%.jpg,{zipped.as_uri()}#b/1%25.jpg,ok,block,,")
    place = Place(tmp_path, [])
    place.results.write_text(columns + "\n".join(lines) + "\n")
    for each in tmp_path.glob("rows.csv.meta.json"):
        each.unlink()
    done = place.json(capsys, "--move", "--yes", to=("block", "approve"))
    assert reasons(done) == {plan.HOLDS_WORSE: 1, plan.INSIDE: 1}
    assert done["inside"] == [{"path": str(zipped), "approve": 0, "review": 0, "block": 1}]
    assert holder.exists()


def test_hostile_results_lead_nowhere(tmp_path: Path, capsys: Captured) -> None:
    outside = put(tmp_path / "outside" / "secret.jpg")
    photos = tmp_path / "photos"
    put(photos / "fine.jpg")
    (photos / "out").symlink_to(outside.parent)
    (photos / "link.jpg").symlink_to(outside)
    (photos / "folder.jpg").mkdir()
    names = [b"fine.jpg", b"out/secret.jpg", b"link.jpg", b"pipe.jpg", b"folder.jpg",
             b"x/../../outside/secret.jpg", b"../outside/secret.jpg", b"fine.jpg/x", b"a" * 300,
             b"\x1b]0;title\x07.jpg", b"line\nbreak.jpg", "\u202egpj.exe".encode()]  # fmt: skip
    rows = [row(os.fsencode(photos) + b"/" + name, ODD_DATA, Decision.BLOCK) for name in names]
    rows.append(row(os.fsencode(outside), ODD_DATA, Decision.BLOCK))
    place = Place(tmp_path, rows)
    os.mkfifo(photos / "pipe.jpg")
    for kind in ("--link", "--copy", "--move"):
        data = place.json(capsys, kind, "--yes", "--root", photos)
        assert (data["code"], data["files"]) == (1, 1), data
        assert [os.fsdecode(n) for n in snapshot(place.into / "block")] == ["fine.jpg"]
        assert place.undo() == 0
    assert outside.read_bytes() == ODD_DATA
    place.run("--root", photos, "--yes")
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)


def test_a_results_file_alone_does_not_open_the_whole_system(
    tmp_path: Path, capsys: Captured
) -> None:
    rows = [row(os.fsencode(put(tmp_path / "photos" / "a.jpg")), ODD_DATA, Decision.BLOCK),
            row(b"/etc/passwd", Path("/etc/passwd").read_bytes(), Decision.BLOCK)]  # fmt: skip
    place = Place(tmp_path, rows)
    assert place.run("--copy", "--yes") == 2
    assert "--root DIR" in capsys.readouterr().err
    assert not place.into.exists()


def test_links_in_the_target_lead_nowhere(tmp_path: Path, capsys: Captured) -> None:
    place, elsewhere = Place(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (place.into / "block").mkdir(parents=True)
    (place.into / "block" / "first").symlink_to(elsewhere)
    data = place.json(capsys, "--move", "--yes", to=("block",))
    assert (data["code"], data["files"], sum(reasons(data).values())) == (1, 0, 3)
    assert snapshot(place.photos) == place.before
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("kind", ["copy", "move", "link"])
def test_folders_exchanged_for_links_meanwhile_lead_nowhere(
    kind: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    elsewhere, really_perform = tmp_path / "elsewhere", applying.perform

    def race(*args: Any) -> None:
        if not elsewhere.exists():  # once, after all was looked at
            (place.photos / "first").rename(elsewhere)
            (place.photos / "first").symlink_to(elsewhere)
        really_perform(*args)

    monkeypatch.setattr(applying, "perform", race)
    data = place.json(capsys, f"--{kind}", "--yes", to=("block",))
    assert (data["code"], data["files"]) == (1, 0)
    assert len(snapshot(elsewhere)) == 3
    assert snapshot(place.into / "block") == {}


@pytest.mark.parametrize("across", [False, True])
def test_a_file_that_is_replaced_while_it_is_moved_is_not_lost(
    across: bool, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_rename = operations.rename_in
    path = put(tmp_path / "photos" / "a.jpg")
    place = Place(tmp_path, [row(os.fsencode(path), ODD_DATA, Decision.BLOCK)])
    newer, late = b"x" * len(ODD_DATA), b".aside" if across else b"a.jpg"

    def race(folder: int, name: bytes, other: int, new_name: bytes) -> None:
        if across and folder != other and name == new_name:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        if new_name.endswith(late) and path.exists() and path.read_bytes() == ODD_DATA:
            put(path.with_suffix(".new"), newer).replace(path)
        really_rename(folder, name, other, new_name)

    monkeypatch.setattr(operations, "rename_in", race)
    data = place.json(capsys, "--move", "--yes")
    assert reasons(data) == {"was replaced or changed meanwhile": 1}
    assert path.read_bytes() == newer
    assert snapshot(place.into / "block") == {}
    assert place.undo() == 0
    assert path.read_bytes() == newer


def test_what_changed_since_is_not_undone(tmp_path: Path, capsys: Captured) -> None:
    place = Place(tmp_path)
    assert place.run("--move", "--yes", to=("block",)) == 0
    one, two, three = sorted(p for p in (place.into / "block").rglob("*") if p.is_file())
    one.chmod(0o600)
    one.write_bytes(b"somebody's work")
    taken = put(place.photos / two.relative_to(place.into / "block"), b"a new one")
    capsys.readouterr()
    assert place.undo() == 1
    out = capsys.readouterr().out
    assert "1 file brought back, 2 not" in out
    assert one.read_bytes() == b"somebody's work"
    assert taken.read_bytes() == b"a new one"
    assert two.exists()
    assert not three.exists()
    taken.unlink()
    assert place.undo() == 1  # what is mended goes back
    assert taken.read_bytes() != b"a new one"


def test_a_copy_is_kept_where_its_original_is_gone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.run("--copy", "--yes", to=("block",)) == 0
    copies = [p for p in (place.into / "block").rglob("*") if p.is_file()]
    (place.photos / copies[0].relative_to(place.into / "block")).unlink()
    assert place.undo() == 1
    assert [p.exists() for p in copies] == [True, False, False]


def test_other_hard_links_stay(tmp_path: Path, capsys: Captured) -> None:
    place = Place(tmp_path)
    path = next(p for p in (place.photos / "first").iterdir())
    (tmp_path / "other.jpg").hardlink_to(path)
    data = place.json(capsys, "--move", "--yes", to=("block",))
    assert (data["code"], data["files"], data["files_with_other_links"]) == (0, 3, 1)
    assert (tmp_path / "other.jpg").exists()
    assert place.undo() == 0
    assert snapshot(place.photos) == place.before
    assert (tmp_path / "other.jpg").samefile(path)


def test_without_renaming_that_replaces_nothing_links_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moderate.apply import renaming

    monkeypatch.setattr(renaming, "_renameat2", lambda: None)
    place = Place(tmp_path)
    assert place.run("--move", "--yes") == 0
    assert len(snapshot(place.photos)) == 3
    assert place.undo() == 0
    assert snapshot(place.photos) == place.before


def test_the_root_does_not_depend_on_what_is_asked_for(tmp_path: Path, capsys: Captured) -> None:
    place = Place(tmp_path)
    roots = {place.json(capsys, to=(name,))["root"] for name in ("block", "review", "approve")}
    assert roots == {str(place.photos)}


def test_targets_below_the_root_are_not_applied_again(tmp_path: Path, capsys: Captured) -> None:
    photos = tmp_path / "photos"
    rows = [
        row(os.fsencode(put(photos / name)), ODD_DATA, Decision.BLOCK)
        for name in ("a.jpg", "into/block/b.jpg")
    ]
    place = Place(tmp_path, rows)
    place.into = photos / "into"
    data = place.json(capsys, "--move", "--yes")
    assert (data["files"], reasons(data)) == (1, {applying.IN_TARGET: 1})


def test_relative_paths_start_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    put(tmp_path / "photos" / "deep" / "a.jpg")
    rows = [row(b"./../photos/deep/a.jpg", ODD_DATA, Decision.BLOCK)]
    place = Place(tmp_path, rows)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    data = place.json(capsys, "--yes", "--root", "../photos")
    assert (data["code"], data["files"]) == (0, 1)
    assert list(snapshot(place.into / "block")) == [b"deep/a.jpg"]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (b"./a//b/./c", b"/work/here/a/b/c"),
        (b"./../../x", b"/x"),
        (b"./../../../x", b"/x"),
        (b"/a/b", b"/a/b"),
        (b"/a/../b", None),
        (b"./a/../b", None),
        (b"./a\0b", None),
    ],
)
def test_absolute_paths(path: bytes, wanted: bytes | None) -> None:
    assert absolute(path, b"/work/here") == wanted


@pytest.mark.parametrize(
    ("path", "uri", "wanted"),
    [
        (b"./a b.jpg", None, b"/work/a b.jpg"),
        (b"./a b.jpg", "file:///mnt/x/a%20b.jpg", b"/mnt/x/a b.jpg"),
        (b"./\xff#.jpg", "file:///mnt/%FF%23.jpg", b"/mnt/\xff#.jpg"),
        (b"./../x/a.jpg", "file:///mnt/x/a.jpg", b"/mnt/x/a.jpg"),
        (b"./z.zip!/a.jpg", "file:///mnt/z.zip#a.jpg", b"/mnt/z.zip!/a.jpg"),
        (b"./z.zip!/a.jpg", "file:///mnt/z.zip#b.jpg", b"/work/z.zip!/a.jpg"),
        (b"./z.zip!/../a.jpg", "file:///mnt/z.zip#../a.jpg", None),
        (b"./a.jpg", "file:///mnt/z.zip#a.jpg", b"/work/a.jpg"),
        (b"./a.jpg", "file:///etc/passwd", b"/work/a.jpg"),
        (b"./a.jpg", "file:///mnt/../etc/a.jpg", b"/work/a.jpg"),
        (b"/x/a.jpg", "file:///mnt/a.jpg", b"/x/a.jpg"),
        (b"https://example.com/a.jpg", "file:///mnt/a.jpg", None),
    ],
)
def test_a_uri_says_where_a_relative_path_was(
    path: bytes, uri: str | None, wanted: bytes | None
) -> None:
    assert located(path, uri, b"/work") == wanted


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"hello\n", "not a log of moderate apply"),
        (b'{"op": 1, "state": "done"}\n', "not a line of a log"),
        (b'{"apply": 1, "token": "../../x", "root": "/", "targets": {}}\n', "not a line of a log"),
        (b'{"apply": 1, "token": "0123456789abcdef", "root": "x", "targets": {}}\n', "absolute"),
        (b'{"apply": 1, "token": "0123456789abcdef", "root": "/", "targets": {"block": "/x"}, '
         b'"results": "r"}\n{"op": 1, "kind": "move", "decision": "block", "path": "../x", '
         b'"bytes": 1, "sha256": "' + b"0" * 64 + b'", "folders_made": 0}\n', "plain"),
    ],
)  # fmt: skip
def test_a_log_that_is_none_is_refused(
    lines: bytes, message: str, tmp_path: Path, capsys: Captured
) -> None:
    log = put(tmp_path / "log.jsonl", lines)
    assert run(["apply", "--undo", str(log)]) == 2
    assert message in capsys.readouterr().err
    assert log.read_bytes() == lines
    place = Place(tmp_path)
    assert place.run("--yes", "--log", log) == 2
    assert log.read_bytes() == lines
    assert not place.into.exists()


def test_one_process_at_a_time_and_only_its_users_log(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    assert place.run("--move", "--yes") == 0
    with place.log.open("r+b") as file:
        assert try_lock(file.fileno())
        assert place.run("--move", "--yes") == 2
        assert place.undo() == 2
    assert "another process" in capsys.readouterr().err
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert place.undo() == 2
    assert "another user's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the RESULTS"),
        (["rows.csv"], "--block-to"),
        (["rows.csv", "--block-to", "x", "--copy", "--move"], "exclude each other"),
        (["rows.csv", "--block-to", ""], "without a name"),
        (["rows.csv", "--undo", "log"], "stands alone"),
        (["rows.csv", "--block-to", "rows.csv"], "not a folder"),
        (["rows.csv", "--block-to", "photos"], "the folder that the files are in"),
        (["rows.csv", "--block-to", "x", "--root", "none"], "not a folder"),
        (["rows.csv", "--block-to", "x", "--yes", "--log", "none/log"], "--log FILE"),
    ],
)
def test_wrong_usage(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    place = Place(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(["apply", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert snapshot(place.photos) == place.before
    assert not (tmp_path / "x").exists()


def test_a_disk_that_takes_no_more_ends_it_and_it_goes_on(tmp_path: Path, forks: Commands) -> None:
    sizes = [2_000, 60_000, 1_000]
    rows = []
    for number, size in enumerate(sizes):
        path = put(tmp_path / "photos" / f"{number}.jpg", bytes(size))
        rows.append(row(os.fsencode(path), bytes(size), Decision.BLOCK))
    place = Place(tmp_path, rows)
    log, into = tmp_path / "log", place.into
    command = ["apply", place.results, "--root", place.photos, "--log", log, "--block-to", into,
               "--yes", "--move"]  # fmt: skip
    ended = forks.run(*command, across=True, file_size=20_000)
    assert ended.code == 2
    assert "it goes on from there" in ended.out
    assert {**snapshot(into), **snapshot(place.photos)} == place.before
    assert forks.run(*command, across=True, file_size=600).code == 2  # nor does the log
    ended = forks.run(*command, across=True)
    assert ended.code == 0, ended.out
    assert snapshot(into) == place.before
    assert forks.run("apply", "--undo", log).code == 0
    assert snapshot(place.photos) == place.before


def test_a_target_that_cannot_be_written(tmp_path: Path, forks: Commands) -> None:
    path = put(tmp_path / "photos" / "a.jpg")
    place = Place(tmp_path, [row(os.fsencode(path), ODD_DATA, Decision.BLOCK)])
    user = 54_321
    log, into = tmp_path / "logs" / "log", tmp_path / "into"
    for folder in (log.parent, into):
        folder.mkdir()
    into.chmod(0o555)
    os.chmod(log.parent, 0o777)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o555)
    command = ["apply", place.results, "--root", place.photos, "--log", log, "--block-to", into,
               "--yes"]  # fmt: skip
    for shown in (place.results, Path(f"{place.results}.meta.json")):
        if shown.exists():
            shown.chmod(0o644)
    ended = forks.run(*command, user=user if not os.geteuid() else None)
    assert ended.code == 2, ended.out
    assert "cannot write in" in ended.out
    assert snapshot(into) == {}


def test_digests_of_rows_are_compared_before_anything(tmp_path: Path, capsys: Captured) -> None:
    path = put(tmp_path / "photos" / "a.jpg")
    other = hashlib.sha256(b"something else").hexdigest()
    place = Place(tmp_path, [row(os.fsencode(path), ODD_DATA, Decision.BLOCK, sha256=other)])
    for kind in ("--copy", "--move", "--link"):
        data = place.json(capsys, kind, "--yes")
        assert (data["code"], data["files"]) == (1, 0)
        assert "another sha256" in next(iter(reasons(data)))
    assert path.read_bytes() == ODD_DATA
    assert snapshot(place.into) == {}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_what_people_decided_is_applied(tmp_path: Path, capsys: Captured, suffix: str) -> None:
    place = Place(tmp_path)
    answers = [(1, "ada", "approve"), (3, "ada", "block"), (4, "ada", "unsure")]
    journal = write_journal(tmp_path / "journal", place.results, answers)
    final = decided(place.results, journal, tmp_path / f"final.{suffix}")
    place.results = final
    data = place.json(capsys)
    assert data["by_decision"]["block"]["files"] == 3, "one approved, one blocked by a person"
    moved = {each["path"] for each in data["first"] if each["decision"] == "block"}
    rows = list(read_results(str(final)).rows())
    assert rows[0]["path"] not in moved
    assert rows[2]["path"] in moved
    assert any("people decided" in note for note in data["notes"])


def test_a_column_of_a_list_decides_nothing(tmp_path: Path, capsys: Captured) -> None:
    place = Place(tmp_path)
    plain = place.json(capsys)
    journal = write_journal(tmp_path / "journal", place.results, [(1, "ada", "approve")])
    place.results = decided(place.results, journal, tmp_path / "final.csv")
    facts = tmp_path / "final.csv.meta.json"
    of_scan = json.loads(facts.read_text())
    del of_scan["decisions_sha256"]
    facts.write_text(json.dumps(of_scan))
    data = place.json(capsys)
    assert data["by_decision"] == plain["by_decision"]
    assert any("not of these results" in note for note in data["notes"])
    # Without facts, and with something that is no decision.
    facts.unlink()
    text = place.results.read_text()
    place.results.write_text(text.replace(",approve,ada,", ",remove,ada,"))
    assert place.run() == 2
    assert "final_decision 'remove' is none of approve, review, block" in capsys.readouterr().err
