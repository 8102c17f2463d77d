"""The folder below which the files are, and whose tree is kept in the targets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from moderate.errors import UsageError


@dataclass(frozen=True, slots=True)
class Root:
    """An absolute path, and how it was found."""

    path: bytes
    why: str


def find_root(option: str | None, inputs: Sequence[str], common: bytes | None) -> Root | None:
    """As `option` has it; else the folder of all inputs of the run, as far as those are recorded;
    else `common`, the longest folder that all files have in common.

    Inputs that are folders decide alone: a row that was edited does not widen them, and its file is
    outside. Where there are lists among them, all files have to be below their folder. None where
    there are no files. Raises UsageError where there is no such folder but `/`: what a results file
    names is not to decide alone that files may be anywhere.
    """
    if option is not None:
        path = os.path.abspath(os.fsencode(option))
        if not os.path.isdir(path):
            raise UsageError(f"--root {option}: not a folder")
        return Root(path, "--root")
    if common is None:
        return None
    recorded = _folder_of(inputs)
    root = Root(common, "the longest folder that all files have in common")
    if recorded is not None and (_is_below(common, recorded) or all(map(os.path.isdir, inputs))):
        root = Root(recorded, "what the run had as its input")
    if root.path == b"/":
        raise UsageError("the files have no folder in common: name the one to keep by --root DIR")
    return root


def below(path: bytes, root: bytes) -> bytes | None:
    """The path relative to a root that it is below; else None."""
    start = root if root.endswith(b"/") else root + b"/"
    return path[len(start) :] if path.startswith(start) else None


def _is_below(path: bytes, root: bytes) -> bool:
    return path == root or below(path, root) is not None


def _folder_of(inputs: Sequence[str]) -> bytes | None:
    """The folder of inputs that are all local folders or files; else None."""
    folders = []
    for name in map(os.fsencode, inputs):
        if not name.startswith(b"/") or not os.path.exists(name):
            return None
        folders.append(name if os.path.isdir(name) else os.path.dirname(name))
    return os.path.commonpath(folders) if folders else None
