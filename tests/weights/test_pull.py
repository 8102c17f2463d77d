"""Pulling through the real client from a hub on loopback: checked, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moderate.classify.bundle import load_bundle, user_weights
from moderate.cli.main import run
from moderate.types import Category
from moderate.weights.catalogue.load import catalogue
from tests.support.bundles import write_model
from tests.support.hub import COMMIT, Hub, running_hub
from tests.support.nsfwjs import CHECKPOINT
from tests.support.pictures import encode, scene

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODERATE_WEIGHTS_MIRROR", hub.url)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        yield hub


def repo_files(folder: Path, **model: object) -> dict[str, bytes]:
    """A timm-native repository of a random model."""
    write_model(folder, **model)  # type: ignore[arg-type]
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def image(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(encode(scene(), "PNG"))
    return folder


def last_error(capsys: Captured) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def nothing_installed() -> bool:
    root = user_weights()
    return not root.exists() or not [p for p in root.iterdir() if not p.name.startswith(".")]


@pytest.mark.parametrize("redirect", [False, True])
def test_any_timm_repository(hub: Hub, tmp_path: Path, capsys: Captured, redirect: bool) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    hub.redirect = redirect
    assert run(["weights", "pull", "hf:acme/net"]) == 0
    assert COMMIT in capsys.readouterr().out
    bundle = load_bundle("net")
    assert bundle.card.revision == COMMIT
    assert bundle.card.digest == "first-pull"
    assert bundle.card.selftest is not None
    assert bundle.card.categories == (
        Category.NUDITY, Category.SEXUAL_ACTIVITY, Category.SUGGESTIVE,
    )  # fmt: skip
    assert (
        run(["scan", str(image(tmp_path / "in")), "--weights", "net", "-q", "--out", "o.csv"]) == 0
    )
    assert run(["weights", "verify", "net"]) == 0
    told = re.search(r"largest difference ([\d.e+-]+)", capsys.readouterr().out)
    assert told is not None
    assert float(told[1]) < 1e-5
    assert run(["weights", "pull", "hf:acme/net"]) == 2
    assert "--replace" in last_error(capsys)
    assert run(["weights", "pull", "hf:acme/net", "--replace"]) == 0
    assert run(["weights", "remove", "net"]) == 0
    assert nothing_installed()
    assert run(["weights", "remove", "net"]) == 2


def test_unknown_labels_are_printed_and_a_mapping_asked_for(
    hub: Hub, tmp_path: Path, capsys: Captured
) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("fine", "spicy", "bloody"))
    assert run(["weights", "pull", "hf:acme/net"]) == 2
    message = last_error(capsys)
    assert "fine, spicy, bloody" in message
    assert "--map" in message
    (tmp_path / "map.toml").write_text("[categories]\nsuggestive = ['spicy']\n")
    mapped = ["--map", "map.toml", "--map", "violence=bloody,spicy+bloody"]
    assert run(["weights", "pull", "hf:acme/net", *mapped]) == 0
    categories = load_bundle("net").card.model[0].categories
    assert categories[Category.SUGGESTIVE] == ("spicy",)
    assert categories[Category.VIOLENCE] == ("bloody", ("spicy", "bloody"))


def test_an_entry_of_the_catalogue(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    entry = catalogue()["marqo-nsfw-384"]
    assert entry.model is not None
    hub.repos[entry.model.repo] = repo_files(
        tmp_path / "src", architecture=entry.model.architecture, labels=entry.model.labels
    )
    assert run(["weights", "pull", entry.name]) == 0
    assert "no digest was known in advance" in capsys.readouterr().out
    assert run(["weights", "list", "--json"]) == 0
    listed = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert listed[entry.name]["installed"] is True
    assert listed[entry.name]["digest"] == "first-pull"
    assert listed["freepik-nsfw"]["installed"] is False


def test_a_checkpoint_whose_labels_changed_is_refused(
    hub: Hub, tmp_path: Path, capsys: Captured
) -> None:
    entry = catalogue()["marqo-nsfw-384"]
    assert entry.model is not None
    hub.repos[entry.model.repo] = repo_files(tmp_path / "src", labels=("LABEL_A", "SFW"))
    assert run(["weights", "pull", entry.name]) == 2
    assert "LABEL_A" in last_error(capsys)
    assert nothing_installed()


def test_a_composite_of_two_entries(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    for name in ("marqo-nsfw-384", "image-multi-detect"):
        model = catalogue()[name].model
        assert model is not None
        hub.repos[model.repo] = repo_files(
            tmp_path / name, architecture=model.architecture, labels=model.labels
        )
    assert run(["weights", "pull", "full-coverage-light"]) == 0
    bundle = load_bundle("full-coverage-light")
    assert bundle.card.categories == tuple(Category)
    assert set(bundle.card.model[0].categories) == {
        Category.NUDITY, Category.SEXUAL_ACTIVITY, Category.SUGGESTIVE,
    }  # fmt: skip
    assert set(bundle.card.model[1].categories) == {Category.VIOLENCE, Category.DRUG_USE}
    folder = image(tmp_path / "in")
    assert run(["scan", str(folder), "--weights", bundle.name, "-q", "--out", "o.jsonl"]) == 0
    assert run(["scan", str(folder), "--weights", bundle.name]) == 0
    shown = capsys.readouterr().out
    assert "vit_tiny_patch16_384: nudity, sexual_activity, suggestive" in shown
    assert "resnet50: violence, drug_use" in shown
    row = json.loads(Path("o.jsonl").read_text())
    assert all(row[category.value] is not None for category in Category)


def test_nsfwjs_from_a_mirror_equals_the_reference(hub: Hub, tmp_path: Path) -> None:
    if not CHECKPOINT.is_dir():
        pytest.skip(f"THE REAL CHECKPOINT IS MISSING: no {CHECKPOINT}")
    for name in ("model.json", "group1-shard1of1"):
        hub.plain[f"/nsfwjs/{name}"] = (CHECKPOINT / name).read_bytes()
    assert run(["weights", "pull", "nsfwjs"]) == 0
    assert load_bundle("nsfwjs").card.digest == "published"
    images = str(CHECKPOINT / "images")
    assert run(["scan", images, "--weights", "nsfwjs", "-q", "--out", "o.jsonl"]) == 0
    rows = {
        Path(row["path"]).name: row
        for row in map(json.loads, Path("o.jsonl").read_text().splitlines())
    }
    reference = json.loads((CHECKPOINT / "reference.json").read_text())["images"]
    assert len(rows) == len(reference)
    for entry in reference:
        row = rows[Path(entry["file"]).name]
        near = 2e-5 if entry["file"].endswith(".png") else 0.01
        _, hentai, _, porn, sexy = entry["probs"]
        assert row["nudity"] == pytest.approx(max(hentai, porn), abs=near)
        assert row["suggestive"] == pytest.approx(sexy, abs=near)
        assert row["violence"] is None


# What goes wrong ---------------------------------------------------------------------------------


def test_wrong_content_is_never_installed(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    hub.corrupt = {"model.safetensors"}
    assert run(["weights", "pull", "hf:acme/net"]) == 2
    assert "not what was promised" in last_error(capsys)
    assert nothing_installed()
    hub.corrupt = set()
    assert run(["weights", "pull", "hf:acme/net"]) == 0


def test_wrong_content_from_a_mirror(hub: Hub, capsys: Captured) -> None:
    hub.plain["/nsfwjs/model.json"] = b"{}"
    assert run(["weights", "pull", "nsfwjs"]) == 2
    assert "model.json is not what was promised" in last_error(capsys)
    assert nothing_installed()


@pytest.mark.parametrize("name", ["hf:acme/gone", "hf:acme/net@v9", "nonesuch", "hf:acme/pickle"])
def test_what_cannot_be_pulled_is_one_clear_line(
    hub: Hub, tmp_path: Path, capsys: Captured, name: str
) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    hub.repos["acme/pickle"] = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."}
    assert run(["weights", "pull", name]) == 2
    err = capsys.readouterr().err
    said = {"hf:acme/net@v9": "revision v9", "nonesuch": "catalogue", "hf:acme/pickle": "pickle"}
    assert said.get(name, "not on the hub") in err.splitlines()[-1]
    assert "Traceback" not in err
    assert nothing_installed()


def test_gated_repositories_want_a_token(
    hub: Hub, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    hub.gated = {"acme/net"}
    assert run(["weights", "pull", "hf:acme/net"]) == 2
    assert "HF_TOKEN" in last_error(capsys)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert run(["weights", "pull", "hf:acme/net"]) == 0


def test_a_cut_connection_then_a_pull_that_completes(
    hub: Hub, tmp_path: Path, capsys: Captured
) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    hub.cut_after = 10_000
    assert run(["weights", "pull", "hf:acme/net"]) == 2
    assert "Pull again" in last_error(capsys)
    assert nothing_installed()
    hub.cut_after = None
    assert run(["weights", "pull", "hf:acme/net"]) == 0
    assert not (user_weights() / ".downloads" / "net").exists()


def test_a_pull_that_is_killed_installs_nothing_and_the_next_completes(
    hub: Hub, tmp_path: Path
) -> None:
    hub.repos["acme/net"] = repo_files(
        tmp_path / "src", architecture="vit_tiny_patch16_224", labels=("NSFW", "SFW")
    )
    hub.slow = 0.02
    log = tmp_path / "pull.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moderate", "weights", "pull", "hf:acme/net"],
            stdout=output,
            stderr=output,
        )
    deadline = time.monotonic() + 60
    while not [r for r in hub.requests if r[0] == "GET" and r[1].endswith(".safetensors")]:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, (log.read_text(), hub.requests)
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert nothing_installed()
    hub.slow = 0.0
    assert run(["weights", "pull", "hf:acme/net"]) == 0
    assert load_bundle("net").card.selftest is not None


def test_one_flipped_byte_in_an_installed_file_stops_a_scan(
    hub: Hub, tmp_path: Path, capsys: Captured
) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    assert run(["weights", "pull", "hf:acme/net"]) == 0
    file = user_weights() / "net" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    folder = str(image(tmp_path / "in"))
    assert run(["scan", folder, "--weights", "net", "--out", "o.csv"]) == 2
    assert "promises" in last_error(capsys)
    assert not Path("o.csv").exists()
    assert run(["weights", "verify", "net"]) == 2
    assert run(["doctor", "--weights", "net"]) == 2


def test_a_self_test_out_of_tolerance_is_an_error(
    hub: Hub, tmp_path: Path, capsys: Captured
) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    assert run(["weights", "pull", "hf:acme/net"]) == 0
    card = user_weights() / "net" / "moderation.toml"
    head, _, tail = card.read_text().partition("[selftest.scores]\n")
    first = tail.splitlines()[0]
    category, values = first.split(" = ")
    wrong = [min(1.0, value + 0.1) for value in json.loads(values)]
    card.write_text(head + "[selftest.scores]\n" + tail.replace(first, f"{category} = {wrong}"))
    assert run(["weights", "verify", "net"]) == 2
    assert "self-test" in last_error(capsys)
    assert run(["doctor", "--weights", "net", "--device", "cpu"]) == 2
    assert "PROBLEM" in capsys.readouterr().out
    assert run(["doctor", "--weights", "testcard", "--device", "cpu"]) == 0


def test_offline_is_said(hub: Hub, tmp_path: Path) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    # The client reads this variable once, when it is imported.
    done = subprocess.run(
        [sys.executable, "-m", "moderate", "weights", "pull", "hf:acme/net"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE" in done.stderr
    assert not hub.requests


def test_scoring_asks_no_network(hub: Hub, tmp_path: Path) -> None:
    folder = str(image(tmp_path / "in"))
    assert run(["scan", folder, "--weights", "testcard", "-q", "--out", "o.csv"]) == 0
    assert not hub.requests


# What hostile repositories and bad luck must not achieve -----------------------------------------


def test_files_of_one_repository_are_never_installed_as_anothers(
    hub: Hub, tmp_path: Path, capsys: Captured
) -> None:
    hub.repos["evil/net"] = repo_files(tmp_path / "evil", labels=("a", "b"), seed=1)
    hub.repos["good/net"] = repo_files(tmp_path / "good", labels=("NSFW", "SFW"), seed=2)
    assert run(["weights", "pull", "hf:evil/net"]) == 2, "its labels mean nothing"
    assert run(["weights", "pull", "hf:good/net"]) == 0
    assert load_bundle("net").models[0].labels == ("NSFW", "SFW")


@pytest.mark.parametrize("name", ["nsfwjs", "testcard"])
def test_nothing_passes_for_weights_of_the_catalogue(
    hub: Hub, tmp_path: Path, capsys: Captured, name: str
) -> None:
    hub.repos[f"evil/{name}"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    assert run(["weights", "pull", f"hf:evil/{name}"]) == 2
    assert "--name" in last_error(capsys)
    assert run(["weights", "add", str(tmp_path / "src"), "--name", name]) == 2
    assert load_bundle("testcard").card.purpose == "demo"
    assert run(["weights", "pull", f"hf:evil/{name}", "--name", "other"]) == 0


@pytest.mark.parametrize("entry", ["marqo-nsfw-384", "image-multi-detect"])
def test_labels_are_the_sources_own_in_its_order(
    hub: Hub, tmp_path: Path, capsys: Captured, entry: str
) -> None:
    model = catalogue()[entry].model
    assert model is not None
    turned = tuple(reversed(model.labels))
    files = repo_files(tmp_path / "src", architecture=model.architecture, labels=turned)
    hub.repos[model.repo] = files
    assert run(["weights", "pull", entry]) == 0
    assert load_bundle(entry).models[0].labels == turned
    config = json.loads(files["config.json"])
    del config["label_names"]
    files["config.json"] = json.dumps(config).encode()
    assert run(["weights", "pull", entry, "--replace"]) == 2, "an order is not trusted"
    assert "label" in last_error(capsys)
    assert load_bundle(entry).models[0].labels == turned


def test_another_architecture_under_a_known_name_is_refused(
    hub: Hub, tmp_path: Path, capsys: Captured
) -> None:
    entry = catalogue()["marqo-nsfw-384"]
    assert entry.model is not None
    hub.repos[entry.model.repo] = repo_files(tmp_path / "src", labels=entry.model.labels)
    assert run(["weights", "pull", entry.name]) == 2
    assert "vit_tiny_patch16_384" in last_error(capsys)
    assert run(["weights", "pull", entry.name, "--map", "nudity=NSFW"]) == 2
    assert "hf:owner/name" in last_error(capsys)


def test_a_config_that_was_altered_on_the_way(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    hub.corrupt = {"config.json"}
    assert run(["weights", "pull", "hf:acme/net"]) == 2
    assert "config.json is not what was promised" in last_error(capsys)


def test_independent_outputs_are_scored_as_such_when_said(hub: Hub, tmp_path: Path) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    assert run(["weights", "pull", "hf:acme/net", "--activation", "sigmoid"]) == 0
    assert load_bundle("net").card.model[0].activation == "sigmoid"


def test_a_replacement_that_cannot_be_published_leaves_the_old(
    hub: Hub, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    assert run(["weights", "pull", "hf:acme/net"]) == 0
    rename = os.rename

    def full_disk(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        if ".staging" in str(source):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", full_disk)
    assert run(["weights", "pull", "hf:acme/net", "--replace"]) == 2
    assert "No space left" in last_error(capsys)
    assert load_bundle("net").card.source == "hf:acme/net"


def test_one_installation_at_a_time(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    from moderate.locks import lock_file

    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    user_weights().mkdir(parents=True)
    (user_weights() / ".staging-net-dead").mkdir()
    with lock_file(user_weights() / ".lock"):
        assert run(["weights", "pull", "hf:acme/net"]) == 2
        assert "another installation" in last_error(capsys)
    assert run(["weights", "pull", "hf:acme/net"]) == 0
    assert not list(user_weights().glob(".staging-*")), "what a killed one left is swept up"


def test_weights_exchanged_after_their_check_are_not_used(hub: Hub, tmp_path: Path) -> None:
    from moderate.classify.classifier import Classifier
    from moderate.classify.device import place
    from moderate.errors import WeightsError

    hub.repos["acme/net"] = repo_files(tmp_path / "src", labels=("NSFW", "SFW"))
    assert run(["weights", "pull", "hf:acme/net"]) == 0
    bundle = load_bundle("net")
    write_model(tmp_path / "other", labels=("NSFW", "SFW"), seed=9)
    os.replace(tmp_path / "other/model.safetensors", Path(bundle.path) / "model.safetensors")
    with pytest.raises(WeightsError, match="changed since it was checked"):
        Classifier(bundle, place("cpu", "fp32"))
