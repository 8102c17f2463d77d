"""Configuration files: the same names as the options, below environment and command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from moderate.errors import ConfigError
from moderate.text import printable
from moderate.toml_files import TomlError, read_toml

# Values that name a file are meant relative to the configuration file they stand in.
_PATH_KEYS = frozenset({"out", "summary", "state", "lock"})
_PATH_OR_NAME_KEYS = frozenset({"weights", "policy"})


def load_config(named: str | None, known: Iterable[str], start: str = ".") -> dict[str, Any]:
    """Defaults for options, from `named` or else from the nearest file above `start`.

    That is `moderate.toml`, or `pyproject.toml` with a `[tool.moderate]` table. Keys are option
    names with `_` for `-`. Raises ConfigError with file, key and reason.
    """
    if named is not None:
        named_table = _table(named)
        if named_table is None:
            raise ConfigError(f"config {printable(named)}: there is no [tool.moderate] in it")
        return _checked(named, named_table, known)
    folder = os.path.abspath(start)
    while True:
        for name in ("moderate.toml", "pyproject.toml"):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and (table := _table(path)) is not None:
                return _checked(path, table, known)
        parent = os.path.dirname(folder)
        if parent == folder:
            return {}
        folder = parent


def _table(path: str) -> Mapping[str, Any] | None:
    """The settings in a file; None for a pyproject.toml that has none."""
    try:
        content = read_toml(path)
    except TomlError as error:
        raise ConfigError(f"config {printable(path)}: {error}") from error
    if os.path.basename(path) != "pyproject.toml":
        return content
    tool = content.get("tool")
    table = tool.get("moderate") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigError(f"config {printable(path)}: tool.moderate: expected a table")
    return table


def _checked(path: str, table: Mapping[str, Any] | None, known: Iterable[str]) -> dict[str, Any]:
    names = sorted(known)
    folder = os.path.dirname(os.path.abspath(path))
    settings: dict[str, Any] = {}
    for key, value in (table or {}).items():
        if key not in names:
            raise ConfigError(
                f"config {printable(path)}: unknown key {key!r}; known are {', '.join(names)}"
            )
        if isinstance(value, dict):
            raise ConfigError(f"config {printable(path)}: {key}: expected a value, got a table")
        settings[key] = _located(key, value, folder)
    return settings


def _located(key: str, value: Any, folder: str) -> Any:
    if isinstance(value, list):
        return [_located(key, item, folder) for item in value]
    if isinstance(value, str) and not value.startswith("-"):
        beside = os.path.join(folder, value)
        if key in _PATH_KEYS or (key in _PATH_OR_NAME_KEYS and os.path.exists(beside)):
            return beside
    return value
