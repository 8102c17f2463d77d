"""Configuration files: the same names as the options, below environment and command line.

A file that somebody names is used as it is. A file that is merely found may have come with the
images, so it is used only where nobody but this user and root could have put it, and only if it
does not lie among the images.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moderate.errors import ConfigError
from moderate.ownership import folders_on_the_way, why_others_could_write
from moderate.regular import Identity, file_identity, read_regular
from moderate.text import nearest, one_line, path_text, printable
from moderate.toml_files import TomlError, parse_toml

MAX_BYTES = 1 << 20
"""Largest configuration file that is read."""

WEIGHTS_MIRROR = "MODERATE_WEIGHTS_MIRROR"
"""The one variable of ours that is no option of scan: where `weights pull` finds plain files."""

_PREFIX = "MODERATE_"
# What Kubernetes sets in every container for a service whose name begins with "moderate".
_OF_A_SERVICE = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)$"
)

# Values that name a file are meant relative to the configuration file they stand in.
_PATH_KEYS = frozenset({"out", "summary", "state", "lock", "baseline", "files_from", "relative_to"})
_PATH_OR_NAME_KEYS = frozenset({"weights", "policy"})

_PYPROJECT = "pyproject.toml"
_FILES = ("moderate.toml", _PYPROJECT)
_MENTION = re.compile(rb"\btool\b[\s.\"'\]]*\bmoderate\b")
_URI = re.compile(r"(data:|[A-Za-z][A-Za-z0-9+.-]*://)")
_GLOB_CHARACTERS = re.compile(r"[*?\[]")
_LIST_SUFFIXES = (".txt", ".lst", ".list")


@dataclass(frozen=True, slots=True)
class ConfigRecord:
    """The configuration file that a run used: its absolute path as text, and its SHA-256 (hex)."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Config:
    """Defaults for options, and the file they are from; record is None where no file was used.

    Keys are option names with `_` for `-`. found says that nobody named the file. ignored are the
    files that were found and may not be used, each with the reason.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    record: ConfigRecord | None = None
    found: bool = False
    ignored: tuple[str, ...] = ()


def named_config(path: str, known: Iterable[str]) -> Config:
    """The settings in a file that somebody named. Raises ConfigError with file, key and reason."""
    data = _read(path)
    table = _table(path, data)
    if table is None:
        raise ConfigError(f"config {printable(path)}: there is no [tool.moderate] in it")
    return Config(_checked(path, table, known), _record(path, data))


def find_config(
    known: Iterable[str], inputs: Sequence[str] = (), lists: Sequence[str] = ()
) -> Config:
    """The settings in the nearest file, from the working directory upwards, that may be used.

    That is `moderate.toml`, or `pyproject.toml` with a `[tool.moderate]` table. inputs and lists
    are what the images come from: a file in or below the folder of one is not used. Raises
    ConfigError with file, key and reason.
    """
    ignored: list[str] = []
    folders: dict[Identity, str] | None = None
    for path in _nearby():
        if folders is None:
            folders = input_folders(inputs, lists)
        reason = _why_not(path, folders)
        if reason is not None:
            if os.path.basename(path) != _PYPROJECT or _mentions_us(path):
                ignored.append(f"{printable(path)} ({reason})")
            continue
        data = _read(path)
        table = _table(path, data)
        if table is not None:
            settings = _checked(path, table, known)
            return Config(settings, _record(path, data), found=True, ignored=tuple(ignored))
    return Config(ignored=tuple(ignored))


def check_variables(environment: Mapping[str, str], options: Iterable[str]) -> None:
    """Raise ConfigError for a variable that looks like one of ours and is none.

    options are the names of the parameters that variables set, with `_` for `-`.
    """
    known = {WEIGHTS_MIRROR.removeprefix(_PREFIX), *(name.upper() for name in options)}
    for name, value in sorted(environment.items()):
        own = name.removeprefix(_PREFIX)
        if own == name or own in known or not value or _OF_A_SERVICE.match(own):
            continue
        meant = nearest(own, known)
        hint = (
            f"did you mean {_PREFIX}{meant}?"
            if meant
            else "'moderate scan --help' lists the options"
        )
        raise ConfigError(f"environment: unknown variable {one_line(name, 80)}; {hint}")


def input_folders(inputs: Sequence[str], lists: Sequence[str] = ()) -> dict[Identity, str]:
    """The folders that images come from, each with its name.

    That is a folder itself, the folder of a file (and of the file that a symbolic link leads to),
    and the folder that a glob starts from. What a list names may be relative to the working
    directory, so a list, and standard input, stand for that folder too.
    """
    named: dict[str, None] = {}
    for name in inputs:
        named.update(dict.fromkeys(_folders_of(name)))
        if name == "-" or name.lower().removesuffix(".gz").endswith(_LIST_SUFFIXES):
            named["."] = None
    for name in lists:
        named.update(dict.fromkeys([*_folders_of(name), "."]))
    found: dict[Identity, str] = {}
    for folder in named:
        if identity := file_identity(folder):
            found.setdefault(identity, folder)
    return found


def _folders_of(name: str) -> Iterator[str]:
    if name == "-":
        return
    if os.path.isdir(name):
        yield name
        return
    if not os.path.lexists(name):
        if _URI.match(name.strip()):
            return
        if magic := _GLOB_CHARACTERS.search(name):
            yield os.path.dirname(name[: magic.start()]) or "."
            return
    yield os.path.dirname(name) or "."
    if os.path.islink(name):
        yield os.path.dirname(os.path.realpath(name))


def _nearby() -> Iterator[str]:
    """Every file of the right name, the nearest first."""
    try:
        folder = os.getcwd()
    except OSError:
        return  # it was removed: there is nothing in it or above it
    while True:
        for name in _FILES:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield path
        parent = os.path.dirname(folder)
        if parent == folder:
            return
        folder = parent


def _why_not(path: str, folders: Mapping[Identity, str]) -> str | None:
    """Why a file that was found may not be used; None where it may."""
    try:
        for identity in folders_on_the_way(path):
            if identity in folders:
                return f"it lies in the input {printable(folders[identity])}"
        return why_others_could_write(path)
    except OSError as error:
        return str(error.strerror)


def _mentions_us(path: str) -> bool:
    """Whether a file that is not to be trusted, and so not parsed, seems to be meant for us."""
    try:
        return bool(_MENTION.search(_read(path)))
    except ConfigError:
        return False


def _record(path: str, data: bytes) -> ConfigRecord:
    where = path_text(os.fsencode(os.path.abspath(path)))
    return ConfigRecord(where, hashlib.sha256(data).hexdigest())


def _read(path: str) -> bytes:
    """All bytes of a regular file. Raises ConfigError, also where there are too many."""
    try:
        return read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"config {printable(path)}: {error.strerror}") from error


def _table(path: str, data: bytes) -> Mapping[str, Any] | None:
    """The settings in a file; None for a pyproject.toml that has none."""
    try:
        content = parse_toml(data.decode("utf-8"))
    except TomlError as error:
        raise ConfigError(f"config {printable(path)}: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {printable(path)}: not valid TOML: {error}") from error
    if os.path.basename(path) != _PYPROJECT:
        return content
    tool = content.get("tool")
    table = tool.get("moderate") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigError(f"config {printable(path)}: tool.moderate: expected a table")
    return table


def _checked(path: str, table: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    names = sorted(known)
    folder = os.path.dirname(os.path.abspath(path))
    settings: dict[str, Any] = {}
    for key, value in table.items():
        if key not in names:
            meant = nearest(key, names)
            hint = f"did you mean {meant!r}?" if meant else f"known are {', '.join(names)}"
            raise ConfigError(
                f"config {printable(path)}: unknown key {one_line(repr(key), 80)}; {hint}"
            )
        if isinstance(value, dict):
            raise ConfigError(f"config {printable(path)}: {key}: expected a value, got a table")
        settings[key] = _located(key, value, folder)
    return settings


def _located(key: str, value: Any, folder: str) -> Any:
    if isinstance(value, list):
        return [_located(key, item, folder) for item in value]
    if key == "report" and isinstance(value, str):
        form, colon, file = value.partition(":")
        return f"{form}{colon}{_located('out', file, folder)}" if file else value
    if isinstance(value, str) and not value.startswith("-") and not _URI.match(value):
        beside = os.path.join(folder, value)
        if key in _PATH_KEYS or (key in _PATH_OR_NAME_KEYS and os.path.exists(beside)):
            return beside
    return value
