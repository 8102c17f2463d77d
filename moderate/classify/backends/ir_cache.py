"""Converted models kept between runs, each in one file with its own digest.

A cached model is maths that will be run: a file is used only where its key and the digest of its
every byte are right, and is made anew otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from moderate.folders import user_cache

log = logging.getLogger(__name__)

_MAGIC = b"moderate-ir-1\n"
_UNUSED_DAYS = 30
_LENGTH = 8  # bytes of a length


@dataclass(frozen=True, slots=True)
class Graph:
    """A model in OpenVINO's own form: the network as XML, and its weights."""

    xml: bytes
    weights: bytes


_chosen: ContextVar[tuple[str | None]] = ContextVar("the folder of converted models")


def cache_folder() -> str | None:
    """Where converted models live; None where they are not kept."""
    if chosen := _chosen.get(None):
        return chosen[0]
    cache = user_cache()
    return os.path.join(cache, "openvino") if cache else None


@contextlib.contextmanager
def kept_in(folder: str | None) -> Iterator[None]:
    """Keep converted models in this folder, or none of them, until the block ends."""
    token = _chosen.set((folder,))
    try:
        yield
    finally:
        _chosen.reset(token)


def load(key: str) -> Graph | None:
    """The graph kept under a key; None where there is none, or where it is not to be trusted."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        if not _ours(folder):
            return None
        path = _path(folder, key)
        with open(path, "rb") as file:
            data = file.read()
        graph = _unpack(data, key)
        if graph is not None:
            os.utime(path)  # so that it counts as used
    except OSError as error:
        log.debug("no converted model: %s", error)
        return None
    return graph


def save(key: str, graph: Graph) -> None:
    """Keep a graph, and let go of those unused for a month. A cache that cannot be written is none.

    The file appears whole or not at all.
    """
    folder = cache_folder()
    if folder is None:
        return
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if not _ours(folder):
            log.debug("%s is open to other users: converted models are not kept there", folder)
            return
        _forget_unused(folder)
        descriptor, temporary = tempfile.mkstemp(dir=folder)
        try:
            with open(descriptor, "wb") as file:
                for part in _pack(key, graph):
                    file.write(part)
            os.replace(temporary, _path(folder, key))
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        log.debug("the converted model is not kept: %s", error)


def _path(folder: str, key: str) -> str:
    return os.path.join(folder, f"{key}.ir")


def _ours(folder: str) -> bool:
    """Whether nobody else can have written there."""
    found = os.stat(folder)
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _pack(key: str, graph: Graph) -> list[bytes]:
    content = [key.encode(), len(graph.xml).to_bytes(_LENGTH, "little"), graph.xml, graph.weights]
    return [_MAGIC, _digest(content), *content]


def _unpack(data: bytes, key: str) -> Graph | None:
    view = memoryview(data)
    start = len(_MAGIC) + hashlib.sha256().digest_size
    whole = view[start:]
    named = len(key.encode())
    if view[: len(_MAGIC)] != _MAGIC or view[len(_MAGIC) : start] != _digest([whole]):
        return None
    if whole[:named] != key.encode():
        return None
    body = whole[named + _LENGTH :]
    length = int.from_bytes(whole[named : named + _LENGTH], "little")
    return Graph(bytes(body[:length]), bytes(body[length:]))


def _digest(parts: list[bytes] | list[memoryview]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _forget_unused(folder: str) -> None:
    oldest = time.time() - _UNUSED_DAYS * 24 * 3600
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            if os.stat(path).st_mtime < oldest:
                os.unlink(path)
