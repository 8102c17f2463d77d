"""Decisions are on the disk line by line, and what a kill left unfinished hurts nobody."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moderate.errors import InputError, OutputError
from moderate.review.journal import Entry, Journal, as_undone, beside, read_journal, standing
from moderate.types import CATEGORIES


def entry(
    row: int, decision: str | None = "approve", reviewer: str = "ada", **more: object
) -> Entry:
    scores = dict.fromkeys((name.value for name in CATEGORIES), 0.5)
    values = {"sha256": "ab" * 32, "machine_decision": "review", "machine_scores": scores, **more}
    return Entry(row, f"./{row}.jpg", reviewer=reviewer, decision=decision, **values)  # type: ignore[arg-type]


def written(path: Path, *entries: Entry) -> Path:
    journal = Journal(path)
    for each in entries:
        journal.append(each)
    journal.close()
    return path


def test_entries_come_back_as_they_were(tmp_path: Path) -> None:
    first = entry(
        3, "block", labels={"nudity": True, "violence": False}, note="a\n\u202eb\x1b[31m\ud800"
    )
    second = entry(4, "unsure", "bob", seconds=2.5, revealed="colour", second=True)
    path = written(tmp_path / "j", first, second)
    assert read_journal(path) == [first, second]
    assert path.read_bytes().count(b"\n") == 2
    assert path.read_bytes().isascii()
    assert oct(path.stat().st_mode & 0o777) == "0o600"


def test_undo_is_a_line_of_its_own_and_the_last_decision_of_a_reviewer_counts(
    tmp_path: Path,
) -> None:
    one, other, again = entry(1), entry(1, "block", "bob"), entry(1, "block")
    two = entry(2)
    path = written(tmp_path / "j", one, other, again, two, as_undone(two), as_undone(one))
    entries = read_journal(path)
    assert len(entries) == 6
    assert list(standing(entries)) == [other, again], "an undone decision that was replaced is gone"


@pytest.mark.parametrize("kept", [1, 20, -2, -1])
def test_a_line_that_a_kill_left_unfinished_is_no_decision(tmp_path: Path, kept: int) -> None:
    whole, cut = entry(1), entry(2)
    path = written(tmp_path / "j", whole)
    with path.open("ab") as file:
        file.write(cut.line()[:kept])
    later = entry(3)
    assert read_journal(path) == ([whole, cut] if kept == -1 else [whole])
    written(path, later)
    assert read_journal(path) == ([whole, cut, later] if kept == -1 else [whole, later])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"null", "not an object"),
        (b"{}", "schema"),
        (entry(1).line().replace(b'"schema": 1', b'"schema": 2'), "another version"),
        (entry(1).line().replace(b'"approve"', b'"maybe"'), "maybe"),
        (entry(1).line().replace(b'"approve"', b"null"), "neither"),
        (entry(1).line().replace(b'"labels": {}', b'"labels": {"Cats": true}'), "labels"),
        (entry(0).line(), "no row"),
        (entry(1).line().replace(b'"note"', b'"nota"'), "unknown"),
        (b"\xff\xfe", "line 2"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_what_is_no_journal_is_refused_with_its_line(
    tmp_path: Path, line: bytes, said: str
) -> None:
    path = written(tmp_path / "j", entry(1))
    with path.open("ab") as file:
        file.write(line.rstrip() + b"\n" + entry(5).line())
    with pytest.raises(InputError, match=said) as caught:
        read_journal(path)
    assert "line 2" in str(caught.value)


def test_zeros_that_a_power_cut_left_are_no_decision(tmp_path: Path) -> None:
    path = written(tmp_path / "j", entry(1))
    with path.open("ab") as file:
        file.write(bytes(100))
    written(path, later := entry(2))
    assert [each.id for each in read_journal(path)][1:] == [later.id]


def test_two_processes_write_whole_lines(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.review.test_journal import entry; "
        "from moderate.review.journal import Journal; journal = Journal(sys.argv[1]); "
        "[journal.append(entry(n, reviewer=sys.argv[2], note='x' * 1500)) for n in range(1, 101)]"
    )
    path = tmp_path / "j"
    command = [sys.executable, "-c", code, str(path)]
    writers = [subprocess.Popen([*command, name], cwd=Path(__file__).parents[2]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    entries = read_journal(path)
    for name in "ab":
        assert [each.row for each in entries if each.reviewer == name] == list(range(1, 101))


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        Journal(tmp_path / "none" / "j")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError):
        Journal(tmp_path / "link")
    journal = Journal("/dev/full") if os.path.exists("/dev/full") else None
    if journal:
        with pytest.raises(OutputError, match="No space left"):
            journal.append(entry(1))
    assert beside("a/r.csv") == Path("a/r.csv.decisions.jsonl")


def test_the_chance_of_a_row_is_kept_and_may_be_missing_in_older_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "j", entry(1, inclusion_probability=0.25), entry(2))
    (first, second) = read_journal(path)
    assert (first.inclusion_probability, second.inclusion_probability) == (0.25, None)
    assert as_undone(first).inclusion_probability == 0.25
    older = path.read_bytes().replace(b'"inclusion_probability": 0.25, ', b"")
    assert older != path.read_bytes()
    path.write_bytes(older)
    assert read_journal(path)[0].inclusion_probability is None


@pytest.mark.parametrize(
    ("was", "changed", "message"),
    [
        ('"inclusion_probability": null', '"inclusion_probability": 0', "no probability over 0"),
        ('"inclusion_probability": null', '"inclusion_probability": true', "no probability"),
        ('"seconds": 0.0', '"seconds": NaN', "no number of seconds"),
        ('"seconds": 0.0', '"seconds": "1"', "no number of seconds"),
        ('"revealed": "blur"', '"revealed": "all"', "none of its values"),
        ('"labels": {}', '"labels": []', "no object"),
        ('"seconds": 0.0', f'"seconds": {10**400}', "no number of seconds"),
        ('"row": 1', f'"row": {10**30}', "no row"),
        ('"row": 1', '"row": true', "no row"),
        ('"second": false', '"second": "no"', "not true or false"),
        ("+00:00", "", "no zone"),
        ('"time": ".*"', '"time": "0001-01-01T00:00:00+14:00"', "none of UTC"),
    ],
)
def test_values_that_no_review_wrote_are_refused(
    tmp_path: Path, was: str, changed: str, message: str
) -> None:
    path = written(tmp_path / "j", entry(1))
    path.write_text(re.sub(re.escape(was) if was[0] == "+" else was, changed, path.read_text()))
    with pytest.raises(InputError, match=f"line 1: .*{message}"):
        read_journal(path)
