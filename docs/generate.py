"""Write the reference pages, docs/reference/*.md, from the code.

    python docs/generate.py           writes them
    python docs/generate.py --check   names those that differ, and exits with 1

`tests/test_reference.py` fails while a page differs from what this gives.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from moderate.cli import exit_codes
from moderate.cli.commands import all_commands
from moderate.cli.help import argument_name, default_text, value_name
from moderate.results.schema import COLUMNS
from moderate.types import ErrorCode, Origin, SkipReason, Warn

REFERENCE = Path(__file__).parent / "reference"

_HEAD = "<!-- Generated from the code by docs/generate.py. Do not edit by hand. -->"


def pages() -> dict[str, str]:
    """Every page of the reference by its file name."""
    return {
        "cli.md": _page(_cli()),
        "columns.md": _page(_columns()),
        "error-codes.md": _page(_error_codes()),
        "exit-codes.md": _page(_exit_codes()),
        "origins.md": _page(_origins()),
        "warnings.md": _page(_warnings()),
    }


def _page(blocks: Iterable[str]) -> str:
    return "\n\n".join((_HEAD, *blocks)) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _columns() -> Iterator[str]:
    yield "# Result columns"
    yield (
        "The columns of a result file, in their order and with their types, the same in CSV, "
        "Parquet and JSON Lines. Columns of a manifest that `--keep` carries stand after "
        "`uri`, and float32 columns of the weights' [own categories](../weights.md#own-categories) "
        "after `drug_use`. "
        "`--keep-labels` adds a float32 column `label:MODEL/LABEL` per label after all others."
    )
    yield _table(
        ("column", "type", "meaning"),
        ((_code(column.name), column.type, column.meaning) for column in COLUMNS),
    )
    yield (
        "Null is an empty cell in CSV. [Result files](../operations.md#result-files) says how "
        "cells are written and what the metadata holds."
    )


def _error_codes() -> Iterator[str]:
    yield "# Error codes"
    yield (
        "An image that cannot be scored has `status = error`, no scores, one of these codes in "
        "`error_code`, one line of text in `error_message`, and the decision that the policy's "
        "`on_error` gives. It is never approved."
    )
    yield _table(("code", "meaning"), ((_code(code), code.meaning) for code in ErrorCode))


def _warnings() -> Iterator[str]:
    yield "# Warnings"
    yield (
        "An image with a warning was scored. The column `warnings` names what is odd about it, and "
        "a [policy](../policies.md) can send any of these to review or block it (`[on_warning]`)."
    )
    yield _table(("warning", "meaning"), ((_code(warning), warning.meaning) for warning in Warn))


def _origins() -> Iterator[str]:
    yield "# Origins and reasons for skipping"
    yield (
        "Each row has an origin, and the summary counts them. "
        "[Resuming and state](../resuming-and-state.md) explains how."
    )
    yield _table(("origin", "meaning"), ((_code(origin), origin.meaning) for origin in Origin))
    yield "Files met on a walk that get no row are counted under one of these reasons:"
    yield "\n".join(f"- {reason}" for reason in SkipReason)


def _exit_codes() -> Iterator[str]:
    yield "# Exit codes"
    yield (
        "These are a contract that scripts can rely on; tests hold them. "
        "An error wins over a finding."
    )
    rows = ((str(code), meaning) for code, meaning in exit_codes.MEANINGS.items())
    yield _table(("exit code", "meaning"), rows)


def _cli() -> Iterator[str]:
    root: Any = typer.main.get_command(all_commands())
    yield "# Command line"
    yield (
        "Every command and option. `moderate COMMAND --help` prints the same. Each option of "
        "`scan` can also be set by an environment variable or in a configuration file, see "
        "[operations](../operations.md#configuration)."
    )
    yield from _command("moderate", root)


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## `{name}`"
    if command.help:
        yield from (" ".join(part.split()) for part in command.help.split("\n\n"))
    visible = [p for p in command.params if not p.hidden and p.name != "help"]
    arguments = [p for p in visible if p.param_type_name == "argument"]
    options = [p for p in visible if p.param_type_name == "option"]
    subcommands = getattr(command, "commands", {})
    names = " ".join(argument_name(p) for p in arguments)
    usage = f"{name} COMMAND" if subcommands else f"{name} {names} [OPTIONS]".replace("  ", " ")
    yield f"```text\n{usage}\n```"
    if arguments:
        yield _table(
            ("argument", "meaning"), ((_code(argument_name(p)), p.help or "") for p in arguments)
        )
    if options:
        yield _table(
            ("option", "default", "meaning"),
            ((_spelling(p), _code(default_text(p)), _meaning(p)) for p in options),
        )
    for below, subcommand in subcommands.items():
        yield from _command(f"{name} {below}", subcommand)


def _spelling(param: Any) -> str:
    names = ", ".join(_code(name) for name in (*param.opts, *param.secondary_opts))
    return f"{names} {_code(value_name(param))}".strip()


def _meaning(param: Any) -> str:
    """The help text, the range of a number, and whether the option has to be there."""
    low, high = param.min, param.max
    parts = [param.help or ""]
    if low is not None and high is not None:
        parts.append(f"From {low} to {high}.")
    elif low is not None:
        parts.append(f"At least {low}.")
    elif high is not None:
        parts.append(f"At most {high}.")
    if param.required:
        parts.append("Required.")
    return " ".join(filter(None, parts))


def main() -> int:
    """Write or check the pages. The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on differences")
    check = parser.parse_args().check
    differing = [name for name, text in pages().items() if _stored(name) != text]
    for name in differing:
        print(f"{'differs' if check else 'written'}: {REFERENCE / name}")
        if not check:
            REFERENCE.mkdir(exist_ok=True)
            (REFERENCE / name).write_text(pages()[name], encoding="utf-8")
    return 1 if check and differing else 0


def _stored(name: str) -> str | None:
    path = REFERENCE / name
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    raise SystemExit(main())
