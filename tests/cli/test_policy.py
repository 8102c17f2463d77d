"""`moderate policy check` on a policy with overrides and lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderate.cli.main import run
from moderate.cli.policy import MOST_EXPIRED
from moderate.policy.load import load_policy

Captured = pytest.CaptureFixture[str]
PLAIN = load_policy("balanced").text


def checked(capsys: Captured) -> list[str]:
    capsys.readouterr()
    assert run(["policy", "check", "mine.toml"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_policy_without_context_is_one_line(capsys: Captured) -> None:
    Path("mine.toml").write_text(PLAIN)
    (line,) = checked(capsys)
    assert line.startswith("mine.toml: valid (balanced, sha256 ")


def test_overrides_lists_and_what_expired(capsys: Captured) -> None:
    lines = [f"{number:064x},old {number},2020-01-{1 + number % 28:02}" for number in range(30)]
    lines += [f"{number:064x},kept\x1b[31m,2999-01-01" for number in range(30, 1300)]
    Path("cleared.csv").write_text("sha256,reason,expires\n" + "\n".join(lines) + "\n")
    Path("mine.toml").write_text(
        'ignore_file = "cleared.csv"\n'
        + PLAIN
        + '[[override]]\nwhen = "avatars/**"\npolicy = "strict"\n'
        + '[[override]]\nname = "forum"\nwhen = "source = forum"\non_error = "block"\n'
        + f'[[block]]\nsha256 = "{1:064x}"\nreason = "known"\n'
    )
    first, *said = checked(capsys)
    assert load_policy("mine.toml").sha256[:12] in first
    assert said[:4] == [
        "overrides: 2; the first that matches a row applies",
        "  1. avatars/**: strict",
        "  2. source = forum (forum): values of its own",
        "ignore list: 1,300 entries, 30 expired",
    ]
    assert said[4] == f"  expired 2020-01-01: {0:064x} old 0"
    assert len([line for line in said if line.startswith("  expired")]) == MOST_EXPIRED
    assert said[-2:] == [
        "  and 10 more",
        "block list: 1 entry, 1 of them on the ignore list too, where it has no effect",
    ]
    assert run(["policy", "show", "mine.toml"]) == 0
    assert capsys.readouterr().out == Path("mine.toml").read_text()


def test_a_mistake_is_one_line(capsys: Captured) -> None:
    Path("mine.toml").write_text(PLAIN + '[[override]]\nwhen = "a=b"\npolicy = "strict"\n')
    assert run(["policy", "check", "mine.toml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("moderate: error: policy mine.toml: override.0.when: ")
    assert len(err.splitlines()) == 1
