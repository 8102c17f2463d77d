"""What a catalogue entry holds, validated like every other file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from moderate.classify.bundle import LabelSum
from moderate.types import CATEGORIES, Category
from moderate.validation import Table

Labels = Annotated[tuple[LabelSum, ...], Field(min_length=1)]


class EntryModel(Table):
    """One checkpoint of an entry: where its files are and what its labels mean.

    repo is a hub repository (`owner/name`), or url a folder served over HTTPS with `files` in it.
    sha256 holds the digests known in advance. form `timm-keys` says that the tensors carry timm's
    names although config.json is not timm's. preprocess overrides what the source states.
    """

    repo: Annotated[str, Field(pattern=r"^([\w.-]+/[\w.-]+)?$")] = ""
    revision: str = "main"
    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    files: tuple[str, ...] = ()
    sha256: dict[str, str] = {}
    form: Literal["auto", "timm-keys"] = "auto"
    architecture: str
    labels: tuple[str, ...]
    activation: Literal["softmax", "sigmoid"]
    preprocess: dict[str, Any] = {}
    categories: dict[Category, Labels]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.repo) == bool(self.url):
            raise ValueError("needs a repo or a url, and not both")
        if self.url and set(self.files) != set(self.sha256):
            raise ValueError("files from a url need a digest each")
        return self


class Member(Table):
    """A part of a composite: another entry, for some of its categories."""

    entry: str
    categories: Annotated[tuple[Category, ...], Field(min_length=1)]


class Entry(Table):
    """A checkpoint, or a composite of several, that `weights pull` installs by name."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")]
    title: str
    licence: str
    size: str
    claim: str
    claimed_by: str
    verified: str = ""
    fit_for: str
    model: EntryModel | None = None
    member: tuple[Member, ...] = ()

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.model is None) == (not self.member):
            raise ValueError("needs a model, or members, and not both")
        return self

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories that some label feeds, in the usual order."""
        fed = set(self.model.categories) if self.model else set()
        fed |= {category for member in self.member for category in member.categories}
        return tuple(category for category in CATEGORIES if category in fed)
