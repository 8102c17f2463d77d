"""Which folder keeps its tree, and what a results file cannot make of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moderate.apply.roots import find_root
from moderate.errors import UsageError


def test_folders_that_a_run_had_as_inputs_are_not_widened_by_a_row(tmp_path: Path) -> None:
    folder, other = tmp_path / "in", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (folder / "names.txt").touch()
    common = os.fsencode(tmp_path)
    root = find_root(None, [str(folder)], common)
    assert root is not None
    assert root.path == os.fsencode(folder), "a row names a file that is not below it"
    both = find_root(None, [str(folder), str(other)], common)
    assert both is not None
    assert both.path == os.fsencode(tmp_path)
    listed = find_root(None, [str(folder / "names.txt")], common)
    assert listed is not None
    assert listed.path == common, "a list names files anywhere"
    gone = find_root(None, [str(tmp_path / "gone")], common)
    assert gone is not None
    assert gone.path == common
    with pytest.raises(UsageError, match="--root"):
        find_root(None, [], b"/")
    assert find_root(None, [str(folder)], None) is None
