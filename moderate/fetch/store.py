"""Objects in the stores that pyarrow knows (s3://, gs://, ...): read, listed from, written to.

Keys are written in a URI as they are, without percent-encoding, as in the stores' own tools. The
part after the last `?` holds options, if all of it is options that the store has.
"""

from __future__ import annotations

import ctypes
import datetime
import io
import os
import re
import threading
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl, quote, unquote

from moderate.errors import OutputError
from moderate.fetch.local import FetchError
from moderate.text import one_line
from moderate.types import ErrorCode, ImageError

STORE_SCHEMES = frozenset({"s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"})
"""Schemes of pyarrow.fs.FileSystem.from_uri, but for its local files."""

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 10.0
"""Without a byte for so long, a request has failed."""
ATTEMPTS = 3

_S3_OPTIONS = frozenset(
    {"region", "scheme", "endpoint_override", "anonymous", "force_virtual_addressing"}
)
_GS_OPTIONS = frozenset({"scheme", "endpoint_override", "anonymous", "project_id"})
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)/?(.*)", re.DOTALL)
_READ_AHEAD = 4 << 20  # each read of an archive is a request
_PART_BYTES = 32 << 20  # S3 takes 10,000 parts of 5 MiB and more; pyarrow makes its own of these

# What AWS's and Google's client libraries say. Sources: S3Errors.h of the AWS SDK for C++, and
# google::cloud::StatusCode.
_REASONS: tuple[tuple[str, ErrorCode, str], ...] = (
    (
        r"OAuth2 access token|default credentials",
        ErrorCode.PERMISSION_DENIED,
        "no credentials for Google Cloud are set up; a public bucket needs ?anonymous=true",
    ),
    (r"NO_SUCH_BUCKET|NoSuchBucket", ErrorCode.NOT_FOUND, "there is no such bucket"),
    (
        r"INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID|EXPIRED_TOKEN"
        r"|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|UNAUTHENTICATED|HTTP status 401",
        ErrorCode.PERMISSION_DENIED,
        "the store does not accept the credentials",
    ),
    (
        r"ACCESS_DENIED|AccessDenied|PERMISSION_DENIED|HTTP status 403|MISSING_AUTHENTICATION",
        ErrorCode.PERMISSION_DENIED,
        "the store refuses access with these credentials",
    ),
    (
        r"NO_SUCH_KEY|RESOURCE_NOT_FOUND|HTTP status 404|NOT_FOUND",
        ErrorCode.NOT_FOUND,
        "there is no such object",
    ),
    (
        r"HTTP status 301|PERMANENT_REDIRECT|PermanentRedirect",
        ErrorCode.READ_ERROR,
        "the bucket is in another region; name it in the URI with ?region=",
    ),
    (
        r"curlCode: 28|REQUEST_TIMEOUT|DEADLINE_EXCEEDED|Timeout was reached",
        ErrorCode.FETCH_TIMEOUT,
        "the store did not answer in time",
    ),
    (
        r"curlCode: 6\b|resolve host",
        ErrorCode.FETCH_FAILED,
        "the name of the store's server cannot be resolved",
    ),
    (
        r"NETWORK_CONNECTION|curlCode|UNAVAILABLE|PerformWork|connect",
        ErrorCode.FETCH_FAILED,
        "there is no connection to the store",
    ),
    (
        r"Empty path component",
        ErrorCode.READ_ERROR,
        "pyarrow reads no key with two slashes in a row",
    ),
)


@dataclass(frozen=True, slots=True)
class StoreUri:
    """The URI of an object or prefix, taken apart. Holds credentials: show `shown` instead.

    `place` is the bucket (of HDFS the host and port), `key` what follows it, `options` the query.
    """

    scheme: str
    place: str
    key: str
    options: tuple[tuple[str, str], ...] = ()
    user_info: tuple[str, str] | None = field(default=None, repr=False)
    raw_user: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        """The URI without credentials and options."""
        user = "" if self.scheme in ("s3", "gs") or ":" in self.raw_user else self.raw_user
        return f"{self.scheme}://{user}{self.place}/{self.key}"

    @property
    def text(self) -> str:
        """The whole URI, credentials and options included."""
        query = "&".join(f"{name}={quote(value, safe='/:')}" for name, value in self.options)
        # A key with a question mark would be taken for one with options.
        tail = f"?{query}" if query or "?" in self.key else ""
        return f"{self.scheme}://{self.raw_user}{self.place}/{self.key}{tail}"

    def with_key(self, key: str) -> StoreUri:
        """Another object of the same store."""
        return StoreUri(self.scheme, self.place, key, self.options, self.user_info, self.raw_user)


@dataclass(frozen=True, slots=True)
class Store:
    """A pyarrow.fs.FileSystem and the path in it that a store's keys are below."""

    files: Any
    root: str

    def path(self, key: str) -> str:
        """The file system's path of a key."""
        return f"{self.root}/{key}" if key else self.root or "/"


