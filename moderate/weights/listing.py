"""What there is to know about weights: the catalogue, what is installed, and a bundle's card."""

from __future__ import annotations

import os
from typing import Any

from moderate.classify.bundle import (
    CARD,
    find_bundle,
    installed_bundles,
    load_card,
    shared_labels,
)
from moderate.errors import WeightsError
from moderate.regular import MAX_TEXT_BYTES, read_regular
from moderate.text import printable
from moderate.weights.catalogue.load import catalogue, coverage, find_entry


def list_weights() -> list[dict[str, Any]]:
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
        if bundle := installed.pop(str(item["name"]), None):
            item |= {key: bundle[key] for key in ("installed", "digest", "problem")}
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


def card_text(name: str) -> str:
    """The card of an installed bundle, or what the catalogue says. Raises WeightsError."""
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
