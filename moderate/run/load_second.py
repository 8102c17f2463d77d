"""The weights of a policy's second opinions, checked before a run begins."""

from __future__ import annotations

import os

from moderate.classify.bundle import Bundle, load_bundle
from moderate.errors import PolicyError, WeightsError
from moderate.policy.load import LoadedPolicy
from moderate.policy.second_opinion import SecondOpinion
from moderate.run.interface import Second
from moderate.text import printable


def load_second(policy: LoadedPolicy, first: Bundle) -> tuple[Second, ...]:
    """The second opinions of a policy with their weights, for a run by the weights `first`.

    Weights are named as for --weights; a folder starts from the policy's own. Raises PolicyError
    where they are not there, are the first ones, or could never have a say.
    """
    loaded = []
    for number, opinion in enumerate(policy.policy.second_opinion):
        where = f"policy {printable(policy.policy.name)}: second_opinion.{number}"
        try:
            bundle = load_bundle(_beside(opinion.weights, policy.file))
        except WeightsError as error:
            raise PolicyError(f"{where}.weights: {error}") from None
        if problem := _problem(opinion, bundle, first):
            raise PolicyError(f"{where}.{problem}")
        loaded.append(Second(opinion, bundle))
    return tuple(loaded)


def _beside(weights: str, file: str | None) -> str:
    if file is None or os.sep not in weights or weights.startswith("~"):
        return weights
    return os.path.join(os.path.dirname(file), weights)


def _problem(opinion: SecondOpinion, bundle: Bundle, first: Bundle) -> str | None:
    if bundle.sha256 == first.sha256:
        return (
            f"weights: {bundle.name} are the weights of the scan itself; a second opinion takes "
            "others"
        )
    asked = ", ".join(opinion.categories)
    if not set(opinion.categories) & set(first.card.categories):
        return (
            f"categories: the weights of the scan, {first.name}, score none of {asked}, so that no "
            "row would get a second opinion"
        )
    if not set(opinion.categories) & set(bundle.card.categories):
        return f"weights: {bundle.name} score none of {asked}"
    return None
