"""The help of every command: plain text under headings, legible from 60 columns on."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

WIDEST = 100
"""Columns that help text takes at most; longer lines are hard to read."""

# Which commands the help lists under which heading, in this order.
SCANNING = "Scan images"
RESULTS = "Work with results"
TUNING = "Policies and labels"
INSTALLATION = "Weights and this machine"
HISTORY = "Past runs"

_Function = TypeVar("_Function", bound=Callable[..., Any])
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": WIDEST}
_PLAIN = {bool: "", int: "N", float: "NUMBER", str: "TEXT"}
_NAMES_WIDTH = 26  # columns for names; longer ones have their text on the line below


def value_name(param: Any) -> str:
    """What stands for the value of a parameter: its metavar, its choices, or a word for its type.

    Empty for a flag.
    """
    if getattr(param, "is_flag", False):
        return ""
    if param.metavar:
        return str(param.metavar)
    described = param.type_descriptor
    if described.is_choice:
        values = (c.value if isinstance(c, enum.Enum) else c for c in described.choices)
        return "|".join(map(str, values))
    annotation = described.annotation
    if get_origin(annotation) is list:
        annotation = get_args(annotation)[0]
    return _PLAIN.get(annotation, "VALUE")


def argument_name(param: Any) -> str:
    """An argument as usage lines show it, in brackets where it may be left out."""
    name = param.metavar or param.name.upper()
    return name if param.required else f"[{name}]"


def default_text(param: Any) -> str:
    """The default of a parameter as text; empty where it has none that says something."""
    value = param.default
    if value is None or isinstance(value, (bool, list, tuple)) or callable(value):
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value.value if isinstance(value, enum.Enum) else value)


class PlainCommand(TyperCommand):
    """A command whose options stand under the headings that they were registered with."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """See `TyperCommand`."""
        arguments = [argument_name(p) for p in self.params if isinstance(p, TyperArgument)]
        return [*arguments, "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """See `TyperCommand`."""
        _write_parameters(self.get_params(ctx), formatter)


class PlainGroup(TyperGroup):
    """A group whose commands stand under headings; named alone, it prints its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `TyperGroup`."""
        return super().parse_args(ctx, args if args or ctx.resilient_parsing else ["--help"])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """See `TyperGroup`."""
        return ["COMMAND", "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """See `TyperGroup`."""
        headings = (SCANNING, RESULTS, TUNING, INSTALLATION, HISTORY, "Commands")
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in headings}
        for name, command in self.commands.items():
            heading = getattr(command, "rich_help_panel", None) or "Commands"
            sections[heading].append((name, first_paragraph(command.help or "")))
        _write_sections(sections, formatter)
        _write_parameters(self.get_params(ctx), formatter)


class DefaultGroup(PlainGroup):
    """A group whose first command is meant where none is named.

    `group FILE` is `group FIRST FILE`; the help of the group has the options of that command, too.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `TyperGroup`."""
        own = {"-h", "--help", *self.commands}
        if args and args[0] not in own and not ctx.resilient_parsing:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """See `TyperGroup`."""
        default = next(iter(self.commands.values()))
        arguments = [argument_name(p) for p in default.params if isinstance(p, TyperArgument)]
        return [f"{' '.join(arguments)}|COMMAND", "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """See `TyperGroup`."""
        name, default = next(iter(self.commands.items()))
        rows = [(name, first_paragraph(each.help or "")) for name, each in self.commands.items()]
        _write_sections({"Commands": rows}, formatter)
        _write_parameters(
            [*default.params, *self.get_params(ctx)], formatter, f"Options of {name}, the default"
        )


class Commands(typer.Typer):
    """A group of commands whose help is written by this module."""

    def __init__(self, *, help: str, cls: type[PlainGroup] = PlainGroup, **settings: Any) -> None:
        super().__init__(
            cls=cls,
            help=help,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings=_CONTEXT,
            **settings,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[_Function], _Function]:
        """See `typer.Typer.command`."""
        return super().command(name, **{"cls": PlainCommand, **settings})


def first_paragraph(text: str) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(text.split("\n\n")[0].split())


def _write_parameters(params: Iterable[Any], formatter: Any, heading: str = "Options") -> None:
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    general: list[tuple[str, str]] = []
    for param in params:
        if getattr(param, "hidden", False):
            continue
        if isinstance(param, TyperArgument):
            sections["Arguments"].append((param.metavar or param.name.upper(), _meaning(param)))
        elif isinstance(param, TyperOption):
            panel = getattr(param, "rich_help_panel", None)
            section = sections.setdefault(panel, []) if panel else general
            section.append((_names(param), _meaning(param)))
    only_help = len(general) == 1
    ordered = {**sections, heading: general} if only_help else {heading: general, **sections}
    arguments = ordered.pop("Arguments")
    _write_sections({"Arguments": arguments, **ordered}, formatter)


def _write_sections(sections: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    """One column of names for all sections, so that their texts are aligned."""
    longest = max((len(name) for rows in sections.values() for name, _ in rows), default=0)
    width = min(longest, _NAMES_WIDTH, formatter.width // 3)
    for heading, rows in sections.items():
        if rows:
            with formatter.section(heading):
                # A definition list is as wide as its widest name, up to col_max.
                padded = [(name.ljust(width), text) for name, text in rows]
                formatter.write_dl(padded, col_max=width)


def _names(option: TyperOption) -> str:
    """Short names first; long ones without one are indented, so that all are aligned."""
    names = sorted((*option.opts, *option.secondary_opts), key=len)
    listed = ", ".join(names) if len(names[0]) == 2 else "    " + ", ".join(names)
    return f"{listed} {value_name(option)}".rstrip()


def _meaning(param: Any) -> str:
    extras: Sequence[str] = (
        "required" if param.required and isinstance(param, TyperOption) else "",
        f"default: {default}" if (default := default_text(param)) else "",
        _range(param.min, param.max),
    )
    bracketed = "; ".join(filter(None, extras))
    return f"{param.help or ''} [{bracketed}]".strip() if bracketed else param.help or ""


def _range(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""  # "at least 0" says what everybody expects
    return f"{low:,.10g} to {high:,.10g}"
