"""Every entry's mapping fits a model of its architecture with its label names."""

from __future__ import annotations

import pytest

from moderate.catalogue.load import catalogue
from moderate.catalogue.mapping import read_mapping, usual_mapping
from moderate.errors import WeightsError
from moderate.types import CATEGORIES, Category

SINGLE = [entry for entry in catalogue().values() if entry.model]
FACTS = {
    "marqo-nsfw-384": ("Marqo/nsfw-image-detection-384", "vit_tiny_patch16_384"),
    "freepik-nsfw": ("Freepik/nsfw_image_detector", "eva02_base_patch14_448"),
    "falconsai-nsfw": ("Falconsai/nsfw_image_detection", "vit_base_patch16_224"),
    "image-multi-detect": ("abhi099k/image-multi-detect", "resnet50"),
}


@pytest.mark.parametrize("entry", SINGLE, ids=lambda entry: entry.name)
def test_an_entry_is_loadable(entry) -> None:  # type: ignore[no-untyped-def]
    import timm

    model = entry.model
    assert timm.is_model(model.architecture)
    named = {
        label
        for sources in model.categories.values()
        for source in sources
        for label in ([source] if isinstance(source, str) else source)
    }
    assert named <= set(model.labels)
    assert named != set(model.labels), "some label must stand for a harmless picture"
    assert entry.claim
    assert entry.claimed_by


@pytest.mark.parametrize("name", FACTS)
def test_sources_are_the_published_ones(name: str) -> None:
    model = catalogue()[name].model
    assert model is not None
    assert (model.repo, model.architecture) == FACTS[name]


def test_composites_cover_everything_and_say_that_nobody_measured_them() -> None:
    composites = [entry for entry in catalogue().values() if entry.member]
    assert len(composites) >= 2
    for entry in composites:
        assert entry.categories == CATEGORIES
        assert "no independent figure exists" in entry.claimed_by
        for member in entry.member:
            assert set(member.categories) <= set(catalogue()[member.entry].categories)


def test_usual_labels_map_themselves() -> None:
    assert usual_mapping(("Drawing", "Hentai", "Neutral", "Porn", "Sexy")) == {
        Category.NUDITY: ["Hentai", "Porn"],
        Category.SEXUAL_ACTIVITY: ["Hentai", "Porn"],
        Category.SUGGESTIVE: ["Sexy"],
    }
    with pytest.raises(WeightsError, match="'low'"):
        usual_mapping(("neutral", "low", "medium", "high"))
    with pytest.raises(WeightsError, match="none of the labels"):
        usual_mapping(("safe", "normal"))


def test_mappings_by_hand() -> None:
    assert read_mapping(["nudity=a,b+c", "violence=d"]) == {
        Category.NUDITY: ["a", ["b", "c"]],
        Category.VIOLENCE: ["d"],
    }
    for wrong, said in (("nudeness=a", "nudeness"), ("gone.toml", "No such file")):
        with pytest.raises(WeightsError, match=said):
            read_mapping([wrong])
