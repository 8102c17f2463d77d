"""What a run says of its inputs: counted per list, cheap however many paths are missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moderate.sources import hints
from moderate.sources.directory import DirectorySource, WalkOptions
from moderate.sources.hints import InputHints
from moderate.types import (
    ErrorCode,
    ImageError,
    ImageRef,
    Listing,
    Skipped,
    SkipReason,
    StoredObject,
    Url,
)

MISSING = ImageError(ErrorCode.NOT_FOUND, "cannot read: No such file or directory")
LISTING = Listing("list.txt", b"lists")


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)


def test_most_paths_of_a_list_with_the_same_mistake_are_one_note() -> None:
    gathered = InputHints(WalkOptions())
    errors = [
        gathered.with_hint(ImageRef(path, listing=LISTING), MISSING)
        for path in (b"a.jpg", b'"a.jpg"', b"b.jpg")
    ]
    assert [error.code for error in errors] == [ErrorCode.NOT_FOUND] * 3
    assert errors[0].message == (
        f"{MISSING.message}; it is there relative to the list's own folder (lists), as lists/a.jpg"
    )
    assert errors[2] == MISSING
    assert gathered.notes() == [
        "2 of 3 missing paths of list.txt are there relative to the list's own folder (lists); "
        "run from there, or give --relative-to lists."
    ]


def test_one_missing_path_is_spoken_of_as_one() -> None:
    for path, note in (
        (b"a.jpg", "the missing path of list.txt is there relative to the list's own folder"),
        (b"gone/a.jpg", "the missing path of list.txt cannot be found: its folder is missing too"),
    ):
        gathered = InputHints(WalkOptions())
        gathered.with_hint(ImageRef(path, listing=LISTING), MISSING)
        assert gathered.notes()[0].startswith(note)


def test_only_some_missing_paths_are_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "MOST_EXPLAINED", 2)
    gathered = InputHints(WalkOptions())
    ref = ImageRef(b"a.jpg", listing=LISTING)
    messages = [gathered.with_hint(ref, MISSING).message for _ in range(4)]
    assert [len(message) > len(MISSING.message) for message in messages] == [
        True,
        True,
        False,
        False,
    ]
    assert gathered.notes()[0].startswith("2 of the first 2 missing paths of list.txt")


def test_other_errors_and_missing_arguments_make_no_note() -> None:
    gathered = InputHints(WalkOptions())
    denied = ImageError(ErrorCode.PERMISSION_DENIED, "cannot read")
    assert gathered.with_hint(ImageRef(b"a.jpg", listing=LISTING), denied) == denied
    assert "without the quotes" in gathered.with_hint(ImageRef(b"'lists/a.jpg'"), MISSING).message
    assert gathered.notes() == []


@pytest.mark.parametrize(
    ("url", "is_joined"),
    [
        ("https://a.example/1.jpg,https://b.example/2.jpg", True),
        ("https://a.example/1.jpg HTTP://b.example/2.jpg", True),
        ("https://a.example/1.jpg|s3://b/2.jpg", True),
        ("https://web.example/2020/https://b.example/2.jpg", False),
        ("https://a.example/1.jpg?u=https://b.example/2.jpg", False),
    ],
)
def test_joined_urls(url: str, is_joined: bool) -> None:
    failed = ImageError(ErrorCode.HTTP_ERROR, "status 404")
    gathered = InputHints(WalkOptions())
    for location in (Url(url), StoredObject(url)):
        explained = gathered.with_hint(ImageRef(b"x", location=location), failed)
        assert ("several URLs" in explained.message) is is_joined


def test_links_that_were_not_followed(tmp_path: Path) -> None:
    os.symlink("lists/a.jpg", "link.jpg")
    for follow, notes in (
        (False, ["1 symbolic link was not followed; --follow-symlinks follows it."]),
        (True, []),
    ):
        options = WalkOptions(follow_symlinks=follow)
        gathered = InputHints(options)
        for item in DirectorySource(os.fsencode(tmp_path), options):
            if isinstance(item, Skipped):
                gathered.note_skipped(item)
        gathered.note_skipped(Skipped(b"dump.tar!/link.jpg", SkipReason.SYMLINK))
        assert gathered.notes() == notes


def test_include_that_leaves_out_other_spellings() -> None:
    gathered = InputHints(WalkOptions(include=("a*.jpg", "sub/*.png"), exclude=("*secret*",)))
    names = ("a1.JPG", "a2.JPG", "A3.jpeg", "b.JPG", "sub/x.PNG", "a.webp", "a-secret.JPG", "a.txt")
    for name in names:
        gathered.note_skipped(Skipped(b"in/" + name.encode(), SkipReason.EXCLUDED))
    (note,) = gathered.notes()
    assert "(2 .JPG, 1 .jpeg, 1 .PNG)" in note
    assert "add --include '*.JPG' --include '*.jpeg' --include '*.PNG'" in note
    excluded = InputHints(WalkOptions(exclude=("*.JPG",)))
    excluded.note_skipped(Skipped(b"in/a.JPG", SkipReason.EXCLUDED))
    assert excluded.notes() == []
