"""Labels from the review page go into empty cells, and into no others."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from moderate.analysis.labels import read_labels
from moderate.analysis.sample import as_csv, sample
from moderate.errors import InputError, OutputError
from moderate.policy.load import load_policy
from moderate.results.read import read_results
from moderate.review.journal import Entry, Journal, read_journal
from moderate.review.labelling import is_template, label_session
from moderate.review.session import Judgement, NotYoursError, Session
from moderate.types import Category
from tests.support.scored import write_results

NUDE = Judgement("block", {"nudity": True, "violence": False}, seconds=2.0)
FINE = Judgement("approve", {})
Cells = list[dict[str, str]]
Start = Callable[..., Session]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A template of six images."""
    scores = {Category.NUDITY: np.linspace(0, 1, 30, dtype=np.float32)}
    results = read_results(str(write_results(tmp_path / "r.csv", scores)))
    taken = sample(results, load_policy("balanced").policy, by="band", count=2)
    path = tmp_path / "labels.csv"
    path.write_text(as_csv(taken))
    return path


@pytest.fixture
def start(labels: Path) -> Iterator[Start]:
    sessions: list[Session] = []

    def begin(**options: bool) -> Session:
        journal = labels.with_name("labels.csv.decisions.jsonl")
        sessions.append(label_session(str(labels), journal, **options))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()


def cells(labels: Path) -> Cells:
    with labels.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def nudity(labels: Path) -> list[str]:
    return [row["nudity"] for row in cells(labels)]


