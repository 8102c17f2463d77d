"""Repositories and folders in timm's own form: config.json and model.safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moderate.classify.files import read_json, shown
from moderate.errors import WeightsError
from moderate.weights.convert.checks import checked, choose_labels, class_count, known_architecture
from moderate.weights.convert.interface import Converted, Converter
from moderate.weights.convert.reading import CONFIG, read_tensors
from moderate.weights.convert.timm_config import default_cfg, described


class TimmRepo(Converter):
    """A model that timm saved or pushed."""

    def recognises(self, folder: Path) -> bool:
        """By an architecture, and no model type of transformers."""
        if not (folder / CONFIG).is_file():
            return False
        config = read_json(folder / CONFIG)
        return "architecture" in config and "model_type" not in config

    def convert(self, folder: Path, labels: Sequence[str] | None = None) -> Converted:
        """Raises WeightsError."""
        where = shown(folder / CONFIG)
        config = read_json(folder / CONFIG)
        architecture = known_architecture(config["architecture"], where)
        # Files of timm's early hub days hold everything in one table.
        cfg = config.get("pretrained_cfg", config if "input_size" in config else None)
        if not isinstance(cfg, dict):
            raise WeightsError(
                f"{where}: no pretrained_cfg says how the model wants its pixels; add the "
                "safetensors file by its architecture if timm's default is right for it"
            )
        classes = config.get("num_classes", cfg.get("num_classes"))
        if classes is None:
            classes = default_cfg(architecture, where).get("num_classes")
        own = config.get("label_names") or cfg.get("label_names") or config.get("labels")
        preprocess, arguments = described(architecture, cfg, config.get("model_args"), where)
        converted = Converted(
            architecture=architecture,
            labels=choose_labels(own, labels, class_count(classes, where), where),
            activation="softmax",
            preprocess=preprocess,
            tensors=read_tensors(folder),
            model_args=arguments,
            head=None,
        )
        return checked(converted, shown(folder))
