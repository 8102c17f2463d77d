"""Programs of networks kept between runs, in the folder of converted models; see `ir_cache`.

A program is made at the second start that could use it: where nothing is kept, as in a container
that lives for one run, nothing is spent on it. It counts only where the folder belongs to this user
alone and its bytes have the digest that was noted when they were made. What cannot be made a
program is noted too, and tried again after a month.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path

from moderate.classify.backends import ir_cache
from moderate.classify.backends.conversion import ChildError, ask_child
from moderate.classify.backends.torch_program import FORMAT, PROGRAM, Program, UnusableError
from moderate.classify.bundle import ModelFiles
from moderate.classify.card import WEIGHTS
from moderate.classify.files import read_safetensors
from moderate.errors import ModerateError
from moderate.libraries import torch_versions
from moderate.regular import read_regular

log = logging.getLogger(__name__)

_MAX_BYTES = 1 << 30
_ROOM = 64 << 20  # bytes for a program, which has no weights
_FIRST, _UNUSABLE = b"used once\n", b"unusable\n"  # in place of a digest and a program


def find_program(files: ModelFiles) -> Program | None:
    """The program of a model; None where the model is to be built.

    Raises WeightsError for weights that were changed.
    """
    path = _path(files)
    if path is None:
        return None
    kept = _read(path)
    if kept == _UNUSABLE:
        return None
    if kept is None:
        _write(path, _FIRST)
        return None
    program = None if kept == _FIRST else _opened(files, kept)
    if program is not None:
        with contextlib.suppress(OSError):  # so that it counts as used
            os.utime(path, follow_symlinks=False)
        return program
    made = _make(files)
    if made is not None:
        program = _opened(files, made)
    _write(path, made if made is not None and program else _UNUSABLE)
    return program


def forget_program(files: ModelFiles, why: str) -> None:
    """Note that the program of a model does not compute what it should."""
    log.debug("the program of %s is not used: %s", files.architecture, why)
    if path := _path(files):
        _write(path, _UNUSABLE)


def _path(files: ModelFiles) -> str | None:
    folder = ir_cache.prepared_folder(_ROOM)
    return os.path.join(folder, f"{_key(files)}.program") if folder else None


def _key(files: ModelFiles) -> str:
    """A digest of all that the program depends on."""
    return ir_cache.key_of(
        files,
        made_by=torch_versions(),
        timm={name: value for name, value in os.environ.items() if name.startswith("TIMM_")},
        format=FORMAT,
    )


def _read(path: str) -> bytes | None:
    """What is kept under a name, checked, without its digest; None where there is nothing."""
    try:
        kept = read_regular(path, _MAX_BYTES)
    except OSError:
        return None
    if kept in (_FIRST, _UNUSABLE):
        return kept
    digest, data = kept[:64], kept[65:]
    if hashlib.sha256(data).hexdigest().encode() == digest:
        return data
    log.debug("%s was damaged: it is made anew", path)
    return _FIRST


def _write(path: str, content: bytes) -> None:
    if content not in (_FIRST, _UNUSABLE):
        content = hashlib.sha256(content).hexdigest().encode() + b"\n" + content
    try:
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.replace(file.name, path)
            except OSError:
                os.unlink(file.name)
                raise
    except OSError as error:
        log.debug("the program of a network is not kept: %s", error)


def _make(files: ModelFiles) -> bytes | None:
    """The program of a model, from a child process; None where there is none."""
    try:
        with ir_cache.workspace(_ROOM) as folder:
            outcome = ask_child("moderate.classify.backends.torch_export", files, folder)
            if "unusable" not in outcome:
                return read_regular(Path(folder) / PROGRAM, _MAX_BYTES)
            log.debug("%s has no program: %s", files.architecture, outcome["unusable"])
    except (OSError, ChildError, ModerateError) as error:
        # If the model cannot be built either, that error is the one to show.
        log.debug("no program of %s: %s", files.architecture, error)
    return None


def _opened(files: ModelFiles, data: bytes) -> Program | None:
    path = Path(files.folder) / WEIGHTS
    weights = read_safetensors(path, files.card.sha256["model.safetensors"])
    try:
        return Program(data, weights)
    except UnusableError as error:
        log.debug("the program of %s is made anew: %s", files.architecture, error)
        return None
