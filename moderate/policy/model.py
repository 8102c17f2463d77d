"""What a policy file holds, validated: every mistake is reported with its key and the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from moderate.levels import MOST, DescribedLevel, Scale, check_scale, showable
from moderate.own_categories import (
    CategoryName,
    OwnCategory,
    as_in_file,
    lift_own,
    lower_own,
    why_taken,
)
from moderate.policy.perceptual import DISTANCE, QUALITY
from moderate.policy.second_opinion import MOST_OPINIONS, SecondOpinion
from moderate.policy.statements import Statements
from moderate.policy.when import parse_when
from moderate.types import CATEGORIES, PARTLY_SEEN_FROM, Category, Decision, Warn
from moderate.validation import Table, first_problem

MOST_LISTED = 1000
"""Entries of a list in a policy itself; a file takes more."""

Score = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False, strict=True)]
NotApprove = Literal[Decision.REVIEW, Decision.BLOCK]


Text = Annotated[str, AfterValidator(showable)]


def sha256_digits(text: str) -> str:
    """A SHA-256 in lower case. Raises ValueError for what is none."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError("a SHA-256 has 64 hexadecimal digits")
    return text.lower()


def pdq_digits(text: str) -> str:
    """A PDQ hash in lower case. Raises ValueError for what is none."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError("a PDQ hash has 64 hexadecimal digits")
    return text.lower()


def _when(text: str) -> str:
    parse_when(text)
    return text


def _no_number(value: Any) -> Any:
    """Pydantic would take a number for seconds since 1970."""
    if isinstance(value, (int, float)):
        raise ValueError("a date is written as 2027-01-31")
    return value


Pdq = Annotated[str, AfterValidator(pdq_digits)]
Distance = Annotated[int, Field(ge=0, le=256, strict=True)]
Quality = Annotated[int, Field(ge=0, le=100, strict=True)]
Sha256 = Annotated[str, AfterValidator(sha256_digits)]
Why = Annotated[Text, Field(min_length=1, max_length=200)]
FileName = Annotated[Text, Field(min_length=1, max_length=4096)]


def _label(name: str) -> str:
    model, slash, label = name.partition("/")
    if not (model and slash and label):
        raise ValueError("a label is named MODEL/LABEL, as in the results of scan --keep-labels")
    if "; " in name:
        raise ValueError("holds '; ', which separates reasons")
    return name


LabelName = Annotated[Text, Field(max_length=1000), AfterValidator(_label)]


class Thresholds(Table):
    """Of a category or label: score < review approves, >= block blocks, between is for people."""

    review: Score
    block: Score

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.review > self.block:
            raise ValueError(f"review ({self.review}) must not be above block ({self.block})")
        return self

    def decision(self, score: float) -> Decision:
        """What this category asks for at a score."""
        # Only here: NumPy would slow down every command that lists policies.
        from moderate.policy.thresholds import DECISIONS, score_bands

        return DECISIONS[int(score_bands(score, self.review, self.block))]


class Level(DescribedLevel):
    """One level of a rating scale, reached when a score in `any`, or all in `all`, are as high.

    With match, weights that were built for the scale say which description fits an image best.
    """

    match: Literal["description"] | None = None
    any: dict[CategoryName, Score] = {}
    all: dict[CategoryName, Score] = {}

    @model_serializer(mode="wrap")
    def _without_match(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what most levels do not have: earlier versions read their audit facts."""
        table: dict[str, Any] = dump(self)
        if self.match is None:
            table.pop("match", None)
        return table


def _check_rating(levels: Sequence[Level]) -> None:
    """Raise ValueError for levels that are no scale."""
    if len(levels) == 1:
        raise ValueError("rating: a scale has 2 to 7 levels")
    described = [level for level in levels if level.match]
    if described:
        for level in levels:
            if not level.match:
                raise ValueError(
                    f'rating: level {level.value!r} has no match = "description", which all levels '
                    "of a scale have or none"
                )
            if level.any or level.all:
                raise ValueError(
                    f"rating: level {level.value!r} matches by its description and has no "
                    "condition, any or all"
                )
        try:
            check_scale(levels)
        except ValueError as error:
            raise ValueError(f"rating: {error}") from None
        return
    for index, level in enumerate(levels):
        if index and not (level.any or level.all):
            raise ValueError(f"rating: level {level.value!r} needs a condition, any or all")
        if not index and (level.any or level.all):
            raise ValueError(
                f"rating: the first level, {level.value!r}, takes what no other level does "
                "and has no condition"
            )
    if len({level.value for level in levels}) != len(levels):
        raise ValueError("rating: two levels have the same value")


