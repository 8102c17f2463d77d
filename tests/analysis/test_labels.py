"""Labels as people write them, and rows of a scan: joined, or one clear line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moderate.analysis.labelled_rows import join
from moderate.analysis.labels import read_labels
from moderate.errors import InputError, UsageError
from moderate.results.read import read_results
from moderate.testcards import write_cards
from moderate.types import CATEGORIES, Category
from tests.support.labelled import SUFFIXES, digest_of, write_results

NUDITY, VIOLENCE = Category.NUDITY, Category.VIOLENCE
ROWS = {
    "./a.jpg": {NUDITY: 0.9, VIOLENCE: 0.1},
    "./b c.jpg": {NUDITY: 0.2},
    "./sub/d.jpg": None,
    "/abs/e.jpg": {NUDITY: 0.4},
}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Rows as a file of the format that the suffix says, with the types as they are."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
        lines = [list(rows[0]), *cells]
        path.write_text("".join(",".join(line) + "\n" for line in lines))
    return str(path)


def text(path: Path, content: str) -> str:
    path.write_text(content)
    return str(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("results", SUFFIXES)
def test_labels_meet_their_rows_in_every_format(tmp_path: Path, suffix: str, results: str) -> None:
    rows = [
        {"path": "a.jpg", "nudity": 1, "violence": 0, "decision": "block"},
        {"path": "./b c.jpg", "nudity": 0, "violence": None, "decision": None},
        {"path": "sub/d.jpg", "nudity": None, "violence": 1, "decision": "review"},
        {"path": "gone.jpg", "nudity": 1, "violence": 1, "decision": "approve"},
    ]
    labels = read_labels(write(tmp_path / f"labels.{suffix}", rows))
    assert labels.labelled == (NUDITY, VIOLENCE)
    joined = join(labels, read_results(write_results(tmp_path / f"rows.{results}", ROWS)))
    assert joined.paths == ("./a.jpg", "./b c.jpg", "./sub/d.jpg")
    assert joined.rows.tolist() == [0, 1, 2]
    assert joined.labels[NUDITY].tolist() == [1, 0, -1]
    assert joined.labels[VIOLENCE].tolist() == [0, -1, 1]
    assert joined.labels[Category.DRUG_USE].tolist() == [-1, -1, -1]
    assert joined.expected.tolist() == [2, -1, 1]
    assert joined.decisions.tolist() == [2, 0, 1]
    assert joined.errors.tolist() == [False, False, True]
    np.testing.assert_array_equal(joined.scores[NUDITY], np.float32([0.9, 0.2, np.nan]))
    assert joined.scores[NUDITY].dtype == np.float32
    assert (joined.unmatched, joined.unlabelled, len(joined)) == (1, 1, 3)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *((value, 1) for value in ("1", "true", "TRUE", "yes", " Positive ", "1.0")),
        *((value, 0) for value in ("0", "false", "No", "negative", "0.0")),
        *((value, -1) for value in ("", "null", "unknown", "?", "NaN", "n/a")),
    ],
)
def test_what_people_write_for_yes_no_and_unknown(tmp_path: Path, written: str, meant: int) -> None:
    labels = text(tmp_path / "l.csv", f"path,nudity,violence\na.jpg,{written},1\n")
    assert read_labels(labels).values[NUDITY].tolist() == [meant]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("written", "meant"),
    [(True, 1), (False, 0), (1, 1), (0, 0), (1.0, 1), (0.0, 0), (None, -1), (float("nan"), -1)],
)
def test_typed_values(tmp_path: Path, suffix: str, written: Any, meant: int) -> None:
    row = {"path": "a.jpg", "nudity": written, "violence": 1}
    assert read_labels(write(tmp_path / f"l.{suffix}", [row])).values[NUDITY].tolist() == [meant]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [0.7, 2, "maybe", "1;0"])
def test_nonsense_is_named_with_its_line(tmp_path: Path, suffix: str, value: Any) -> None:
    rows = [{"path": "a.jpg", "nudity": type(value)(0)}, {"path": "b.jpg", "nudity": value}]
    where = {"csv": "line 3", "jsonl": "line 2", "parquet": "row 2"}[suffix]
    path = write(tmp_path / f"l.{suffix}", rows)
    with pytest.raises(InputError, match=f"^{where} of .*nudity: '{value}' is not a label"):
        read_labels(path)


def test_a_list_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 1 of .*: nudity: '\[1\]' is not a label"):
        read_labels(text(tmp_path / "l.jsonl", '{"path": "a", "nudity": [1]}\n'))


def test_an_expected_decision_is_one_of_three(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2 of .*decision: 'ban' is not a label; write"):
        read_labels(text(tmp_path / "l.csv", "path,decision\na,ban\n"))


def test_lines_about_one_image_are_put_together(tmp_path: Path) -> None:
    content = "path,nudity,violence\na.jpg,1,\n./a.jpg,1,0\na.jpg,,?\nb.jpg,0,\n"
    labels = read_labels(text(tmp_path / "l.csv", content))
    assert labels.ids == ("a.jpg", "b.jpg")
    assert labels.values[NUDITY].tolist() == [1, 0]
    assert labels.values[VIOLENCE].tolist() == [0, -1]
    assert labels.repeated == 2


def test_images_without_a_known_label_are_not_labelled(tmp_path: Path) -> None:
    labels = read_labels(text(tmp_path / "l.csv", "path,nudity\na,\nb,1\nc,?\nd,0\na,\n"))
    assert labels.ids == ("b", "d")
    assert labels.values[NUDITY].tolist() == [1, 0]
    assert labels.values[VIOLENCE].tolist() == [-1, -1]
    assert (labels.blank, labels.repeated) == (2, 1)


def test_contradictions_are_named(tmp_path: Path) -> None:
    lines = [f"{name},{value}" for name in "abcde" for value in (1, 0)]
    content = "path,violence\n" + "\n".join(["z,1", *lines, "z,1"]) + "\n"
    told = "contradicts itself about violence of 'a', 'b', 'c' and 2 more: see line 3 and line 4$"
    with pytest.raises(InputError, match=told):
        read_labels(text(tmp_path / "l.csv", content))


def test_the_long_form(tmp_path: Path) -> None:
    content = "path,category,label,who\na,nudity,1,x\na,violence,no,x\nb,violence,?,x\n"
    labels = read_labels(text(tmp_path / "l.csv", content))
    assert (labels.ids, labels.blank) == (("a",), 1)
    assert labels.values[NUDITY].tolist() == [1]
    assert labels.values[VIOLENCE].tolist() == [0]
    assert (labels.ignored, labels.labelled) == (("who",), (NUDITY, VIOLENCE))
    with pytest.raises(InputError, match=r"line 2 of .*category: 'gore' is not a label; write"):
        read_labels(text(tmp_path / "l.csv", "path,category,label\na,gore,1\n"))


def test_names_of_columns_are_read_kindly(tmp_path: Path) -> None:
    content = "\ufeffSHA256,Drug Use,sexual-activity\n" + digest_of("./a.jpg").upper() + ",1,0\n"
    labels = read_labels(text(tmp_path / "l.csv", content))
    assert (labels.by, labels.ids) == ("sha256", (digest_of("./a.jpg"),))
    assert labels.values[Category.DRUG_USE].tolist() == [1]
    assert labels.values[Category.SEXUAL_ACTIVITY].tolist() == [0]


def test_a_digest_labels_every_copy(tmp_path: Path) -> None:
    labels = read_labels(text(tmp_path / "l.csv", f"sha256,nudity\n{digest_of('x')},1\n"))
    rows = {key: {NUDITY: 0.5} for key in ("./x1", "./x2", "./y")}
    results = write_results(tmp_path / "r.csv", rows, copies_of={"./x1": "x", "./x2": "x"})
    joined = join(labels, read_results(results))
    assert joined.paths == ("./x1", "./x2")
    assert joined.copies.tolist() == [False, True]
    assert (joined.unmatched, joined.unlabelled) == (0, 1)


def test_any_column_of_ids(tmp_path: Path) -> None:
    rows = {"./x": {NUDITY: 0.5}, "./y": {NUDITY: 0.6}}
    results = read_results(
        write_results(tmp_path / "r.jsonl", rows, carried={"item": ["i1", "i2"]})
    )
    by_path = read_labels(text(tmp_path / "p.csv", "photo,nudity\ny,1\n"), "photo")
    assert join(by_path, results).paths == ("./y",)
    by_carried = read_labels(text(tmp_path / "c.csv", "item,nudity\ni1,1\n"), "item")
    assert join(by_carried, results, ["item"]).columns.to_pylist() == [{"item": "i1"}]
    digest = text(tmp_path / "d.csv", f"md,nudity\n{digest_of('./y')},1\n")
    assert join(read_labels(digest, "md"), results).paths == ("./y",)


def test_a_path_of_several_rows_labels_each(tmp_path: Path) -> None:
    results = Path(write_results(tmp_path / "r.csv", {"./a": {NUDITY: 0.5}, "./b": {}}))
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join([*lines, lines[1]]))
    labels = read_labels(text(tmp_path / "l.csv", "path,nudity\na,1\n"))
    joined = join(labels, read_results(str(results)))
    assert joined.rows.tolist() == [0, 2]
    assert joined.unmatched == 0


def test_labels_of_other_images_are_an_error_that_shows_both(tmp_path: Path) -> None:
    labels = read_labels(text(tmp_path / "l.csv", "path,nudity\nimages/a.jpg,1\n"))
    told = "the labels have path 'images/a.jpg', the rows 'a.jpg'$"
    with pytest.raises(InputError, match=told):
        join(labels, read_results(write_results(tmp_path / "r.csv", ROWS)))
    with pytest.raises(InputError, match=r"r\.parquet has no rows$"):
        join(labels, read_results(write_results(tmp_path / "r.parquet", {})))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("l.csv", "", "is empty: it has no labels"),
        ("l.jsonl", "", "is empty: it has no labels"),
        ("l.jsonl", "\n\n", "is empty: it has no labels"),
        ("l.parquet", "", "is empty: it has no labels"),
        ("l.parquet", "no", "is not readable Parquet"),
        ("l.csv", "path,nudity\n", "has no labels: there are no lines"),
        ("l.csv", "path,nudity\na,\nb,?\n", "labels nothing: every value is unknown"),
        ("l.csv", "name,nudity\na,1\n", "has no column path, sha256 or file but 'name', 'nudi"),
        ("l.csv", "path,nudiy\na,1\n", "has no column of labels .* but 'path', 'nudiy'"),
        ("l.csv", "path,nudity,nudity\na,1,0\n", "has two columns 'nudity'"),
        ("l.csv", "path,nudity,Nudity\na,1,0\n", "two columns for the same: 'nudity' and 'Nudity'"),
        ("l.csv", "path,nudity\na,1,1\n", "line 2 of .*: 3 cells where the header has 2"),
        ("l.csv", 'path,nudity\n"a"b,1\n', "line 2 of .*: not CSV"),
        ("l.csv", "path,nudity\n,1\n", "line 2 of .*: path is empty"),
        ("l.csv", "sha256,nudity\nabc,1\n", "sha256: 'abc' is not 64 hexadecimal digits"),
        ("l.jsonl", '{"path": "a"', "line 1 of .*: not JSON"),
        ("l.jsonl", "[1]", "line 1 of .*: an array where an object is expected"),
        ("l.jsonl", '{"path": true, "nudity": 1}', "line 1 of .*: path is not text"),
        ("l.csv", "path,nudity\n\udcff,1\n", "line 2 of .*: not UTF-8 at byte 1"),
    ],
)  # fmt: skip
def test_files_that_hold_no_labels(tmp_path: Path, name: str, content: str, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=told) as caught:
        read_labels(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the suffix is one of \.csv, \.parquet, \.jsonl"):
        read_labels("labels.txt")
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        read_labels(str(tmp_path / "none.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="not a regular file"):
        read_labels(str(tmp_path / "folder.csv"))
    path = text(tmp_path / "l.csv", "path,nudity\na,1\n")
    with pytest.raises(InputError, match=re.escape(r"has no column 'x\\x1b' but 'path', 'nudity'")):
        read_labels(path, "x\x1b")


def test_every_category_has_an_array(tmp_path: Path) -> None:
    labels = read_labels(text(tmp_path / "l.csv", "path,decision\na,block\n"))
    assert tuple(labels.values) == CATEGORIES
    assert labels.labelled == ()
    assert labels.expected.tolist() == [2]


def test_a_filled_in_template_says_how_it_was_chosen(tmp_path: Path) -> None:
    header = "path,sha256,nudity,chosen_by,chosen_for,inclusion_probability\n"
    lines = f"a,{digest_of('a')},1,uncertainty,nudity,\nb,{digest_of('b')},0,random,all,0.5\n"
    labels = read_labels(text(tmp_path / "l.csv", header + lines))
    assert (labels.by, labels.ignored) == ("path", ())
    assert labels.chosen_by == ("random", "uncertainty")


def test_blanks_belong_to_a_name(tmp_path: Path) -> None:
    rows = {"./ a.jpg ": {NUDITY: 0.5}, "./a.jpg": {NUDITY: 0.6}, "./\\udc80.jpg": {NUDITY: 0.7}}
    results = read_results(write_results(tmp_path / "r.jsonl", rows))
    lines = [{"path": " a.jpg ", "nudity": 1}, {"path": "\udc80.jpg", "nudity": 0}]
    labels = read_labels(write(tmp_path / "l.jsonl", lines))
    assert join(labels, results).rows.tolist() == [0, 2]
    digest = f" {digest_of('./a.jpg')} "
    labels = read_labels(text(tmp_path / "d.csv", f"sha256, nudity\n{digest}, 1\n"))
    assert join(labels, results).rows.tolist() == [1]


def test_columns_of_labels_that_python_cannot_hold_cost_nothing_or_one_line(tmp_path: Path) -> None:
    unknown = pa.array([5, 5], pa.timestamp("us", "Nowhere/At_All"))
    columns = {"path": ["a", "b"], "nudity": [1, 0], "at": unknown}
    columns["for"] = pa.array([2**60, None], pa.duration("s"))
    path = str(tmp_path / "l.parquet")
    pq.write_table(pa.table(columns), path)
    labels = read_labels(path)
    assert (labels.ids, labels.ignored) == (("a", "b"), ("at", "for"))
    pq.write_table(pa.table(columns | {"nudity": columns["at"]}), path)
    with pytest.raises(InputError, match=r"row 1 of .*: nudity: '1970-.*' is not a label"):
        read_labels(path)
    not_utf8 = pa.array([b"a\xff", b"b"], pa.binary()).buffers()
    pq.write_table(
        pa.table(columns | {"path": pa.Array.from_buffers(pa.string(), 2, not_utf8)}), path
    )
    assert read_labels(path).ids == ("a\\xff", "b")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[" * 900 + "]" * 900, "nested over 100 levels"),
        ("1" * 5000, "not JSON that can be read"),
        ('1, "nudity": 0', "the key nudity is there twice"),
        ("[1, [2]]", "nudity: .* is not a label"),
    ],
)
def test_lines_of_labels_that_hold_odd_json(tmp_path: Path, value: str, told: str) -> None:
    path = text(tmp_path / "l.jsonl", f'{{"path": "a", "nudity": {value}}}\n')
    with pytest.raises(InputError, match=f"line 1 of .*{told}"):
        read_labels(path)


def test_a_folder_per_label(tmp_path: Path) -> None:
    sorted_images = tmp_path / "sorted"
    for name, content in (
        ("nudity/a.jpg", "./a.jpg"), ("Drug Use/2026/b.jpg", "./b c.jpg"), ("safe/c.jpg", "/abs"),
        ("block/again.jpg", "./a.jpg"), ("safe/.hidden", "x"), ("violence/new.jpg", "new"),
    ):  # fmt: skip
        (sorted_images / name).parent.mkdir(parents=True, exist_ok=True)
        (sorted_images / name).write_text(content)
    (sorted_images / "notes.txt").write_text("not in a folder")
    labels = read_labels(str(sorted_images))
    assert labels.by == "sha256"
    rows = {"./x.jpg": {NUDITY: 0.5}, "./y.jpg": {NUDITY: 0.4}, "./z.jpg": {NUDITY: 0.1}}
    copies = {"./x.jpg": "./a.jpg", "./y.jpg": "./b c.jpg", "./z.jpg": "/abs"}
    results = read_results(write_results(tmp_path / "r.csv", rows, copies_of=copies))
    joined = join(labels, results)
    assert joined.paths == ("./x.jpg", "./y.jpg", "./z.jpg")
    assert joined.labels[NUDITY].tolist() == [1, -1, 0]
    assert joined.labels[Category.DRUG_USE].tolist() == [-1, 1, 0]
    assert joined.expected.tolist() == [2, -1, -1]
    assert joined.unmatched == 1
    (sorted_images / "safe" / "d.jpg").write_text("./a.jpg")
    with pytest.raises(InputError, match=r"contradicts itself about nudity .*a\.jpg and .*d\.jpg"):
        read_labels(str(sorted_images))
    (sorted_images / "cats").mkdir()
    with pytest.raises(InputError, match=r"the folder 'cats' is no label: nudity, .* safe, "):
        read_labels(str(sorted_images))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no labels: put images into folders named nudity"):
        read_labels(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="--id-column"):
        read_labels(str(tmp_path / "empty"), "path")


def test_the_list_of_test_cards_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cards = write_cards(Path("cards"), count=1, seed=0, size=96)
    labels = read_labels("cards/cards.csv")
    assert (labels.by, labels.ignored, len(labels.ids)) == ("sha256", (), len(cards))
    of = {card.file: index for index, card in enumerate(cards)}
    blocked, clean = of["violence_block_0.png"], of["clean_0.png"]
    assert [labels.values[name][blocked] for name in CATEGORIES] == [0, 0, 0, 1, 0]
    assert [labels.values[name][clean] for name in CATEGORIES] == [0] * 5
    assert (labels.expected[blocked], labels.expected[clean]) == (2, 0)
    # Where the cards are elsewhere, they go by the names that a scan of the folder gave them.
    Path("cards/clean_0.png").unlink()
    labels = read_labels("./cards/cards.csv")
    assert (labels.by, labels.ids[clean]) == ("path", "cards/clean_0.png")
