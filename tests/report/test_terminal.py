"""Reports on a terminal: what does not fit a line is wrapped under its label, and never lost."""

from __future__ import annotations

import io

from moderate.report.model import Fact, Facts, Report, Sentence, Sentences, Table
from moderate.report.terminal import show


def shown(*parts: Table | Facts | Sentences) -> list[str]:
    stream = io.StringIO()
    show(Report("", parts, None), stream)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_long_notes_hang_below_their_label() -> None:
    note = "word " * 40
    first, *others = shown(Facts((Fact("note", note),)))
    assert first.startswith("note     word word")
    assert len(others) >= 2
    assert all(line.startswith("         word") for line in others)
    assert max(map(len, [first, *others])) <= 80
    assert " ".join([first, *others]).split() == ["note", *note.split()]


def test_long_sentences_are_indented_from_their_second_line() -> None:
    first, second, *_ = shown(Sentences((Sentence("note: " + "word " * 40),)))
    assert first.startswith("note: word")
    assert second.startswith("  word")


def test_a_wide_table_is_whole_and_makes_nothing_else_wide() -> None:
    name = "/folder/" + "x" * 100
    table = Table("Worst", ("score", "image"), (("0.9", name),), text_columns=(1,), wide=True)
    lines = shown(table, Facts((Fact("note", "word " * 40),)))
    assert any(line.split() == ["0.9", name] for line in lines)
    assert max(len(line) for line in lines if "word" in line) <= 80
