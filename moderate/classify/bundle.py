"""A bundle of weights: a folder with `moderation.toml` and, per model, timm's local-dir form."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from moderate.classify.files import read_json
from moderate.classify.words import PromptRecord, Words
from moderate.decode.resample import Interpolation
from moderate.decode.resize import PixelSpec
from moderate.errors import WeightsError
from moderate.folders import no_home, user_data
from moderate.levels import LABEL, Scale, check_scale, scale_labels
from moderate.own_categories import CategoryName, OwnCategory, as_in_file, lift_own, why_taken
from moderate.regular import file_state, sha256_of
from moderate.text import nearest, one_line, printable
from moderate.toml_files import TomlError, read_toml
from moderate.types import CATEGORIES, Category
from moderate.validation import Table, first_problem

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "moderation.toml"
GRAPH = "model.onnx"
SHIPPED = "testcard"
BUNDLE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"


# What a bundle may pass to timm: the shape of the network. Others load files, pickles included.
MODEL_ARGS = frozenset(
    {"act_layer", "bn_eps", "class_token", "depth", "embed_dim", "fc_norm", "global_pool"}
    | {"img_size", "init_values", "layer_norm_eps", "mlp_ratio", "num_heads", "pad_type"}
    | {"patch_size", "pos_embed", "pre_norm", "qkv_bias", "qk_norm", "reg_tokens"}
)
_ARCHITECTURE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")  # a name, not an address to load from


Side = Annotated[int, Field(ge=8, le=4096)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Three = tuple[Finite, Finite, Finite]
UnitScore = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class Preprocess(Table):
    """The preprocessing of a model. size is (height, width); mean and std apply to 0..1 values.

    exact = true forbids decoding large JPEGs at a reduced scale.
    """

    size: tuple[Side, Side]
    resize: Literal["squash", "crop"]
    interpolation: Interpolation
    antialias: bool = True
    align_corners: bool = False
    exact: bool = False
    crop_pct: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    mean: Three
    std: Three

    @model_validator(mode="after")
    def _expressible(self) -> Self:
        if not self.antialias and self.interpolation != "bilinear":
            raise ValueError("antialias = false goes with interpolation bilinear")
        if self.antialias and self.align_corners:
            raise ValueError("align_corners = true goes with antialias = false")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be above 0")
        return self

    def pixel_spec(self) -> PixelSpec:
        """The part of the preprocessing that the decoders do."""
        return PixelSpec(
            height=self.size[0],
            width=self.size[1],
            resize=self.resize,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            antialias=self.antialias,
            align_corners=self.align_corners,
            exact=self.exact,
        )


class Head(Table):
    """A head that is not timm's own: linear layers of these widths with an activation between."""

    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65_536)], ...], Field(min_length=1, max_length=8)
    ]
    activation: Literal["relu", "gelu", "tanh"] = "relu"


Layout = Literal["nchw", "nhwc"]
Colours = Literal["rgb", "bgr"]


class GraphInput(Table):
    """The inputs and outputs of a model.onnx: the order of its axes and colours, and its outputs.

    The preprocessing's mean and std are those of red, green and blue, whatever the order here.
    """

    labels: Annotated[tuple[str, ...], Field(min_length=1, max_length=100_000)]
    layout: Layout
    colours: Colours = "rgb"

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: two labels have the same name")
        return self


LabelSum = str | Annotated[tuple[str, ...], Field(min_length=1)]
Sources = Annotated[tuple[LabelSum, ...], Field(min_length=1)]
Combine = Literal["max", "mean"]
Coverage = Annotated[str, Field(min_length=1, max_length=200)]

MOST_LABELS = 64
"""A model with more labels than these keeps the scores of those that feed a category alone."""


