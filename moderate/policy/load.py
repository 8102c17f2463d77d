"""Policies by name or file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from importlib.resources import files

from pydantic import ValidationError

from moderate.errors import PolicyError
from moderate.own_categories import as_in_file
from moderate.policy.lists import Lists, beside, read_lists
from moderate.policy.model import NO_OWN_OPINION, NOT_NESTED, Override, Policy
from moderate.text import path_text, printable
from moderate.toml_files import TomlError, parse_toml, read_toml_text
from moderate.validation import first_problem

PRESETS = ("balanced", "strict", "permissive", "children")

EDITED = " (edited)"
"""Follows the name of a preset in the name of a policy that has that name but other content."""


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy, the text it was read from, and their digest for the audit trail.

    The digest is that of the text, or, where it names other policies and lists, of the text and
    theirs. In `policy` those policies are filled in; the entries of all lists are in `lists`.
    `files` are the paths of all files that were read, the policy's own first; a preset has none.
    """

    policy: Policy
    text: str
    sha256: str
    lists: Lists = field(default_factory=Lists)
    files: tuple[str, ...] = ()
    file: str | None = None
    """The path of the policy's own file; None for a preset."""

    @property
    def shown_file(self) -> str | None:
        """Its absolute path as text, as reports and audit facts hold it."""
        return None if self.file is None else path_text(os.fsencode(os.path.abspath(self.file)))

    @property
    def shown_name(self) -> str:
        """The policy's name and, where it has one, its file."""
        return shown_name(self.policy.name, self.shown_file)


def shown_name(name: str, file: str | None) -> str:
    """How reports name a policy: `balanced`, or `balanced (edited), from mine.toml`."""
    return f"{name}, from {file}" if file else name


def load_policy(name_or_file: str) -> LoadedPolicy:
    """A preset by name, or the policy in a TOML file. Raises PolicyError."""
    where = printable(name_or_file)
    loaded = parse_policy(_text(name_or_file, where), where)
    if name_or_file not in PRESETS:
        loaded = replace(loaded, files=(name_or_file,), file=name_or_file)
    if not loaded.policy.in_context:
        return loaded
    base = os.path.dirname(name_or_file) or "."
    policy, lists, digests = resolve(loaded.policy, base, where)
    names = [each.policy for each in policy.override if each.policy not in PRESETS]
    named = [name for name in (*names, policy.ignore_file, policy.block_file) if name]
    sha256 = hashlib.sha256("\0".join([loaded.text, *digests]).encode()).hexdigest()
    return replace(
        loaded,
        policy=policy,
        lists=lists,
        sha256=sha256 if digests else loaded.sha256,
        files=(*loaded.files, *(beside(name, base) for name in named)),
    )


def parse_policy(text: str, where: str) -> LoadedPolicy:
    """The policy that a TOML text holds; `where` names it in errors. Raises PolicyError.

    No other file is read: what the policy names is not filled in. A copy of a preset that was
    edited without a new name is called `balanced (edited)`, so that no output passes it off as the
    preset; a copy with other comments alone keeps the name.
    """
    policy = _parsed(text, where)
    filled = [f"override.{n}.rules" for n, each in enumerate(policy.override) if each.rules]
    if filled or policy.list_files:
        raise PolicyError(f"policy {where}: {(*filled, 'list_files')[0]}: unknown key")
    if policy.name in PRESETS and policy != _parsed(_text(policy.name, where), where):
        policy = policy.model_copy(update={"name": f"{policy.name}{EDITED}"})
    return LoadedPolicy(policy, text, hashlib.sha256(text.encode()).hexdigest())


def _parsed(text: str, where: str) -> Policy:
    try:
        table = parse_toml(text)
        if "own" in table:
            raise PolicyError(f"policy {where}: own: unknown key; write [categories.own.NAME]")
        return Policy.model_validate(table)
    except TomlError as error:
        raise PolicyError(f"policy {where}: {error}") from error
    except ValidationError as error:
        raise PolicyError(f"policy {where}: {as_in_file(first_problem(error))}") from error


def resolve(policy: Policy, base: str | None, where: str) -> tuple[Policy, Lists, list[str]]:
    """The policy with what it names filled in, its lists, and a digest for each file or preset.

    base is the folder that names of files start from; `where` names the policy in errors. Raises
    PolicyError.
    """
    digests = []
    overrides = []
    for number, override in enumerate(policy.override):
        try:
            filled, sha256 = _filled(override, base)
        except PolicyError as error:
            raise PolicyError(f"policy {where}: override.{number}.policy: {error}") from None
        overrides.append(filled)
        digests += [sha256] if sha256 else []
    try:
        lists, list_files = read_lists(policy, base)
    except PolicyError as error:
        raise PolicyError(f"policy {where}: {error}") from None
    digests += [file.sha256 for file in list_files.values()]
    update = {"override": tuple(overrides), "list_files": list_files}
    return policy.model_copy(update=update), lists, digests


def _filled(override: Override, base: str | None) -> tuple[Override, str | None]:
    """The override with the policy that it names, and that one's digest."""
    if override.policy is None or override.rules is not None:
        return override, None
    name = override.policy if override.policy in PRESETS else beside(override.policy, base)
    where = printable(override.policy)
    loaded = parse_policy(_text(name, where), where)
    if loaded.policy.in_context:
        raise PolicyError(f"{where} {NOT_NESTED}")
    if loaded.policy.second_opinion:
        raise PolicyError(f"{where} {NO_OWN_OPINION}")
    return override.model_copy(update={"rules": loaded.policy}), loaded.sha256


def _text(name_or_file: str, where: str) -> str:
    if name_or_file in PRESETS:
        return files("moderate.policy").joinpath(f"presets/{name_or_file}.toml").read_text("utf-8")
    if not os.path.exists(name_or_file):
        raise PolicyError(
            f"no policy {where!r}: name a TOML file or one of the presets {', '.join(PRESETS)}"
        )
    try:
        return read_toml_text(name_or_file)
    except TomlError as error:
        raise PolicyError(f"policy {where}: {error}") from error
