"""Whether weights, or stored results, can rate by the descriptions that a policy has."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from moderate.errors import PolicyError
from moderate.levels import DescribedLevel, Scale, difference
from moderate.policy.judge import Judge
from moderate.policy.load import LoadedPolicy
from moderate.text import printable

HOW_TO_BUILD = "moderate weights pull hf:REPOSITORY --prompts FILE --levels POLICY.toml"
"""What makes weights that match the levels of a policy."""

ONE_SCALE = "weights match one: give all overrides the same, or levels with conditions"
"""Why a policy cannot describe several scales."""


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


def described_scale(loaded: LoadedPolicy) -> Scale:
    """The levels that the policy, or an override of it, matches by description.

    Raises PolicyError where there are none, or several scales of them: weights match one.
    """
    scales = Judge.of(loaded).described_scales
    name = printable(loaded.policy.name)
    if not scales:
        raise PolicyError(
            f'policy {name}: no rating levels with match = "description", which --levels needs'
        )
    if len(scales) > 1:
        raise PolicyError(f"policy {name}: it has {len(scales)} scales by description; {ONE_SCALE}")
    return scales[0]


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
