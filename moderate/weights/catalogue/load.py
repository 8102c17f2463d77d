"""The entries that come with the package, one TOML file each."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from moderate.errors import WeightsError
from moderate.text import printable
from moderate.toml_files import parse_toml
from moderate.types import CATEGORIES, Category
from moderate.weights.catalogue.model import Entry


@cache
def catalogue() -> dict[str, Entry]:
    """Every entry by name, in alphabetical order."""
    folder = files("moderate.weights.catalogue").joinpath("entries")
    texts = sorted(
        (file.name, file.read_text("utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".toml")
    )
    entries = [Entry.model_validate(parse_toml(text)) for _, text in texts]
    return {entry.name: entry for entry in entries}


def coverage(entry: Entry) -> dict[Category, str]:
    """What each category's score is able to show, in words; a composite's members fill its gaps."""
    found: dict[Category, list[str]] = {}
    for member in entry.member:
        theirs = find_entry(member.entry).covers
        for category in member.categories:
            if category in theirs:
                found.setdefault(category, []).append(theirs[category])
    of_members = {category: " or ".join(dict.fromkeys(texts)) for category, texts in found.items()}
    known = of_members | entry.covers
    return {category: known[category] for category in CATEGORIES if category in known}


def find_entry(name: str) -> Entry:
    """The entry of that name. Raises WeightsError with the names there are."""
    entries = catalogue()
    if name not in entries:
        raise WeightsError(
            f"no weights {printable(name)!r} in the catalogue; there are {', '.join(entries)}. "
            "A hub repository is named hf:owner/name"
        )
    return entries[name]
