"""Which rules of the policy decided on an image: identifiers that reports and baselines share.

A rule is a category, one of the five or an own one, `label/MODEL/LABEL`, `warning/NAME`,
`error/CODE`, `block-list`, `people`, `unscored`, or `other`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from moderate.own_categories import is_own_name
from moderate.policy.reasons import BLOCK_LIST
from moderate.results.final import DECIDED_BY
from moderate.text import one_line
from moderate.types import CATEGORIES, ErrorCode, Warn

OTHER = "other"
PEOPLE = "people"
_LONGEST = 200
_LABEL = re.compile(r"label (.+?/.+) [0-9.e-]+ (?:>=|<) (?:review|block) ")
_SCORE = re.compile(r"[0-9.e-]+ (?:>=|<) (?:review|block) ")
_UNSCORED = re.compile(r"(?:no category was|.+ not) scored\b")
_CATEGORIES = frozenset(category.value for category in CATEGORIES)
_ERRORS = frozenset(code.value for code in ErrorCode)
_WARNINGS = frozenset(warning.value for warning in Warn)


@dataclass(frozen=True, slots=True)
class RuleText:
    """What a rule is called, and what to do about an image that it caught."""

    title: str
    help: str


def rules_of(reasons: str | None, error_code: str | None) -> tuple[str, ...]:
    """The rules that reasons, joined with `; `, name; at least one.

    error_code is that of a row without scores, None for others.
    """
    if error_code is not None:
        return (_error(error_code),)
    found = dict.fromkeys(_rule(part) for part in (reasons or "").split("; "))
    # People who agreed with the machine are no rule of their own: the finding stays the same one.
    return tuple(rule for place, rule in enumerate(found) if rule != PEOPLE or not place)


def rule_text(rule: str) -> RuleText:
    """What is shown for a rule."""
    kind, _, name = rule.partition("/")
    words = one_line(name or kind).replace("_", " ")
    if rule in _CATEGORIES or is_own_name(rule):
        return RuleText(
            words.capitalize(),
            f"The score for {words} reached a threshold of the policy. Look at the image; then "
            "remove it, or clear it in the policy by its SHA-256.",
        )
    if kind == "label":
        return RuleText(
            f"Label {one_line(name)}",
            "The score of a network's own label reached a threshold of the policy. Look at the "
            "image; then remove it, or clear it in the policy by its SHA-256.",
        )
    if kind == "error":
        meaning = f": {ErrorCode(name).meaning}" if name in _ERRORS else ""
        return RuleText(
            f"Not scored: {words}",
            f"The image could not be scored{meaning}. Nobody has looked at it: replace the file, "
            "or look at it yourself.",
        )
    if kind == "warning":
        return RuleText(
            f"Warning: {words}",
            "The image was scored, but something about it has to be looked at by a person, as the "
            "policy says under on_warning.",
        )
    if rule == "block-list":
        return RuleText(
            "Block list",
            "The policy names this very file, by its SHA-256, as one to block. Remove it.",
        )
    if rule == PEOPLE:
        return RuleText(
            "Decided by people",
            "People have looked at this image and changed what the policy decided.",
        )
    if rule == "unscored":
        return RuleText(
            "Not scored for a category",
            "The weights do not score a category, and the policy has a person look at such images.",
        )
    return RuleText("Decided by the policy", "The policy has a person look at this image.")


def _rule(reason: str) -> str:
    word, _, rest = reason.partition(" ")
    if reason.startswith(DECIDED_BY):
        return PEOPLE
    if reason.startswith(BLOCK_LIST):
        return "block-list"
    if word == "label" and (label := _LABEL.match(reason)):
        return f"label/{one_line(label[1], _LONGEST)}"
    if word == "warning":
        name = rest.partition(":")[0].partition(" ")[0]
        return f"warning/{name}" if name in _WARNINGS else "warning/unknown"
    if word == "error":
        return _error(rest.partition(":")[0])
    if _UNSCORED.match(reason):
        return "unscored"
    by_score = is_own_name(word) and _SCORE.match(rest)
    return word if word in _CATEGORIES or by_score else OTHER


def _error(code: str) -> str:
    return f"error/{code}" if code in _ERRORS else "error/unknown"
