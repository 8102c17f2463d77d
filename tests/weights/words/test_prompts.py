"""The file of prompts: what is refused, what is remarked on, and the one that ships."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moderate.cli.main import run
from moderate.errors import MissingLibraryError, WeightsError
from moderate.types import CATEGORIES
from moderate.weights.words.levels import level_group
from moderate.weights.words.prompts import DEFAULT, default_text, read_prompts, remarks
from moderate.weights.words.tokens import require_transformers
from tests.support.two_towers import PROMPTS, tokenizer

Captured = pytest.CaptureFixture[str]


def written(folder: Path, text: str) -> str:
    path = folder / "prompts.toml"
    path.write_text(text)
    return str(path)


def test_the_ones_that_ship() -> None:
    prompts = read_prompts(DEFAULT)
    assert set(prompts.file.categories) == set(CATEGORIES)
    assert not prompts.file.own
    assert remarks(prompts.file) == []
    for _, texts in prompts.file.lists():
        assert max(len(text.split()) for text in texts) <= 12  # far from 64 tokens


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "categories: no category has prompts"),
        ("[safe]\nprompts = ['a']", "categories: no category has prompts"),
        ("[categories.nudity]\nprompts = []", "categories.nudity: has no prompts"),
        ("[categories.nudity]\nprompts = ['a', ' ']", "nudity.prompts: ' ' is empty"),
        ("[categories.nudity]\nprompts = ['a', 'a ']", "nudity.prompts: 'a' stands twice"),
        ("[categories.nudity]\nprompts = ['a\\nb']", None),
        ('[categories.nudity]\nprompts = ["a\\u0007"]', "holds a control character"),
        (f"[categories.nudity]\nprompts = ['{'a' * 501}']", "is longer than 500 characters"),
        ("[categories.nudity]\nprompts = ['a']\nlook_alikes = ['a']", "'a' is also among"),
        ("[safe]\nprompts = ['a']\n[categories.nudity]\nprompts = ['a']", "'a' is also among"),
        ("templates = ['a photo']\n[categories.nudity]\nprompts = ['a']", "needs {} once"),
        ("templates = ['{} {}']\n[categories.nudity]\nprompts = ['a']", "needs {} once"),
        ("[categories.own.nudity]\nprompts = ['a']", "nudity is one of the five"),
        ("[categories.own.label]\nprompts = ['a']", "the name label is taken"),
        ("[categories.own.Guns]\nprompts = ['a']", "own.Guns: is no name for an own"),
        ("[categories.own.guns]\nprompts = []", "categories.own.guns: has no prompts"),
        ("[categories.nuditty]\nprompts = ['a']", "did you mean nudity?"),
        ("[categories.guns]\nprompts = ['a']", "a category of your own is [categories.own.guns]"),
        ("[categories.nudity]\nprompts = 'a'", "categories.nudity.prompts: is not a list"),
        ("[categories.nudity]\nprompts = [1]", "categories.nudity.prompts.0"),
        ("[categories.nudity]\nprompt = ['a']", "categories.nudity.prompt: unknown key"),
        ("[categories]\nnudity", "not valid TOML"),
        ("categories = 3", "categories: is not a table"),
    ],
)  # fmt: skip
def test_nonsense_is_named_in_a_line(tmp_path: Path, text: str, message: str | None) -> None:
    path = written(tmp_path, text)
    if message is None:
        assert read_prompts(path).file.categories  # two characters in a literal string
        return
    with pytest.raises(WeightsError) as caught:
        read_prompts(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--prompts {path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        read_prompts(str(tmp_path / "none.toml"))


def test_more_prompts_than_a_head_has_columns(tmp_path: Path) -> None:
    many = ", ".join(f"'prompt {number}'" for number in range(2001))
    with pytest.raises(WeightsError, match="more than 2000 prompts"):
        read_prompts(written(tmp_path, f"[categories.nudity]\nprompts = [{many}]"))


def test_the_digest_is_that_of_the_text(tmp_path: Path) -> None:
    one = read_prompts(written(tmp_path, PROMPTS))
    other = read_prompts(written(tmp_path, PROMPTS + "# changed\n"))
    assert one.file == other.file
    assert one.sha256 != other.sha256


def test_check_counts_and_remarks(tmp_path: Path, capsys: Captured) -> None:
    assert run(["weights", "prompts", "check", DEFAULT]) == 0
    out = capsys.readouterr().out
    assert "violence: 14 prompts, 16 look-alikes" in out
    assert "remark" not in out
    text = "[categories.nudity]\nprompts = ['a']\n[categories.own.guns]\nprompts = ['A', 'b']"
    path = written(tmp_path, text)
    assert run(["weights", "prompts", "check", path]) == 0
    out = capsys.readouterr().out
    assert "guns: 2 prompts, 0 look-alikes" in out
    assert "remark: guns has no look-alikes" in out
    assert "remark: 'a' stands in nudity and guns" in out
    assert "remark: no safe prompts" in out


def test_check_names_every_problem(tmp_path: Path, capsys: Captured) -> None:
    path = written(tmp_path, "[categories.nudity]\nprompts = ['a', 'a', '']")
    assert run(["weights", "prompts", "check", path]) == 2
    captured = capsys.readouterr()
    assert captured.out.count("problem: ") == 2
    assert "2 of its prompts cannot be used" in captured.err


def test_check_counts_tokens(tmp_path: Path, capsys: Captured) -> None:
    tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(
        '{"model_type": "clip", "text_config": {"max_position_embeddings": 8}}'
    )
    text = (
        "templates = ['{}', 'a photo of {}']\n[categories.nudity]\nprompts = ['a a a', 'a a a a']"
    )
    path = written(tmp_path, text)
    assert run(["weights", "prompts", "check", path]) == 0
    capsys.readouterr()
    assert run(["weights", "prompts", "check", path, "--checkpoint", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert out.count("problem: ") == 1
    assert "'a a a a' has 9 tokens in its longest template, but the text tower takes 8" in out


def test_show_is_a_start_for_a_file(tmp_path: Path, capsys: Captured) -> None:
    assert run(["weights", "prompts", "show"]) == 0
    assert capsys.readouterr().out == default_text()
    path = written(tmp_path, default_text())
    assert read_prompts(path).sha256 == read_prompts(DEFAULT).sha256


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([("a", "x")], "2 to 7 levels"),
        ([(f"{number}", f"x{number}") for number in range(8)], "2 to 7 levels"),
        ([("a", "x"), ("a", "y")], "two levels have the value 'a'"),
        ([("a", "x"), ("b", "X. ")], "'a' and 'b' have the same description"),
        ([("a", "x"), ("b", "")], "levels: description: "),
        ([("a", "x"), ("b" * 25, "y")], "levels: value: "),
    ],
)
def test_levels_that_cannot_be_told_apart(levels: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        level_group(levels)


def test_the_example_of_the_page_can_be_used(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "words.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    prompts = read_prompts(written(tmp_path, example))
    assert list(prompts.file.own) == ["gambling"]
    assert remarks(prompts.file) == []


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderate.weights.words.tokens.installed", lambda module: False)
    with pytest.raises(MissingLibraryError, match=r"reading prompts needs transformers: .*words"):
        require_transformers("reading prompts")
