"""Whether weights, or stored results, can rate by the descriptions that a policy has."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from moderate.errors import PolicyError
from moderate.levels import DescribedLevel, difference
from moderate.policy.judge import Judge
from moderate.text import printable

HOW_TO_BUILD = "moderate weights pull hf:REPOSITORY --prompts FILE --levels POLICY.toml"
"""What makes weights that match the levels of a policy."""


def check_described(
    judge: Judge, levels: Sequence[DescribedLevel], *, there: str, advice: str
) -> None:
    """Raise PolicyError where the policy describes levels, and these are not the same.

    `there` names what matches these levels (`the weights x were built for`); advice is what the
    user can do.
    """
    for scale in judge.described_scales:
        other = difference(scale, levels)
        if other is not None:
            other = other if levels else "no rating levels"
            raise PolicyError(
                f"policy {printable(judge.policy.name)}: rating: its levels match by description; "
                f"{there} {other}; {advice}"
            )


def check_thresholds(judge: Judge, level_labels: Collection[str]) -> None:
    """Raise PolicyError where the policy has thresholds for one of these labels of rating levels.

    Of an animation, they have the scores of one frame, and not the highest of all.
    """
    for name in judge.threshold_labels:
        if name in level_labels:
            raise PolicyError(
                f"policy {printable(judge.policy.name)}: labels.{name!r}: this is a rating level, "
                "which only rates and has no thresholds"
            )
