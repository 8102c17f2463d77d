"""Converted models kept between runs, in files of ours that OpenVINO reads.

A kept model is maths that will be run. It counts only where nobody but this user and root can
write, and the description of the network has the right digest; its weights are compared after
OpenVINO has read them. Anything that does not match is converted again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

from moderate.classify.bundle import ModelFiles
from moderate.folders import user_cache
from moderate.libraries import torch_versions
from moderate.regular import read_regular, sha256_of
from moderate.version import __version__

log = logging.getLogger(__name__)

NETWORK, WEIGHTS = "model.xml", "model.bin"
"""Files of a converted model in the folder it was made in."""

_DAY = 24 * 3600.0  # seconds
_UNUSED_DAYS = 30
_WORKSPACE = ".converting-"
_MAX_FACTS_BYTES = 16 << 20
_MAX_NETWORK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """Facts about a converted model, recorded at conversion and compared with what is loaded later.

    agrees: whether OpenVINO computed what torch computes; if not, there are no files.
    made: seconds since 1970. network: SHA-256 of the XML file. constants: SHA-256 of all weights,
    as `constants_digest` gives it. logits: torch's, one row for each of the self-test's inputs.
    """

    agrees: bool
    made: float
    network: str = ""
    constants: str = ""
    logits: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def parse(cls, values: Any) -> GraphFacts:
        """The facts in a JSON value. Raises ValueError, KeyError, TypeError or OverflowError."""
        logits = tuple(tuple(float(value) for value in row) for row in values["logits"])
        if len({len(row) for row in logits}) > 1:
            raise ValueError("rows of different lengths")
        return cls(
            agrees=values["agrees"] is True,
            made=float(values["made"]),
            network=str(values["network"]),
            constants=str(values["constants"]),
            logits=logits,
        )


@dataclass(frozen=True, slots=True)
class Graph:
    """A converted model: the paths of its network and its weights, and what they should hold."""

    network: str
    weights: str
    facts: GraphFacts


_chosen: ContextVar[tuple[str | None]] = ContextVar("the folder of converted models")


def cache_folder() -> str | None:
    """Where converted models live; None where they are not kept."""
    if chosen := _chosen.get(None):
        return chosen[0]
    cache = user_cache()
    return os.path.join(cache, "openvino") if cache else None


@contextmanager
def kept_in(folder: str | None) -> Iterator[None]:
    """Keep converted models in this folder, or none of them, until the block ends."""
    token = _chosen.set((folder,))
    try:
        yield
    finally:
        _chosen.reset(token)


def key_of(files: ModelFiles, **more: Any) -> str:
    """A digest of all that what is made of a network depends on: its card, and `more` (JSON)."""
    card = files.card
    depends = {
        "sha256": card.sha256,
        "architecture": files.architecture,
        "labels": len(files.labels),
        "activation": card.activation,  # which scores are compared with those of the network
        "model_args": card.model_args,
        "head": card.head.model_dump(mode="json") if card.head else None,
        "words": card.words.model_dump(mode="json") if card.words else None,
        "preprocess": card.preprocess.model_dump(mode="json"),
        "moderate": __version__,
        **more,
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def load(key: str) -> Graph | None:
    """The model kept under a key; None where there is none, or where it is not to be trusted.

    That OpenVINO computes a model otherwise than torch is believed for a day: the cause may have
    gone. One that other versions of torch or timm made is made anew, where they are installed.
    """
    folder = cache_folder()
    if folder is None:
        return None
    try:
        if not _is_private(folder):
            return None
        kept = json.loads(read_regular(_path(folder, key, "json"), _MAX_FACTS_BYTES))
        if kept["key"] != key:
            return None
        if (versions := torch_versions()) and kept["made_by"] != versions:
            return None
        facts = GraphFacts.parse(kept)
        graph = Graph(_path(folder, key, "xml"), _path(folder, key, "bin"), facts)
        if not facts.agrees:
            return graph if 0 <= time.time() - facts.made < _DAY else None
        if sha256_of(graph.network, _MAX_NETWORK_BYTES) != facts.network:
            return None
        with contextlib.suppress(OSError):  # as on a file system that is read-only
            for suffix in ("xml", "bin", "json"):  # so that it counts as used
                os.utime(_path(folder, key, suffix), follow_symlinks=False)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        log.debug("no converted model: %s", error)
        return None
    return graph


@contextmanager
def workspace(nbytes: int) -> Iterator[str]:
    """A private folder to make a model of so many bytes in, removed afterwards.

    It lies in the cache where that can be used, else among the temporary files. Raises OSError.
    """
    with tempfile.TemporaryDirectory(prefix=_WORKSPACE, dir=prepared_folder(nbytes)) as folder:
        yield folder


def keep(key: str, folder: str, facts: GraphFacts) -> Graph:
    """Keep the model that was made in a workspace, and remove those unused for a month.

    Where the cache cannot be used, the model stays in the workspace.
    """
    made = Graph(os.path.join(folder, NETWORK), os.path.join(folder, WEIGHTS), facts)
    cache = os.path.dirname(folder)
    if cache != cache_folder():
        return made
    kept = Graph(_path(cache, key, "xml"), _path(cache, key, "bin"), facts)
    described = os.path.join(folder, "facts.json")
    try:
        _forget_unused(cache)
        with open(described, "w", encoding="utf-8") as file:
            json.dump({"key": key, "made_by": torch_versions(), **asdict(facts)}, file)
        # Without its facts a model does not count: they go first and come last.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_path(cache, key, "json"))
        moves = [(described, _path(cache, key, "json"))]
        if facts.agrees:
            moves = [(made.weights, kept.weights), (made.network, kept.network), *moves]
        for source, target in moves:
            os.chmod(source, 0o600)
            os.replace(source, target)
    except OSError as error:
        log.debug("the converted model is not kept: %s", error)
        return made if os.path.exists(made.network) else kept
    return kept


def _path(folder: str, key: str, suffix: str) -> str:
    return os.path.join(folder, f"{key}.{suffix}")


def prepared_folder(nbytes: int) -> str | None:
    """The cache's folder, ready to take so many bytes; None where it cannot be used."""
    folder = cache_folder()
    if folder is None or not os.path.isabs(folder):
        return None
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if not _is_private(folder):
            log.debug("%s is open to other users: converted models are not kept there", folder)
            return None
        status = os.statvfs(folder)
        if status.f_bavail * status.f_frsize < nbytes:
            log.debug("%s has no room for a converted model", folder)
        elif os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError as error:
        log.debug("converted models are not kept: %s", error)
    return None


def _is_private(folder: str) -> bool:
    """Whether nobody else can have written there, but for root.

    Root could replace this program too. A container image has converted models that root put there.
    """
    if not os.path.isabs(folder):
        return False
    found = os.stat(folder)
    owners = (0, os.geteuid())
    return found.st_uid in owners and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _forget_unused(folder: str) -> None:
    now = time.time()
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            age = now - entry.stat(follow_symlinks=False).st_mtime
            if entry.is_dir(follow_symlinks=False):
                if entry.name.startswith(_WORKSPACE) and age > _DAY:  # its process was killed
                    shutil.rmtree(entry.path, ignore_errors=True)
            elif age > _UNUSED_DAYS * _DAY:
                os.unlink(entry.path)
