"""What a file or folder is that `weights add` cannot take, and what to do with it.

Nothing is opened but for its first bytes, and nothing is ever unpickled.
"""

from __future__ import annotations

import os
from pathlib import Path

from moderate.classify.files import shown
from moderate.errors import WeightsError

_PICKLE = (
    "is a PyTorch checkpoint, a pickle, which can run code when it is loaded, so it is not read: "
    "where you trust it, load it and save its state dict with safetensors.torch.save_file, then "
    "add the .safetensors file with --architecture and --labels"
)
_KERAS = (
    "is a Keras model: convert it with tensorflowjs_converter to a folder with model.json, or with "
    "tf2onnx to an .onnx file, and add that"
)
_OTHER_RUNTIME = "is for another runtime: export the model to .onnx, and add that"
_ARCHIVE = "is an archive: unpack it, and add the folder or file in it"

_SUFFIXES = {
    **dict.fromkeys((".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".tar.pth"), _PICKLE),
    **dict.fromkeys((".h5", ".hdf5", ".keras"), _KERAS),
    **dict.fromkeys((".tflite", ".pb", ".mlmodel", ".engine", ".plan", ".xml"), _OTHER_RUNTIME),
    **dict.fromkeys((".zip", ".tar", ".gz", ".bz2", ".xz", ".7z", ".zst"), _ARCHIVE),
}
_HEADS = (
    (b"\x89HDF\r\n\x1a\n", _KERAS),
    (b"\x80\x02", _PICKLE),
    (b"\x80\x04", _PICKLE),
    (b"\x80\x05", _PICKLE),
    (b"PK\x03\x04", _ARCHIVE),
    (b"\x1f\x8b", _ARCHIVE),
)
_MODELS = (".safetensors", ".onnx")
_FOLDER_FILES = ("config.json", "model.json")


def check_addable(path: Path) -> None:
    """Raise WeightsError, with what to do, for what cannot be read as a checkpoint."""
    where = shown(path)
    if path.is_dir():
        _check_folder(path, where)
        return
    if not path.exists():
        raise WeightsError(f"{where} does not exist")
    if not path.is_file():
        raise WeightsError(f"{where} is neither a file nor a folder")
    suffix = path.suffix.lower()
    if suffix in _MODELS:
        return
    if suffix in _SUFFIXES:
        raise WeightsError(f"{where} {_SUFFIXES[suffix]}")
    if path.name in _FOLDER_FILES:
        raise WeightsError(f"{where} is one file of several: add its folder, {shown(path.parent)}")
    head = _head(path)
    known = next((what for start, what in _HEADS if head.startswith(start)), None)
    raise WeightsError(
        f"{where} {known}"
        if known
        else f"{where} is not a checkpoint in a known form: add a .safetensors or .onnx file, or a "
        "folder of timm, transformers or TensorFlow.js"
    )


def _check_folder(folder: Path, where: str) -> None:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise WeightsError(f"{where}: {error.strerror}") from error
    if any(name in names for name in _FOLDER_FILES):
        return
    needs = f"{where} has neither config.json (timm, transformers) nor model.json (TensorFlow.js)"
    for name in names:
        suffix = Path(name).suffix.lower()
        if suffix == ".safetensors":
            advice = "add it alone, with --architecture (timm's name) and --labels"
            raise WeightsError(f"{needs}, but {shown(folder / name)}: {advice}")
        if suffix == ".onnx":
            raise WeightsError(f"{needs}, but {shown(folder / name)}: add that file")
        if suffix in _SUFFIXES:
            raise WeightsError(f"{needs}; {shown(folder / name)} {_SUFFIXES[suffix]}")
    raise WeightsError(f"{needs}: add the folder that a checkpoint's files lie in")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise WeightsError(f"{shown(path)}: {error.strerror}") from error
