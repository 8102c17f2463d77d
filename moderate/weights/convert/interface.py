"""The interface of converters and the value that they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from moderate.classify.card import Head, Preprocess
from moderate.classify.words import Words


@dataclass(frozen=True, slots=True)
class Converted:
    """A checkpoint in timm's form: everything a bundle states about a model except its categories.

    labels are in output order. tensors carry timm's names, or with a head those of `WithHead`
    (`backbone.` and `head.`), or with words those of `WithWords` (`tower.` and `prompts.`).
    model_args are keyword arguments for `classify.model.build_model`.
    """

    architecture: str
    labels: tuple[str, ...]
    activation: Literal["softmax", "sigmoid"]
    preprocess: Preprocess
    tensors: dict[str, torch.Tensor]
    model_args: dict[str, str | int | float | bool]
    head: Head | None
    words: Words | None = None


class Converter(ABC):
    """One form of checkpoint. Files are untrusted, and nothing is unpickled."""

    @abstractmethod
    def recognises(self, folder: Path) -> bool:
        """Whether `folder` claims this form. Raises WeightsError where its claim is unreadable."""

    @abstractmethod
    def convert(self, folder: Path, labels: Sequence[str] | None = None) -> Converted:
        """The checkpoint in timm's terms, every tensor used once and none missing.

        `labels` names the outputs, in order, of a source that does not name them itself.
        Raises WeightsError, with one line on what is wrong.
        """
