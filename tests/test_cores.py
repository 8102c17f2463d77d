"""How many cores there are, in and out of containers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moderate import cores


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["max 100000\n"], 64),
        (["150000 100000\n"], 2),
        (["10000 100000\n"], 1),
        (["-1\n", "100000\n"], 64),
        (["400000\n", "100000\n"], 4),
        (["nonsense\n"], 64),
        ([""], 64),
        (["100000 0\n"], 64),
    ],
)
def test_a_containers_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], expected: int
) -> None:
    paths = []
    for number, text in enumerate(files):
        (tmp_path / str(number)).write_text(text)
        paths.append(str(tmp_path / str(number)))
    monkeypatch.setattr(cores, "_QUOTAS", (tuple(paths), (str(tmp_path / "none"),)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert cores.available_cores() == expected


def test_this_machine_has_cores() -> None:
    assert 1 <= cores.available_cores() <= (os.cpu_count() or 1)
