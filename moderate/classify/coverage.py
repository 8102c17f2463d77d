"""What each category's scores can show, as the weights' card states it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from moderate.classify.card import Card, flat_labels, part_name
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


def shared_labels(card: Card) -> tuple[str, ...]:
    """A sentence for each group of categories whose scores move together, read off the card.

    Categories that are fed by exactly the same labels, combined in the same way, have one score;
    others may still have a label in common. The labels of a softmax model are shares of one whole,
    so that categories fed by different ones take from each other.
    """
    feeding = {category: _feeding(card, category) for category in card.all_categories}
    sentences: list[str] = []
    groups: list[list[str]] = []
    for category, sources in feeding.items():
        same = next((group for group in groups if feeding[group[0]] == sources), None)
        if same is None:
            groups.append([category])
        else:
            same.append(category)
    sentences += [f"{_listed(group)} come from one score" for group in groups if len(group) > 1]
    for index, group in enumerate(groups):
        for other in groups[index + 1 :]:
            common = {x for x in _names(feeding[group[0]]) if x in _names(feeding[other[0]])}
            if common:
                labels = "the label" if len(common) == 1 else "the labels"
                sentences.append(
                    f"{_listed([*group, *other])} share {labels} {', '.join(sorted(common))}"
                )
    for index, model in enumerate(card.model):
        sources_of = dict(model.fed())
        fed = [category for category in card.all_categories if category in sources_of]
        distinct = {_feeding_of(card, index, category) for category in fed}
        if model.activation == "softmax" and len(distinct) > 1:
            sentences.append(
                f"{_listed(fed)} are shares of one whole in {part_name(card, model)} (softmax): "
                "where one rises, others fall"
            )
    return tuple(sentences)


_Source = tuple[str, frozenset[str]]
_Feeding = tuple[str, frozenset[_Source]]


def _feeding(card: Card, category: str) -> _Feeding:
    """What a category's score is made of: how it is combined, and which sums of labels feed it."""
    sources = [_feeding_of(card, index, category) for index in range(len(card.model))]
    return card.combine.get(category, "max"), frozenset().union(*sources)


def _feeding_of(card: Card, index: int, category: str) -> frozenset[_Source]:
    """Which sums of labels of one model feed a category."""
    model = card.model[index]
    return frozenset(
        (
            str(index),
            frozenset(f"{part_name(card, model)}/{label}" for label in flat_labels([source])),
        )
        for source in dict(model.fed()).get(category, ())
    )


def _names(feeding: _Feeding) -> set[str]:
    return {name for _, names in feeding[1] for name in names}


def _listed(categories: Sequence[str]) -> str:
    return f"{', '.join(categories[:-1])} and {categories[-1]}"
