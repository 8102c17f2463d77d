"""The file of prompts: what each category looks like in words, and what only looks like it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from moderate.classify.words import MOST_COLUMNS, PromptsOf
from moderate.errors import WeightsError
from moderate.own_categories import OWN, OwnCategory, as_in_file, lift_own, why_taken
from moderate.text import nearest, one_line, printable
from moderate.toml_files import TomlError, parse_toml, read_toml_text
from moderate.types import CATEGORIES, Category
from moderate.validation import Table, first_problem
from moderate.weights.words.texts import problem_of

DEFAULT = "default"
"""The name of the prompts that ship."""

_SLOT = "{}"


class _Safe(Table):
    prompts: tuple[str, ...]


class PromptFile(Table):
    """What a file of prompts holds.

    categories has the five by name, and categories of one's own under `[categories.own.NAME]`.
    Each template is a sentence with `{}` where the prompt stands; the vector of a prompt is the
    mean over them. safe holds what everyday images show.
    """

    templates: Annotated[tuple[str, ...], Field(max_length=50)] = ()
    safe: _Safe = _Safe(prompts=())
    categories: dict[Category, PromptsOf] = {}
    own: dict[OwnCategory, PromptsOf] = {}

    @model_validator(mode="before")
    @classmethod
    def _lift_own(cls, table: Any) -> Any:
        return lift_own(table)

    def named(self) -> dict[str, PromptsOf]:
        """The prompts of all categories, the five first, by name."""
        five = {str(name): self.categories[name] for name in CATEGORIES if name in self.categories}
        return {**five, **self.own}

    def key(self, name: str) -> str:
        """What a category's table is called in the file."""
        return f"categories.{OWN}.{name}" if name in self.own else f"categories.{name}"

    def lists(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each list of texts with the key that it stands under."""
        yield "templates", self.templates
        yield "safe.prompts", self.safe.prompts
        for name, of in self.named().items():
            yield f"{self.key(name)}.prompts", of.prompts
            yield f"{self.key(name)}.look_alikes", of.look_alikes


def problems(file: PromptFile) -> list[str]:
    """All that keeps prompts from being used, a line each; none where they can be."""
    found = [] if file.named() else ["categories: no category has prompts"]
    for name in file.own:
        if why := why_taken(name):
            found.append(f"categories.own.{name}: {why}")
    for template in file.templates:
        if template.count(_SLOT) != 1:
            found.append(f"templates: {_short(template)} needs {_SLOT} once, for the prompt")
    for where, texts in file.lists():
        for text in texts:
            if problem := problem_of(text):
                found.append(f"{where}: {_short(text)} {problem}")
        counts = Counter(text.strip() for text in texts)
        found += [f"{where}: {_short(text)} stands twice" for text, n in counts.items() if n > 1]
    for name, of in file.named().items():
        if not of.prompts:
            found.append(f"{file.key(name)}: has no prompts")
        others = {text.strip() for text in (*of.look_alikes, *file.safe.prompts)}
        for text in of.prompts:
            if text.strip() in others:
                found.append(
                    f"{file.key(name)}: {_short(text)} is also among its look-alikes or the safe "
                    "prompts"
                )
    if sum(len(texts) for _, texts in file.lists()) > MOST_COLUMNS:
        found.append(f"more than {MOST_COLUMNS} prompts")
    return found


def remarks(file: PromptFile) -> list[str]:
    """What is allowed and probably not meant, a line each."""
    found = []
    standing: dict[str, list[str]] = {}
    for name, of in file.named().items():
        for text in of.prompts:
            standing.setdefault(text.strip().lower(), []).append(name)
        if not of.look_alikes:
            found.append(f"{name} has no look-alikes: what resembles it will score high")
    for text, names in standing.items():
        if len(names) > 1:
            found.append(f"{_short(text)} stands in {' and '.join(names)}: it raises both")
    if not file.safe.prompts:
        found.append("no safe prompts, which a CLIP checkpoint needs")
    return found


def _short(text: str) -> str:
    return one_line(repr(text), 60)


@dataclass(frozen=True, slots=True)
class Prompts:
    """A file of prompts: its content, the sha256 of its text, and what it is called."""

    file: PromptFile
    sha256: str
    name: str


def read_prompts(path: str) -> Prompts:
    """The prompts in a file, or those that ship where `path` is `default`. Raises WeightsError.

    A file that has that name is `./default`.
    """
    prompts = load_prompts(path)
    if found := problems(prompts.file):
        more = f" (and {len(found) - 1} more: moderate weights prompts check)" if found[1:] else ""
        raise WeightsError(f"--prompts {printable(path)}: {found[0]}{more}")
    return prompts


def load_prompts(path: str) -> Prompts:
    """The prompts in a file of the right form, which may still have `problems`.

    Raises WeightsError.
    """
    where = f"--prompts {printable(path)}"
    try:
        text = default_text() if path == DEFAULT else read_toml_text(path)
        table = parse_toml(text)
    except TomlError as error:
        raise WeightsError(f"{where}: {error}") from error
    try:
        file = PromptFile.model_validate(table)
    except ValidationError as error:
        raise WeightsError(f"{where}: {as_in_file(first_problem(error))}{_meant(table)}") from error
    name = DEFAULT if path == DEFAULT else printable(os.path.basename(path))
    return Prompts(file, hashlib.sha256(text.encode()).hexdigest(), name)


def default_text() -> str:
    """The text of the file of prompts that ships."""
    return files(__package__).joinpath(f"{DEFAULT}.toml").read_text(encoding="utf-8")


def _meant(table: Mapping[str, Any]) -> str:
    """A hint for the category that somebody probably meant, or has to put elsewhere."""
    categories = table.get("categories")
    for name in categories if isinstance(categories, dict) else ():
        if name in (*CATEGORIES, OWN):
            continue
        if meant := nearest(name, CATEGORIES):
            return f"; did you mean {meant}?"
        return f"; a category of your own is [categories.own.{printable(name)}]"
    return ""


def with_template(text: str, template: str) -> str:
    """A prompt in a template."""
    return template.replace(_SLOT, text)
