"""Proof on a real model: a public checkpoint gives its author's scores through the tool's path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import moderate
from moderate.classify.bundle import load_bundle
from moderate.classify.classifier import Classifier
from moderate.classify.device import place
from moderate.decode.image import Decoded, decode, prepare
from moderate.types import Limits
from tests.support.nsfwjs import CHECKPOINT, LABELS, make_nsfwjs_bundle

pytestmark = pytest.mark.skipif(
    not CHECKPOINT.is_dir(),
    reason=f"THE REAL CHECKPOINT IS MISSING: no {CHECKPOINT}; nothing proves the scores here",
)


@pytest.fixture(scope="module")
def nsfwjs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nsfwjs_bundle(tmp_path_factory.mktemp("bundles") / "nsfwjs")


def reference() -> list[dict]:
    return json.loads((CHECKPOINT / "reference.json").read_text())["images"]


def tolerance(entry: dict) -> float:
    # Lossless files are the same pixels to both; JPEG and WebP decoders differ.
    return 2e-5 if entry["file"].endswith(".png") else 0.01


def test_label_probabilities_equal_the_reference(nsfwjs: Path) -> None:
    bundle = load_bundle(str(nsfwjs))
    classifier = Classifier(bundle, place("cpu", "fp32"))
    model = classifier._members[0].model
    prepare()
    for entry in reference():
        data = (CHECKPOINT / entry["file"]).read_bytes()
        outcome = decode(data, bundle.specs, Limits())
        assert isinstance(outcome, Decoded), entry["file"]
        probabilities = model.probabilities(outcome.pixels[0][None])[0]
        assert probabilities == pytest.approx(entry["probs"], abs=tolerance(entry)), entry["file"]


def test_scores_of_the_whole_path_equal_the_reference(nsfwjs: Path) -> None:
    entries = {f"{CHECKPOINT}/{entry['file']}": entry for entry in reference()}
    rows = list(moderate.scan(CHECKPOINT / "images", weights=str(nsfwjs), batch_size=4))
    assert {row.ref.path.decode() for row in rows} == set(entries)
    for row in rows:
        entry = entries[row.ref.path.decode()]
        named = dict(zip(LABELS, entry["probs"], strict=True))
        near = {"abs": tolerance(entry)}
        sexual = max(named["Porn"], named["Hentai"])
        assert row.scores[moderate.Category.NUDITY] == pytest.approx(sexual, **near)
        assert row.scores[moderate.Category.SEXUAL_ACTIVITY] == pytest.approx(sexual, **near)
        assert row.scores[moderate.Category.SUGGESTIVE] == pytest.approx(named["Sexy"], **near)
        assert row.scores[moderate.Category.VIOLENCE] is None
        assert row.scores[moderate.Category.DRUG_USE] is None


def test_the_backbone_alone_loads_strictly(nsfwjs: Path) -> None:
    # Wrong padding or epsilon would load as well and score wrongly: both must be in the card.
    card = load_bundle(str(nsfwjs)).card.model[0]
    assert card.model_args == {"pad_type": "same", "bn_eps": 1e-3}
