"""What `moderation.toml` says of a bundle of weights, as checked tables."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from moderate.classify.words import PromptRecord, Words
from moderate.decode.resample import Interpolation
from moderate.decode.resize import PixelSpec
from moderate.levels import Scale, check_scale
from moderate.own_categories import CategoryName, OwnCategory, lift_own, why_taken
from moderate.types import CATEGORIES, Category
from moderate.validation import Table

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "moderation.toml"
GRAPH = "model.onnx"
BUNDLE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"


# What a bundle may pass to timm: the shape of the network. Others load files, pickles included.
MODEL_ARGS = frozenset(
    {"act_layer", "bn_eps", "class_token", "depth", "embed_dim", "fc_norm", "global_pool"}
    | {"img_size", "init_values", "layer_norm_eps", "mlp_ratio", "num_heads", "pad_type"}
    | {"patch_size", "pos_embed", "pre_norm", "qkv_bias", "qk_norm", "reg_tokens"}
)


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


def flat_labels(sources: Sequence[LabelSum]) -> list[str]:
    """The labels of all sums."""
    return [label for item in sources for label in ([item] if isinstance(item, str) else item)]
