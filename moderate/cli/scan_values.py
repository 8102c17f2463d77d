"""What the options of `moderate scan` are given, as values."""

from __future__ import annotations

import re
from collections.abc import Sequence

import typer

from moderate.decode.parts import FrameChoice, frame_choice
from moderate.errors import UsageError
from moderate.types import Origin

_LARGEST_FILE = 1024**4
_MOST_WORKERS = 512
_UNITS = {"": 1, "B": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3}


def parse_bytes(option: str, text: str) -> int:
    """A size such as 10MB as bytes. Raises UsageError, which names the option."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B?)", text.strip().upper())
    if not match:
        raise UsageError(f"{option} {text!r} is not a size; write 500KB, 10MB or a number of bytes")
    unit = match[2] if match[2].endswith("B") or not match[2] else match[2] + "B"
    size = float(match[1]) * _UNITS[unit]
    if size > _LARGEST_FILE:
        raise UsageError(f"{option} {text!r} is more than a terabyte")
    return int(size)


def parse_header(line: str) -> tuple[str, str]:
    """The name and the value of `--url-header`. Raises UsageError."""
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        # Not the line itself: it may hold a token.
        raise UsageError("--url-header: write 'NAME: VALUE'")
    return name.strip(), value.strip()


def parse_workers(text: str) -> int | None:
    """The number of decoders asked for, None for `auto`. Raises UsageError."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_WORKERS):
        raise UsageError(f"--workers {text!r}: use auto or 1 to {_MOST_WORKERS}")
    return int(text)


def parse_frames(text: str) -> FrameChoice | int:
    """Which frames of an animation are asked for. Raises UsageError."""
    try:
        return frame_choice(int(text) if text.isascii() and text.isdigit() else text)
    except ValueError as error:
        raise UsageError(f"--frames {text!r}: {error}") from None


def parse_only(texts: Sequence[str]) -> tuple[Origin, ...]:
    """The origins that `--only` names, in their own order. Raises typer.BadParameter."""
    names = {name.strip() for text in texts for name in text.split(",")} - {""}
    if unknown := sorted(names - {origin.value for origin in Origin}):
        known = ", ".join(origin.value for origin in Origin)
        raise typer.BadParameter(f"--only {unknown[0]!r}: use {known}, with commas between them")
    if any(texts) and not names:
        raise typer.BadParameter("--only: name an origin, as in new,changed")
    return tuple(origin for origin in Origin if origin.value in names)
