"""Converts a folder of weights from any known form to timm's, and writes the files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import save_file

from moderate.classify.files import read_json, read_safetensors, shown
from moderate.errors import WeightsError
from moderate.text import one_line
from moderate.weights.convert.checks import checked, choose_labels, class_count, known_architecture
from moderate.weights.convert.efficientnet import EfficientNet
from moderate.weights.convert.interface import Converted, Converter
from moderate.weights.convert.layers_model import LayersModel
from moderate.weights.convert.reading import CONFIG, WEIGHTS
from moderate.weights.convert.siglip import Siglip
from moderate.weights.convert.timm_config import config_of, default_cfg, preprocess_of
from moderate.weights.convert.timm_repo import TimmRepo
from moderate.weights.convert.timm_wrapper import TimmWrapper
from moderate.weights.convert.vit import Vit

CONVERTERS: tuple[Converter, ...] = (
    TimmRepo(),
    TimmWrapper(),
    Vit(),
    Siglip(),
    EfficientNet(),
    LayersModel(),
)


def convert_folder(folder: Path, *, labels: Sequence[str] | None = None) -> Converted:
    """Convert the files in `folder` from any known form to timm's.

    `labels` names the outputs, in order, of a source that does not name them itself; where it
    does, they must be the same. Raises WeightsError.
    """
    if not folder.is_dir():
        raise WeightsError(f"{shown(folder)}: no such folder")
    for converter in CONVERTERS:
        if converter.recognises(folder):
            return converter.convert(folder, labels)
    if (folder / CONFIG).is_file():
        kind = read_json(folder / CONFIG).get("model_type")
        of_prompts = "; with --prompts a checkpoint of CLIP can, too" if kind == "clip" else ""
        raise WeightsError(
            f"{shown(folder / CONFIG)}: models of type {one_line(repr(kind), 60)} cannot be "
            "converted; timm repositories can, and transformers' vit, siglip, efficientnet and "
            f"timm_wrapper{of_prompts}"
        )
    raise WeightsError(
        f"{shown(folder)}: neither {CONFIG} (timm, transformers) nor model.json (TensorFlow.js)"
    )


def convert_state_dict(
    file: Path,
    architecture: str,
    labels: Sequence[str],
    *,
    activation: Literal["softmax", "sigmoid"] = "softmax",
) -> Converted:
    """A house model: a timm checkpoint in safetensors.

    Preprocessing is timm's default for the architecture. Raises WeightsError.
    """
    where = shown(file)
    architecture = known_architecture(architecture, where)
    if file.suffix != ".safetensors":
        raise WeightsError(
            f"{where}: only .safetensors files are read, as loading others can run code that they "
            "carry (pickle); save the state dict with safetensors.torch.save_file"
        )
    converted = Converted(
        architecture=architecture,
        labels=choose_labels(None, labels, class_count(len(labels), where), where),
        activation=activation,
        preprocess=preprocess_of(default_cfg(architecture, where), where),
        tensors=read_safetensors(file),
        model_args={},
        head=None,
    )
    return checked(converted, where)


def write_model(converted: Converted, folder: Path) -> None:
    """Write config.json, in timm's local-dir form, and model.safetensors. Raises WeightsError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in converted.tensors.items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(config_of(converted), indent=2, ensure_ascii=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{shown(folder)}: {one_line(str(error))}") from error


def source_labels(folder: Path, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """The label names that a folder's config.json gives, in output order, or else `given`.

    Raises WeightsError where there are neither.
    """
    config = read_json(folder / CONFIG)
    own = config.get("label_names") or config.get("id2label")
    stated = config.get("num_classes", config.get("num_labels"))
    classes = stated if isinstance(stated, int) else len(own or given or ())
    return choose_labels(own, given, classes, shown(folder / CONFIG))
