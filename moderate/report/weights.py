"""The catalogue and a bundle's card, for people and for programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, Any

from rich.table import Table
from rich.text import Text

from moderate.classify.bundle import (
    CARD,
    find_bundle,
    installed_bundles,
    load_card,
    shared_labels,
)
from moderate.errors import WeightsError
from moderate.regular import MAX_TEXT_BYTES, read_regular
from moderate.report.terminal import console, safe_text
from moderate.text import printable
from moderate.weights.catalogue.load import catalogue, coverage, find_entry


def weights_list() -> list[dict[str, Any]]:
    """Every entry of the catalogue and every installed bundle, as JSON values.

    digest is `published`, `first-pull` or `own` for what is installed, else null; problem says why
    an installed card cannot be read.
    """
    installed = {name: _installed(name) for name in sorted(set(installed_bundles()))}
    listed = [
        {
            "name": entry.name,
            "title": entry.title,
            "fit_for": entry.fit_for,
            "categories": [category.value for category in entry.categories],
            "covers": {name.value: text for name, text in coverage(entry).items()},
            "licence": entry.licence,
            "size": entry.size,
            "claim": entry.claim,
            "claimed_by": entry.claimed_by,
            "verified": entry.verified or None,
            "composite_of": [member.entry for member in entry.member] or None,
            "installed": False,
            "digest": None,
            "problem": None,
        }
        for entry in catalogue().values()
    ]
    for item in listed:
        if here := installed.pop(str(item["name"]), None):
            item |= {key: here[key] for key in ("installed", "digest", "problem")}
    return listed + list(installed.values())


def _installed(name: str) -> dict[str, Any]:
    item: dict[str, Any] = {
        "name": name,
        "title": "",
        "fit_for": "",
        "categories": [],
        "covers": {},
        "licence": "",
        "size": None,
        "claim": None,
        "claimed_by": None,
        "verified": None,
        "composite_of": None,
        "installed": True,
        "digest": None,
        "problem": None,
    }
    try:
        card = load_card(find_bundle(name))
    except WeightsError as error:
        return item | {"problem": str(error)}
    return item | {
        "title": card.title,
        "fit_for": card.fit_for,
        "categories": [category.value for category in card.categories],
        "covers": {name.value: text for name, text in card.covers.items()},
        "licence": card.licence,
        "verified": "made by this project" if card.purpose == "demo" else None,
        "digest": card.digest,
    }


def show_list(listed: list[dict[str, Any]], stream: IO[str]) -> None:
    """Print the list, one block an entry: it has more columns than a terminal is wide."""
    out = console(stream)
    for item in listed:
        head = safe_text(item["name"], "bold")
        if item["installed"]:
            state = item["problem"] or f"digest: {item['digest']}"
            head.append(
                f"  installed ({printable(state)})", style="red" if item["problem"] else "green"
            )
        out.print(head)
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
        table.add_column(no_wrap=True)
        table.add_column()
        claim = f"{item['claim']} - {item['claimed_by']}" if item["claim"] else "none"
        for label, value in (
            ("title", item["title"]),
            ("fit for", item["fit_for"]),
            *_covers(item),
            ("licence", item["licence"]),
            ("size", item["size"] or "-"),
            ("claim", claim),
            ("verified", item["verified"] or "not by this project"),
        ):
            table.add_row(Text(label, style="dim"), safe_text(value))
        out.print(table)


def _covers(item: dict[str, Any]) -> Iterator[tuple[str, str]]:
    label = "covers"
    for name in item["categories"]:
        text = item["covers"].get(name)
        yield label, f"{name}: {text}" if text else name
        label = ""
    if not item["categories"]:
        yield label, ""


def card_text(name: str) -> str:
    """The card of a bundle that is here, or what the catalogue says. Raises WeightsError."""
    try:
        folder = find_bundle(name)
    except WeightsError:
        entry = find_entry(name)
        entry = entry.model_copy(update={"covers": coverage(entry)})
        lines = [f"{key} = {value}" for key, value in entry.model_dump(mode="json").items()]
        return "# not installed; from the catalogue\n" + "\n".join(lines) + "\n"
    card = load_card(folder)  # what cannot be read is not shown
    shared = [f"# {printable(sentence)}" for sentence in shared_labels(card)]
    text = read_regular(os.path.join(folder, CARD), MAX_TEXT_BYTES).decode("utf-8")
    lines = [printable(line) for line in text.splitlines()]
    return "\n".join([f"# {printable(folder)}", *shared, *lines]) + "\n"
