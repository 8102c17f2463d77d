"""What cannot be added is named at once, with what to do, and nothing of it is unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from moderate.cli.main import run
from moderate.errors import WeightsError
from moderate.weights.kinds import check_addable


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.place / "sprung",)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("net.pth", b"", "safetensors.torch.save_file"),
        ("pytorch_model.bin", b"", "safetensors.torch.save_file"),
        ("NET.PT", b"", "safetensors.torch.save_file"),
        ("net.h5", b"", "tensorflowjs_converter"),
        ("net.keras", b"", "tf2onnx"),
        ("net.tflite", b"", "export the model to .onnx"),
        ("net.tar.gz", b"", "unpack it"),
        ("net.zip", b"", "unpack it"),
        ("named-like-nothing", b"\x89HDF\r\n\x1a\n and more", "Keras"),
        ("named-like-nothing", b"\x80\x02}q\x00.", "pickle"),
        ("named-like-nothing", b"PK\x03\x04", "archive"),
        ("named-like-nothing", b"text", "not a checkpoint in a known form"),
        ("config.json", b"{}", "add its folder"),
    ],
)
def test_a_file_that_cannot_be_added(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError) as error:
        check_addable(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((), "add the folder that a checkpoint's files lie in"),
        (("model.safetensors",), "--architecture"),
        (("model.onnx", "readme.md"), "model.onnx: add that file"),
        (("pytorch_model.bin",), "a pickle, which can run code"),
    ],
)
def test_a_folder_without_a_configuration(
    tmp_path: Path, files: tuple[str, ...], words: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(WeightsError) as error:
        check_addable(tmp_path)
    assert "neither config.json (timm, transformers) nor model.json" in str(error.value)
    assert words in str(error.value)


def test_what_can_be_added_passes(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.onnx"):
        (tmp_path / name).touch()
        check_addable(tmp_path / name)
    (tmp_path / "config.json").touch()
    check_addable(tmp_path)


def test_it_is_said_before_anything_else_is_asked_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("net.pth", "net"):
        Path(name).write_bytes(pickle.dumps(Trap(tmp_path), protocol=2))
        assert run(["weights", "add", name]) == 2
        assert f"{name} is a PyTorch checkpoint, a pickle" in capsys.readouterr().err
    assert not (tmp_path / "sprung").exists()
