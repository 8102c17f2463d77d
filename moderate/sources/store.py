"""A prefix of an object store walked in sorted order, like a folder on a disk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from moderate.decode.sniff import HEAD_BYTES, claimed_format, sniff
from moderate.errors import InputError
from moderate.fetch.local import FetchError
from moderate.fetch.naming import shown
from moderate.fetch.store import Store, Stores, StoreUri, parse_store_uri, store_error
from moderate.sources.directory import WalkOptions
from moderate.sources.entries import MAX_PATH_BYTES, abridged, path_too_long
from moderate.sources.interface import Source
from moderate.text import one_line
from moderate.types import ErrorCode, ImageError, ImageRef, Skipped, SkipReason, StoredObject

LOOKS_AHEAD = 32
"""Objects of unknown kind whose first bytes are read ahead of their turn, half of them at once."""

# Suffixes by which an object is known not to be an image, without a request.
_OTHER_SUFFIXES = frozenset(
    (  # noqa: SIM905 - a list of 120 quoted words is no easier to read
        "txt md rst log csv tsv json jsonl ndjson xml yaml yml toml ini cfg conf html htm xhtml "
        "css scss less js mjs ts jsx tsx map vue py pyc ipynb java class jar c h cc cpp hpp rs "
        "go rb php sh bat ps1 sql parquet arrow feather orc avro zip tar gz tgz bz2 tbz2 xz txz "
        "zst tzst 7z rar iso npy npz pt pth ckpt onnx safetensors h5 hdf5 pkl tfrecord cls mp3 "
        "wav flac aac m4a ogg oga opus mid doc docx xls xlsx ppt pptx odt ods odp rtf epub db "
        "sqlite sqlite3 exe dll so dylib woff woff2 ttf otf eot lock crc md5 sha1 sha256 sig "
        "pem srt vtt "
    ).split()
)

_Found = ImageRef | Skipped
_Folder = str  # the key of a prefix, with a slash at its end


@dataclass(frozen=True, slots=True)
class StoreSource(Source):
    """The object that a URI names, or every image below the prefix that it is.

    Walked depth first, each level sorted by the bytes of its names, and listed when it is reached:
    one level is held in memory (about 0.5 KB per object), never the whole bucket. Objects are named
    by their URI without options and credentials. The same counts as in a folder, but that a name
    which claims something else (.json, .css) is believed; only others cost a request.

    Iterating raises InputError where there is no such bucket, object or prefix, or no access to it.
    """

    kind: ClassVar[str] = "store"

    uri: str
    options: WalkOptions = field(default_factory=WalkOptions)

    @property
    def label(self) -> bytes:
        """See `Source`."""
        return shown(os.fsencode(self.uri))

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        try:
            uri = parse_store_uri(self.uri)
        except FetchError as error:
            scheme = self.uri.split("://", 1)[0]
            raise InputError(f"{one_line(scheme)}://...: {error.error.message}") from None
        try:
            store = Stores().open(uri)
            if self._is_object(store, uri):
                yield _ref(uri)
                return
            first = _list(store, uri, _as_folder(uri.key))
        except (FetchError, OSError, ValueError) as error:
            problem = error.error if isinstance(error, FetchError) else store_error(error)
            message = problem.message
            if isinstance(error, FileNotFoundError):
                message = "there is no such object or prefix"
            raise InputError(f"cannot read {one_line(uri.shown)}: {message}") from None
        yield from _Walk(store, uri, self.options).run(first)

    def _is_object(self, store: Store, uri: StoreUri) -> bool:
        if not uri.key or uri.key.endswith("/"):
            return False
        return bool(store.files.get_file_info(store.path(uri.key)).is_file)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An item of a listing. size is in bytes, None for a prefix."""

    name: str
    size: int | None


