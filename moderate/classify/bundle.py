"""A bundle of weights: a folder with `moderation.toml` and, per model, timm's local-dir form."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from moderate.classify.card import (
    CARD,
    CONFIG,
    MOST_LABELS,
    WEIGHTS,
    Card,
    ModelCard,
    flat_labels,
    part_name,
)
from moderate.classify.files import read_json
from moderate.decode.resize import PixelSpec
from moderate.errors import WeightsError
from moderate.folders import no_home, user_data
from moderate.levels import LABEL, scale_labels
from moderate.own_categories import as_in_file
from moderate.regular import file_state, sha256_of
from moderate.text import nearest, one_line, printable
from moderate.toml_files import TomlError, read_toml
from moderate.validation import first_problem

SHIPPED = "testcard"
_ARCHITECTURE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")  # a name, not an address to load from

Kind = Literal["timm", "onnx"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model's card with what its config.json says, or what the card says of its graph."""

    card: ModelCard
    folder: str
    architecture: str
    labels: tuple[str, ...]
    weights_state: tuple[int, ...] | None = field(default=None, compare=False)
    """`file_state` of the weights before their digest was checked."""

    @property
    def kind(self) -> Kind:
        """Whether it is a network of timm or an ONNX graph."""
        return "onnx" if self.card.onnx else "timm"

    def summary(self) -> str:
        """Which architecture gives which categories, in a line."""
        fed = ", ".join([*self.card.categories, *self.card.own])
        return f"{self.architecture}: {fed or 'rating levels'}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were found to match their digests.

    sha256 is the digest of all that scores depend on: the models' cards, which hold the digests of
    their files, the calibration, and how scores are combined. The same weights have the same digest
    on every machine.
    """

    card: Card
    path: str
    sha256: str
    models: tuple[ModelFiles, ...]

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.card.name

    @property
    def kinds(self) -> frozenset[Kind]:
        """What its models are."""
        return frozenset(model.kind for model in self.models)

    @property
    def specs(self) -> tuple[PixelSpec, ...]:
        """What the decoders make for each model, in order."""
        return tuple(model.card.preprocess.pixel_spec() for model in self.models)

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """Per model the names of all its labels, as MODEL/LABEL, safe to show.

        MODEL is the folder of the model in the bundle, or the bundle's name where it has none.
        """
        return tuple(
            tuple(
                printable(f"{part_name(self.card, model.card)}/{label}") for label in model.labels
            )
            for model in self.models
        )

    @property
    def level_labels(self) -> tuple[str, ...]:
        """The names of the labels of the card's levels, in their order."""
        return scale_labels(self.card.levels, [name for names in self.labels for name in names])

    @property
    def kept_labels(self) -> tuple[str, ...]:
        """The names of the labels whose scores `--keep-labels` writes.

        They are all labels of a model; of one with more than MOST_LABELS, those that feed a
        category or are of a level.
        """
        found: list[str] = []
        of_levels = set(self.level_labels)
        for model, names in zip(self.models, self.labels, strict=True):
            feeding = {label for _, sources in model.card.fed() for label in flat_labels(sources)}
            many = len(names) > MOST_LABELS
            found += [
                name
                for name, label in zip(names, model.labels, strict=True)
                if not many or label in feeding or name in of_levels
            ]
        return tuple(found)


def find_bundle(name_or_folder: str) -> str:
    """The folder of a bundle: installed, shipped, or any folder. Raises WeightsError.

    A bare name is an installed bundle first: a folder of that name that happens to lie in the
    working directory must not take its place. A name from the catalogue is never such a folder,
    installed or not. `./name` is always the folder.
    """
    is_name = "/" not in name_or_folder and not name_or_folder.startswith(".")
    for root in _roots() if is_name else ():
        folder = os.path.join(root, name_or_folder)
        if os.path.isfile(os.path.join(folder, CARD)):
            return folder
    known = is_name and name_or_folder in (SHIPPED, *_catalogue_names())
    if os.path.isdir(name_or_folder) and not known:
        return name_or_folder
    raise WeightsError(_why_there_are_none(name_or_folder, known=known))


def _why_there_are_none(name: str, *, known: bool) -> str:
    shown = printable(name)
    if known:
        message = (
            f"the weights {shown} are not installed; moderate weights pull {shown} installs them"
        )
        return (
            f"{message} (the folder of that name is ./{shown})" if os.path.isdir(name) else message
        )
    if name.startswith("hf:"):
        return f"weights are installed before they are used: moderate weights pull {shown}"
    if os.path.isfile(name):
        return f"{shown} is a file: moderate weights add {shown} --name NAME installs it"
    names = sorted(set(installed_bundles()))
    if meant := nearest(name, [*names, *_catalogue_names()]):
        return f"no weights {shown!r}; did you mean {meant!r}?"
    return (
        f"no weights {shown!r}: name a bundle's folder, or one of {', '.join(names)}; "
        "'moderate weights list' lists those that can be installed"
    )


def installed_bundles() -> Iterator[str]:
    """Names that `find_bundle` takes."""
    for root in _roots():
        if os.path.isdir(root):
            for name in sorted(os.listdir(root)):
                # A dot marks what is being installed or removed.
                if not name.startswith(".") and os.path.isfile(os.path.join(root, name, CARD)):
                    yield name


