"""What a category covers stands wherever its counts do, and in the metadata."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from moderate.classify.coverage import Coverage
from moderate.cli.main import run
from moderate.results.read import read_results
from tests.support.bundles import model_table, write_card, write_model
from tests.support.pictures import encode, scene

Captured = pytest.CaptureFixture[str]
FIT_FOR = "Photographs of one kind alone"
COVERS = {"nudity": "porn; not art", "violence": "visible firearms and gore; not fights"}
SHARED = "nudity and sexual_activity come from one score"
SAID = (f"nudity: {COVERS['nudity']}", f"violence: {COVERS['violence']}", SHARED)
SUFFIXES = ("csv", "parquet", "jsonl")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose card says what it covers."""
    folder = tmp_path_factory.mktemp("w") / "covering"
    write_model(folder, labels=("nsfw", "gore", "rest"))
    feeds = {"nudity": ["nsfw"], "sexual_activity": ["nsfw"], "violence": ["gore"]}
    write_card(folder, [model_table(categories=feeds)], fit_for=FIT_FOR, covers=COVERS)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """Rows and summaries of a scan with those weights."""
    folder = tmp_path_factory.mktemp("place")
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode(scene((300, 280), seed=number), "PNG"))
    outs = [f"--out={folder}/rows.{suffix}" for suffix in SUFFIXES]
    summaries = [f"--summary={folder}/summary.{suffix}" for suffix in ("json", "md")]
    arguments = [str(folder), "--weights", str(weights), "--backend=torch", "--no-state", "-q"]
    assert run(["scan", *arguments, *outs, *summaries]) == 0
    return folder


def plain(text: str) -> str:
    """Text without line breaks and the signs of Markdown."""
    return " ".join(text.replace("\\", "").split())


def test_a_scan_says_it_on_the_terminal(place: Path, weights: Path, capsys: Captured) -> None:
    arguments = ["scan", f"{place}/0.png", "--weights", str(weights), "--backend=torch"]
    assert run([*arguments, "--no-state"]) == 0
    said = plain(capsys.readouterr().out)
    for line in (*SAID, FIT_FOR):
        assert line in said


def test_summaries_say_it(place: Path) -> None:
    said = plain((place / "summary.md").read_text())
    for line in (*SAID, FIT_FOR):
        assert line in said
    summary = json.loads((place / "summary.json").read_text())
    assert summary["coverage"] == {"fit_for": FIT_FOR, "covers": COVERS, "shared": [SHARED]}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_and_all_that_is_made_of_them_say_it(
    place: Path, tmp_path: Path, capsys: Captured, suffix: str
) -> None:
    source = str(place / f"rows.{suffix}")
    facts = read_results(source).facts
    assert facts["weights_fit_for"] == FIT_FOR
    assert json.loads(facts["weights_covers"]) == COVERS
    assert facts["weights_shared"] == SHARED
    labels = tmp_path / "labels.csv"
    with labels.open("w", newline="") as file:
        lines = [("path", "nudity"), *((f"{place}/{n}.png", str(n % 2)) for n in range(3))]
        csv.writer(file).writerows(lines)
    eval_ = ["eval", source, "--labels", str(labels)]
    for command in (
        ["report", source],
        ["report", source, "--trend"],
        ["decide", source, "--policy", "strict"],
    ):
        for form in ("md", "json"):
            target = str(tmp_path / f"out.{form}")
            option = "--summary" if command[0] == "decide" else "--out"
            assert run([*command, option, target]) == 0
            text = Path(target).read_text()
            if form == "json":
                assert json.loads(text)["coverage"]["covers"] == COVERS
            else:
                assert all(line in plain(text) for line in SAID), command
        capsys.readouterr()
        assert run(command) == 0
        said = plain(capsys.readouterr().out)
        assert all(line in said for line in SAID), command
    for form in ("html", "md", "json"):
        assert run([*eval_, "--out", str(tmp_path / f"eval.{form}")]) == 0
    for text in ((tmp_path / "eval.html").read_text(), plain((tmp_path / "eval.md").read_text())):
        assert SAID[0] in text
        assert SHARED in text
    assert json.loads((tmp_path / "eval.json").read_text())["coverage"]["shared"] == [SHARED]


def test_a_card_is_shown_with_what_its_categories_share(weights: Path, capsys: Captured) -> None:
    assert run(["weights", "show", str(weights)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"# {SHARED}" in lines
    assert any(COVERS["violence"] in line for line in lines)


def test_the_list_says_in_plain_words_what_there_is(capsys: Captured) -> None:
    assert run(["weights", "show", "starter"]) == 0
    said = plain(capsys.readouterr().out)
    assert "violence: visible firearms and gore; not fights, knives, injuries" in said
    assert "Nudity is the mean of two networks, so that both must agree" in said
    assert run(["weights", "list", "--json"]) == 0
    listed = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert "drug_use" not in listed["starter"]["covers"]
    assert listed["full-coverage"]["covers"].keys() >= {"nudity", "drug_use"}
    assert run(["weights", "show", "full-coverage"]) == 0
    assert "the author's label has them" in capsys.readouterr().out


def test_facts_that_nobody_wrote_like_that_say_nothing() -> None:
    for odd in ("[", "[]", "3", '{"nudity": 3, "other": "x"}', "[" * 100_000):
        facts = {"weights_covers": odd, "weights_fit_for": "a\x1b[2J\nb" + "c" * 5000}
        coverage = Coverage.of_facts(facts)
        assert coverage.covers == {}
        assert "\x1b" not in coverage.fit_for
        assert "\n" not in coverage.fit_for
        assert len(coverage.fit_for) == 1000
    assert Coverage.of_facts({}) == Coverage()
    made = Coverage("x", {"nudity": "y; z"}, ("nudity and violence come from one score",))
    assert Coverage.of_facts(made.facts()) == made
    assert made.lines(["violence"]) == made.shared
    assert made.lines(["drug_use"]) == ()
