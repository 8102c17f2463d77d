"""What is to be said of a file of prompts before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moderate.classify.files import read_json, shown
from moderate.classify.words import WordsKind
from moderate.errors import WeightsError
from moderate.text import one_line, printable
from moderate.weights.words.prompts import (
    PromptFile,
    load_prompts,
    problems,
    remarks,
    with_template,
)
from moderate.weights.words.tokens import Tokenizer, require_transformers

_TOKENS: dict[WordsKind, int] = {"clip": 77, "siglip": 64}


@dataclass(frozen=True, slots=True)
class Checked:
    """Lines on a file of prompts: counts, what keeps it from being used, what is doubtful."""

    counts: tuple[str, ...]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]


def check(path: str, checkpoint: Path | None = None) -> Checked:
    """Check a file of prompts, or those that ship where `path` is `default`.

    Tokens are counted where the folder of a checkpoint with its tokenizer is named. Raises
    WeightsError for what is no file of prompts at all.
    """
    prompts = load_prompts(path)
    found = problems(prompts.file)
    if checkpoint is not None and not found:
        found += _too_long(prompts.file, checkpoint)
    counts = [f"{printable(path)}: sha256 {prompts.sha256[:12]}"]
    for name, of in prompts.file.named().items():
        counts.append(f"{name}: {len(of.prompts)} prompts, {len(of.look_alikes)} look-alikes")
    counts.append(f"safe: {len(prompts.file.safe.prompts)} prompts")
    counts.append(f"templates: {len(prompts.file.templates)}")
    return Checked(tuple(counts), tuple(found), tuple(remarks(prompts.file)))


def _too_long(file: PromptFile, folder: Path) -> Iterator[str]:
    require_transformers("counting tokens")
    kind, most = _limit(folder)
    tokenizer = Tokenizer(folder, kind)
    for where, texts in file.lists():
        if where == "templates":
            continue
        for text in texts:
            spelled = [with_template(text, template) for template in file.templates or ("{}",)]
            tokens = max(len(tokenizer.ids(each)) for each in spelled)
            if tokens > most:
                yield (
                    f"{where}: {one_line(repr(text), 60)} has {tokens} tokens in its longest "
                    f"template, but the text tower takes {most}"
                )


def _limit(folder: Path) -> tuple[WordsKind, int]:
    """The kind of a checkpoint, and how many tokens its text tower takes."""
    kind: WordsKind = "clip"
    stated: object = None
    if (folder / "open_clip_config.json").is_file():
        model = read_json(folder / "open_clip_config.json").get("model_cfg")
        text = model.get("text_cfg") if isinstance(model, dict) else None
        stated = text.get("context_length") if isinstance(text, dict) else None
        if isinstance(model, dict) and "init_logit_bias" in model:
            kind = "siglip"
    elif (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        kind = "siglip" if config.get("model_type") == "siglip" else "clip"
        text = config.get("text_config")
        stated = text.get("max_position_embeddings") if isinstance(text, dict) else None
    else:
        raise WeightsError(f"{shown(folder)}: neither config.json nor open_clip_config.json")
    return kind, stated if isinstance(stated, int) and stated > 0 else _TOKENS[kind]
