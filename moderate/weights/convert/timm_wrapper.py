"""timm models that transformers saved (model_type `timm_wrapper`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moderate.classify.files import read_json, shown
from moderate.errors import WeightsError
from moderate.weights.convert.checks import (
    activation_of,
    checked,
    choose_labels,
    class_count,
    known_architecture,
)
from moderate.weights.convert.interface import Converted, Converter
from moderate.weights.convert.reading import CONFIG, model_type, read_tensors
from moderate.weights.convert.timm_config import default_cfg, described

_PREFIX = "timm_model."


class TimmWrapper(Converter):
    """transformers' TimmWrapperForImageClassification."""

    def recognises(self, folder: Path) -> bool:
        """By the model type."""
        return model_type(folder) == "timm_wrapper"

    def convert(self, folder: Path, labels: Sequence[str] | None = None) -> Converted:
        """Raises WeightsError."""
        where = shown(folder / CONFIG)
        config = read_json(folder / CONFIG)
        architecture = known_architecture(config.get("architecture"), where)
        cfg = config.get("pretrained_cfg")
        if cfg is None:
            cfg = default_cfg(architecture, where)
        if not isinstance(cfg, dict):
            raise WeightsError(f"{where}: pretrained_cfg must be a table")
        own = config.get("label_names") or config.get("id2label") or cfg.get("label_names")
        classes = config.get("num_classes", config.get("num_labels"))
        if classes is None:
            classes = len(own) if isinstance(own, list | dict) else cfg.get("num_classes")
        preprocess, arguments = described(architecture, cfg, config.get("model_args"), where)
        tensors = read_tensors(folder)
        # transformers 4 saved timm's names as they are, 5 saves its wrapper's.
        if all(name.startswith(_PREFIX) for name in tensors):
            tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
        converted = Converted(
            architecture=architecture,
            labels=choose_labels(own, labels, class_count(classes, where), where),
            activation=activation_of(config, where),
            preprocess=preprocess,
            tensors=tensors,
            model_args=arguments,
            head=None,
        )
        return checked(converted, shown(folder))