def user_weights() -> Path:
    """The folder that installed bundles live in. Raises WeightsError for a user without a home."""
    if (data := user_data()) is None:
        raise WeightsError(f"there is no folder for weights: {no_home()}; set XDG_DATA_HOME")
    return data / "weights"


def _catalogue_names() -> list[str]:
    # Those of its files: reading them is the catalogue's own business.
    entries = files("moderate.weights.catalogue").joinpath("entries")
    return [file.name.removesuffix(".toml") for file in entries.iterdir()]


def _roots() -> tuple[str, ...]:
    package = str(files("moderate"))
    installed = (str(user_weights()),) if user_data() else ()
    return (
        *installed,
        os.path.join(package, "shipped_weights"),  # an installed wheel
        os.path.join(os.path.dirname(package), "weights"),  # a checkout
    )


def load_bundle(name_or_folder: str) -> Bundle:
    """Read and verify a bundle, without building its models. Raises WeightsError.

    Every file's digest is checked here, so that a changed file stops a run before its first image.
    """
    folder = find_bundle(name_or_folder)
    card = load_card(folder)
    models = tuple(_model_files(model, folder) for model in card.model)
    scoring = card.model_dump(mode="json", include={"model", "calibration"})
    if card.levels:  # their order says which frame of an animation counts
        scoring["levels"] = card.model_dump(mode="json", include={"levels"})["levels"]
    if means := sorted(name for name, how in card.combine.items() if how == "mean"):
        scoring["mean"] = means  # where there is none, the digest is that of older versions
    for model_card in scoring["model"]:
        if model_card["onnx"] is None:  # so that the digest of timm networks stays what it was
            del model_card["onnx"]
        for added in ("own", "words"):  # so that digests from before there were any stay
            if not model_card[added]:
                del model_card[added]
    digest = hashlib.sha256(json.dumps(scoring, sort_keys=True).encode()).hexdigest()
    bundle = Bundle(card, folder, digest, models)
    if card.levels and not bundle.level_labels:
        where = printable(os.path.join(folder, CARD))
        names = one_line(", ".join(f"{LABEL}{level.value}" for level in card.levels), 200)
        raise WeightsError(f"{where}: levels: no model, or more than one, has the labels {names}")
    return bundle


def load_card(folder: str) -> Card:
    """Read and validate a bundle's moderation.toml alone. Raises WeightsError."""
    card_file = os.path.join(folder, CARD)
    where = printable(card_file)
    if os.path.isdir(folder) and not os.path.lexists(card_file):
        shown = printable(folder)
        raise WeightsError(
            f"{shown} is not a bundle of weights: it has no {CARD}; 'moderate weights add {shown} "
            "--name NAME' makes a bundle of a checkpoint's folder"
        )
    try:
        return Card.model_validate(read_toml(card_file))
    except TomlError as error:
        raise WeightsError(f"{where}: {error}") from error
    except ValidationError as error:
        raise WeightsError(f"{where}: {as_in_file(first_problem(error))}") from error


def _model_files(card: ModelCard, bundle: str) -> ModelFiles:
    folder = os.path.normpath(os.path.join(bundle, card.folder))
    weights_state = file_state(os.path.join(folder, WEIGHTS))
    for name, promised in sorted(card.sha256.items()):
        found = _digest(os.path.join(folder, name))
        if found != promised.lower():
            raise WeightsError(
                f"{printable(os.path.join(folder, name))} is not the file that {CARD} promises "
                f"(sha256 {found[:12]}..., promised {promised[:12]}...); install the weights again"
            )
    if card.onnx:
        architecture, labels = "ONNX graph", card.onnx.labels
    else:
        architecture, labels = _read_config(os.path.join(folder, CONFIG))
    if card.words and len(card.words.fits) != len(labels):
        raise WeightsError(
            f"{printable(os.path.join(bundle, CARD))}: words has {len(card.words.fits)} outputs, "
            f"but the model has {len(labels)} labels"
        )
    known = set(labels)
    for fed, sources in card.fed():
        category = f"own.{fed}" if fed in card.own else fed
        if unknown := sorted(set(flat_labels(sources)) - known):
            raise WeightsError(
                f"{printable(os.path.join(bundle, CARD))}: categories.{category} names the label "
                f"{unknown[0]!r}, but the model's labels are {', '.join(labels)}"
            )
    # Models are built in threads whose working directory is another one: see `moderate.native`.
    return ModelFiles(card, os.path.abspath(folder), architecture, labels, weights_state)


def _read_config(path: str) -> tuple[str, tuple[str, ...]]:
    """Architecture and label names, as timm writes them to a hub repo's config.json."""
    where = printable(path)
    config = read_json(Path(path))
    try:
        architecture = config["architecture"]
        labels = config.get("label_names") or config["pretrained_cfg"]["label_names"]
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{where}: needs architecture and label_names ({error})") from error
    if not isinstance(architecture, str) or not isinstance(labels, list) or not labels:
        raise WeightsError(f"{where}: needs architecture and label_names")
    if not _ARCHITECTURE.fullmatch(architecture):
        raise WeightsError(f"{where}: {one_line(architecture, 60)!r} is no name of an architecture")
    names = tuple(str(label) for label in labels)
    if len(set(names)) != len(names):
        raise WeightsError(f"{where}: two labels have the same name")
    if config.get("num_classes", len(names)) != len(names):
        raise WeightsError(f"{where}: {config['num_classes']} classes but {len(names)} label names")
    return architecture, names


def _digest(path: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{printable(path)}: {error.strerror}") from error
