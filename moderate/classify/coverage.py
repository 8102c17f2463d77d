"""What each category's scores can show, as the weights' card states it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from moderate.classify.bundle import Card, shared_labels
from moderate.own_categories import is_own_name
from moderate.text import one_line
from moderate.types import CATEGORIES

FIT_FOR, COVERS, SHARED = "weights_fit_for", "weights_covers", "weights_shared"
"""The keys of the audit facts."""

_MOST_CHARACTERS = 1000
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a card states about its weights: what they are fit for, and what each category covers.

    shared holds sentences on categories that are fed by the same labels.
    """

    fit_for: str = ""
    covers: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[str, ...] = ()

    @classmethod
    def of_card(cls, card: Card) -> Self:
        """What the card of the weights says."""
        return cls(
            fit_for=_words(card.fit_for),
            covers={
                str(name): _words(card.covers[name])
                for name in card.all_categories
                if name in card.covers
            },
            shared=tuple(map(_words, shared_labels(card))),
        )

    @classmethod
    def of_facts(cls, facts: Mapping[str, str]) -> Self:
        """Read it from audit facts, which are untrusted: the text is made safe to show."""
        try:
            found = json.loads(facts.get(COVERS, "{}"))
        except (ValueError, RecursionError):
            found = {}
        words = found if isinstance(found, dict) else {}
        return cls(
            fit_for=_words(facts.get(FIT_FOR, "")),
            covers={
                str(name): _words(words[name])
                for name in (*CATEGORIES, *filter(is_own_name, words))
                if isinstance(words.get(name), str)
            },
            shared=tuple(_words(part) for part in facts.get(SHARED, "").split("; ") if part),
        )

    def facts(self) -> dict[str, str]:
        """The audit facts that say the same."""
        said = {
            FIT_FOR: self.fit_for,
            COVERS: json.dumps(dict(self.covers), ensure_ascii=False) if self.covers else "",
            SHARED: "; ".join(self.shared),
        }
        return {key: text for key, text in said.items() if text}

    def lines(self, categories: Iterable[str] | None = None) -> tuple[str, ...]:
        """Sentences that belong under counts of these categories; without any named, of all."""
        named = {*CATEGORIES, *self.covers} if categories is None else set(map(str, categories))
        covered = [f"{name}: {text}" for name, text in self.covers.items() if name in named]
        return (*covered, *(said for said in self.shared if named & set(_WORD.findall(said))))

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "fit_for": self.fit_for,
            "covers": dict(self.covers),
            "shared": list(self.shared),
        }


def _words(text: str) -> str:
    return one_line(text, _MOST_CHARACTERS)
