"""Several models of a bundle: how their scores become that of a category, and what they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderate.classify.bundle import Bundle, load_bundle
from moderate.classify.classifier import Classifier
from moderate.classify.coverage import shared_labels
from moderate.classify.device import place
from moderate.errors import WeightsError
from moderate.types import Category, Scores
from tests.support.bundles import model_table, write_card, write_model

LABELS = {"first": ("sfw", "nsfw", "gore"), "second": ("nsfw", "rest")}
FEEDS: dict[str, dict[str, Any]] = {
    "first": {"nudity": ["nsfw"], "violence": ["gore"]},
    "second": {"nudity": ["nsfw"], "sexual_activity": ["nsfw"]},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small models in folders of their own, without a card."""
    folder = tmp_path_factory.mktemp("two")
    for seed, (name, labels) in enumerate(LABELS.items()):
        write_model(folder / name, labels=labels, seed=seed)
    return folder


def bundle_of(models: Path, *names: str, **card: Any) -> Bundle:
    feeds = card.pop("feeds", FEEDS)
    write_card(
        models,
        [model_table(folder=name, categories=feeds[name]) for name in names],
        **{"name": "both", **card},
    )
    return load_bundle(str(models))


def pictures(count: int) -> list[tuple[np.ndarray, ...]]:
    generator = np.random.default_rng(5)
    squares = generator.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [(np.repeat(np.repeat(square, 16, 0), 16, 1),) * 2 for square in squares]


def scores(bundle: Bundle, images: list[tuple[np.ndarray, ...]], batch: int = 32) -> list[Scores]:
    given = [image[: len(bundle.models)] for image in images]
    with Classifier(bundle, place("cpu", "fp32", "torch"), batch_size=batch) as classifier:
        found = classifier.score(given)  # type: ignore[arg-type]
    assert all(isinstance(one, dict) for one in found)
    return found  # type: ignore[return-value]


def test_the_mean_of_two_models_is_that_of_their_float32_scores(models: Path) -> None:
    images = pictures(9)
    alone = [scores(bundle_of(models, name), images) for name in LABELS]
    mean = scores(bundle_of(models, *LABELS, combine={"nudity": "mean"}), images)
    highest = scores(bundle_of(models, *LABELS), images)
    apart = 0
    for first, second, both, top in zip(*alone, mean, highest, strict=True):
        a, b = np.float32(first[Category.NUDITY]), np.float32(second[Category.NUDITY])
        apart += bool(abs(a - b) > 0.1)
        assert both[Category.NUDITY] == float((a + b) / np.float32(2))
        assert top[Category.NUDITY] == float(max(a, b))
        for category, only in ((Category.VIOLENCE, first), (Category.SEXUAL_ACTIVITY, second)):
            assert both[category] == top[category] == only[category]
        assert both[Category.DRUG_USE] is None
    assert apart, "the two have to differ, or this proves nothing"


def test_a_mean_does_not_depend_on_the_batch(models: Path) -> None:
    bundle = bundle_of(models, *LABELS, combine={"nudity": "mean"})
    images = pictures(7)
    together = scores(bundle, images)
    assert together == [scores(bundle, [image])[0] for image in images]
    assert together[2:5] == scores(bundle, images[2:5])


def test_the_digest_tells_how_scores_are_combined(models: Path) -> None:
    plain = bundle_of(models, *LABELS).sha256
    assert bundle_of(models, *LABELS, combine={"nudity": "max"}).sha256 == plain
    assert bundle_of(models, *LABELS, covers={"nudity": "some"}).sha256 == plain
    assert bundle_of(models, *LABELS, combine={"nudity": "mean"}).sha256 != plain


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"combine": {"violence": "mean"}}, "combine: violence is not fed by several models"),
        ({"combine": {"drug_use": "mean"}}, "combine: drug_use is not fed by several models"),
        ({"combine": {"nudity": "sum"}}, "combine.nudity"),
        ({"covers": {"suggestive": "poses"}}, "covers: no label feeds suggestive"),
        ({"covers": {"nudity": ""}}, "covers.nudity"),
    ],
)
def test_a_card_combines_and_covers_what_it_has(
    models: Path, card: dict[str, Any], said: str
) -> None:
    with pytest.raises(WeightsError, match=said):
        bundle_of(models, *LABELS, **card)


