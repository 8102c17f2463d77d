"""What kept scores depend on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from moderate.classify.bundle import load_bundle
from moderate.classify.device import place
from moderate.decode.parts import DEFAULT_OPTIONS
from moderate.run import scopes as module
from moderate.run.options import ScanOptions


def test_scores_of_another_resampler_are_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle("testcard")
    job: Any = SimpleNamespace(
        bundle=bundle,
        specs=bundle.specs,
        labels=(),
        decode_options=DEFAULT_OPTIONS,
        options=ScanOptions(),
    )
    placement = place("cpu", "fp32")
    monkeypatch.setattr(module, "resampler", lambda: "simd")
    one = module.scopes(job, placement)
    monkeypatch.setattr(module, "resampler", lambda: "pillow")
    other = module.scopes(job, placement)
    assert one.scores != other.scores
    assert one.errors == other.errors  # what cannot be decoded is never resized