class Stores:
    """File systems, one per bucket and set of options. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[StoreUri, Store] = {}

    def open(self, uri: StoreUri) -> Store:
        """The store that an object is in; raises FetchError."""
        with self._lock:
            wanted = uri.with_key("")
            if wanted not in self._opened:
                self._opened[wanted] = _connect(wanted)
            return self._opened[wanted]


class StoreFetcher:
    """Reads whole objects; any number of threads may call it at once."""

    def __init__(self) -> None:
        self._stores = Stores()

    def fetch(self, uri: str, max_bytes: int) -> bytes:
        """The bytes of an object of at most `max_bytes`, never none; its size is asked for first.

        Raises FetchError with `bad_url`, `not_found`, `permission_denied`, `read_error`,
        `fetch_timeout`, `fetch_failed`, `file_too_large` or `empty_file`.
        """
        parsed = parse_store_uri(uri)
        store = self._stores.open(parsed)
        size: int | None = None
        try:
            with store.files.open_input_file(store.path(parsed.key)) as file:
                size = file.size()
                if size > max_bytes:
                    raise FetchError(_too_large(size, max_bytes), size)
                data: bytes = file.read(size)
        except FetchError:
            raise
        except Exception as error:  # noqa: BLE001 - no server may cost more than one object
            raise FetchError(store_error(error), size) from None
        if not size:
            raise FetchError(ImageError(ErrorCode.EMPTY_FILE, "the object is empty"), 0)
        if len(data) != size:
            message = f"{len(data)} of {size} bytes came; the object changed or the store failed"
            raise FetchError(ImageError(ErrorCode.FETCH_FAILED, message), size)
        return data


def parse_store_uri(text: str) -> StoreUri:
    """Take a store's URI apart; raises FetchError with `bad_url`, and shows no credentials."""
    match = _URI.fullmatch(text)
    if not match:
        raise _bad_url("not the URI of an object in a store")
    scheme, authority, key = match[1].lower(), match[2], match[3]
    if scheme == "file":
        raise _bad_url("file:// URLs are not followed; give the path itself")
    if scheme not in STORE_SCHEMES:
        raise _bad_url(f"{scheme}:// is no object store that pyarrow knows")
    scheme = "gs" if scheme == "gcs" else scheme
    user, at, place = authority.rpartition("@")
    if not place:
        raise _bad_url(f"no bucket is named; write {scheme}://BUCKET/KEY")
    if scheme in ("s3", "gs") and ":" in place:
        raise _bad_url(
            "a bucket's name has no colon; a slash in a secret key has to be written %2F"
        )
    known = {"s3": _S3_OPTIONS, "gs": _GS_OPTIONS}.get(scheme)
    key, options = _split_options(key, known)
    name, _, secret = user.partition(":")
    user_info = (unquote(name), unquote(secret)) if at else None
    return StoreUri(scheme, place, key, options, user_info, user + at)


def open_store(uri: str) -> tuple[Any, str]:
    """The pyarrow.fs.FileSystem that a URI names, and the path in it. Raises FetchError.

    For s3: the options region (else asked of AWS, unless there is an endpoint_override), scheme,
    endpoint_override (else AWS_ENDPOINT_URL), anonymous=true and force_virtual_addressing=true;
    credentials from the URI, or where AWS's own tools find them. For gs: scheme, endpoint_override,
    anonymous=true and project_id. Other stores take what pyarrow takes. Nothing is connected to yet
    but where AWS has to be asked.
    """
    parsed = parse_store_uri(uri)
    store = _connect(parsed)
    return store.files, store.path(parsed.key)


def open_input(uri: str) -> BinaryIO:
    """An object as a file that can be read and sought; reads are of 4 MiB. Raises FetchError.

    Reading raises FetchError, too.
    """
    files, path = open_store(uri)
    try:
        file = files.open_input_file(path)
    except (OSError, ValueError) as error:
        raise FetchError(store_error(error)) from None
    return cast("BinaryIO", io.BufferedReader(_ObjectFile(file), _READ_AHEAD))


def check_target(uri: str) -> None:
    """Refuse a target that cannot be written, as far as is known without writing.

    Raises OutputError: no key, no such bucket, no access to it, no connection.
    """
    try:
        parsed = parse_store_uri(uri)
        if not parsed.key or parsed.key.endswith("/"):
            raise OutputError(f"cannot write {one_line(parsed.shown)}: it names no object")
        store = _connect(parsed)
        place = store.root or "/"
        if store.files.get_file_info(place).type.name == "NotFound":
            raise OutputError(f"cannot write {one_line(parsed.shown)}: there is no {place}")
    except (FetchError, OSError, ValueError) as error:
        raise _output_error(uri, error) from None


def upload(local: str | int, uri: str) -> None:
    """Put a finished local file into a store, whole or not at all. Raises OutputError.

    `local` is its path, or a descriptor, which is read to its end and closed. The object appears,
    or is replaced, when the last byte has arrived. At most 32 MiB and what the store's client needs
    are held.
    """
    try:
        with open(local, "rb") as source:
            parsed = parse_store_uri(uri)
            store = _connect(parsed)
            stream = store.files.open_output_stream(store.path(parsed.key))
            try:
                while piece := source.read(_PART_BYTES):
                    stream.write(piece)
                    stream.flush()  # waits, so that parts do not pile up in memory
                stream.close()
            except BaseException:
                _never_close(stream)
                raise
    except (FetchError, OSError, ValueError) as error:
        raise _output_error(uri, error) from None


