"""The policy that stored results were decided by."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from moderate.errors import InputError
from moderate.policy.load import load_policy
from moderate.policy.model import Policy
from moderate.results.read import Results
from moderate.text import printable
from moderate.validation import first_problem

NAME_IT = "name it (--policy)"
DECIDE_AGAIN = "write rows that do with 'moderate decide RESULTS --policy NAME --out FILE'"


def policy_of(results: Results, named: str | None = None, *, advice: str = NAME_IT) -> Policy:
    """The policy that was `named`, else the one in the results' audit facts.

    advice is what the user can do where the facts have none. Raises PolicyError, and InputError
    where they have none.
    """
    if named is not None:
        return load_policy(named).policy
    return policy_in(results.facts, printable(results.path), advice=advice)


def policy_in(facts: Mapping[str, str], where: str, *, advice: str = NAME_IT) -> Policy:
    """The policy in audit facts, which are those of `where`. Raises InputError as `policy_of`."""
    text = facts.get("policy_json")
    if text is None:
        raise InputError(f"{where} does not say by which policy it was decided: {advice}")
    try:
        return Policy.model_validate_json(text)
    except ValidationError as error:
        problem = first_problem(error)
        raise InputError(
            f"{where}: the policy in its audit facts is not valid ({problem}): {advice}"
        ) from error
