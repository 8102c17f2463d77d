"""docs/scale.md has the figures of benchmarks/scale.py, and the simulation behaves as it must."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scale.md"
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import scale
    from scale_simulation import Plan, Trouble, simulate
finally:
    sys.path.remove(str(ROOT / "benchmarks"))

CALM = Trouble(slow_share=0, preemptions_per_hour=0, failed_attempts=0, lost_answers=0)
IMAGES = 1 << 18
SECONDS = 0.03  # per image
SMALL = Plan(512, workers=64)


@pytest.fixture(scope="module")
def result() -> Mapping[str, Any]:
    return scale.model(json.loads(scale.INPUTS.read_text()), scale.PRICES, 2026)


def test_the_page_has_the_figures_of_the_script(result: Mapping[str, Any]) -> None:
    page = PAGE.read_text()
    blocks = scale.write_blocks(result)
    assert scale.fill(page, blocks) == page, "run: python benchmarks/scale.py --page docs/scale.md"
    assert set(re.findall(r"<!-- scale: (\w+) -->", page)) == set(blocks)


def test_no_figure_stands_outside_the_blocks() -> None:
    prose = re.sub(r"<!-- scale: \w+ -->.*?<!-- end -->", "", PAGE.read_text(), flags=re.DOTALL)
    prose = re.sub(r"```.*?```|`[^`]*`", "", prose, flags=re.DOTALL)  # commands and names
    prose = re.sub(r"^\d\. ", "", prose, flags=re.MULTILINE)  # numbered steps
    for name in ("AVX512-BF16", "H200", "S3", "SHA-256", "year\n2026"):
        prose = prose.replace(name, "")
    assert re.findall(r"\d+", prose) == []


def test_the_mix_is_whole_and_each_kind_is_measured(result: Mapping[str, Any]) -> None:
    assert sum(scale.MIX.values()) == pytest.approx(1)
    assert set(scale.MIX) == set(result["measured"]["images"])
    assert result["measured"]["machine"]["cores"] >= 1  # it says where


def test_prices_are_parameters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scale, "_simulations", lambda *_: [])
    costs = []
    for price in ("0.04", "0.08"):
        out = tmp_path / f"{price}.json"
        command = ["scale.py", "--price", f"core_hour={price}", "--json", str(out)]
        monkeypatch.setattr(sys, "argv", command)
        scale.main()
        costs.append(json.loads(out.read_text())["scales"]["1e9"]["dollars_cores"])
    assert costs[1] == pytest.approx(2 * costs[0])
    monkeypatch.setattr(sys, "argv", ["scale.py", "--price", "core=1"])
    with pytest.raises(SystemExit):
        scale.main()
    assert "no price core" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    first = simulate(IMAGES, SECONDS, SMALL, Trouble(), 1)
    assert simulate(IMAGES, SECONDS, SMALL, Trouble(), 1) == first
    assert simulate(IMAGES, SECONDS, SMALL, Trouble(), 2) != first


def test_without_trouble_nothing_is_wasted_and_the_work_is_what_it_is() -> None:
    outcome = simulate(IMAGES, SECONDS, SMALL, CALM, 1)
    assert outcome.ideal_seconds == pytest.approx(IMAGES * SECONDS / 64)
    assert outcome.wasted == pytest.approx(0, abs=1e-9)
    assert outcome.written_twice == 0
    assert outcome.fragments == IMAGES // 512
    assert 1 < outcome.stretch < 1.2


def test_each_trouble_costs_what_it_should() -> None:
    def wasted(**trouble: float) -> float:
        return simulate(IMAGES, SECONDS, SMALL, dataclasses.replace(CALM, **trouble), 1).wasted

    assert wasted(failed_attempts=0.1) == pytest.approx(0.1, abs=0.05)
    lost = simulate(IMAGES, SECONDS, SMALL, dataclasses.replace(CALM, lost_answers=0.1), 1)
    assert lost.wasted == pytest.approx(0.1, abs=0.05)
    assert lost.written_twice == pytest.approx(0.1 * lost.fragments, rel=0.5)
    assert wasted(preemptions_per_hour=20) > 0.01


def test_one_shard_per_core_suffers_most_and_second_attempts_help_against_slow_machines() -> None:
    slow = dataclasses.replace(CALM, slow_share=0.1)
    outcomes = [
        simulate(IMAGES, SECONDS, Plan(size, workers=64, machine=4), slow, 3)
        for size in (512, IMAGES // 64)
    ]
    assert outcomes[0].stretch < outcomes[1].stretch
    again = dataclasses.replace(SMALL, machine=4, second_attempts=True)
    helped = simulate(IMAGES, SECONDS, again, slow, 3)
    assert helped.stretch < outcomes[0].stretch
    assert helped.written_twice > 0
