"""Paths that are not there: each usual mistake is recognised, with a limited number of looks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moderate.sources.not_found import MAX_LOOKS, Finding, explain, path_of_file_url
from moderate.types import Listing

LISTING = Listing("list.txt", b"lists")


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path)


def create(*names: bytes) -> None:
    for name in names:
        if folder := os.path.dirname(name):
            os.makedirs(folder, exist_ok=True)
        with open(name, "wb"):
            pass


def finding(path: bytes, listing: Listing | None = LISTING) -> Finding:
    found = explain(path, listing)
    assert found is not None, path
    return found


@pytest.mark.parametrize(
    ("file", "written", "what"),
    [
        (b"a b.jpg", b" a b.jpg\t", "without the white space"),
        (b"a.jpg", b"a.jpg\r", "without the white space"),
        (b"a b.jpg", b'"a b.jpg"', "without the quotes"),
        (b"a.jpg", b"'a.jpg' ", "without the quotes"),
        (b"in/a.jpg", b"in\\a.jpg", "with / for \\"),
        (b"a b.jpg", b"a\\ b.jpg", "without the backslashes"),
        (b"a b.jpg", b"a%20b.jpg", "without percent-encoding"),
        (b"a b.jpg", b"file:a%20b.jpg", "as a path instead of a file: URL"),
        ("é.jpg".encode(), b"e\xcc\x81.jpg", "in the Unicode form NFC"),
        (b"e\xcc\x81.jpg", "é.jpg".encode(), "in the Unicode form NFD"),
        ("é.jpg".encode(), b"\xe9.jpg", "as UTF-8 where the list is cp1252"),
        ("\x81é.jpg".encode(), b"\x81\xe9.jpg", "as UTF-8 where the list is latin-1"),
        (b"\xe9.jpg", "é.jpg".encode(), "in cp1252, not in UTF-8"),
        ("é.jpg".encode(), "Ã©.jpg".encode(), "not read as cp1252"),
        ("Ã©.jpg".encode(), "é.jpg".encode(), "once read as cp1252"),
        (b"a.jpg", b"/a.jpg", "without the leading /"),
        (b"a.jpg", b"a.jpg,cat", "without what follows in the line"),
        (b"a b.jpg", b"a b.jpg 3", "without what follows in the line"),
        (b"a,b.jpg", b"a,b.jpg\t3", "without what follows in the line"),
        (b"a.JPG", b"a.jpg", "with the suffix .JPG"),
        (b"in/a b.jpg", b'"in\\a%20b.jpg"', "without percent-encoding and with / for"),
    ],
)
def test_mistakes_in_how_a_path_is_written(file: bytes, written: bytes, what: str) -> None:
    create(file)
    found = finding(written)
    assert found.path == file
    assert what in found.hint
    create(b"lists/" + file)
    os.unlink(file)
    found = finding(written)
    assert found.path == b"lists/" + file, "the two mistakes at once"
    assert what in found.hint
    assert "relative to the list's own folder (lists)" in found.hint


def test_a_list_relative_to_another_folder() -> None:
    create(b"lists/a.jpg", b"b.jpg")
    found = finding(b"a.jpg")
    assert found.path == b"lists/a.jpg"
    assert found.mistakes[0].remedy == "run from there, or give --relative-to lists"
    manifest = Listing("lists/m.csv", b"lists", b"lists")
    found = finding(b"lists/b.jpg", manifest)
    assert (found.path, found.mistakes[0].remedy) == (b"b.jpg", "give --relative-to .")
    assert explain(b"b.gif", Listing("stdin", None)) is None, "a stream has no folder"
    assert explain(b"a.jpg", Listing("list.txt", b"")) is None


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "lists"))
    create(b"lists/a.jpg")
    assert finding(b"~/a.jpg").path == os.fsencode(tmp_path / "lists/a.jpg")
    assert "only a shell expands ~" in finding(b"~/b.jpg").hint


def test_what_the_form_alone_tells() -> None:
    assert "a Windows path" in finding(b"C:\\photos\\a.jpg").hint
    assert "a Windows network path" in finding(b"\\\\server\\photos\\a.jpg").hint
    assert "U+FFFD" in finding("caf\ufffd.jpg".encode()).hint
    assert finding(b"gone/a.jpg").hint == "its folder is missing too; check the folder gone"
    os.symlink("nowhere", "link.jpg")
    assert "symbolic link whose target is missing" in finding(b"link.jpg").hint
    assert explain(b"a\0.jpg") is None


def test_folders_count_for_the_command_line_alone() -> None:
    os.mkdir("uploads")
    assert finding(b'"uploads"', None).path == b"uploads"
    assert explain(b'"uploads"', LISTING) is None


def test_looks_are_bounded_and_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []
    real = os.lstat

    def lstat(path: bytes) -> os.stat_result:
        looks.append(path)
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    monkeypatch.setattr(os, "open", None)
    monkeypatch.setattr("builtins.open", None)
    assert explain(b"a.jpg", LISTING) is None
    assert len(looks) < 6, "of the usual path"
    looks.clear()
    explain(' "/x\\ é%20Ã©/a,b;c|d\te.jpg" '.encode(), LISTING)
    assert len(looks) == MAX_LOOKS


def test_file_urls() -> None:
    paths = {
        b"file:/a%20b": b"/a b",
        b"file:///a": b"/a",
        b"FILE://localhost/a": b"/a",
        b"file://host/a": b"file://host/a",
        b"a": b"a",
    }
    assert {url: path_of_file_url(url) for url in paths} == paths


def test_without_a_current_folder(tmp_path: Path) -> None:
    os.mkdir("gone")
    os.chdir("gone")
    (tmp_path / "gone").rmdir()
    assert explain(b"a.jpg", LISTING) is None
