"""Files of a folder are looked at together as each is by itself, whatever becomes of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moderate.run.groups import Group, LocalRefs
from moderate.run.local_files import LocalFile, LocalFiles
from moderate.sources.directory import DirectorySource
from moderate.sources.folder_files import FolderFiles
from moderate.state.known_files import Scopes
from moderate.state.run_scores import RunScores
from moderate.state.scores import ScoreStore
from moderate.types import ImageRef, Skipped, SkipReason, Warn

NAMES = [b"a.jpg", b"b\nc.jpg", b"d \xff.png", b"e.jpg"]


def nothing(_: Path) -> None:
    pass


def one_is_gone(folder: Path) -> None:
    (folder / "a.jpg").unlink()


def one_became_a_link(folder: Path) -> None:
    (folder / "e.jpg").unlink()
    (folder / "e.jpg").symlink_to("a.jpg")


def all_are_gone(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


@pytest.mark.parametrize("change", [nothing, one_is_gone, one_became_a_link, all_are_gone])
@pytest.mark.parametrize("start", ["", "./", "absolute"])
@pytest.mark.parametrize("verify", [False, True])
def test_together_as_one_by_one(
    change: Callable[[Path], None],
    start: str,
    verify: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in NAMES:
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(name)
    root = str(tmp_path / "in") if start == "absolute" else f"{start}in"
    (files,) = DirectorySource(os.fsencode(root)).parts()
    assert isinstance(files, FolderFiles)
    together, alone = Group(), Group()
    skipped = Skipped(b"x", SkipReason.HIDDEN)
    for group in (together, alone):
        group.add(skipped)
    together.add(files)
    for index in range(len(files)):
        alone.add(files.ref(index))
    change(tmp_path / "in")
    store = ScoreStore.open(tmp_path / "state")
    scores = RunScores(store, Scopes(b"s" * 32, b"e" * 32), rescore=False, retry_errors=False)
    found = []
    for group in (together, alone):
        looked_up = LocalFiles(verify=verify).look_up(group, scores)
        found.append([local and facts_of(local) for local in looked_up])
    store.close()
    assert found[0] == found[1]
    there = {"nothing": 4, "one_is_gone": 3, "one_became_a_link": 4, "all_are_gone": 0}
    assert sum(each is not None for each in found[0]) == there[change.__name__]


def facts_of(local: LocalFile) -> tuple[object, ...]:
    return local.path, local.stat, local.trusted


def test_a_group_gives_what_was_added_in_its_place() -> None:
    outside = (Warn.SYMLINK_OUTSIDE,)
    files = FolderFiles(b"f", [b"a.jpg", b"b"], [b"f/a.jpg", b"f/b"], ["jpeg", None], outside, True)
    ref, skipped = ImageRef(b"/x.PNG"), Skipped(b"y", SkipReason.HIDDEN)
    group = Group()
    for part in (ref, files, skipped, files.part(1, 2)):
        group.add(part)
    a, b = (ImageRef(path, outside, follow_symlinks=True) for path in files.paths)
    assert list(group) == [ref, a, b, skipped, b]
    assert group[1:3] == [a, b]
    assert [place for place, _ in group.parts()] == [0, 1, 3, 4]
    refs = LocalRefs(group, [0, 1, 2, 4])
    assert list(refs) == [ref, a, b, b]
    assert refs.claims == ["png", "jpeg", None, None]
    assert list(refs.warnings) == [(), outside, outside, outside]
    assert refs.shown == [each.display for each in refs]
    assert list(refs[1:3]) == [a, b]
