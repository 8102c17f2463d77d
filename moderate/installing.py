"""How an optional part is added to the installation that runs.

Its name alone would not do: on the public index, it belongs to another project.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any
from urllib.parse import unquote, urlsplit

from moderate.text import shell_word

PROJECT = "moderate"

_SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_HEAD = 1 << 16  # characters of a project's file, in which its name stands
_NAMED = re.compile(rf'^name\s*=\s*"{PROJECT}"\s*$', re.MULTILINE)
_EXTRA = re.compile(r"""\s*;.*\bextra\s*==\s*["']([^"']+)["']""")


def how_to_install(extra: str, source: str = _SOURCE) -> str:
    """The command that adds what an extra of `pyproject.toml` has, or the next best advice.

    That is a command on the checkout that runs, whose folder is `source`; else on what was
    installed, a folder, an archive or a repository; else on the libraries alone.
    """
    if _is_checkout(source):
        return _pip(f"{source}[{extra}]", editable=True)
    try:
        installed = distribution(PROJECT)
    except PackageNotFoundError:
        return f"install its extra {extra}: in the folder of its source, pip install '.[{extra}]'"
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        if command := _from_origin(extra, json.loads(installed.read_text("direct_url.json") or "")):
            return command
    if libraries := _libraries(extra, installed):
        return f"pip install {' '.join(map(shell_word, libraries))}"
    return f"install the extra {extra} from where {PROJECT} itself was installed"


def _is_checkout(folder: str) -> bool:
    try:
        with open(os.path.join(folder, "pyproject.toml"), encoding="utf-8") as file:
            return _NAMED.search(file.read(_HEAD)) is not None
    except (OSError, ValueError):
        return False


def _from_origin(extra: str, origin: Any) -> str | None:
    """By what pip notes of a direct installation (PEP 610); None where that cannot be had again."""
    url = str(origin["url"])
    parts = urlsplit(url)
    if parts.scheme == "file":
        path = unquote(parts.path)
        if "vcs_info" in origin or not os.path.exists(path):
            return None
        return _pip(f"{path}[{extra}]", editable=bool(origin.get("dir_info", {}).get("editable")))
    if "@" in parts.netloc and not parts.netloc.startswith("git@"):
        return None  # it may be a token
    if version := origin.get("vcs_info"):
        revision = version.get("requested_revision") or version["commit_id"]
        url = f"{version['vcs']}+{url}@{revision}"
    return _pip(f"{PROJECT}[{extra}] @ {url}")


def _libraries(extra: str, installed: Distribution) -> list[str]:
    """The requirements of an extra, with their versions."""
    found = []
    for requirement in installed.requires or ():
        marker = _EXTRA.search(requirement)
        if marker and marker[1] == extra:
            found.append(requirement[: marker.start()])
    return found


def _pip(what: str, *, editable: bool = False) -> str:
    return f"pip install {'-e ' if editable else ''}{shell_word(what)}"
