"""What is trained on: folders and results, copies, contradictions, and names of categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moderate.errors import InputError, UsageError
from moderate.results.read import read_results
from moderate.train.inputs import Labelled, check_categories, from_folders, from_results, read_map
from moderate.types import Category
from tests.support.scored import digest, write_results


def put(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(file.name.encode())


def by_name(labelled: Labelled, category: str) -> dict[str, int]:
    names = [Path(row["path"]).name for row in labelled.rows]
    return dict(zip(names, labelled.truth[category].tolist(), strict=True))


def test_folders_are_labels(tmp_path: Path) -> None:
    put(tmp_path, "gambling/a", "Drug Use/b", "safe/c", "none/deep/d", ".hidden/x", "safe/.y")
    labelled = from_folders(str(tmp_path), (), {})
    assert list(labelled.truth) == ["drug_use", "gambling"]  # the five first
    assert by_name(labelled, "gambling") == {"a": 1, "b": -1, "c": 0, "d": 0}
    assert by_name(labelled, "drug_use") == {"a": -1, "b": 1, "c": 0, "d": 0}
    assert list(labelled.digests) == sorted(labelled.digests)


def test_folders_may_be_mapped_and_chosen_among(tmp_path: Path) -> None:
    put(tmp_path, "Casino!/a", "poker/b", "pets/c", "weapons/d")
    mapping = read_map(["gambling=Casino!,poker", "safe=pets"])
    labelled = from_folders(str(tmp_path), ("gambling",), mapping)
    assert by_name(labelled, "gambling") == {"a": 1, "b": 1, "c": 0}


@pytest.mark.parametrize(
    ("folders", "options", "message"),
    [
        (["Casino!/a"], [], "'Casino!' is no name for a category; say what it shows with --map"),
        (["approve/a"], [], "'approve' is no name for a category"),
        (["poker/a"], ["gambling=pokr"], "no folder 'pokr'; did you mean 'poker'?"),
        ([], [], "has no labelled images"),
        (["safe/a"], [], "has no labelled images"),
    ],
)
def test_folders_that_are_no_labels_are_refused(
    tmp_path: Path, folders: list[str], options: list[str], message: str
) -> None:
    put(tmp_path, *folders)
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        from_folders(str(tmp_path), (), read_map(options))


@pytest.mark.parametrize("name", ["Gambling", "a-b", "1x", "x" * 41, "path", "label", "review"])
def test_names_that_cannot_be_columns_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a category"):
        check_categories([name])
    assert check_categories(["nudity", "gambling", "nudity"]) == ("nudity", "gambling")


@pytest.mark.parametrize("option", ["gambling", "gambling=", "=x"])
def test_a_mapping_that_says_nothing_is_refused(option: str) -> None:
    with pytest.raises(UsageError):
        read_map([option])
    with pytest.raises(UsageError, match="twice"):
        read_map(["gambling=a,b", "safe=b"])


def test_copies_count_once_and_what_contradicts_itself_is_left_out(tmp_path: Path) -> None:
    put(
        tmp_path, "gambling/a", "gambling/again/a", "safe/a", "gambling/b", "gambling/c/b", "safe/c"
    )
    labelled = from_folders(str(tmp_path), (), {})
    assert by_name(labelled, "gambling") == {"b": 1, "c": 0}
    assert (labelled.left_out.duplicates, labelled.left_out.contradicted) == (3, 1)


def test_rows_of_results_have_their_labels_weights_and_scores(tmp_path: Path) -> None:
    scores = {Category.NUDITY: np.linspace(0, 1, 6, dtype=np.float32)}
    results = write_results(tmp_path / "r.csv", scores, errors=1, copies=[1])
    lines = [
        "path,nudity,gambling,chosen_by,chosen_for,inclusion_probability",
        "./0.jpg,1,,band,x,0.5",
        "./1.jpg,0,1,band,y,0.1",
        "./copy-1.jpg,0,0,band,y,0.1",
        "./2.jpg,,0,band,y,0.1",
        "./bad-0.jpg,1,1,band,y,0.1",
        "./gone.jpg,1,1,band,y,0.1",
        "./3.jpg,,,band,y,0.1",
    ]
    labels = tmp_path / "l.csv"
    labels.write_text("\n".join(lines) + "\n")
    labelled = from_results(read_results(str(results)), str(labels), ("nudity", "gambling"))
    order = {sha: place for place, sha in enumerate(labelled.digests)}
    assert set(order) == {digest("./0.jpg"), digest("./2.jpg")}
    assert labelled.left_out.contradicted == 1  # 1.jpg and its copy, about gambling
    assert labelled.left_out.reasons == {"truncated": 1}
    zero, two = order[digest("./0.jpg")], order[digest("./2.jpg")]
    assert labelled.truth["nudity"][[zero, two]].tolist() == [1, -1]
    assert labelled.truth["gambling"][[zero, two]].tolist() == [-1, 0]
    assert labelled.weights is not None
    assert labelled.weights[zero] == 2
    assert labelled.weights[two] > 10  # it stands for the one without a label, too
    assert labelled.scores["nudity"][two] == scores[Category.NUDITY][2]
    assert any("1 labels are of images" in note for note in labelled.notes)


def test_labels_of_none_of_the_five_need_a_named_category(tmp_path: Path) -> None:
    results = write_results(tmp_path / "r.csv", {Category.NUDITY: np.zeros(2, np.float32)})
    labels = tmp_path / "l.csv"
    labels.write_text("path,decision\n./0.jpg,block\n")
    with pytest.raises(InputError, match="name categories of your own with --category"):
        from_results(read_results(str(results)), str(labels), ())


def test_labels_of_chosen_images_are_said_to_be_of_those(tmp_path: Path) -> None:
    results = write_results(tmp_path / "r.csv", {Category.NUDITY: np.zeros(2, np.float32)})
    labels = tmp_path / "l.csv"
    labels.write_text("path,nudity,chosen_by\n./0.jpg,1,uncertainty\n")
    labelled = from_results(read_results(str(results)), str(labels), ())
    assert "chosen by uncertainty" in labelled.notes[0]