class ModelCard(Table):
    """One model of a bundle: a timm network, or the ONNX graph that `onnx` describes.

    activation `none` is for graphs whose outputs are probabilities. own holds what feeds the
    bundle's own categories, in the file `[model.categories.own]`. words describes a tower that
    compares images with prompts.
    """

    folder: str = "."
    activation: Literal["softmax", "sigmoid", "none"]
    sha256: dict[Literal["config.json", "model.safetensors", "model.onnx"], str]
    onnx: GraphInput | None = None
    preprocess: Preprocess
    categories: dict[Category, Sources]
    own: dict[OwnCategory, Sources] = {}
    head: Head | None = None
    words: Words | None = None
    model_args: dict[str, str | int | float | bool] = {}

    def fed(self) -> Iterator[tuple[str, tuple[LabelSum, ...]]]:
        """All categories with what feeds them: those of the five, then own ones."""
        yield from self.categories.items()
        yield from self.own.items()

    @model_validator(mode="before")
    @classmethod
    def _lift_own(cls, table: Any) -> Any:
        """`[model.categories.own]` holds names that the closed list of categories has not."""
        return lift_own(table)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if unknown := sorted(set(self.model_args) - MODEL_ARGS):
            raise ValueError(f"model_args: {unknown[0]} may not be set")
        for name, value in self.model_args.items():
            if isinstance(value, int | float) and not abs(value) <= 65_536:
                raise ValueError(f"model_args: {name} is too large")
        needed = {GRAPH} if self.onnx else {CONFIG, WEIGHTS}
        if missing := needed - set(self.sha256):
            raise ValueError(f"sha256: no digest for {', '.join(sorted(missing))}")
        if surplus := set(self.sha256) - needed:
            raise ValueError(f"sha256: {', '.join(sorted(surplus))} is not of this kind of model")
        if self.onnx and (self.head or self.model_args):
            raise ValueError("onnx goes without head and model_args")
        if self.words and (self.onnx or self.head):
            raise ValueError("words goes without onnx and head")
        if self.words and self.activation != "sigmoid":
            raise ValueError("words goes with activation sigmoid")
        if self.activation == "none" and not self.onnx:
            raise ValueError("activation: none goes with onnx")
        for name in self.own:
            if why := why_taken(name):
                raise ValueError(f"categories.own.{name}: {why}")
        for _, sources in self.fed():
            if any(len(set(s)) < len(s) for s in sources if not isinstance(s, str)):
                raise ValueError("categories: a sum names the same label twice")
        if os.path.isabs(self.folder) or ".." in self.folder.split("/"):
            raise ValueError("folder: must lie inside the bundle")
        if not self.folder.isprintable():
            raise ValueError("folder: holds a control character")
        return self


class Calibration(Table):
    """How a category's raw score becomes the score: Platt scaling, or a monotone table.

    sigmoid(logit(score) / temperature + bias), after Platt (1999) and Guo et al. (2017); or linear
    interpolation between `table`'s (raw, calibrated) points, as isotonic regression gives them.
    """

    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    bias: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    table: tuple[tuple[UnitScore, UnitScore], ...] = ()

    @model_validator(mode="after")
    def _monotone(self) -> Self:
        raw, calibrated = [x for x, _ in self.table], [y for _, y in self.table]
        if len(self.table) == 1:
            raise ValueError("table: needs at least two points")
        if any(a >= b for a, b in pairwise(raw)) or any(a > b for a, b in pairwise(calibrated)):
            raise ValueError("table: raw scores must rise and calibrated scores never fall")
        if self.table and (self.temperature != 1.0 or self.bias != 0.0):
            raise ValueError("table goes without temperature and bias")
        return self


class SelfTest(Table):
    """Scores of the seeded inputs of `classify.selftest`, computed at install on the CPU in fp32.

    tolerance is the largest difference allowed in fp32, low_tolerance in bf16 and fp16.
    """

    tolerance: UnitScore = 1e-4
    low_tolerance: UnitScore = 0.05
    scores: dict[CategoryName, tuple[UnitScore, ...]]


class Trained(Table):
    """What the holdout of a training said of one category of a head.

    positive and negative are images that it was fitted on; the others were held out. Shares are
    value, low and high of a 95 % interval, at the threshold `review`; none where it is undefined.
    """

    positive: int
    negative: int
    held_out_positive: int
    held_out_negative: int
    penalty: Finite
    review: UnitScore
    recall: tuple[UnitScore, ...] = ()
    precision: tuple[UnitScore, ...] = ()
    roc_auc: tuple[UnitScore, ...] = ()


class Training(Table):
    """Where a trained head comes from: the weights and labels, by digests, and the evidence."""

    base: str
    base_sha256: str
    model: str
    labels_sha256: str
    seed: int
    duplicates: int
    contradicted: int
    category: dict[str, Trained]