def store_error(error: Exception) -> ImageError:
    """The row's error for an exception of a store's client, whose text can hold credentials."""
    if isinstance(error, FileNotFoundError):
        return ImageError(ErrorCode.NOT_FOUND, "there is no such object or bucket")
    if isinstance(error, PermissionError):
        return ImageError(ErrorCode.PERMISSION_DENIED, "the store refuses access")
    if isinstance(error, UnicodeError):
        return ImageError(ErrorCode.BAD_URL, "the URI is not UTF-8")
    text = str(error)
    for pattern, code, message in _REASONS:
        if re.search(pattern, text):
            return ImageError(code, message)
    named = re.search(r"AWS Error ([A-Z_]+)(?: \(HTTP status (\d+)\))?", text)
    reason = " ".join(part for part in named.groups() if part) if named else type(error).__name__
    return ImageError(ErrorCode.READ_ERROR, f"the store failed: {reason}")


class _ObjectFile(io.RawIOBase):
    """pyarrow's file as one of Python's, with errors that say nothing secret."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._file.readinto(buffer))
        except OSError as error:
            raise FetchError(store_error(error)) from None

    def close(self) -> None:
        self._file.close()
        super().close()


def _connect(uri: StoreUri) -> Store:
    try:
        if uri.scheme == "s3":
            return Store(_s3(uri), uri.place)
        if uri.scheme == "gs":
            return Store(_gs(uri), uri.place)
        from pyarrow.fs import FileSystem

        files, root = FileSystem.from_uri(uri.with_key("").text)
        return Store(files, root.rstrip("/"))
    except (OSError, ValueError, ImportError) as error:
        raise FetchError(store_error(error)) from None


def _s3(uri: StoreUri) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    options = dict(uri.options)
    user, secret = uri.user_info or (None, None)
    # AWS's own variables, which pyarrow leaves aside.
    set_outside = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    scheme, endpoint = _endpoint(options, set_outside)
    region = options.get("region")
    if region is None and endpoint is None:
        region = resolve_s3_region(uri.place)
    return S3FileSystem(
        access_key=user or None,
        secret_key=secret or None,
        anonymous=_is_true(options, "anonymous"),
        region=region,
        scheme=scheme,
        endpoint_override=endpoint,
        force_virtual_addressing=_is_true(options, "force_virtual_addressing"),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        # Written in the foreground, a part that fails leaves a file without it behind.
        background_writes=True,
    )


def _gs(uri: StoreUri) -> Any:
    from pyarrow.fs import GcsFileSystem

    options = dict(uri.options)
    scheme, endpoint = _endpoint(options, None)
    anonymous = _is_true(options, "anonymous") or uri.user_info == ("anonymous", "")
    return GcsFileSystem(
        anonymous=anonymous,
        scheme=scheme,
        endpoint_override=endpoint,
        project_id=options.get("project_id"),
        retry_time_limit=datetime.timedelta(seconds=REQUEST_SECONDS),
    )


def _endpoint(options: dict[str, str], default: str | None) -> tuple[str | None, str | None]:
    """Scheme and endpoint; people write the endpoint as a URL, too."""
    scheme, endpoint = options.get("scheme"), options.get("endpoint_override", default)
    if endpoint and "://" in endpoint:
        scheme, endpoint = endpoint.rstrip("/").split("://", 1)
    return scheme, endpoint


def _is_true(options: dict[str, str], name: str) -> bool:
    return options.get(name, "").lower() in ("true", "1", "yes")


def _split_options(
    key: str, known: frozenset[str] | None
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A key and the options after it; known is None where pyarrow judges them."""
    before, mark, query = key.rpartition("?")
    if not mark:
        return key, ()
    options = tuple(parse_qsl(query, keep_blank_values=True))
    if known is not None and not all(name in known for name, _ in options):
        return key, ()
    if query and not options:
        return key, ()
    return before, options


def _never_close(stream: Any) -> None:
    """Keep a half-written object from appearing.

    pyarrow has no way to abort. It completes the upload with what has arrived when a stream is
    closed, collected, or still there as Python ends; one more reference prevents all three.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))


def _output_error(uri: str, error: Exception) -> OutputError:
    problem = error.error if isinstance(error, FetchError) else store_error(error)
    if isinstance(error, OSError) and error.errno and error.filename:  # the local file
        return OutputError(f"cannot read {one_line(str(error.filename))}: {error.strerror}")
    try:
        shown = parse_store_uri(uri).shown
    except FetchError:
        shown = uri.split("://", 1)[0] + "://..."
    return OutputError(f"cannot write {one_line(shown)}: {problem.message}")


def _bad_url(message: str) -> FetchError:
    return FetchError(ImageError(ErrorCode.BAD_URL, message))


def _too_large(size: int, max_bytes: int) -> ImageError:
    return ImageError(
        ErrorCode.FILE_TOO_LARGE,
        f"{size} bytes is over the limit of {max_bytes}; raise it with --max-file-size",
    )
