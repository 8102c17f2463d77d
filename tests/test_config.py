"""Configuration files: which one is used, and which one nobody should be ruled by."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from moderate import config, ownership
from moderate.config import MAX_BYTES, Config, check_variables, find_config, named_config
from moderate.errors import ConfigError

KNOWN = {"limit", "out", "files_from", "weights"}
SETTINGS = "limit = 7\n"
PYPROJECT = "[tool.moderate]\nlimit = 7\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a configuration file that is to be trusted."""
    folder = tmp_path / "place"
    folder.mkdir(mode=0o755)
    (folder / "moderate.toml").write_text(SETTINGS)
    (folder / "moderate.toml").chmod(0o644)
    monkeypatch.chdir(folder)
    return folder


def ignored(found: Config, path: Path, reason: str) -> bool:
    return not found.settings and found.record is None and found.ignored == (f"{path} ({reason})",)


# What is used ------------------------------------------------------------------------------------


def test_the_nearest_file_is_used_and_recorded(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "below" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(place / "below" / "deeper")
    found = find_config(KNOWN)
    assert found.settings == {"limit": 7}
    assert found.found
    assert found.record is not None
    assert found.record.path == str(place / "moderate.toml")
    assert found.record.sha256 == hashlib.sha256(SETTINGS.encode()).hexdigest()
    (place / "below" / "pyproject.toml").write_text(PYPROJECT.replace("7", "8"))
    assert find_config(KNOWN).settings == {"limit": 8}


def test_a_named_file_is_used_wherever_it_lies(place: Path) -> None:
    (place / "moderate.toml").chmod(0o666)
    assert find_config(KNOWN).ignored
    assert named_config("moderate.toml", KNOWN).settings == {"limit": 7}


def test_an_object_in_a_store_is_no_path_beside_the_file(place: Path) -> None:
    (place / "moderate.toml").write_text('out = ["s3://bucket/rows.parquet", "rows.csv"]\n')
    out = find_config(KNOWN).settings["out"]
    assert out == ["s3://bucket/rows.parquet", str(place / "rows.csv")]


def test_files_of_reports_and_the_baseline_are_relative_to_the_file(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "moderate.toml").write_text(
        'baseline = "old.sarif"\nfiles_from = ["names.txt", "-"]\nrelative_to = "base"\n'
        'report = ["sarif:new.sarif", "github:-", "junit:/x.xml", "dsa:"]\n'
    )
    (place / "below").mkdir()
    monkeypatch.chdir(place / "below")
    known = {"baseline", "report", "files_from", "relative_to"}
    assert find_config(known).settings == {
        "baseline": str(place / "old.sarif"),
        "files_from": [str(place / "names.txt"), "-"],
        "relative_to": str(place / "base"),
        "report": [f"sarif:{place / 'new.sarif'}", "github:-", "junit:/x.xml", "dsa:"],
    }


def test_a_working_directory_that_is_gone_has_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert find_config(KNOWN) == Config()


# What lies among the images ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "lists", "folder"),
    [
        (["."], [], "."),
        ([".."], [], ".."),
        (["/"], [], "/"),
        (["a.jpg"], [], "."),
        (["missing.jpg"], [], "."),
        (["./*.jpg"], [], "."),
        (["*/*.jpg"], [], "."),
        (["../place/*"], [], "../place"),
        (["dump.zip"], [], "."),
        (["list.txt"], [], "."),
        (["rows.csv"], [], "."),
        (["sub", "rows.parquet"], [], "."),
        (["link"], [], "link"),
        (["sub/link.jpg"], [], "PLACE"),
        (["-"], [], "."),
        ([], ["-"], "."),
        ([], ["/dev/null"], "."),
        (["sub/list.lst"], [], "."),
        ([], ["rows.jsonl"], "."),
    ],
)
def test_a_file_in_or_below_an_input_is_not_used(
    place: Path, inputs: list[str], lists: list[str], folder: str
) -> None:
    (place / "sub").mkdir()
    for name in ("a.jpg", "dump.zip", "list.txt", "rows.csv", "rows.parquet", "rows.jsonl"):
        (place / name).touch()
    (place / "sub" / "list.lst").touch()
    (place / "link").symlink_to(place)
    (place / "sub" / "link.jpg").symlink_to(place / "a.jpg")
    reason = f"it lies in the input {place if folder == 'PLACE' else folder}"
    assert ignored(find_config(KNOWN, inputs, lists), place / "moderate.toml", reason)


