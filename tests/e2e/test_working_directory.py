"""A working directory full of traps, one that may not be entered, one that was removed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moderate.classify.backends import ir_cache
from moderate.classify.bundle import find_bundle, load_bundle
from moderate.classify.classifier import Classifier
from moderate.classify.device import place
from moderate.testcards import write_cards
from tests.support.patience import PATIENCE
from tests.support.surroundings import Opened, in_closed_folder, without_unshare
from tests.support.videos import grey, make_video

# As an installed command is started: without the working directory among the module paths.
COMMAND = "import sys; from moderate.cli.entry import main; sys.argv[0] = 'moderate'; main()"


def moderate(
    cwd: Path,
    *arguments: str | Path,
    prepare: Callable[[], None] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run the command in `cwd`; `prepare` is called in its process before it starts."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("MODERATE_")}
    return subprocess.run(
        [sys.executable, "-P", "-c", COMMAND, *map(str, arguments)],
        cwd=cwd,
        env={**own, **environment},
        preexec_fn=prepare,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    write_cards(folder, count=1, seed=0)
    return folder


@pytest.fixture(scope="module")
def converted() -> tuple[Path, Path]:
    """Network and weights of testcard as OpenVINO reads them."""
    from moderate.classify.backends.openvino_backend import cache_key

    bundle = load_bundle("testcard")
    with Classifier(bundle, place("cpu", "fp32", "openvino")):
        pass
    graph = ir_cache.load(cache_key(bundle.models[0]))
    assert graph is not None
    return Path(graph.network), Path(graph.weights)


def decisions(rows: Path) -> dict[str, str]:
    with rows.open() as file:
        return {Path(row["path"]).name: row["decision"] for row in csv.DictReader(file)}


def expected(cards: Path) -> dict[str, str]:
    with (cards / "cards.csv").open() as file:
        return {row["file"]: row["decision"] for row in csv.DictReader(file)}


def harmless_weights(weights: Path) -> bytes:
    """The weights of testcard with another bias of the last layer: it approves everything."""
    import numpy as np
    from safetensors.numpy import load_file

    bias = load_file(Path(find_bundle("testcard")) / "model.safetensors")["classifier.bias"]
    changed = weights.read_bytes().replace(bias.tobytes(), np.full_like(bias, -30.0).tobytes())
    assert changed != weights.read_bytes()
    return changed


@pytest.mark.parametrize("kept", [True, False], ids=["a model that is kept", "a first run"])
def test_weights_among_the_uploads_change_no_score(
    cards: Path, converted: tuple[Path, Path], tmp_path: Path, kept: bool
) -> None:
    uploads = tmp_path / "uploads"
    shutil.copytree(cards, uploads)
    (uploads / ".bin").write_bytes(harmless_weights(converted[1]))
    environment = {} if kept else {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    out, summary = tmp_path / "rows.csv", tmp_path / "summary.json"
    options = ("--weights", "testcard", "--device", "cpu", "--out", out, "--summary", summary)
    done = moderate(uploads, "scan", ".", *options, "-q", **environment)
    assert done.returncode == 0, done.stderr
    assert decisions(out) == expected(cards)
    assert json.loads(summary.read_text())["audit"]["backend"] == "openvino"


NOTICE = "moderate: testcard is a demonstration, not a moderation model\n"
TRAPS = (".bin", "libcuda.so.1", "libz.so.1", "pytorch", "_ops.py", "_classes.py", "plugins.xml")
MODULES = ("torch", "timm", "openvino", "numpy", "PIL", "pillow_heif", "cykooz_resizer", "av")
MODULES += ("typer", "sqlite3", "isal")


def set_traps(folder: Path) -> None:
    for name in (*TRAPS, *(f"{module}.py" for module in MODULES)):
        (folder / name).write_bytes(b"raise SystemExit(99)\n")


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_nothing_in_the_working_directory_is_opened(
    cards: Path, tmp_path: Path, backend: str
) -> None:
    uploads, inputs = tmp_path / "uploads", tmp_path / "inputs"
    uploads.mkdir()
    set_traps(uploads)
    shutil.copytree(cards, inputs)
    make_video(inputs / "clip.mp4", [grey(number) for number in range(12)])
    environment = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),  # the model is converted, too
        "PYTHONPATH": os.environ.get("PYTHONPATH", "") + os.pathsep,  # an empty entry
    }
    options = ("--weights", "testcard", "--device", "cpu", "--backend", backend)
    with Opened(uploads) as opened:
        done = moderate(
            uploads, "scan", inputs, *options, "--video-every", "1", "--no-state",
            "--out", tmp_path / "rows.csv", "-q", **environment,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, NOTICE)
    assert decisions(tmp_path / "rows.csv").items() >= expected(cards).items()
    assert opened.names == set()


def test_no_command_opens_what_lies_in_the_working_directory(tmp_path: Path) -> None:
    set_traps(tmp_path)
    empty = os.environ.get("PYTHONPATH", "") + os.pathsep
    for command in (["--version"], ["doctor", "--weights", "testcard", "--device", "cpu"]):
        with Opened(tmp_path) as opened:
            done = moderate(tmp_path, *command, PYTHONPATH=empty)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert opened.names == set(), command


def test_python_m_moderate_imports_nothing_more_from_the_working_directory(tmp_path: Path) -> None:
    set_traps(tmp_path)
    with Opened(tmp_path) as opened:
        done = subprocess.run(
            [sys.executable, "-m", "moderate", "policy", "list"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert opened.names == set()


def test_where_threads_have_no_working_directory_of_their_own_a_trap_is_named(
    tmp_path: Path, cards: Path
) -> None:
    folder = tmp_path / "uploads"
    folder.mkdir()
    scan = (
        "scan", cards, "--weights", "testcard", "--backend", "torch", "--no-state", "-q",
        "--out", tmp_path / "rows.csv",
    )  # fmt: skip
    assert moderate(folder, *scan, prepare=without_unshare).returncode == 0
    set_traps(folder)
    with Opened(folder) as opened:
        done = moderate(folder, *scan, prepare=without_unshare)
    assert (done.returncode, done.stderr) == (
        2,
        NOTICE
        + "moderate: error: the working directory holds libcuda.so.1, which torch's libraries "
        "would run as code: start moderate from another folder\n",
    )
    assert opened.names == set()


def test_such_a_trap_does_not_stop_a_scan_that_needs_no_torch(
    cards: Path, converted: tuple[Path, Path], tmp_path: Path
) -> None:
    set_traps(tmp_path)
    out = tmp_path / "rows.csv"
    options = ("--weights", "testcard", "--device", "cpu", "--out", out, "-q")
    done = moderate(tmp_path, "scan", cards, *options, prepare=without_unshare)
    assert (done.returncode, done.stderr) == (0, NOTICE)
    assert decisions(out) == expected(cards)


def removed(folder: Path) -> Callable[[], None]:
    return folder.rmdir


@pytest.mark.parametrize("made_unusable", [removed, in_closed_folder])
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_an_unusable_working_directory_does_not_matter_to_full_paths(
    cards: Path,
    tmp_path: Path,
    made_unusable: Callable[[Path], Callable[[], None]],
    backend: str,
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    config = tmp_path / "moderate.toml"
    config.write_text("")
    done = moderate(
        folder, "scan", cards, "--weights", "testcard", "--device", "cpu", "--backend", backend,
        "--config", config, "--out", tmp_path / "rows.csv", "-q", prepare=made_unusable(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert decisions(tmp_path / "rows.csv") == expected(cards)


def test_relative_names_in_a_working_directory_that_was_removed_are_one_line(
    cards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    config = tmp_path / "moderate.toml"
    config.write_text("")
    for names in ((cards, "--out", "rows.csv"), (".", "--out", tmp_path / "rows.csv")):
        folder.mkdir()
        done = moderate(
            folder, "scan", *names, "--weights", "testcard", "--device", "cpu",
            "--config", config, "-q", prepare=removed(folder),
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stdout == ""
        said = done.stderr.removeprefix(NOTICE)
        assert said.startswith("moderate: error: ")
        assert said.count("\n") == 1
        assert "fault" not in said
