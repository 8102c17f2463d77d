"""`moderate bench` as a user runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from moderate.report.bench import advice, bottleneck, report
from moderate.report.model import Facts
from moderate.run.bench import Bench, measure
from moderate.run.options import ScanOptions
from moderate.run.scan import plan
from tests.support.pictures import encode, scene


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moderate", "bench", "--device", "cpu", "--repeat", "1", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_own_images_are_measured_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(encode(scene((600, 400), number), "JPEG"))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no")
    done = bench(str(folder), "--images", "40", "--json", str(tmp_path / "b.json"))
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "b.json").read_text())
    assert told["images"] == 40
    assert told["formats"]["jpeg"] == 40
    assert told["errors"] == 6, "the broken one, each time round"
    assert told["megapixels"] == pytest.approx(0.24)
    assert min(told["decode"], told["forward"], told["end_to_end"], told["bound"]) > 0
    assert told["share_of_bound"] <= 1
    for label in ("decode", "forward", "together", "expected", "bound", "limit"):
        assert any(line.startswith(label) for line in done.stdout.splitlines()), label


@pytest.mark.parametrize("views", ["1", "3"])
def test_the_model_is_measured_on_every_part_of_an_image(
    views: Literal["1", "3"], tmp_path: Path
) -> None:
    (tmp_path / "wide.jpg").write_bytes(encode(scene((900, 300)), "JPEG"))
    options = ScanOptions(inputs=[str(tmp_path)], weights="testcard", device="cpu", views=views)
    job = plan(options)
    *_, measured = measure(job, 8, 1)
    assert isinstance(measured, Bench)
    assert measured.inputs == (1 if views == "1" else 4)
    text = str(report(measured).parts)
    assert ("4.0 inputs per image" in text) == (views == "3")


def test_without_a_folder_cards_are_drawn() -> None:
    done = bench("--images", "8")
    assert done.returncode == 0, done.stderr
    assert "drawing test cards" in done.stderr


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    assert "no image found" in bench(str(tmp_path / "empty")).stderr
    done = bench(str(tmp_path / "note.txt"))
    assert done.returncode == 2
    assert "can be decoded" in done.stderr


PLAIN = Bench(
    images=100, formats={"jpeg": 100}, megapixels=12.0, errors=0, repeat=3, cores=8, workers=8,
    batch_size=32, weights="w", device="cpu", precision="fp32", backend="torch",
    decode=100.0, forward=100.0, end_to_end=45.0,
)  # fmt: skip


def test_the_bound_is_what_the_cores_or_the_slower_part_allow() -> None:
    assert PLAIN.bound == 100
    assert PLAIN.expected == pytest.approx(50)
    assert PLAIN.share == pytest.approx(0.9)
    on_gpu = replace(PLAIN, device="cuda:0", forward=400.0)
    assert on_gpu.bound == on_gpu.expected == 100
    assert bottleneck(PLAIN) == "decoding and the model alike"
    assert bottleneck(on_gpu) == "decoding"
    assert bottleneck(replace(PLAIN, decode=900.0)) == "the model"


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("end_to_end", [45.0, 65.5, 131.0])
def test_no_share_is_above_100_percent(device: str, end_to_end: float) -> None:
    """Where one part alone leaves cores idle, both together do more than one after the other."""
    bench = replace(PLAIN, device=device, end_to_end=end_to_end)
    shown = report(bench)
    (facts,) = shown.parts
    assert isinstance(facts, Facts)
    text = " ".join(fact.value for fact in facts.items)
    assert all(int(percent) <= 100 for percent in re.findall(r"(\d+)%", text))
    assert shown.data["share_of_bound"] <= 1
    assert bench.expected <= bench.bound
    assert ("all of it reached" in text) == (end_to_end >= bench.expected)


def test_the_advice_fits_what_was_measured() -> None:
    def told(**changes: object) -> str:
        return "; ".join(advice(replace(PLAIN, **changes)))  # type: ignore[arg-type]

    assert "[cpu]'" in told()
    assert "[cpu]'" not in told(backend="openvino")
    assert "bf16" not in told(precision="bf16")
    assert "--workers 8" in told(workers=2)
    assert "--batch-size 64" in told(device="cuda:0", forward=20.0)
    eight = {"device": "cuda:0", "devices": 8, "decode": 1500.0, "end_to_end": 1400.0}
    assert "2 of the 8 GPUs would be enough" in told(forward=8000.0, **eight)
    assert "enough" not in told(forward=1600.0, **eight)
    assert "busy" in told(end_to_end=10.0)
    assert "busy" not in told()