class Card(Table):
    """What moderation.toml holds.

    digest says where the sha256 values come from: `published` (known before the download),
    `first-pull` (taken at the first download, checked ever since) or `own` (files of one's own).
    combine says how the scores of several models become that of a category: their maximum, unless
    it says `mean`, or their mean. covers says in words what a category's score is able to show.
    levels are the rating levels, the mildest first, whose descriptions a model was built to match:
    for each of them it has a label `level:VALUE`. prompts is there where the bundle was made of
    prompts, training where `moderate train` wrote it.
    """

    format: Literal[1]
    name: Annotated[str, Field(pattern=rf"^{BUNDLE_NAME}$")]
    purpose: Literal["moderation", "demo"]
    title: str
    source: str
    licence: str
    fit_for: str
    revision: str = ""
    digest: Literal["published", "first-pull", "own"] = "own"
    combine: dict[CategoryName, Combine] = {}
    covers: dict[CategoryName, Coverage] = {}
    calibration: dict[CategoryName, Calibration] = {}
    levels: Scale = ()
    prompts: PromptRecord | None = None
    training: Training | None = None
    selftest: SelfTest | None = None
    model: Annotated[tuple[ModelCard, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _of_levels(self) -> Self:
        if self.levels:
            try:
                check_scale(self.levels)
            except ValueError as error:
                raise ValueError(f"levels: {error}") from None
        for number, model in enumerate(self.model):
            if not (model.categories or model.own or self.levels):
                raise ValueError(f"model.{number}.categories: no category is fed by any label")
        return self

    @model_validator(mode="after")
    def _of_fed_categories(self) -> Self:
        check_combine(self.combine, [(*model.categories, *model.own) for model in self.model])
        fed = self.all_categories
        if unfed := [category for category in self.covers if category not in fed]:
            raise ValueError(f"covers: no label feeds {unfed[0]}")
        known = {*fed, *CATEGORIES}
        if unfed := [category for category in self.calibration if category not in known]:
            raise ValueError(f"calibration: no label feeds {unfed[0]}")
        return self

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories that some label feeds."""
        fed = {category for model in self.model for category in model.categories}
        return tuple(category for category in CATEGORIES if category in fed)

    @property
    def own_categories(self) -> tuple[str, ...]:
        """The bundle's own categories, in the order of the card."""
        return tuple(dict.fromkeys(name for model in self.model for name in model.own))

    @property
    def all_categories(self) -> tuple[str, ...]:
        """Those of the five that some label feeds, and the bundle's own."""
        return (*self.categories, *self.own_categories)


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
            feeding = {label for _, sources in model.card.fed() for label in _flat(sources)}
            many = len(names) > MOST_LABELS
            found += [
                name
                for name, label in zip(names, model.labels, strict=True)
                if not many or label in feeding or name in of_levels
            ]
        return tuple(found)


def check_combine(combine: Iterable[str], models: Sequence[Collection[str]]) -> None:
    """Raise ValueError where a category that is to be combined has not several models.

    models holds the categories that each model feeds.
    """
    for category in combine:
        if sum(category in fed for fed in models) < 2:
            raise ValueError(f"combine: {category} is not fed by several models")


def part_name(card: Card, model: ModelCard) -> str:
    """The model's part of a label's name: its folder in the bundle, or the bundle's name."""
    folder = os.path.normpath(model.folder)
    return card.name if folder == "." else folder


def shared_labels(card: Card) -> tuple[str, ...]:
    """A sentence for each group of categories whose scores move together, read off the card.

    Categories that are fed by exactly the same labels, combined in the same way, have one score;
    others may still have a label in common. The labels of a softmax model are shares of one whole,
    so that categories fed by different ones take from each other.
    """
    feeding = {category: _feeding(card, category) for category in card.all_categories}
    sentences: list[str] = []
    groups: list[list[str]] = []
    for category, sources in feeding.items():
        same = next((group for group in groups if feeding[group[0]] == sources), None)
        if same is None:
            groups.append([category])
        else:
            same.append(category)
    sentences += [f"{_listed(group)} come from one score" for group in groups if len(group) > 1]
    for index, group in enumerate(groups):
        for other in groups[index + 1 :]:
            common = {x for x in _names(feeding[group[0]]) if x in _names(feeding[other[0]])}
            if common:
                labels = "the label" if len(common) == 1 else "the labels"
                sentences.append(
                    f"{_listed([*group, *other])} share {labels} {', '.join(sorted(common))}"
                )
    for index, model in enumerate(card.model):
        sources_of = dict(model.fed())
        fed = [category for category in card.all_categories if category in sources_of]
        distinct = {_feeding_of(card, index, category) for category in fed}
        if model.activation == "softmax" and len(distinct) > 1:
            sentences.append(
                f"{_listed(fed)} are shares of one whole in {part_name(card, model)} (softmax): "
                "where one rises, others fall"
            )
    return tuple(sentences)


_Source = tuple[str, frozenset[str]]
_Feeding = tuple[str, frozenset[_Source]]


def _feeding(card: Card, category: str) -> _Feeding:
    """What a category's score is made of: how it is combined, and which sums of labels feed it."""
    sources = [_feeding_of(card, index, category) for index in range(len(card.model))]
    return card.combine.get(category, "max"), frozenset().union(*sources)


def _feeding_of(card: Card, index: int, category: str) -> frozenset[_Source]:
    """Which sums of labels of one model feed a category."""
    model = card.model[index]
    return frozenset(
        (str(index), frozenset(f"{part_name(card, model)}/{label}" for label in _flat([source])))
        for source in dict(model.fed()).get(category, ())
    )


def _names(feeding: _Feeding) -> set[str]:
    return {name for _, names in feeding[1] for name in names}


def _flat(sources: Sequence[LabelSum]) -> list[str]:
    return [label for item in sources for label in ([item] if isinstance(item, str) else item)]


def _listed(categories: Sequence[str]) -> str:
    return f"{', '.join(categories[:-1])} and {categories[-1]}"


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
        if unknown := sorted(set(_flat(sources)) - known):
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
