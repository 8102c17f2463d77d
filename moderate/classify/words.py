"""What a card says of a model that compares images with prompts, as CLIP and SigLIP do."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from moderate.validation import Table

MOST_COLUMNS = 2_000
"""The most prompts and descriptions of one model."""

WordsKind = Literal["clip", "siglip"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Texts = tuple[str, ...]
_Columns = tuple[Annotated[int, Field(ge=0, lt=MOST_COLUMNS)], ...]


class Words(Table):
    """A cosine head on an image tower: one column per prompt, one output per label.

    columns are the cosines of an image with each prompt, scaled and shifted as the checkpoint was
    trained. The output of a label is logsumexp(columns in `fits`) less logsumexp(columns in
    `against`), or the former alone where nothing is against it. features is the width of the
    tower's features; projected says that a linear layer of the tower makes them.
    """

    kind: WordsKind
    features: Annotated[int, Field(ge=1, le=65_536)]
    projected: bool
    columns: Annotated[int, Field(ge=1, le=MOST_COLUMNS)]
    fits: Annotated[
        tuple[Annotated[_Columns, Field(min_length=1)], ...],
        Field(min_length=1, max_length=MOST_COLUMNS),
    ]
    against: tuple[_Columns, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.fits) != len(self.against):
            raise ValueError("words: fits and against are of different lengths")
        for columns in (*self.fits, *self.against):
            if any(column >= self.columns for column in columns):
                raise ValueError(f"words: there are {self.columns} columns")
            if len(set(columns)) != len(columns):
                raise ValueError("words: a label names the same column twice")
        return self


class PromptsOf(Table):
    """The prompts of one category, and of what looks like it and is none of it."""

    prompts: _Texts
    look_alikes: _Texts = ()


class PromptRecord(Table):
    """The prompts that a bundle was made of; for readers, scores come from their vectors.

    sha256 is the digest of the prompt file, tower_sha256 that of the tensors of the text tower.
    levels maps the value of a level to its description.
    """

    sha256: Digest
    tower: str
    tower_sha256: Digest
    templates: _Texts = ()
    safe: _Texts = ()
    categories: dict[str, PromptsOf] = {}
    levels: dict[str, str] = {}
