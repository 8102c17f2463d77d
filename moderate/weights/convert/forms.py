"""Forms of checkpoints that only entries of the catalogue name; no file says them of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from moderate.classify.files import shown
from moderate.errors import WeightsError
from moderate.weights.convert.efficientnet_lite import convert_efficientnet_lite
from moderate.weights.convert.interface import Converted
from moderate.weights.convert.nsfwjs_inception import convert_nsfwjs_inception
from moderate.weights.convert.open_nsfw import convert_open_nsfw
from moderate.weights.convert.swiftformer import convert_swiftformer

Form = Callable[[Path, Sequence[str]], Converted]


def _single(suffix: str, convert: Form) -> Form:
    """A form of one file, which is the only one in its folder with that suffix."""

    def from_folder(folder: Path, labels: Sequence[str]) -> Converted:
        files = sorted(folder.glob(f"*{suffix}"))
        if len(files) != 1:
            raise WeightsError(f"{shown(folder)}: {len(files)} files {suffix}, not one")
        return convert(files[0], labels)

    return from_folder


FORMS: Mapping[str, Form] = {
    "open-nsfw-onnx": _single(".onnx", convert_open_nsfw),
    "swiftformer-onnx": _single(".onnx", convert_swiftformer),
    "nsfwjs-inception": convert_nsfwjs_inception,
    "efficientnet-lite-pth": _single(".pth", convert_efficientnet_lite),
}
"""Folder and labels in output order to timm's terms, by the form's name in the catalogue."""
