"""What there is to know about weights: the catalogue, what is installed, and a bundle's card."""

from __future__ import annotations

import os
from typing import Any

from moderate.classify.bundle import find_bundle, installed_bundles, load_card
from moderate.classify.card import CARD
from moderate.classify.coverage import shared_labels
from moderate.errors import WeightsError
from moderate.regular import MAX_TEXT_BYTES, read_regular
from moderate.text import printable
from moderate.weights.catalogue.load import catalogue, coverage
from moderate.weights.catalogue.model import Entry

_DEMONSTRATION = "to test a pipeline with drawn cards; does not moderate"


def list_weights() -> list[dict[str, Any]]:
    """Every entry of the catalogue and every installed bundle, as JSON values; the advised first.

    digest is `published`, `first-pull` or `own` for what is installed, else null; problem says why
    an installed card cannot be read.
    """
    installed = {name: _installed(name) for name in sorted(set(installed_bundles()))}
    entries = sorted(catalogue().values(), key=lambda entry: entry.rank)
    listed = [describe(entry) for entry in entries]
    for item in listed:
        if bundle := installed.pop(str(item["name"]), None):
            item |= {key: bundle[key] for key in ("installed", "digest", "problem")}
    return listed + list(installed.values())


def describe(entry: Entry) -> dict[str, Any]:
    """What the catalogue says of an entry, as JSON values."""
    return {
        "name": entry.name,
        "title": entry.title,
        "fit_for": entry.fit_for,
        "advice": entry.advice,
        "categories": [category.value for category in entry.categories],
        "covers": {name.value: text for name, text in coverage(entry).items()},
        "licence": entry.licence,
        "size": entry.size,
        "claim": entry.claim,
        "claimed_by": entry.claimed_by,
        "verified": entry.verified or None,
        "composite_of": [member.entry for member in entry.member] or None,
        "source": entry.model.source if entry.model else None,
        "installed": False,
        "digest": None,
        "problem": None,
    }


def _installed(name: str) -> dict[str, Any]:
    item: dict[str, Any] = {
        "name": name,
        "title": "",
        "fit_for": "",
        "advice": "",
        "categories": [],
        "covers": {},
        "licence": "",
        "size": None,
        "claim": None,
        "claimed_by": None,
        "verified": None,
        "composite_of": None,
        "source": None,
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
        "advice": _DEMONSTRATION if card.purpose == "demo" else "",
        "categories": list(map(str, card.all_categories)),
        "covers": {str(name): text for name, text in card.covers.items()},
        "licence": card.licence,
        "source": card.source,
        "verified": "made by this project" if card.purpose == "demo" else None,
        "digest": card.digest,
    }


def installed_folder(name: str) -> str | None:
    """The folder of an installed bundle; None for an entry of the catalogue that is not installed.

    Raises WeightsError where there is neither.
    """
    try:
        return find_bundle(name)
    except WeightsError:
        if name not in catalogue():
            raise
        return None


def card_text(folder: str) -> str:
    """The card of the bundle in a folder. Raises WeightsError."""
    card = load_card(folder)  # what cannot be read is not shown
    shared = [f"# {printable(sentence)}" for sentence in shared_labels(card)]
    text = read_regular(os.path.join(folder, CARD), MAX_TEXT_BYTES).decode("utf-8")
    lines = [printable(line) for line in text.splitlines()]
    return "\n".join([f"# {printable(folder)}", *shared, *lines]) + "\n"
