"""Policies by name or file."""

from __future__ import annotations

import hashlib
import os
import tomllib
from dataclasses import dataclass
from importlib.resources import files

from pydantic import ValidationError

from moderate.errors import PolicyError
from moderate.policy.model import Policy
from moderate.text import printable
from moderate.validation import first_problem

PRESETS = ("balanced", "strict", "permissive")


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy, the text it was read from, and that text's digest for the audit trail."""

    policy: Policy
    text: str
    sha256: str


def load_policy(name_or_file: str) -> LoadedPolicy:
    """A preset by name, or the policy in a TOML file. Raises PolicyError."""
    if name_or_file in PRESETS:
        text = files("moderate.policy").joinpath(f"presets/{name_or_file}.toml").read_text("utf-8")
        return parse_policy(text, name_or_file)
    where = printable(name_or_file)
    if not os.path.exists(name_or_file):
        raise PolicyError(
            f"no policy {where!r}: name a TOML file or one of the presets {', '.join(PRESETS)}"
        )
    try:
        with open(name_or_file, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"policy {where}: cannot be read ({error})") from error
    return parse_policy(text, where)


def parse_policy(text: str, where: str) -> LoadedPolicy:
    """The policy that a TOML text holds; `where` names it in errors. Raises PolicyError."""
    try:
        policy = Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"policy {where}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise PolicyError(f"policy {where}: {first_problem(error)}") from error
    return LoadedPolicy(policy, text, hashlib.sha256(text.encode()).hexdigest())
