"""Converted models to an installed bundle: staged, verified, self-tested, then renamed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tomli_w

from moderate.classify.bundle import load_bundle, user_weights
from moderate.classify.card import CARD, CONFIG, WEIGHTS, Combine, LabelSum
from moderate.classify.selftest import record
from moderate.classify.words import PromptRecord
from moderate.errors import WeightsError
from moderate.levels import Scale
from moderate.text import printable
from moderate.weights.catalogue.mapping import LabelMap
from moderate.weights.download import digest_of
from moderate.weights.graph import OnnxModel, try_graphs

_NUMBERS = re.compile(r"\[\n((?:\s*\d+,\n)+)\s*\]")

if TYPE_CHECKING:  # converting needs torch
    from moderate.weights.convert.interface import Converted


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a card besides its models."""

    name: str
    title: str
    source: str
    licence: str
    fit_for: str
    revision: str = ""
    digest: Literal["published", "first-pull", "own"] = "own"
    combine: Mapping[str, Combine] = field(default_factory=dict)
    covers: Mapping[str, str] = field(default_factory=dict)
    levels: Scale = ()
    prompts: PromptRecord | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """One model of a bundle, converted to timm or an ONNX graph, and what its labels mean.

    folder is where its files go. licence is a file to keep beside them. own says which labels feed
    categories besides the five.
    """

    converted: Converted | OnnxModel
    categories: LabelMap
    folder: str = "."
    licence: Path | None = None
    own: Mapping[str, Sequence[LabelSum]] = field(default_factory=dict)


def install(facts: Facts, parts: Sequence[Part], *, replace: bool = False) -> Path:
    """Install a bundle under the user's data folder and give its folder back.

    The bundle is loaded and scored once before it appears: one that does not work never does.
    Raises WeightsError, also where the name is taken and `replace` is not set.
    """
    final = user_weights() / facts.name
    if final.exists() and not replace:
        raise WeightsError(f"{facts.name} is installed already; use --replace to install it anew")
    with _staging(facts.name) as staged:
        for part in parts:
            _write(part.converted, staged / part.folder)
            if part.licence:
                shutil.copyfile(part.licence, staged / part.folder / part.licence.name)
        card = _numbers_in_a_line(tomli_w.dumps(_card(facts, parts, staged)))
        (staged / CARD).write_text(card, encoding="utf-8")
        try_graphs(load_bundle(str(staged)))
        record(staged)
        _publish(staged, final)
    return final


def remove(name: str) -> Path:
    """Remove an installed bundle. Raises WeightsError where there is none of that name."""
    folder = user_weights() / name
    if "/" in name or not (folder / CARD).is_file():
        raise WeightsError(f"no installed weights {printable(name)!r} in {user_weights()}")
    try:
        if folder.is_symlink():
            folder.unlink()
        else:
            doomed = folder.with_name(f".removed-{secrets.token_hex(4)}")
            os.rename(folder, doomed)
            shutil.rmtree(doomed)
    except OSError as error:
        raise WeightsError(f"cannot remove {folder}: {error.strerror or error}") from error
    return folder


def _numbers_in_a_line(card: str) -> str:
    """TOML with each list of whole numbers in one line, which may be long."""
    return _NUMBERS.sub(lambda found: f"[{', '.join(found[1].replace(',', ' ').split())}]", card)


def _write(model: Converted | OnnxModel, folder: Path) -> None:
    if isinstance(model, OnnxModel):
        model.write(folder)
        return
    from moderate.weights.convert.folder import write_model

    write_model(model, folder)


def _card(facts: Facts, parts: Sequence[Part], staged: Path) -> dict[str, Any]:
    card = {
        "format": 1,
        "name": facts.name,
        "purpose": "moderation",
        "title": facts.title,
        "source": facts.source,
        "revision": facts.revision,
        "licence": facts.licence,
        "fit_for": facts.fit_for,
        "digest": facts.digest,
        "combine": {str(category): how for category, how in facts.combine.items()},
        "covers": {str(category): text for category, text in facts.covers.items()},
        "levels": [level.model_dump(mode="json") for level in facts.levels],
        "prompts": facts.prompts.model_dump(mode="json") if facts.prompts else {},
        "training": dict(facts.training),
        "model": [_model_table(part, staged / part.folder) for part in parts],
    }
    return {key: value for key, value in card.items() if value not in ({}, [])}


def _model_table(part: Part, folder: Path) -> dict[str, Any]:
    converted = part.converted
    categories: dict[str, Any] = {
        str(category): list(part.categories[category]) for category in part.categories
    }
    if part.own:
        categories["own"] = {name: list(sources) for name, sources in part.own.items()}
    table: dict[str, Any] = {"folder": part.folder, "categories": categories}
    if isinstance(converted, OnnxModel):
        return table | converted.table()
    table |= {
        "activation": converted.activation,
        "sha256": {name: digest_of(folder / name) for name in (CONFIG, WEIGHTS)},
        "preprocess": converted.preprocess.model_dump(mode="json"),
    }
    if converted.head:
        table["head"] = converted.head.model_dump(mode="json")
    if converted.words:
        table["words"] = converted.words.model_dump(mode="json")
    if converted.model_args:
        table["model_args"] = dict(converted.model_args)
    return table


@contextmanager
def _staging(name: str) -> Iterator[Path]:
    """A folder beside the installed bundles that is gone afterwards, unless it was published."""
    root = user_weights()
    try:
        root.mkdir(parents=True, exist_ok=True)
        staged = root / f".staging-{name}-{secrets.token_hex(4)}"
        staged.mkdir()
    except OSError as error:
        raise WeightsError(f"cannot write to {root}: {error.strerror}") from error
    try:
        yield staged
    except WeightsError as error:
        # The folder is gone when the error is read.
        message = str(error).replace(f"{printable(str(staged))}/", "")
        raise WeightsError(message) from error
    except OSError as error:
        raise WeightsError(f"cannot install {name}: {error.strerror}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _publish(staged: Path, final: Path) -> None:
    """Rename the folder to its final name after syncing it to disk."""
    for file in staged.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    old = final.with_name(f".removed-{secrets.token_hex(4)}")
    replaced = final.exists()
    if replaced:
        os.rename(final, old)
    try:
        os.rename(staged, final)
        root = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(root)
        finally:
            os.close(root)
    except BaseException:
        if replaced and not final.exists():
            os.rename(old, final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove what killed installations left. Call it only while no other installation runs."""
    for leftover in (*root.glob(".staging-*"), *root.glob(".removed-*")):
        shutil.rmtree(leftover, ignore_errors=True)
