"""The shipped test card weights do what their card says, a short form of measure.py."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import moderate
from moderate.classify.bundle import find_bundle, load_bundle
from moderate.cli.main import run
from moderate.testcards import SUFFIXES, draw_card, encode_image

ROOT = Path(__file__).parents[1]
CATEGORIES = tuple(category.value for category in moderate.Category)


def decisions(folder: Path, policy: str = "balanced") -> dict[str, moderate.Row]:
    rows = moderate.scan(folder, weights="testcard", policy=policy, device="cpu")
    return {row.ref.name.decode(): row for row in rows}


def test_timm_loads_the_shipped_bundle_unaided() -> None:
    import timm
    import torch

    model = timm.create_model(f"local-dir:{find_bundle('testcard')}", pretrained=True).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 160, 160)).shape == (1, 5)


def test_it_says_that_it_is_a_demonstration() -> None:
    bundle = load_bundle("testcard")
    assert bundle.card.purpose == "demo"
    assert "Of 1,000 photographs it sent 2 to review" in bundle.card.fit_for
    assert len(bundle.card.categories) == 5
    weights = Path(find_bundle("testcard")) / "model.safetensors"
    assert weights.stat().st_size < 4_000_000


@pytest.mark.parametrize("kind", list(SUFFIXES))
@pytest.mark.parametrize(("size", "quality"), [(96, 90), (384, 30), (1600, 95)])
def test_every_sort_of_card_in_every_format(
    tmp_path: Path, kind: str, size: int, quality: int
) -> None:
    sorts = [(None, "clean")] + [(c, band) for c in CATEGORIES for band in ("review", "block")]
    if size == 1600 and kind in {"HEIC", "AVIF"}:  # which take seconds to encode
        sorts = sorts[:3]
    for number, (category, band) in enumerate(sorts):
        card = draw_card(category, band, 90_000 + number, size)
        turned = 1 + number % 8 if kind in {"JPEG", "PNG", "WEBP"} else 1
        data = encode_image(card, kind, quality, turned)
        (tmp_path / f"{category}-{band}{SUFFIXES[kind]}").write_bytes(data)
    found = decisions(tmp_path)
    assert len(found) == len(sorts)
    for name, row in found.items():
        category, _, band = name.partition(".")[0].rpartition("-")
        expected = {"clean": "approve"}.get(band, band)
        assert row.decision == expected, (name, row.reasons)
        if band != "clean":
            scored = {c: s for c, s in row.scores.items() if s is not None}
            assert max(scored, key=lambda c: scored[c]) == category


def test_cards_on_pictures_cropped_padded_dimmed(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for category in CATEGORIES:
        card = draw_card(category, "block", 91_000, 400)
        small = Image.fromarray(rng.integers(60, 200, (5, 6, 3), dtype=np.uint8))
        picture = small.resize((400, 400), Image.Resampling.BICUBIC)
        picture.paste(card.resize((200, 200)), (150, 120))
        padded = Image.new("RGB", (480, 440), "navy")
        padded.paste(card, (40, 20))
        treated = {
            "pasted": picture,
            "cropped": card.crop((40, 36, 362, 360)),
            "padded": padded,
            "dimmed": card.point(lambda value: int(value * 0.7)),
            "squashed": card.resize((420, 300)),
        }
        for how, image in treated.items():
            (tmp_path / f"{category}-{how}.jpg").write_bytes(encode_image(image, "JPEG", 60))
    found = decisions(tmp_path)
    wrong = [name for name, row in found.items() if row.decision != moderate.Decision.BLOCK]
    assert len(found) == 25
    assert not wrong


def test_ordinary_pictures_are_approved(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    for number in range(40):
        cells = rng.integers(1, 40)
        small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        how = (Image.Resampling.BICUBIC, Image.Resampling.NEAREST)[number % 2]
        small.resize((320, 240), how).save(tmp_path / f"{number}.png")
    wrong = [n for n, row in decisions(tmp_path).items() if row.decision != "approve"]
    assert not wrong


def test_the_sample_images_show_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", str(ROOT / "sample_images"), "--weights", "testcard", "--out", "-"]) == 0
    out, err = capsys.readouterr()
    rows = {row["path"].rpartition("/")[2]: row for row in csv.DictReader(io.StringIO(out))}
    assert {row["format"] for row in rows.values()} >= {
        "jpeg", "png", "webp", "gif", "bmp", "heif",
    }  # fmt: skip
    for name, row in rows.items():
        if "block" in name:
            assert row["decision"] == "block"
        elif "review" in name or row["status"] == "error":
            assert row["decision"] == "review"
        else:
            assert row["decision"] == "approve"
    assert {row["error_code"] for row in rows.values()} == {"", "truncated", "unsupported_format"}
    warned = {row["warnings"] for row in rows.values()}
    assert warned >= {"animated", "extension_mismatch", "small_image"}
    assert "demonstration" in err
