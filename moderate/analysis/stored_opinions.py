"""Second opinions in stored results: a policy can ask for no others, without the images."""

from __future__ import annotations

import json

from moderate.errors import PolicyError
from moderate.policy.load import LoadedPolicy
from moderate.policy.second_opinion import SecondOpinion
from moderate.results.read import Results
from moderate.run.opinion_columns import SECOND_OPINION, SECOND_WEIGHTS
from moderate.text import printable


def check_second_opinions(loaded: LoadedPolicy, results: Results) -> None:
    """Refuse a policy whose second opinions the rows do not have. Raises PolicyError.

    Where no audit facts say what was asked for, it is enough that the rows have the columns.
    """
    asked = loaded.policy.second_opinion
    has_some = SECOND_WEIGHTS in results.carried
    if not asked or (has_some and _stored(results) in (None, _as_values(asked))):
        return
    there = "others" if has_some else "none"
    raise PolicyError(
        f"policy {printable(loaded.policy.name)}: second_opinion: the rows of "
        f"{printable(results.name)} have {there}, and there are no images here to ask for one; "
        "scan by this policy, which scores nothing again that is known, or take one without it"
    )


def opinions_note(loaded: LoadedPolicy, results: Results) -> str | None:
    """What to say where the rows have second opinions that the policy does not ask for."""
    if loaded.policy.second_opinion or SECOND_WEIGHTS not in results.carried:
        return None
    return (
        "The rows have second opinions, which this policy does not ask for: their scores stay, "
        "and are not those that a scan by this policy has."
    )


def _as_values(asked: tuple[SecondOpinion, ...]) -> list[object]:
    return [opinion.model_dump(mode="json") for opinion in asked]


def _stored(results: Results) -> object:
    """What the run that scored asked for; None where that is not known."""
    try:
        return json.loads(results.facts[SECOND_OPINION])
    except (KeyError, ValueError, RecursionError):
        return None