@pytest.mark.parametrize(
    "inputs",
    [["sub"], ["sub/*.jpg"], ["sub/a.jpg"], ["https://host/../a.jpg"], ["s3://b/k"], ["data:,x"]],
)
def test_a_file_above_the_inputs_is_used(place: Path, inputs: list[str]) -> None:
    (place / "sub").mkdir()
    assert find_config(KNOWN, inputs).settings == {"limit": 7}


def test_links_lead_neither_in_nor_out(place: Path, tmp_path: Path) -> None:
    """A link in the dump to a good file, and a good link to a file in the dump."""
    file, dump = place / "moderate.toml", tmp_path / "dump"
    dump.mkdir()
    file.rename(dump / "uploaded.toml")
    file.symlink_to(dump / "uploaded.toml")
    assert find_config(KNOWN).settings == {"limit": 7}
    assert ignored(find_config(KNOWN, [str(dump)]), file, f"it lies in the input {dump}")
    assert ignored(find_config(KNOWN, ["."]), file, "it lies in the input .")
    (tmp_path / "way").symlink_to(dump)
    file.unlink()
    file.symlink_to("../way/uploaded.toml")
    assert ignored(find_config(KNOWN, [str(dump)]), file, f"it lies in the input {dump}")


def test_an_upload_does_not_switch_off_the_file_above_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = place / "uploads"
    uploads.mkdir()
    (uploads / "moderate.toml").write_text("limit = 1\n")
    (uploads / "pyproject.toml").write_text(PYPROJECT)
    monkeypatch.chdir(uploads)
    found = find_config(KNOWN, ["."])
    assert found.settings == {"limit": 7}
    assert [line.split(" (")[0] for line in found.ignored] == [
        str(uploads / "moderate.toml"), str(uploads / "pyproject.toml"),
    ]  # fmt: skip


def test_what_is_not_to_be_used_is_not_parsed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything said of a project's file that has nothing for us."""
    monkeypatch.setattr(config, "parse_toml", lambda text: pytest.fail("it was parsed"))
    (place / "pyproject.toml").write_text('[project]\nname = "moderate"\n')
    assert ignored(find_config(KNOWN, ["."]), place / "moderate.toml", "it lies in the input .")


# What others could write -------------------------------------------------------------------------


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it belong to somebody who is neither this user nor root."""
    if os.geteuid() == 0:
        os.chown(path, 12345, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


def test_a_file_of_somebody_else_is_not_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_away(place / "moderate.toml", monkeypatch)
    assert "belongs to" in find_config(KNOWN).ignored[0]


def test_a_folder_of_somebody_else_above_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = place / "below"
    below.mkdir()
    (place / "moderate.toml").rename(below / "moderate.toml")
    monkeypatch.chdir(below)
    give_away(place, monkeypatch)
    assert "belongs to" in find_config(KNOWN).ignored[0]


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777])
def test_a_folder_that_others_can_write(place: Path, mode: int) -> None:
    place.chmod(mode)
    assert ignored(find_config(KNOWN), place / "moderate.toml", f"others can write to {place}")


def test_a_folder_above_that_others_can_write(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = place / "below"
    below.mkdir()
    (place / "moderate.toml").rename(below / "moderate.toml")
    monkeypatch.chdir(below)
    place.chmod(0o777)
    assert ignored(find_config(KNOWN), below / "moderate.toml", f"others can write to {place}")
    # As in /tmp: nobody else can put anything in the place of a folder that is this user's.
    place.chmod(0o1777)
    assert find_config(KNOWN).settings == {"limit": 7}


def test_a_file_that_others_can_write(place: Path) -> None:
    file = place / "moderate.toml"
    file.chmod(0o646)
    assert ignored(find_config(KNOWN), file, f"others can write to {file}")


def test_a_link_through_a_folder_that_others_can_write(place: Path, tmp_path: Path) -> None:
    """The file and its folder are good; the way to them is not."""
    good, shared = tmp_path / "good", tmp_path / "shared"
    good.mkdir()
    shared.mkdir()
    (place / "moderate.toml").rename(good / "moderate.toml")
    (shared / "way").symlink_to(good)
    (place / "moderate.toml").symlink_to(shared / "way" / "moderate.toml")
    assert find_config(KNOWN).settings == {"limit": 7}
    for mode in (0o777, 0o1777):
        shared.chmod(mode)
        reason = f"others can write to {shared}"
        assert ignored(find_config(KNOWN), place / "moderate.toml", reason)


Database = Callable[[list[str], list[tuple[str, int, int]]], None]


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    """The system's users (name, user, group), and the members of group 500, `ours`."""

    def known(members: list[str], users: list[tuple[str, int, int]]) -> None:
        every = [pwd.struct_passwd((n, "x", u, g, "", "/", "/bin/sh")) for n, u, g in users]
        by_user = {entry.pw_uid: entry for entry in every}
        monkeypatch.setattr(pwd, "getpwall", lambda: every)
        monkeypatch.setattr(pwd, "getpwuid", lambda user: by_user[user])
        groups = {500: grp.struct_group(("ours", "x", 500, members))}
        monkeypatch.setattr(grp, "getgrgid", lambda group: groups[group])
        monkeypatch.setattr(os, "geteuid", lambda: 500)

    return known


