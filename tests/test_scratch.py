"""Temporary folders: what a killed command leaves is removed, what a living one uses is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from moderate.scratch import scratch_folder

HOLDER = """
import sys
from moderate.scratch import scratch_folder
with scratch_folder(sys.argv[1]) as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def grow_old(folder: Path) -> None:
    hour_ago = time.time() - 3600
    os.utime(folder, (hour_ago, hour_ago))


def hold(purpose: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, purpose],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    grow_old(folder)
    return process, folder


def test_a_folder_goes_with_its_command(tmp_path: Path) -> None:
    with scratch_folder("bench") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith("moderate-bench-")
        (folder / "file").write_text("x")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_command_left_is_removed_by_the_next(tmp_path: Path) -> None:
    process, left = hold("bench")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert left.is_dir()
    with scratch_folder("other"):
        assert left.is_dir()
    with scratch_folder("bench"):
        assert not left.exists()
    assert os.listdir(tmp_path) == []


def test_what_a_living_command_uses_is_left_alone(tmp_path: Path) -> None:
    process, used = hold("bench")
    (tmp_path / "moderate-bench-link").symlink_to(used)
    (tmp_path / "moderate-bench-file").write_text("somebody else's")
    (tmp_path / "moderate-bench-young").mkdir()
    with scratch_folder("bench"):
        assert (used / "file").exists()
    process.communicate("")
    assert sorted(os.listdir(tmp_path)) == [
        "moderate-bench-file", "moderate-bench-link", "moderate-bench-young",
    ]  # fmt: skip
