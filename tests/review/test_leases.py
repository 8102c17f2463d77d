"""No two reviewers have one image, whatever server they use."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from moderate.errors import OutputError
from moderate.review.leases import LEASE_SECONDS, Leases


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_an_image_is_given_to_one_reviewer_until_it_runs_out_or_is_given_back(
    tmp_path: Path,
) -> None:
    clock = Clock()
    leases = Leases(tmp_path / "l.sqlite", clock)
    rows = range(1, 10)
    assert leases.take(rows, "ada", 3) == [1, 2, 3]
    assert leases.take(rows, "ada", 3) == [1, 2, 3], "what she has already"
    assert leases.take(rows, "bob", 2) == [4, 5]
    assert not leases.holds(1, "bob")
    leases.give_back([1, 4], "ada")  # 4 is not hers
    assert leases.take(rows, "bob", 9) == [1, 4, 5, 6, 7, 8, 9]
    clock.now += LEASE_SECONDS + 1
    assert leases.take(rows, "cyd", 2) == [1, 2]
    assert leases.take(rows, "cyd", 0) == []
    leases.close()


def test_servers_and_threads_share_the_file(tmp_path: Path) -> None:
    servers = [Leases(tmp_path / "l.sqlite") for _ in range(3)]
    given: dict[str, list[int]] = {}

    def work(number: int) -> None:
        name = f"r{number}"
        for step in range(20):
            taken = servers[number].take(range(step * 10, 10_000), name, 3)
            given.setdefault(name, []).extend(taken)

    threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, other, third = (set(given[f"r{number}"]) for number in range(3))
    assert not one & other
    assert not (one | other) & third
    for server in servers:
        server.close()


def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot keep who has which image"):
        Leases(tmp_path / "folder")


def test_leases_leave_a_file_system_of_several_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(
        "moderate.review.leases.of_several_machines",
        lambda path: "nfs4" if Path(path) == shared else None,
    )
    first, second = (Leases(shared / "l.sqlite") for _ in range(2))
    assert list(shared.iterdir()) == []
    assert "let one machine serve this queue" in caplog.text
    assert first.take(range(5), "ada", 2) == [0, 1]
    assert second.take(range(5), "bob", 2) == [2, 3], "servers of this machine share it"
    other = Leases(shared / "other.sqlite")
    assert other.take(range(5), "bob", 1) == [0]
    for leases in (first, second, other):
        leases.close()
