"""Levels of a rating by description: which of several sentences fits an image best.

To install them with a bundle of prompts, whoever reads a policy calls

    group = level_group([("general", "a picture for everybody"), ("explicit", "...")])
    pull("hf:owner/name", prompts=read_prompts("default"), levels=group)
    add_words(Path("folder"), "name", read_prompts(file), group)

with `pull` and `add_words` of `moderate.weights.pull`, and `read_prompts` of
`moderate.weights.words.prompts`.
The bundle then has, besides the labels of its categories, one label for each value:
`level_label(value)`, which is `level:VALUE`. Its score is the share, of 1 for all values of the
group together, that softmax gives the value's description. The labels feed no category.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from moderate.errors import WeightsError
from moderate.levels import LABEL, DescribedLevel, check_scale
from moderate.validation import first_problem


@dataclass(frozen=True, slots=True)
class LevelGroup:
    """Values of a rating with the description of each, of which one fits an image best."""

    levels: tuple[tuple[str, str], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the values, in order."""
        return tuple(level_label(value) for value, _ in self.levels)


NO_LEVELS = LevelGroup(())


def level_label(value: str) -> str:
    """The label whose score is the share of a value's description."""
    return LABEL + value


def level_group(levels: Sequence[tuple[str, str]]) -> LevelGroup:
    """The group of (value, description) pairs, in the order of the rating.

    Raises WeightsError for what a policy could not describe either.
    """
    try:
        scale = [DescribedLevel(value=value, description=text.strip()) for value, text in levels]
        check_scale(scale)
    except ValidationError as error:
        raise WeightsError(f"levels: {first_problem(error)}") from error
    except ValueError as error:
        raise WeightsError(f"levels: {error}") from error
    return LevelGroup(tuple((level.value, level.description) for level in scale))