def put(labels: Path, row: int, **values: str) -> None:
    """What a person does in a spreadsheet."""
    rows = cells(labels)
    rows[row - 1] |= values
    with labels.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_answers_are_written_into_the_template_and_the_journal(labels: Path, start: Start) -> None:
    before = cells(labels)
    session = start()
    rows = session.next("ada", 10)
    assert [row["row"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["path"] == before[0]["path"]
    assert (rows[0]["nudity"], rows[0]["decision"]) == (None, "")
    assert "chosen_for" not in rows[0], "the machine's opinion must not become theirs"
    session.decide(1, "ada", NUDE)
    session.decide(2, "ada", FINE)
    after = cells(labels)
    assert after[0] == before[0] | {"nudity": "1", "violence": "0"}
    assert after[1:] == before[1:], "a decision without an answer labels nothing"
    first, second = read_journal(labels.with_name("labels.csv.decisions.jsonl"))
    assert first.inclusion_probability == float(before[0]["inclusion_probability"])
    assert second.sha256 == before[1]["sha256"]
    assert [row["row"] for row in session.next("ada", 10)] == [3, 4, 5, 6]
    assert (session.progress("ada").total, session.progress("ada").decided) == (6, 2)
    assert read_labels(str(labels)).blank == 5


def test_what_is_filled_in_is_done_and_is_never_changed(labels: Path, start: Start) -> None:
    put(labels, 2, drug_use="0")
    session = start()
    assert [row["row"] for row in session.next("ada", 10)] == [1, 3, 4, 5, 6]
    assert session.progress("ada").decided == 1
    with pytest.raises(NotYoursError):
        session.decide(2, "ada", NUDE)
    put(labels, 3, nudity="0", violence=" ")  # meanwhile
    session.decide(3, "ada", NUDE)
    assert (cells(labels)[2]["nudity"], cells(labels)[2]["violence"]) == ("0", "0")
    session.undo("ada")
    assert (cells(labels)[2]["nudity"], cells(labels)[2]["violence"]) == ("0", "")


def test_undo_empties_the_cells_again_also_after_a_restart(labels: Path, start: Start) -> None:
    one = start()
    one.next("ada", 2)
    one.decide(1, "ada", NUDE)
    one.decide(2, "ada", NUDE)
    one.undo("ada")
    assert nudity(labels)[:2] == ["1", ""]
    other = start()
    assert other.progress("ada").decided == 1
    row = other.undo("ada")
    assert row is not None
    assert row["row"] == 1
    assert nudity(labels)[:2] == ["", ""]
    assert other.progress("ada").decided == 0


def test_what_a_kill_left_out_is_written_at_the_next_start(labels: Path, start: Start) -> None:
    before = labels.read_bytes()
    session = start()
    session.next("ada")
    session.decide(1, "ada", NUDE)
    written = labels.read_bytes()
    labels.write_bytes(before)
    start()
    assert labels.read_bytes() == written


def test_a_kill_amid_an_undo_leaves_the_decision(
    labels: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No label may stay that no decision stands for."""

    def killed(journal: Journal, entry: Entry) -> None:
        raise KeyboardInterrupt

    session = start()
    session.next("ada")
    session.decide(1, "ada", NUDE)
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            session.undo("ada")
    assert nudity(labels)[0] == ""
    assert start().progress("ada").decided == 1
    assert nudity(labels)[0] == "1"


def test_the_form_of_the_file_and_further_columns_stay(labels: Path, start: Start) -> None:
    rows = labels.read_text().splitlines()
    notes = ["note", *(f'"a, ""b"" {n}"' for n in range(1, 7))]
    lines = [f"{line},{note}" for line, note in zip(rows, notes, strict=True)]
    data = b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode()
    labels.write_bytes(data)
    session = start()
    assert session.next("ada")[0]["note"] == 'a, "b" 1'
    session.decide(1, "ada", NUDE)
    expected = data.decode("utf-8-sig").split("\r\n")
    found = labels.read_bytes().decode("utf-8-sig").split("\r\n")
    assert labels.read_bytes().startswith(b"\xef\xbb\xbf")
    assert found[2:] == expected[2:]
    session.undo("ada")
    assert [row["note"] for row in cells(labels)] == [f'a, "b" {n}' for n in range(1, 7)]


def test_lines_may_be_sorted_meanwhile_but_not_go(labels: Path, start: Start) -> None:
    session = start()
    path = session.next("ada", 2)[0]["path"]
    head, *lines = labels.read_text().splitlines(keepends=True)
    labels.write_text(head + "".join(reversed(lines)))
    session.decide(1, "ada", NUDE)
    assert [row["path"] for row in cells(labels) if row["nudity"] == "1"] == [path]
    labels.write_text(head + lines[5])
    with pytest.raises(InputError, match="has no line for"):
        session.decide(2, "ada", NUDE)


def test_decisions_on_another_template_are_refused(labels: Path, start: Start) -> None:
    session = start()
    session.next("ada")
    session.decide(1, "ada", NUDE)
    head, *lines = labels.read_text().splitlines(keepends=True)
    labels.write_text(head + "".join(lines[1:]))
    with pytest.raises(InputError, match=r"are on other images than those of .*labels\.csv"):
        start()


def test_to_approve_may_say_no_to_all(labels: Path, start: Start) -> None:
    session = start(approve_is_no=True)
    session.next("ada", 3)
    session.decide(1, "ada", Judgement("approve", {"suggestive": True}))
    session.decide(2, "ada", Judgement("unsure", {}))
    first, second, *_ = cells(labels)
    assert [first[name] for name in ("nudity", "suggestive", "drug_use")] == ["0", "1", "0"]
    assert second["nudity"] == ""


def test_a_template_that_cannot_be_written_is_told_and_healed(
    labels: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, data: bytes) -> None:
        raise OutputError("cannot write labels.csv: the disk is full")

    session = start()
    session.next("ada")
    with monkeypatch.context() as patched:
        patched.setattr("moderate.review.labelling.write_atomic", full)
        with pytest.raises(OutputError, match="the disk is full"):
            session.decide(1, "ada", NUDE)
    assert nudity(labels)[0] == ""
    start()
    assert nudity(labels)[0] == "1"


def test_two_servers_label_one_template(labels: Path, start: Start) -> None:
    def work(name: str) -> None:
        session = sessions[name]
        while shown := session.next(name):
            session.decide(shown[0]["row"], name, NUDE)

    sessions = {name: start() for name in ("ada", "bob")}
    threads = [threading.Thread(target=work, args=[name]) for name in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert nudity(labels) == ["1"] * 6


def test_templates_are_known_by_their_header(labels: Path, tmp_path: Path) -> None:
    assert is_template(str(labels))
    assert not is_template(str(tmp_path / "r.csv"))
    assert not is_template(str(tmp_path / "none.csv"))
    (tmp_path / "x.csv").write_bytes(b'path,"nud\n')
    assert not is_template(str(tmp_path / "x.csv"))
    (tmp_path / "x.csv").write_bytes(b"a,b\n")
    with pytest.raises(InputError, match="is no template to label: see column path"):
        label_session(str(tmp_path / "x.csv"), tmp_path / "j")
