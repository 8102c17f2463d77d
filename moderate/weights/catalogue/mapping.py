"""Maps labels to categories: the usual label names, and mappings that users write."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from moderate.errors import WeightsError
from moderate.own_categories import OWN, is_own_name, why_taken
from moderate.text import one_line, printable
from moderate.toml_files import TomlError, read_toml
from moderate.types import CATEGORIES, Category

LabelMap = dict[str, list[str | list[str]]]
"""Per category the sources whose maximum it is: a label, or a list of labels to sum.

The categories are of the five, or own ones by their names.
"""

_SEXUAL = (Category.NUDITY, Category.SEXUAL_ACTIVITY)
# A binary model cannot separate the three, so its score bounds each of them from above.
_NSFW = (*_SEXUAL, Category.SUGGESTIVE)
_NONE: tuple[Category, ...] = ()

_USUAL: dict[str, tuple[Category, ...]] = {
    **dict.fromkeys(("porn", "pornography", "hentai", "explicit"), _SEXUAL),
    **dict.fromkeys(("sexy", "enticing or sensual"), (Category.SUGGESTIVE,)),
    "nsfw": _NSFW,
    **dict.fromkeys(("nsfl", "gore", "violence", "weapon"), (Category.VIOLENCE,)),
    "drugs": (Category.DRUG_USE,),
    **dict.fromkeys(("neutral", "drawing", "drawings", "sfw", "safe", "normal"), _NONE),
    "anime picture": _NONE,
}


def usual_mapping(labels: Sequence[str]) -> LabelMap:
    """The mapping of labels whose meaning is generally agreed.

    Raises WeightsError, printing the labels, where one of them is not of that kind.
    """
    unknown = [label for label in labels if label.lower() not in _USUAL]
    if unknown:
        raise WeightsError(
            f"cannot tell what the label {printable(unknown[0])!r} means; the labels are "
            f"{one_line(', '.join(labels), 400)}. Say which feed which category with --map FILE "
            "(TOML: nudity = ['label', ...]) or --map nudity=label,label; --map own.NAME=label "
            "feeds a category of your own"
        )
    mapping: LabelMap = {}
    for label in labels:
        for category in _USUAL[label.lower()]:
            mapping.setdefault(category, []).append(label)
    if not mapping:
        raise WeightsError(f"none of the labels {', '.join(labels)} feeds a category; use --map")
    return mapping


def read_mapping(options: Sequence[str]) -> LabelMap:
    """What `--map` was given: TOML files, or `category=label,label+label`. Raises WeightsError.

    `own.NAME` is a category besides the five; in a file, the table `own` has them.
    A comma separates sources, of which the highest counts; a plus sums labels.
    """
    mapping: LabelMap = {}
    for option in options:
        if "=" in option and not os.path.exists(option):
            name, _, sources = option.partition("=")
            parsed = [source.split("+") for source in sources.split(",") if source]
            table: LabelMap = {_category(name): [p[0] if len(p) == 1 else p for p in parsed]}
        else:
            table = _read_file(option)
        for category, found in table.items():
            mapping.setdefault(category, []).extend(found)
    if not mapping or not all(mapping.values()):
        raise WeightsError("--map: a mapping names at least one label for each of its categories")
    return mapping


def _read_file(path: str) -> LabelMap:
    where = printable(path)
    try:
        content: Mapping[str, object] = read_toml(path)
    except TomlError as error:
        raise WeightsError(f"--map {where}: {error}") from error
    table = content.get("categories", content)
    if not isinstance(table, dict):
        raise WeightsError(f"--map {where}: categories: expected a table")
    named: dict[str, object] = {}
    for name, value in table.items():
        if name == OWN and isinstance(value, dict):
            named |= {f"{OWN}.{each}": sources for each, sources in value.items()}
        else:
            named[name] = value
    return {_category(name): _sources(where, name, value) for name, value in named.items()}


def _sources(where: str, name: str, value: object) -> list[str | list[str]]:
    def is_labels(item: object) -> bool:
        return isinstance(item, list) and bool(item) and all(isinstance(i, str) for i in item)

    if not isinstance(value, list) or not all(isinstance(i, str) or is_labels(i) for i in value):
        raise WeightsError(
            f"--map {where}: {name}: expected a list of labels or of lists of labels"
        )
    return value


def _category(name: str) -> str:
    text = name.strip()
    prefix, dot, own = text.partition(".")
    if dot and prefix == OWN:
        return _own_category(own)
    try:
        return Category(text)
    except ValueError:
        known = ", ".join(CATEGORIES)
        raise WeightsError(
            f"--map: no category {printable(name)!r}; there are {known}, and own.NAME for one of "
            "your own"
        ) from None


def _own_category(name: str) -> str:
    why = why_taken(name)
    if why is None and not is_own_name(name):
        why = "a name has up to 40 of a-z, 0-9 and _, a letter first"
    if why is not None:
        raise WeightsError(f"--map own.{one_line(name, 60)}: {why}")
    return name
