"""Files that are none, or are endless, wherever a file is read whole: one line, at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moderate.classify.bundle import load_bundle
from moderate.errors import ModerateError
from moderate.policy.load import load_policy
from moderate.regular import MAX_TEXT_BYTES, read_regular, sha256_of
from moderate.weights.catalogue.mapping import read_mapping
from moderate.weights.convert.folder import convert_folder, convert_state_dict
from tests.support.bundles import make_bundle

GIGABYTES = 9 << 30


def fifo(path: Path) -> str:
    os.mkfifo(path)
    return "a FIFO, not a regular file"


def device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "a device, not a regular file"


def huge(path: Path) -> str:
    with path.open("wb") as file:
        file.truncate(GIGABYTES)  # sparse
    return "larger than "


Make = Callable[[Path], str]
KINDS = pytest.mark.parametrize("make", [fifo, device, huge])


def refused(function: Callable[[], object], *words: str) -> None:
    with pytest.raises(ModerateError) as caught:
        function()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@KINDS
@pytest.mark.parametrize("name", ["moderation.toml", "config.json", "model.safetensors"])
def test_files_of_a_bundle(tmp_path: Path, bundle: Path, name: str, make: Make) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    for file in bundle.iterdir():
        if file.name != name:
            (folder / file.name).symlink_to(file)
    said = make(folder / name)
    refused(lambda: load_bundle(str(folder)), name, said)


@KINDS
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_of_a_checkpoint_to_be_added(tmp_path: Path, name: str, make: Make) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / name).unlink()
    make(folder / name)
    refused(lambda: convert_folder(folder), name.partition(".")[0])


@KINDS
def test_a_single_file_to_be_added(tmp_path: Path, make: Make) -> None:
    said = make(tmp_path / "net.safetensors")
    refused(lambda: convert_state_dict(tmp_path / "net.safetensors", "test_vit", ["a", "b"]), said)


@KINDS
def test_a_policy(tmp_path: Path, make: Make) -> None:
    said = make(tmp_path / "mine.toml")
    refused(lambda: load_policy(str(tmp_path / "mine.toml")), "mine.toml", said)


@KINDS
@pytest.mark.parametrize("key", ["ignore_file", "block_file"])
def test_a_list_of_a_policy(tmp_path: Path, make: Make, key: str) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text(f'{key} = "list.csv"\n{load_policy("balanced").text}')
    (tmp_path / "list.csv").write_text("sha256,reason,expires\n")
    load_policy(str(policy))
    (tmp_path / "list.csv").unlink()
    said = make(tmp_path / "list.csv")
    refused(lambda: load_policy(str(policy)), key, "list.csv", said)


@KINDS
def test_a_policy_that_an_override_names(tmp_path: Path, make: Make) -> None:
    preset = load_policy("balanced").text
    named = '[[override]]\nwhen = "x/**"\npolicy = "other.toml"\n'
    (tmp_path / "mine.toml").write_text(preset + named)
    said = make(tmp_path / "other.toml")
    refused(lambda: load_policy(str(tmp_path / "mine.toml")), "other.toml", said)


@KINDS
def test_a_mapping_of_labels(tmp_path: Path, make: Make) -> None:
    said = make(tmp_path / "map.toml")
    refused(lambda: read_mapping([str(tmp_path / "map.toml")]), "map.toml", said)


def test_nesting_beyond_python_s_stack(tmp_path: Path) -> None:
    deep = "a = " + "[" * 100_000 + "]" * 100_000
    (tmp_path / "deep.toml").write_text(deep)
    refused(lambda: load_policy(str(tmp_path / "deep.toml")), "deep.toml: nested deeper than")
    refused(lambda: read_mapping([str(tmp_path / "deep.toml")]), "deep.toml: nested deeper than")
    (tmp_path / "moderation.toml").write_text(deep)
    refused(lambda: load_bundle(str(tmp_path)), "moderation.toml: nested deeper than")


def test_what_is_read_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * MAX_TEXT_BYTES)
    assert read_regular(path, MAX_TEXT_BYTES) == b"x" * MAX_TEXT_BYTES
    assert len(sha256_of(path)) == 64
    path.write_bytes(b"x" * (MAX_TEXT_BYTES + 1))
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_regular(path, MAX_TEXT_BYTES)
    with pytest.raises(OSError, match="No such file"):
        read_regular(tmp_path / "none", 1)
    with pytest.raises(OSError, match="a folder, not a regular file"):
        read_regular(tmp_path, 1)
