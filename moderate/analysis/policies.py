"""The policy that stored results were decided by."""

from __future__ import annotations

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
    text = results.facts.get("policy_json")
    where = printable(results.path)
    if text is None:
        raise InputError(f"{where} does not say by which policy it was decided: {advice}")
    try:
        return Policy.model_validate_json(text)
    except ValidationError as error:
        problem = first_problem(error)
        raise InputError(
            f"{where}: the policy in its audit facts is not valid ({problem}): {advice}"
        ) from error