@pytest.mark.parametrize(
    ("members", "users", "private"),
    [
        ([], [("ours", 500, 500)], True),
        (["ours"], [("ours", 500, 500), ("other", 501, 501)], True),
        (["other"], [("ours", 500, 500), ("other", 501, 501)], False),
        ([], [("ours", 500, 500), ("other", 501, 500)], False),
        ([], [("name", 500, 500)], False),
        ([], [("ours", 500, 100)], False),
        ([], [], False),
    ],
)
def test_the_group_of_one_user_alone(
    database: Database, members: list[str], users: list[tuple[str, int, int]], private: bool
) -> None:
    database(members, users)
    assert ownership._is_private(500) is private
    assert not ownership._is_private(501)


def test_a_group_that_nobody_knows_is_others(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(group: int) -> object:
        raise KeyError(group)

    monkeypatch.setattr(grp, "getgrgid", unknown)
    place.chmod(0o775)
    assert ignored(find_config(KNOWN), place / "moderate.toml", f"others can write to {place}")


def test_an_access_list_lets_others_write(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_is_private", lambda group: True)
    place.chmod(0o775)
    assert find_config(KNOWN).settings == {"limit": 7}
    # The owner, user 12345, the group, the mask and the others, as acl(5) has them.
    entries = [(1, 7, -1), (2, 7, 12345), (4, 5, -1), (16, 7, -1), (32, 5, -1)]
    packed = b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(place, "system.posix_acl_access", struct.pack("<I", 2) + packed)
    assert ignored(find_config(KNOWN), place / "moderate.toml", f"others can write to {place}")


# What is no configuration file -------------------------------------------------------------------


def test_a_named_file_has_to_be_a_regular_file_of_some_size(place: Path) -> None:
    os.mkfifo(place / "fifo")
    (place / "large.toml").write_bytes(b"#" * (MAX_BYTES + 1))
    for name, reason in (
        ("fifo", "a FIFO, not a regular file"),
        ("/dev/zero", "a device, not a regular file"),
        (".", "a folder, not a regular file"),
        ("gone.toml", "No such file"),
        ("large.toml", "larger than 1 MiB"),
    ):
        with pytest.raises(ConfigError, match=f"config {name}: .*{reason}"):
            named_config(name, KNOWN)


@pytest.mark.parametrize("text", [b"a = " + b"[" * 20_000, b"a = \xff", b"a = " + b"9" * 5000])
def test_toml_that_cannot_be_read_is_one_error(place: Path, text: bytes) -> None:
    (place / "odd.toml").write_bytes(text)
    with pytest.raises(ConfigError, match=r"config odd\.toml: (not valid TOML|nested deeper)"):
        named_config("odd.toml", KNOWN)


def test_only_files_are_found(place: Path) -> None:
    (place / "moderate.toml").unlink()
    os.mkfifo(place / "moderate.toml")
    (place / "pyproject.toml").mkdir()
    assert find_config(KNOWN) == Config()


# Variables ---------------------------------------------------------------------------------------


def test_variables_of_ours_and_of_others_are_no_mistake() -> None:
    kubernetes = ("SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP_ADDR", "X_SERVICE_HOST")
    check_variables(
        {
            "MODERATE_LIMIT": "7",
            "MODERATE_WEIGHTS_MIRROR": "https://mirror",
            "MODERATE_LIMITS": "",
            "_MODERATE_COMPLETE": "complete_bash",
            "PATH": "/bin",
            **{f"MODERATE_{name}": "1" for name in kubernetes},
        },
        KNOWN,
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MODERATE_LIMITS", "did you mean MODERATE_LIMIT?"),
        ("MODERATE_WEIGTHS", "did you mean MODERATE_WEIGHTS?"),
        ("MODERATE_XQZ", "'moderate scan --help' lists the options"),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest_known(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_variables({name: "1"}, KNOWN)
    assert str(error.value) == f"environment: unknown variable {name}; {hint}"
