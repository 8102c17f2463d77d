"""A short form of each benchmark: it runs and its counts are true; its times prove nothing here."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderate.testcards import draw_card
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LABELS = ("nudity", "sexual_activity", "suggestive", "violence", "drug_use")
MODEL = "test_efficientnet"  # timm's own for tests: 160 x 160 and very small


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpora and bundles, drawn once for all."""
    return tmp_path_factory.mktemp("cache")


def bench(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


def bench_here(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The same without another process, which would first load torch again.

    For scripts that leave no settings behind: what they measure runs in processes of its own.
    """
    command = [str(BENCHMARKS / f"{script}.py"), *options]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.syspath_prepend(str(BENCHMARKS))
        patch.setattr(sys, "argv", command)
        try:
            importlib.import_module(script).main()
        except SystemExit as ended:
            if isinstance(ended.code, str):
                print(ended.code, file=err)
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def result(done: subprocess.CompletedProcess[str], file: Path) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    read: dict[str, Any] = json.loads(file.read_text())
    assert read["machine"]["cores"] >= 1
    assert read["machine"]["versions"]["torch"]
    return read


def test_corpora_are_what_they_say_and_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = bench("corpora", str(tmp_path / "first"), "--corpus", "small", "--count", "3")
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import corpora

    corpora.make(tmp_path / "second", "small", 3)
    first, second = (
        sorted((tmp_path / name / "small-3").iterdir()) for name in ("first", "second")
    )
    assert [path.name for path in first] == [path.name for path in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    with Image.open(first[0]) as image:
        assert image.size == (640, 480)
        assert np.asarray(image).std() > 20  # a picture, not a flat area
    monkeypatch.setattr(corpora, "BASES", 1)  # drawing these large ones takes longest
    mixed = corpora.make(tmp_path, "mixed", 5)
    assert {path.suffix for path in mixed.iterdir()} == {".jpg", ".webp", ".png", ".heic"}


def test_views(tmp_path: Path) -> None:
    """Two ordinary images, and a panorama with a card at its end."""
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(encode(scene((320, 240), number), "JPEG"))
    panorama = scene((1800, 200))
    panorama.paste(draw_card("violence", "block", 1, 200), (1600, 0))
    (tmp_path / "panorama.jpg").write_bytes(encode(panorama, "JPEG"))
    out = tmp_path / "out.json"
    weights = str(BENCHMARKS.parent / "weights" / "testcard")
    done = bench("views", str(tmp_path), "--weights", weights, "--repeats", "1", "--json", str(out))
    read = result(done, out)
    one, auto = read["views"]
    assert (one["views"], auto["views"]) == ("1", "auto")
    assert one["inputs_per_image"] == 1
    assert auto["inputs_per_image"] > 3
    assert (one["with_further_parts"], auto["with_further_parts"]) == (0, 1)
    assert (one["approve"], auto["approve"]) == (3, 2)
    assert read["changed"] == 1


@pytest.mark.parametrize(
    "contenders",
    [
        ["timm", "moderate torch"],
        pytest.param(["timm", "transformers", "moderate torch"], marks=pytest.mark.slow),
    ],
    ids=len,
)
def test_peers(tmp_path: Path, cache: Path, contenders: list[str]) -> None:
    out = tmp_path / "out.json"
    done = bench_here(
        "peers",
        *("--cache", str(cache), "--count", "6", "--repeat", "1", "--batch", "2"),
        *("--corpora", "small", "--models", MODEL, "--json", str(out)),
        *("--rows", str(tmp_path / "rows"), "--contenders", *contenders),
    )
    (cell,) = result(done, out)["results"]
    assert list(cell["contenders"]) == contenders
    for measured in cell["contenders"].values():
        assert measured["rows"] == 6
        assert measured["to"]["timm"]["ratio"] > 0
        assert measured["to"]["timm"]["ratio_cpu"] > 0
        assert measured["images_per_second_steady"] > 0
        assert measured["pss_peak_bytes"] > 10_000_000
    # The comparison is fair only if all do the same work.
    reference = _scores(tmp_path / "rows" / MODEL / "small" / "timm.csv")
    assert reference.shape == (6, len(LABELS))
    for contender in contenders[1:]:
        scores = _scores(tmp_path / "rows" / MODEL / "small" / f"{contender}.csv")
        assert np.abs(scores - reference).max() < 0.01


def _scores(file: Path) -> np.ndarray:
    """Scores in the order of LABELS, one row per image."""
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened, restkey="more"))
    if "scores" not in rows[0]:
        return np.array([[float(row[label]) for label in LABELS] for row in rows])
    pairs = [dict(cell.split("=") for cell in (row["scores"], *row["more"])) for row in rows]
    return np.array([[float(pair[label]) for label in LABELS] for pair in pairs])


def test_a_contender_that_fails_is_named(tmp_path: Path, cache: Path) -> None:
    broken = tmp_path / "small-2"
    broken.mkdir()
    (broken / "00000.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    (broken / "00001.jpg").write_bytes(b"\xff\xd8\xff nor this")
    wanted = {"version": 1, "name": "small", "count": 2}
    (tmp_path / "small-2.json").write_text(json.dumps(wanted))
    out = tmp_path / "out.json"
    done = bench_here(
        "peers",
        *("--cache", str(tmp_path), "--count", "2", "--repeat", "1", "--corpora", "small"),
        *("--models", MODEL, "--json", str(out)),
        *("--contenders", "timm"),
    )
    (cell,) = result(done, out)["results"]
    assert "0 of 2 rows" in cell["contenders"]["timm"]["failed"]


def test_fast_decoding_compares_with_what_it_falls_back_to(tmp_path: Path) -> None:
    out = tmp_path / "fast.json"
    options = ("--count", "1", "--repeat", "1", "--sizes", "small", "--json", str(out))
    done = bench("fast_decoding", *options)
    assert done.returncode == 0, done.stderr
    cases = json.loads(out.read_text())["cases"]
    assert cases["small jpg bilinear"]["levels"] in (1, 2), "two libraries, which round alike"
    assert cases["small webp bilinear"]["levels"] == 0


def test_pillow_alone_comes_to_the_same(tmp_path: Path) -> None:
    out = tmp_path / "alone.json"
    weights = str(BENCHMARKS.parent / "weights" / "testcard")
    options = ("--weights", weights, "--no-odd", "--damaged", "1", "--json", str(out))
    read = result(bench_here("pillow_alone", *options), out)
    assert read["files"] > read["scored"] > 20
    assert read["errors"]
    assert 0 < read["max"] < 0.03, "SIMD code rounds otherwise now and then"
    assert not read["other_outcome"]
    assert not read["not_near"]


def test_pillow_alone_names_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pillow_alone

    def rows(**values: str) -> dict[str, dict[str, str]]:
        plain = dict.fromkeys((*pillow_alone.OUTCOME, *LABELS), "0.1")
        return {"a.jpg": {**plain, "status": "ok", "decision": "approve", **values}}

    reviewed = rows(nudity="0.32", decision="review")
    near = pillow_alone._compare(reviewed, rows(nudity="0.28"), "balanced")
    assert (near["other_decision"], near["not_near"]) == (["a.jpg"], [])
    far = pillow_alone._compare(reviewed, rows(nudity="0.2"), "balanced")
    assert len(far["not_near"]) == 1
    other = pillow_alone._compare(rows(), rows(unseen="0.2"), "balanced")
    assert other["other_outcome"] == ["a.jpg: unseen 0.1 / 0.2"]


def test_parity(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = bench(
        "parity",
        *("--generated", "2", "--cards", "1", "--patterns", "1", "--models", MODEL),
        *("--json", str(out)),
    )
    assert "No real photograph" in done.stdout
    read = result(done, out)
    assert read["pictures"] == {"generated": 2, "cards": 1, "patterns": 1}
    assert set(read["models"]) == {MODEL, "testcard"}
    for model in read["models"].values():
        records = {(one["group"], one["way"]): one for one in model["records"]}
        for group in read["pictures"]:
            assert records[group, "timm"]["max"] == 0
            assert records[group, "margin 1"]["reduced"] > 0
            assert records[group, "full, one resize"]["p99"] <= 0.01
            assert records[group, "margin 1"]["largest_pixel"] > 0
        rule = {(one["group"], one["way"]): one for one in model["rule"]}
        for group in read["pictures"]:
            assert rule[group, "margin 1"]["images"] == records[group, "margin 1"]["reduced"]
    spread = next(one for one in read["models"][MODEL]["records"] if one["group"] == "generated")
    assert spread["score_std"] > 0.1  # else every decode would pass


def test_urls(tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "out.json"
    done = bench_here(
        "urls",
        *("--cache", str(cache), "--count", "6", "--repeat", "1", "--model", MODEL),
        *("--json", str(out)),
    )
    told = result(done, out)
    assert told["images"] == 6
    rates = told["images_per_second"]
    assert told["share"] == pytest.approx(rates["URLs"] / rates["disk"])


def test_memory(tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "out.json"
    done = bench_here(
        "memory",
        *("--cache", str(cache), "--counts", "4", "8", "--photos", "1", "--model", MODEL),
        *("--json", str(out)),
    )
    runs = result(done, out)["runs"]
    assert [(one["size"], one["images"]) for one in runs] == [
        ("640 x 480", 4),
        ("640 x 480", 8),
        ("4032 x 3024", 1),
    ]
    for one in runs:
        assert one["rows"] == one["images"]
        assert one["processes"] >= 2  # decoders are processes of their own, and are counted
        # Sampled one after the other while processes come and go: not to be compared.
        assert min(one["rss_peak_bytes"], one["pss_peak_bytes"]) > 10_000_000


def test_copies_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one of them would be decoded."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import corpora

    corpora.make(tmp_path, "small", 3)
    first, second, _ = sorted((tmp_path / "small-3").iterdir())
    second.write_bytes(first.read_bytes())
    done = bench_here(
        "bound",
        *("--cache", str(tmp_path), "--count", "3", "--repeat", "1", "--corpora", "small"),
        *("--models", MODEL, "--backend", "torch"),
    )
    assert done.returncode == 1
    assert "1 of 3 images are copies" in done.stderr


def test_bound(tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "out.json"
    done = bench_here(
        "bound",
        *("--cache", str(cache), "--count", "6", "--repeat", "1", "--batch", "2"),
        *("--corpora", "small", "--models", MODEL, "--backend", "torch", "--json", str(out)),
    )
    (one,) = result(done, out)["results"]
    assert one["rows"] == 6
    assert one["bound"] < min(one["decode"], one["forward"])
    assert one["parts"] == 2, "the crop and the whole"
    assert one["bound"] == pytest.approx(1 / (1 / one["decode"] + 2 / one["forward"]))


def test_gpu_without_one(tmp_path: Path, cache: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        done = bench_here("gpu")
        assert done.returncode == 1
        assert done.stderr.strip().splitlines() == [
            "this benchmark needs a CUDA GPU, and torch finds none here"
        ]
    out = tmp_path / "out.json"
    done = bench_here(
        "gpu",
        *("--device", "cpu", "--cache", str(cache), "--count", "6", "--photos", "0"),
        *("--repeat", "1", "--batch", "2", "--models", MODEL, "--json", str(out)),
        *("--gpus", "1", "2"),
    )
    found = result(done, out)["results"]
    assert [one["devices"] for one in found] == [1, 2]
    for one in found:
        assert one["rows"] == 6
        assert one["share"] == pytest.approx(one["end_to_end"] / min(one["decode"], one["forward"]))


def test_evasions(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    ways = ("webp", "pictures", "structure")
    done = bench("evasions", "--only", *ways, "--most", "2", "--json", str(out))
    found = result(done, out)
    assert not found["approved"]
    assert set(found["ways"]) == {"WebP", "MPO", "structure"}
    for way in found["ways"].values():
        assert way["files"] == way["control files"] == 2
        assert way.get("review", 0) + way.get("block", 0) == 2
        assert "control block" not in way
