"""A checkpoint with two towers, and prompts, to a model that needs the tower for images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from moderate.classify.files import shown
from moderate.classify.words import MOST_COLUMNS, PromptRecord, Words, WordsKind
from moderate.errors import WeightsError
from moderate.text import one_line
from moderate.types import Category
from moderate.weights.assemble import Part
from moderate.weights.catalogue.mapping import LabelMap
from moderate.weights.convert.checks import checked
from moderate.weights.convert.interface import Converted
from moderate.weights.convert.reading import WEIGHTS, model_type
from moderate.weights.words import from_open_clip, from_transformers
from moderate.weights.words.levels import LevelGroup
from moderate.weights.words.prompts import Prompts, with_template
from moderate.weights.words.tokens import require_transformers
from moderate.weights.words.towers import TextTower, Towers

_MAX_COVERS = 200  # characters of a card
_NAMES: dict[WordsKind, str] = {"clip": "CLIP", "siglip": "SigLIP"}


@dataclass(frozen=True, slots=True)
class WordsModel:
    """A model of prompts: what a bundle installs, and what is to be said of it."""

    part: Part
    record: PromptRecord
    title: str
    fit_for: str
    covers: dict[str, str]
    notes: tuple[str, ...]


@dataclass
class _Layout:
    """The columns of a head, one per text, and what its labels are made of."""

    columns: dict[tuple[str, bool], int] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    fits: list[tuple[int, ...]] = field(default_factory=list)
    against: list[tuple[int, ...]] = field(default_factory=list)
    sources: dict[str, list[str]] = field(default_factory=dict)

    def numbers(self, texts: Sequence[str], *, templates: bool = True) -> tuple[int, ...]:
        """The columns of texts, which are added where they are new."""
        keys = dict.fromkeys((text.strip(), templates) for text in texts)
        return tuple(self.columns.setdefault(key, len(self.columns)) for key in keys)

    def add(self, label: str, fits: tuple[int, ...], against: tuple[int, ...]) -> None:
        """A label, unless it is there."""
        if label not in self.labels:
            self.labels.append(label)
            self.fits.append(fits)
            self.against.append(tuple(column for column in against if column not in fits))


def convert_words(folder: Path, prompts: Prompts, levels: LevelGroup, source: str) -> WordsModel:
    """The model of a checkpoint in the form of transformers or open_clip. Raises WeightsError.

    source is what the record calls the checkpoint.
    """
    require_transformers("reading prompts")
    towers = read_towers(folder)
    layout = _layout(towers.kind, prompts, levels, shown(folder))
    templates = prompts.file.templates or ("{}",)
    vectors = _vectors(towers.text, tuple(layout.columns), templates)
    converted = _converted(towers, layout, vectors, shown(folder))
    five = set(map(str, Category))
    categories: LabelMap = {
        Category(name): list(labels) for name, labels in layout.sources.items() if name in five
    }
    own = {name: labels for name, labels in layout.sources.items() if name not in five}
    kind = _NAMES[towers.kind]
    record = PromptRecord(
        sha256=prompts.sha256,
        tower=f"{source}: text tower of {kind}, {towers.text.positions} tokens",
        tower_sha256=towers.text.digest(),
        templates=prompts.file.templates,
        safe=prompts.file.safe.prompts if towers.kind == "clip" else (),
        categories=prompts.file.named(),
        levels=dict(levels.levels),
    )
    count = len(layout.columns)
    note = f"{count} texts ({prompts.name}) went through the text tower, which scans do not need"
    return WordsModel(
        part=Part(converted, categories, own=own),
        record=record,
        title=f"{converted.architecture} ({kind}) with {count} prompts",
        fit_for=_FIT_FOR[towers.kind],
        covers={
            name: one_line(f"what fits the prompts: {', '.join(of.prompts)}", _MAX_COVERS)
            for name, of in prompts.file.named().items()
        },
        notes=(note, _FIT_FOR[towers.kind]),
    )


_FIT_FOR: dict[WordsKind, str] = {
    "clip": "zero-shot, by prompts; unmeasured: evaluate it on images of your own (moderate eval) "
    "and calibrate it (moderate tune --calibrate) before you decide by its scores",
    "siglip": "zero-shot, by prompts; unmeasured, and its probabilities are tiny even for what "
    "does fit: calibrate it (moderate tune --calibrate) and evaluate it (moderate eval) on images "
    "of your own before you set thresholds",
}


def read_towers(folder: Path) -> Towers:
    """The towers in a folder. Raises WeightsError."""
    if not folder.is_dir():
        raise WeightsError(f"{shown(folder)}: prompts go with the folder of a checkpoint")
    plain = from_transformers.recognised(folder)
    whole = any((folder / name).is_file() for name in (WEIGHTS, f"{WEIGHTS}.index.json"))
    if plain and (whole or not from_open_clip.recognised(folder)):
        return from_transformers.read_towers(folder)
    if from_open_clip.recognised(folder):
        return from_open_clip.read_towers(folder)
    kind = model_type(folder)
    named = f"; its config.json is of type {one_line(repr(kind), 40)}" if kind else ""
    raise WeightsError(
        f"{shown(folder)}: --prompts needs a CLIP or SigLIP checkpoint with both its towers, in "
        f"the form of transformers or open_clip{named}"
    )


def _layout(kind: WordsKind, prompts: Prompts, levels: LevelGroup, where: str) -> _Layout:
    layout = _Layout()
    file = prompts.file
    for name, of in file.named().items():
        if kind == "siglip":
            for prompt, column in zip(of.prompts, layout.numbers(of.prompts), strict=True):
                layout.add(prompt.strip(), (column,), ())
            layout.sources[name] = [prompt.strip() for prompt in of.prompts]
            continue
        if not of.look_alikes and not file.safe.prompts:
            raise WeightsError(
                f"--prompts {prompts.name}: {name} has neither look-alikes nor are there safe "
                "prompts, and CLIP only tells which of several texts fits best"
            )
        against = layout.numbers((*file.safe.prompts, *of.look_alikes))
        layout.add(name, layout.numbers(of.prompts), against)
        layout.sources[name] = [name]
    described = [description for _, description in levels.levels]
    columns = layout.numbers(described, templates=False)
    for label, column in zip(levels.labels, columns, strict=True):
        if label in layout.labels:
            raise WeightsError(f"{where}: {one_line(repr(label), 60)} is a prompt and a level")
        layout.add(label, (column,), columns)
    most = max(len(layout.columns), len(layout.labels))
    if most > MOST_COLUMNS:
        with_levels = f" with {len(described)} levels" if described else ""
        raise WeightsError(
            f"--prompts {prompts.name}{with_levels}: {most:,} texts or labels, and one model has "
            f"{MOST_COLUMNS:,} at most"
        )
    return layout


def _vectors(
    tower: TextTower, texts: Sequence[tuple[str, bool]], templates: Sequence[str]
) -> torch.Tensor:
    """The vectors of texts, of length 1 each; those with templates are the mean over them."""
    spelled = [
        [with_template(text, template) for template in templates] if templated else [text]
        for text, templated in texts
    ]
    features = tower.features([each for group in spelled for each in group])
    parts = torch.split(features, [len(group) for group in spelled])
    vectors = torch.stack([part.mean(0) for part in parts])
    lengths = vectors.norm(dim=-1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise WeightsError(f"{tower.where}: the templates of a prompt cancel each other out")
    unit: torch.Tensor = vectors / lengths
    return unit


def _converted(towers: Towers, layout: _Layout, vectors: torch.Tensor, where: str) -> Converted:
    image = towers.image
    tensors = {f"tower.{name}": tensor for name, tensor in image.tensors.items()}
    tensors["prompts.weight"] = vectors * towers.scale
    tensors["prompts.bias"] = torch.full((len(vectors),), towers.bias)
    converted = Converted(
        architecture=image.architecture,
        labels=tuple(layout.labels),
        activation="sigmoid",
        preprocess=image.preprocess,
        tensors=tensors,
        model_args=image.model_args,
        head=None,
        words=Words(
            kind=towers.kind,
            features=image.features,
            projected=image.projected,
            columns=len(vectors),
            fits=tuple(layout.fits),
            against=tuple(layout.against),
        ),
    )
    return checked(converted, where)
