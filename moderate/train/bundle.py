"""Trained heads become a bundle, which is installed as every other one is.

It holds all tensors of the network that the heads were trained on, and needs nothing of the bundle
that this came from: that one may be removed or replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moderate.classify import selftest
from moderate.classify.bundle import Bundle, ModelFiles
from moderate.classify.card import GRAPH, WEIGHTS, part_name
from moderate.classify.features import FeatureModel, with_layer
from moderate.classify.files import read_safetensors
from moderate.classify.model import build_model
from moderate.classify.onnx_graph import read_bytes
from moderate.decode.resize import Pixels
from moderate.errors import UsageError, WeightsError
from moderate.text import printable
from moderate.train.head import Head
from moderate.types import Category
from moderate.weights.assemble import Facts, Part, install
from moderate.weights.catalogue.mapping import LabelMap
from moderate.weights.convert.checks import checked
from moderate.weights.convert.interface import Converted
from moderate.weights.graph import OnnxModel
from moderate.weights.pull import alone

_DIFFERENCE = 1e-4
"""How far scores of the new network may be from those of the heads on features."""


def find_model(bundle: Bundle, named: str | None) -> int:
    """The place of the network to train on, by its folder where there are several.

    Raises UsageError, also for a bundle without a network that can be taken apart.
    """
    names = [part_name(bundle.card, model.card) for model in bundle.models]
    usable = [
        name for name, model in zip(names, bundle.models, strict=True) if model.kind == "timm"
    ]
    shown = printable(bundle.name)
    if not usable:
        raise UsageError(
            f"{shown} holds ONNX graphs alone, which cannot be taken apart: train on weights that "
            "hold a network of timm, as those installed with torch do"
        )
    if named is None and len(usable) > 1:
        listed = ", ".join(map(printable, usable))
        raise UsageError(f"{shown} holds several networks: name one with --model: {listed}")
    if named is not None and named not in usable:
        why = "is an ONNX graph, which cannot be taken apart" if named in names else "is not in it"
        listed = ", ".join(map(printable, usable))
        raise UsageError(f"--model {printable(named)} {why}; {shown} holds {listed}")
    return names.index(usable[0] if named is None else named)


def check_keep(bundle: Bundle) -> None:
    """Raise UsageError where other categories of a bundle cannot be kept beside trained ones."""
    if bundle.card.calibration:
        raise UsageError(
            f"{printable(bundle.name)} is calibrated, which --keep would lose: train on the "
            "weights that it is a copy of, and calibrate the new ones"
        )


def trained_part(files: ModelFiles, heads: Mapping[str, Head], folder: str) -> Part:
    """The network with the heads as its last layer. Raises WeightsError."""
    names = tuple(heads)
    weight = np.stack([head.weight for head in heads.values()])
    bias = np.array([head.bias for head in heads.values()], np.float32)
    tensors = with_layer(files, _tensors(files), weight, bias)
    converted = checked(
        Converted(
            architecture=files.architecture,
            labels=names,
            activation="sigmoid",
            preprocess=files.card.preprocess,
            tensors=tensors,
            model_args=dict(files.card.model_args),
            head=None,
        ),
        files.architecture,
    )
    five = set(Category)
    return Part(
        converted,
        {Category(name): [name] for name in names if name in five},
        folder,
        own={name: [name] for name in names if name not in five},
    )


def check_part(part: Part, model: FeatureModel, heads: Mapping[str, Head]) -> None:
    """Raise WeightsError unless the new network scores as the heads do on the old one's features.

    Networks may do something of their own between features and the last layer.
    """
    converted = part.converted
    assert isinstance(converted, Converted)
    spec = converted.preprocess.pixel_spec()
    pixels: Pixels = np.stack([image for (image,) in selftest.inputs((spec,))])  # type: ignore[assignment]
    features = model.features(pixels)
    wanted = np.stack([head.scores(features) for head in heads.values()], axis=1)
    network = build_model(converted.architecture, len(converted.labels), converted.model_args, None)
    network.load_state_dict(converted.tensors, strict=True)
    shape = (1, 3, 1, 1)
    mean = torch.tensor(converted.preprocess.mean).view(shape)
    std = torch.tensor(converted.preprocess.std).view(shape)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.inference_mode():
        scores = torch.sigmoid(network.eval()(images)).numpy()
    difference = float(np.abs(scores - wanted).max())
    if not difference <= _DIFFERENCE:
        raise WeightsError(
            f"{printable(converted.architecture)} with the new last layer gives scores that "
            f"differ by {difference:.1e} from those of the head: train on another network"
        )


def kept_parts(bundle: Bundle, trained: Sequence[str]) -> list[Part]:
    """The models of a bundle for the categories that are not trained, and for rating levels.

    Raises WeightsError.
    """
    of_levels = set(bundle.level_labels)
    parts = []
    for files, labels in zip(bundle.models, bundle.labels, strict=True):
        card = files.card
        categories: LabelMap = {
            category: [item if isinstance(item, str) else list(item) for item in sources]
            for category, sources in card.categories.items()
            if category not in trained
        }
        own = {name: sources for name, sources in card.own.items() if name not in trained}
        if categories or own or of_levels.intersection(labels):
            name = part_name(bundle.card, card)
            folder = name if card.folder != "." else f"{name}-base"
            parts.append(Part(_as_it_is(files), categories, folder, own=own))
    return parts


def install_trained(
    name: str,
    bundle: Bundle,
    part: Part,
    others: Sequence[Part],
    training: Mapping[str, Any],
    *,
    replace: bool,
) -> Path:
    """Install the trained network, and beside it those that are kept. Raises WeightsError."""
    card = bundle.card
    trained = ", ".join(training["category"])
    kept = [str(name) for each in others for name in (*each.categories, *each.own)]
    facts = Facts(
        name=name,
        title=f"A head for {trained}, trained on own labels",
        source=f"trained on the features of {training['model']} of {card.name}",
        licence=card.licence,
        fit_for=f"{trained}: images like those that were labelled; the figures of the images held "
        "out are under [training]."
        + (f" The other categories are those of {card.name}." if others else ""),
        combine={
            category: how for category, how in card.combine.items() if kept.count(category) > 1
        },
        covers={
            **{category: text for category, text in card.covers.items() if category in kept},
            **dict.fromkeys(training["category"], "what the labels that it was trained on call so"),
        },
        levels=card.levels if _has_words(others) else (),
        prompts=card.prompts if _has_words(others) else None,
        training=training,
    )
    with alone():
        return install(facts, [part, *others], replace=replace)


def _has_words(parts: Sequence[Part]) -> bool:
    """Whether one of these models compares images with texts, as those of levels do."""
    return any(isinstance(each.converted, Converted) and each.converted.words for each in parts)


def _tensors(files: ModelFiles) -> dict[str, torch.Tensor]:
    return read_safetensors(Path(files.folder) / WEIGHTS, files.card.sha256["model.safetensors"])


def _as_it_is(files: ModelFiles) -> Converted | OnnxModel:
    """A model of an installed bundle, to be written into another one."""
    card = files.card
    if card.onnx is not None:
        data = read_bytes(Path(files.folder) / GRAPH)
        return OnnxModel(data, card.onnx, card.activation, card.preprocess)
    assert card.activation != "none"
    return Converted(
        architecture=files.architecture,
        labels=files.labels,
        activation=card.activation,
        preprocess=card.preprocess,
        tensors=_tensors(files),
        model_args=dict(card.model_args),
        head=card.head,
        words=card.words,
    )