class _Walk:
    """One pass over everything below a prefix."""

    def __init__(self, store: Store, uri: StoreUri, options: WalkOptions) -> None:
        self._store = store
        self._uri = uri
        self._options = options
        self._root = _as_folder(uri.key)

    def run(self, first: list[_Entry]) -> Iterator[_Found]:
        """Everything below the prefix; first is the listing of its first level."""
        with ThreadPoolExecutor(LOOKS_AHEAD // 2, "moderate-look") as pool:
            try:
                levels = [self._level(self._root, first, pool)]
                while levels:
                    item = next(levels[-1], None)
                    if item is None:
                        levels.pop()
                    elif isinstance(item, _Folder):
                        levels.append(self._open_level(item, pool))
                    else:
                        yield item
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _open_level(self, folder: _Folder, pool: ThreadPoolExecutor) -> Iterator[_Found | _Folder]:
        uri = self._uri.with_key(folder)
        try:
            entries = _list(self._store, uri, folder)
        except (OSError, ValueError) as error:
            problem = store_error(error)
            message = f"cannot list the prefix: {problem.message}"
            yield replace(_ref(uri, ImageError(problem.code, message)), whole_input=True)
            return
        yield from self._level(folder, entries, pool)

    def _level(
        self, folder: _Folder, entries: list[_Entry], pool: ThreadPoolExecutor
    ) -> Iterator[_Found | _Folder]:
        waiting: deque[_Found | _Folder | Future[_Found]] = deque()
        for entry in entries:
            waiting.append(self._entry(folder, entry, pool))
            while len(waiting) > LOOKS_AHEAD or (waiting and not isinstance(waiting[0], Future)):
                yield _settled(waiting.popleft())
        while waiting:
            yield _settled(waiting.popleft())

    def _entry(
        self, folder: _Folder, entry: _Entry, pool: ThreadPoolExecutor
    ) -> _Found | _Folder | Future[_Found]:
        key = folder + entry.name
        uri = self._uri.with_key(key)
        if not entry.name:
            # pyarrow lists a key with two slashes as the level itself, and cannot open it.
            message = "keys with two slashes in a row cannot be read; rename them"
            return _ref(self._uri.with_key(folder + "/"), ImageError(ErrorCode.READ_ERROR, message))
        path = os.fsencode(uri.shown)
        if len(path) > MAX_PATH_BYTES:
            error = path_too_long(len(path))
            return ImageRef(abridged(path), error=error, location=StoredObject(uri.text))
        is_folder = entry.size is None
        if entry.name.startswith(".") and not self._options.hidden:
            return Skipped(path, SkipReason.HIDDEN)
        relative = os.fsencode(key.removeprefix(self._root))
        if self._options.leaves_out(relative, folder=is_folder):
            return Skipped(path, SkipReason.EXCLUDED)
        if is_folder:
            return key + "/"
        if self._options.all_files or claimed_format(os.fsencode(entry.name)):
            return _ref(uri)
        suffix = os.path.splitext(entry.name)[1][1:].lower()
        if suffix in _OTHER_SUFFIXES or not entry.size:
            return Skipped(path, SkipReason.NOT_AN_IMAGE)
        return pool.submit(self._look, uri)

    def _look(self, uri: StoreUri) -> _Found:
        """Decide by its first bytes whether an object counts whose name says nothing."""
        try:
            with self._store.files.open_input_file(self._store.path(uri.key)) as file:
                head: bytes = file.read(HEAD_BYTES)
        except (OSError, ValueError) as error:
            return _ref(uri, store_error(error))
        return _ref(uri) if sniff(head) else Skipped(_ref(uri).path, SkipReason.NOT_AN_IMAGE)


def _list(store: Store, uri: StoreUri, folder: _Folder) -> list[_Entry]:
    """One level below a prefix, sorted; raises OSError."""
    from pyarrow.fs import FileSelector

    path = store.path(folder.rstrip("/"))
    listing = store.files.get_file_info(FileSelector(path))
    start = len(path.rstrip("/")) + 1
    entries = [
        _Entry(info.path[start:].rstrip("/"), info.size if info.is_file else None)
        for info in listing
    ]
    # An object may have the name of a prefix: it comes first.
    entries.sort(
        key=lambda entry: (entry.name.encode("utf-8", "surrogateescape"), entry.size is None)
    )
    return entries


def _settled(item: Any) -> Any:
    return item.result() if isinstance(item, Future) else item


def _as_folder(key: str) -> _Folder:
    key = key.rstrip("/")
    return key + "/" if key else ""


def _ref(uri: StoreUri, error: ImageError | None = None) -> ImageRef:
    return ImageRef(os.fsencode(uri.shown), error=error, location=StoredObject(uri.text))
