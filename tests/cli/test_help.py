"""Help that is legible at any width, and the same for every command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from moderate.cli import panels
from moderate.cli.commands import all_commands
from moderate.cli.help import PlainCommand, PlainGroup
from moderate.cli.main import run

Captured = pytest.CaptureFixture[str]


def commands(command: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below `command`, itself included, with the arguments that name it."""
    yield names, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, *names, name)


COMMANDS = dict(commands(typer.main.get_command(all_commands())))


def help_of(
    names: tuple[str, ...], width: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run([*names, "-h"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_no_line_is_too_long_and_no_value_is_named_by_a_type_of_python(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert isinstance(COMMANDS[names], (PlainCommand, PlainGroup))
    for width in (60, 80, 120):
        text = help_of(names, width, monkeypatch, capsys)
        names_of_options = [line for line in text.splitlines() if line.lstrip().startswith("-")]
        long = [line for line in text.splitlines() if len(line) > width]
        assert set(long) <= set(names_of_options)  # choices are never cut
        assert "<" not in text
        assert "range" not in "".join(names_of_options)


def test_every_command_has_one_line_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for names, command in COMMANDS.items():
        if isinstance(command, PlainGroup):
            lines = help_of(names, 80, monkeypatch, capsys).splitlines()
            for name, below in command.commands.items():
                assert f"  {name} " in "\n".join(lines)
                (line,) = (line for line in lines if line.split()[:1] == [name])
                assert line.endswith("."), below.help


def test_options_of_scan_stand_under_headings(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    text = help_of(("scan",), 80, monkeypatch, capsys)
    headings = {value for name, value in vars(panels).items() if name.isupper()}
    assert headings <= {line.removesuffix(":") for line in text.splitlines()}
    output, inputs = text.index("\nOutput:"), text.index("\nInputs:")
    assert output < text.index("  -o, --out FILE  ") < inputs
    assert "needs the extra 'video'" in text
    assert "[default: 32; 1 to 4,096]" in " ".join(text.split())
    assert "      --quiet" not in text
    assert "  -q, --quiet  " in text


def test_help_of_review_shows_its_commands_and_the_options_of_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    text = help_of(("review",), 80, monkeypatch, capsys)
    assert text.startswith("Usage: moderate review RESULTS|COMMAND [OPTIONS]\n")
    assert "  export  Write what people decided" in text
    assert "      --second-look SHARE  " in text
    assert "--cleared" in help_of(("review", "export"), 80, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv"], "cannot read none.csv"),
        (["--queue", "all", "none.csv"], "cannot read none.csv"),
        (["page", "none.csv"], "cannot read none.csv"),
        (["--queue", "most", "none.csv"], "use review, block, errors, all or approve-sample:N"),
        (["--queue", "all"], "Missing argument 'RESULTS'"),
        (["export", "none.csv"], "name what to write"),
    ],
)
def test_review_is_the_page_where_no_command_is_named(
    arguments: list[str], message: str, capsys: Captured
) -> None:
    assert run(["review", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "names", [(), ("policy",), ("weights",), ("runs",), ("state",), ("review",)]
)
def test_a_group_alone_prints_its_commands(names: tuple[str, ...], capsys: Captured) -> None:
    assert run([*names]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"  {name} " in out for name in COMMANDS[names].commands)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["polici"], "No such command 'polici'. Did you mean 'policy'?"),
        (["scan", "--bach-size", "3"], "No such option: --bach-size"),
        (["policy", "show"], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str, capsys: Captured) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("moderate: error: ")
    assert message in err


@pytest.mark.parametrize(
    ("words", "completed"),
    [("moderate sc", "scan"), ("moderate scan --weig", "--weights"), ("moderate runs l", "list")],
)
def test_a_shell_completes_commands_and_options(
    words: str, completed: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Nothing else is done meanwhile: no configuration is read, whatever is near."""
    monkeypatch.setenv("_MODERATE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    monkeypatch.setenv("MODERATE_NONSENSE", "1")
    with pytest.raises(SystemExit) as done:
        run([])
    assert done.value.code in (0, None)
    assert capsys.readouterr().out.split() == [completed]