def shared(models: Path, first: dict[str, Any], second: dict[str, Any], **card: Any) -> list[str]:
    bundle = bundle_of(models, *LABELS, feeds={"first": first, "second": second}, **card)
    return list(shared_labels(bundle.card))


def test_categories_that_are_fed_by_the_same_labels_are_told(models: Path) -> None:
    one = {"nudity": ["nsfw"]}
    assert shared(models, one, {"violence": ["nsfw"]}) == []  # the same name, of another model
    assert shared(models, {**one, "suggestive": ["nsfw"]}, {"violence": ["rest"]}) == [
        "nudity and suggestive come from one score"
    ]
    assert shared(models, {c: ["nsfw", "gore"] for c in ("nudity", "violence", "drug_use")},
                  {"suggestive": ["nsfw"]}) == [
        "nudity, violence and drug_use come from one score"
    ]  # fmt: skip
    assert shared(models, one, {"nudity": ["nsfw"], "sexual_activity": ["nsfw"]}) == [
        "nudity and sexual_activity share the label second/nsfw"
    ]
    assert shared(models, {"nudity": ["nsfw", "gore"], "violence": [["gore", "nsfw"]]},
                  {"drug_use": ["rest"]}) == [
        "nudity and violence share the labels first/gore, first/nsfw"
    ]  # fmt: skip


def test_categories_of_a_softmax_are_told_to_take_from_each_other(models: Path) -> None:
    first = model_table(
        folder="first", activation="softmax", categories={"nudity": ["nsfw"], "violence": ["gore"]}
    )
    second = model_table(
        folder="second",
        activation="softmax",
        categories={"suggestive": ["nsfw"], "drug_use": ["nsfw"]},
    )
    write_card(models, [first, second], name="both")
    assert list(shared_labels(load_bundle(str(models)).card)) == [
        "suggestive and drug_use come from one score",
        "nudity and violence are shares of one whole in first (softmax): where one rises, others "
        "fall",
    ]


def test_the_same_labels_combined_in_another_way_are_two_scores(models: Path) -> None:
    both = {"nudity": ["nsfw"], "suggestive": ["nsfw"]}
    assert shared(models, both, both) == ["nudity and suggestive come from one score"]
    assert shared(models, both, both, combine={"nudity": "mean"}) == [
        "nudity and suggestive share the labels first/nsfw, second/nsfw"
    ]


def test_the_scores_of_labels_come_with_the_outcome(models: Path) -> None:
    bundle = bundle_of(models, *LABELS, combine={"nudity": "mean"})
    assert bundle.labels == (
        ("first/sfw", "first/nsfw", "first/gore"),
        ("second/nsfw", "second/rest"),
    )
    assert bundle.kept_labels == tuple(name for names in bundle.labels for name in names)
    asked = ("second/nsfw", "first/nsfw", "first/gore")
    images = pictures(5)
    batch = tuple(np.stack(arrays) for arrays in zip(*images, strict=True))
    with Classifier(bundle, place("cpu", "fp32", "torch"), labels=asked) as classifier:
        found = classifier.submit(batch).scored()  # type: ignore[arg-type]
    for outcome, (second, first, gore) in found:
        assert isinstance(outcome, dict)
        assert outcome[Category.NUDITY] == float(
            (np.float32(first) + np.float32(second)) / np.float32(2)
        )
        assert (outcome[Category.SEXUAL_ACTIVITY], outcome[Category.VIOLENCE]) == (second, gore)


def test_of_many_labels_those_that_feed_a_category_are_kept(tmp_path: Path) -> None:
    labels = tuple(f"class {number}" for number in range(65))
    write_model(tmp_path, labels=labels)
    feeds = {"violence": [["class 3", "class 64"]], "nudity": ["class 7"]}
    write_card(tmp_path, [model_table(categories=feeds)], name="many")
    bundle = load_bundle(str(tmp_path))
    assert bundle.kept_labels == ("many/class 3", "many/class 7", "many/class 64")
    assert len(bundle.labels[0]) == 65
