"""What `weights add` is told of the preprocessing that a model wants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from moderate.classify.card import Preprocess
from moderate.errors import UsageError, WeightsError
from moderate.text import printable
from moderate.validation import first_problem


@dataclass(frozen=True, slots=True)
class PixelOptions:
    """Options for the fields of `Preprocess`, some as texts; None for what was left out."""

    size: str | None = None
    resize: Literal["squash", "crop"] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    mean: str | None = None
    std: str | None = None
    antialias: bool | None = None
    align_corners: bool | None = None
    exact: bool | None = None

    def named(self) -> list[str]:
        """Those that were used, by their names on the command line."""
        used = [name for name in self.__slots__ if getattr(self, name) is not None]
        return [f"--{name.replace('_', '-')}" for name in used]

    def sides(self) -> tuple[int, int] | None:
        """Height and width of `224` or `224x320`. Raises UsageError."""
        if self.size is None:
            return None
        sides = self.size.lower().split("x")
        if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
            raise UsageError(f"--size {printable(self.size)!r}: use N, or HEIGHTxWIDTH")
        return int(sides[0]), int(sides[-1])

    def values(self) -> dict[str, Any]:
        """The fields that the options set. Raises UsageError."""
        fields = {
            "size": self.sides(),
            "resize": self.resize,
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
            "mean": _three("--mean", self.mean),
            "std": _three("--std", self.std),
            "antialias": self.antialias,
            "align_corners": self.align_corners,
            "exact": self.exact,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def change(self, preprocess: Preprocess, where: str) -> Preprocess:
        """`preprocess` with what the options say. Raises UsageError and WeightsError."""
        try:
            return Preprocess.model_validate({**preprocess.model_dump(), **self.values()})
        except ValidationError as error:
            raise WeightsError(f"{where}: preprocessing: {first_problem(error)}") from error


def describe(preprocess: Preprocess, source: str) -> str:
    """The preprocessing in a line, and where it is from."""
    height, width = preprocess.size
    numbers = [
        f"{name} {', '.join(f'{value:.4g}' for value in values)}"
        for name, values in (("mean", preprocess.mean), ("std", preprocess.std))
    ]
    return (
        f"images are made {height} x {width} (height x width) by {preprocess.resize}, "
        f"{preprocess.interpolation}{'' if preprocess.antialias else ' without antialiasing'}, "
        f"{preprocess.crop_pct:.1%} of the sides shown, {', '.join(numbers)}: {source}"
    )


def _three(option: str, text: str | None) -> tuple[float, float, float] | None:
    """Three numbers, or one for all three; `123/255` is a number. Raises UsageError."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) not in (1, 3):
        raise UsageError(f"{option} {printable(text)!r}: use one number or three (R,G,B)")
    numbers = [_number(option, part) for part in parts]
    return (numbers[0], numbers[len(parts) // 2], numbers[-1])


def _number(option: str, text: str) -> float:
    above, _, below = text.partition("/")
    try:
        number = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{option}: {printable(text)!r} is not a number like 0.485 or 123/255")
    return number