class Bands(Table):
    """Cuts of the derived columns: which categories make nsfw_score, and where it turns."""

    categories: Annotated[tuple[CategoryName, ...], Field(min_length=1)] = CATEGORIES
    nsfw_above: Score = 0.5
    risk_mid_from: Score = 0.1
    risk_high_above: Score = 0.5

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.risk_mid_from > self.risk_high_above:
            raise ValueError("risk_mid_from must not be above risk_high_above")
        return self


class PartialThresholds(Table):
    """Thresholds of one category or label that an override changes; None: as in the policy."""

    review: Score | None = None
    block: Score | None = None


class PartialBands(Table):
    """Cuts that an override changes; None: as in the policy."""

    categories: Annotated[tuple[CategoryName, ...], Field(min_length=1)] | None = None
    nsfw_above: Score | None = None
    risk_mid_from: Score | None = None
    risk_high_above: Score | None = None


class _WithOwn(Table):
    """What has thresholds for own categories, in the file `[categories.own.NAME]`."""

    @model_validator(mode="before")
    @classmethod
    def _lift_own(cls, table: Any) -> Any:
        return lift_own(table)

    @model_serializer(mode="wrap")
    def _lower_own(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return lower_own(handler(self))


class Override(_WithOwn):
    """Rows that are held to another policy: a preset's or file's, or this one with other values.

    own has thresholds for categories besides the five. `rules` is what `policy` names; it is
    filled in when the policy is loaded.
    """

    when: Annotated[Text, Field(min_length=1, max_length=1000), AfterValidator(_when)]
    name: Annotated[Text, Field(max_length=80)] = ""
    policy: FileName | None = None
    rules: Policy | None = None
    on_error: NotApprove | None = None
    on_unscored: Literal["ignore", "review"] | None = None
    on_warning: dict[Warn, NotApprove] = {}
    partly_seen_from: Score | None = None
    categories: dict[Category, PartialThresholds] = {}
    own: Annotated[dict[OwnCategory, PartialThresholds], Field(max_length=MOST_LISTED)] = {}
    labels: Annotated[dict[LabelName, PartialThresholds], Field(max_length=MOST_LISTED)] = {}
    rating: Annotated[tuple[Level, ...], Field(max_length=MOST)] = ()
    bands: PartialBands | None = None

    @property
    def label(self) -> str:
        """What reasons call it: its name, or its condition."""
        return self.name or self.when

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        own = (self.on_error, self.on_unscored, self.bands, self.partly_seen_from)
        thresholds = self.categories or self.own or self.labels
        has_own = own != (None,) * 4 or self.on_warning or thresholds or self.rating
        if self.policy and has_own:
            raise ValueError("has a policy and values of its own; give it one of the two")
        if not (self.policy or has_own):
            raise ValueError("changes nothing: give it a policy, or values of its own")
        return self

    def applied(self, policy: Policy) -> Policy:
        """The policy of the rows it is for. Raises ValidationError where its values do not fit."""
        if self.policy is not None:
            assert self.rules is not None, "load_policy fills it in"
            return self.rules
        changed = dict(policy) | _NOTHING_IN_CONTEXT
        changed["categories"] = {
            name: limits.model_dump() | self.categories[name].model_dump(exclude_none=True)
            if name in self.categories
            else limits
            for name, limits in policy.categories.items()
        }
        changed["own"] = _changed(policy.own, self.own)
        changed["labels"] = _changed(policy.labels, self.labels)
        changed["on_warning"] = policy.on_warning | self.on_warning
        if self.partly_seen_from is not None:
            changed["partly_seen_from"] = self.partly_seen_from
        changed["on_error"] = self.on_error or policy.on_error
        changed["on_unscored"] = self.on_unscored or policy.on_unscored
        changed["rating"] = self.rating or policy.rating
        if self.bands:
            changed["bands"] = dict(policy.bands) | self.bands.model_dump(exclude_none=True)
        return Policy.model_validate(changed)


def _changed(
    limits: Mapping[str, Thresholds], changes: Mapping[str, PartialThresholds]
) -> dict[str, Any]:
    """Thresholds as an override changes them; of one that the policy lacks, it has to give all."""
    changed = {name: each.model_dump() for name, each in limits.items()}
    for name, change in changes.items():
        changed[name] = changed.get(name, {}) | change.model_dump(exclude_none=True)
    return changed


class _Listed(Table):
    """An image by its SHA-256, by the PDQ hash of what it looks like, or by both.

    distance is how many of the 256 bits may differ; pictures whose own quality is below `quality`
    are not compared.
    """

    sha256: Sha256 | None = None
    pdq: Pdq | None = None
    distance: Distance = DISTANCE
    quality: Quality = QUALITY

    @model_validator(mode="after")
    def _names_an_image(self) -> Self:
        if self.sha256 is None and self.pdq is None:
            raise ValueError("names no image: give it a sha256, a pdq, or both")
        if self.pdq is None and {"distance", "quality"} & self.model_fields_set:
            raise ValueError("distance and quality go with a pdq")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what says nothing, so that entries of a SHA-256 alone are as they always were."""
        values: dict[str, Any] = handler(self)
        gone = {"sha256"} if self.sha256 is None else set()
        if self.pdq is None:
            gone |= {"pdq", "distance", "quality"}
        return {name: value for name, value in values.items() if name not in gone}


class Cleared(_Listed):
    """An image that a person cleared, up to the day before `expires`."""

    reason: Why
    expires: Annotated[date, BeforeValidator(_no_number)]
    by: Annotated[Text, Field(max_length=80)] | None = None


class Blocked(_Listed):
    """An image that is blocked whatever its scores."""

    reason: Why


class ListFile(Table):
    """What was in a list's file when the policy was loaded: its digest and number of entries.

    not_compared is how many entries have only hashes that are not compared, such as MD5.
    """

    sha256: Sha256
    entries: int
    not_compared: int = 0

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a count of nothing, so that other lists are as they always were."""
        values: dict[str, Any] = handler(self)
        if not self.not_compared:
            values.pop("not_compared", None)
        return values


class Policy(_WithOwn):
    """Thresholds for the five categories and what to do where a score alone does not decide.

    own has thresholds for categories besides the five, which the weights bring along. labels has
    thresholds for labels of the networks themselves, named MODEL/LABEL. partly_seen_from
    is the unseen share of a picture from which on_warning counts `partly_seen`.
    dsa is for statements of reasons; it decides nothing.
    second_opinion has scores from other weights taken in, before anything else is decided.
    `list_files` says what was in ignore_file and block_file; it is filled in when the policy is
    loaded.
    """

    name: Annotated[Text, Field(min_length=1, max_length=80)]
    description: Annotated[Text, Field(max_length=500)] = ""
    on_error: NotApprove = Decision.REVIEW
    on_unscored: Literal["ignore", "review"] = "ignore"
    on_warning: dict[Warn, NotApprove] = {}
    partly_seen_from: Score = PARTLY_SEEN_FROM
    categories: dict[Category, Thresholds]
    own: Annotated[dict[OwnCategory, Thresholds], Field(max_length=MOST_LISTED)] = {}
    labels: Annotated[dict[LabelName, Thresholds], Field(max_length=MOST_LISTED)] = {}
    rating: Annotated[tuple[Level, ...], Field(max_length=MOST)] = ()
    bands: Bands = Bands()
    override: tuple[Override, ...] = ()
    ignore: Annotated[tuple[Cleared, ...], Field(max_length=MOST_LISTED)] = ()
    block: Annotated[tuple[Blocked, ...], Field(max_length=MOST_LISTED)] = ()
    ignore_file: FileName | None = None
    block_file: FileName | None = None
    list_files: dict[Literal["ignore_file", "block_file"], ListFile] = {}
    dsa: Statements | None = None
    second_opinion: Annotated[tuple[SecondOpinion, ...], Field(max_length=MOST_OPINIONS)] = ()

    @model_serializer(mode="wrap")
    def _lower_own(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A policy without second opinions, too, is written as before there were any."""
        values = lower_own(handler(self))
        if not self.second_opinion:
            values.pop("second_opinion", None)
        return values

    @property
    def all_limits(self) -> dict[str, Thresholds]:
        """The thresholds of the five and of the own categories that there are any for."""
        return {**{str(name): limits for name, limits in self.categories.items()}, **self.own}

    def limits(self, category: str) -> Thresholds | None:
        """The thresholds of one of the five or an own category; None of an own one without any."""
        return (
            self.categories[Category(category)]
            if category in CATEGORIES
            else self.own.get(category)
        )

    @property
    def in_context(self) -> bool:
        """Whether a row's decision depends on more than its scores, warnings and error.

        Scores are those of categories and labels.
        """
        lists = self.ignore or self.block or self.ignore_file or self.block_file
        return bool(self.override or lists)

    @property
    def described_levels(self) -> Scale:
        """The levels of its rating scale where they match by description; else none."""
        if not any(level.match for level in self.rating):
            return ()
        return tuple(
            DescribedLevel(value=level.value, description=level.description)
            for level in self.rating
        )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if missing := [c.value for c in CATEGORIES if c not in self.categories]:
            raise ValueError(f"categories: no thresholds for {', '.join(missing)}")
        for name in self.own:
            if why := why_taken(name):
                raise ValueError(f"categories.own.{name}: {why}")
        self._check_named("bands.categories", self.bands.categories)
        self._check_named("dsa.categories", self.dsa.categories if self.dsa else ())
        for index, level in enumerate(self.rating):
            self._check_named(f"rating.{index}.any", level.any)
            self._check_named(f"rating.{index}.all", level.all)
        _check_rating(self.rating)
        return self

    def _check_named(self, key: str, names: Iterable[str]) -> None:
        """A misspelt name of one of the five must not pass for an own category."""
        for name in names:
            if name not in CATEGORIES and name not in self.own:
                raise ValueError(
                    f"{key}.{name}: is none of {', '.join(CATEGORIES)}, and the policy has no "
                    f"thresholds for it as an own category: [categories.own.{name}]"
                )

    @model_validator(mode="after")
    def _context_holds_together(self) -> Self:
        for name, entries in (("ignore", self.ignore), ("block", self.block)):
            known: dict[tuple[str, str], Cleared | Blocked] = {}
            for entry in entries:
                for kind, digits in (("sha256", entry.sha256), ("pdq", entry.pdq)):
                    if digits and known.setdefault((kind, digits), entry) != entry:
                        raise ValueError(f"{name}: entries for {digits} contradict each other")
        _no_two("when", [override.when for override in self.override])
        _no_two("name", [override.label for override in self.override])
        for number, override in enumerate(self.override):
            if override.policy is None:
                try:
                    override.applied(self)
                except ValidationError as error:
                    raise ValueError(
                        f"override.{number}.{as_in_file(first_problem(error))}"
                    ) from None
            elif override.rules and override.rules.in_context:
                raise ValueError(f"override.{number}.policy: {NOT_NESTED}")
            elif override.rules and override.rules.second_opinion:
                raise ValueError(f"override.{number}.policy: {NO_OWN_OPINION}")
        return self


NOT_NESTED = "has overrides or lists of its own, which only the policy that is named may have"
NO_OWN_OPINION = "has second opinions of its own, which only the policy that is named may have"
_NOTHING_IN_CONTEXT: dict[str, Any] = {
    "override": (),
    "ignore": (),
    "block": (),
    "ignore_file": None,
    "block_file": None,
    "list_files": {},
    "second_opinion": (),
}


def _no_two(key: str, values: Sequence[str]) -> None:
    for number, value in enumerate(values):
        if value in values[:number]:
            raise ValueError(f"override.{number}.{key}: {value!r} is that of an earlier override")


Override.model_rebuild()
Policy.model_rebuild()
