"""The README's lists are the code's lists."""

from __future__ import annotations

from pathlib import Path

from moderate.results.schema import COLUMNS
from moderate.types import ErrorCode, Origin, Warn

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_code_warning_and_column_stands_in_the_readme() -> None:
    for line in expected_lines():
        assert line in README, f"missing in README.md: {line}"


def expected_lines() -> list[str]:
    rows = [f"| `{column.name}` | {column.type} | {column.meaning} |" for column in COLUMNS]
    rows += [f"| `{warning}` | {warning.meaning} |" for warning in Warn]
    rows += [f"| `{code}` | {code.meaning} |" for code in ErrorCode]
    rows += [f"| `{origin}` | {origin.meaning} |" for origin in Origin]
    return rows


def test_the_two_commands_stand_in_the_readme_and_ci_runs_the_second() -> None:
    first = "pip install . && moderate weights pull starter && moderate scan sample_images"
    assert README.index(f"{first} --weights starter") < README.index("--weights testcard")
    assert "pip install '.[test]' && pytest -n auto" in README
    ci = (Path(__file__).parents[1] / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install --quiet '.[test]'\npytest -n auto" in ci
