"""What can go wrong with a URL: failures that may pass, and the error of a row for each."""

from __future__ import annotations

import email.utils
import http
import os
import re
import socket
import time
from contextlib import suppress

import aiohttp

from moderate.fetch.address import AddressRefused
from moderate.fetch.local import FetchError
from moderate.fetch.options import HttpOptions
from moderate.text import one_line
from moderate.types import ErrorCode, ImageError

# Answers of getaddrinfo that another attempt will not change.
_NO_SUCH_NAME = frozenset(
    code
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_FAIL")
    if (code := getattr(socket, name, None)) is not None
)


class RetryableError(FetchError):
    """A failure that may pass; `after` is how many seconds the server asked to wait."""

    def __init__(self, error: ImageError, after: float | None = None) -> None:
        super().__init__(error)
        self.after = after


class NoAnswerError(RetryableError):
    """A failure that counts against the host: no connection, no answer, or one too late."""


class BrokenOffError(NoAnswerError):
    """A connection that broke off before an answer came."""


class HostRefusedError(FetchError):
    """A request that was not sent because its host has stopped answering."""


def status_error(status: int, reason: str | None, retry_after: str | None) -> FetchError:
    """The error for any status but 200; retry_after is the header of that name."""
    phrase = reason or ""
    with suppress(ValueError):
        phrase = http.HTTPStatus(status).phrase
    message = f"the server answered {status} {one_line(phrase, 60)}".strip()
    error = ImageError(ErrorCode.HTTP_ERROR, message)
    if status == 429 or status >= 500:
        return RetryableError(error, _retry_after(retry_after))
    return FetchError(error)


def too_large(limit: int, size: int | None = None) -> FetchError:
    """The error for a body over the limit of `limit` bytes; size is its size where announced."""
    what = "more than the limit" if size is None else f"{size} bytes is over the limit"
    message = f"{what} of {limit} bytes; raise it with --max-file-size"
    return FetchError(ImageError(ErrorCode.FILE_TOO_LARGE, message), size)


def failed(message: str) -> FetchError:
    """A failure that another attempt would only repeat."""
    return FetchError(ImageError(ErrorCode.FETCH_FAILED, message))


def retryable(message: str) -> RetryableError:
    """A failure that may pass, from a host that answers."""
    return RetryableError(ImageError(ErrorCode.FETCH_FAILED, message))


def no_answer(message: str) -> NoAnswerError:
    """A failure that may pass and counts against the host."""
    return NoAnswerError(ImageError(ErrorCode.FETCH_FAILED, message))


def error_of(error: Exception, options: HttpOptions) -> FetchError:
    """The error that a row shows for an exception of aiohttp.

    Never the exception's text, which may quote headers or the URL's credentials.
    """
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, AddressRefused):
        message = f"{cause.address} is not a public address; --allow-private-network permits it"
        return FetchError(ImageError(ErrorCode.ADDRESS_NOT_ALLOWED, message))
    match error:
        case aiohttp.SocketTimeoutError():
            message = f"the server fell silent for {options.read_timeout:g} seconds"
            return NoAnswerError(ImageError(ErrorCode.FETCH_TIMEOUT, message))
        case TimeoutError():
            message = f"no connection within {options.connect_timeout:g} seconds"
            return NoAnswerError(ImageError(ErrorCode.FETCH_TIMEOUT, message))
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "not valid"
            return failed(f"the server's certificate: {one_line(reason, 100)}")
        case aiohttp.ClientSSLError():
            reason = getattr(cause, "reason", None) or "handshake failed"
            return failed(f"TLS: {one_line(str(reason), 100)}")
        case aiohttp.ClientConnectorDNSError():
            if isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_NAME:
                return failed("the host name has no address")
            return no_answer("the host name cannot be looked up")
        case aiohttp.ClientHttpProxyError():
            return failed(f"the proxy answered {error.status}")
        case aiohttp.ClientProxyConnectionError():
            return no_answer(f"cannot connect to the proxy: {_reason(cause)}")
        case aiohttp.ClientConnectorError():
            return no_answer(f"cannot connect: {_reason(cause)}")
        case aiohttp.ClientPayloadError():
            return retryable("the body broke off or is not framed as announced")
        case aiohttp.ClientResponseError():
            return failed("the server's answer is not valid HTTP")
        case aiohttp.ClientConnectionError() | OSError():
            message = "the connection broke off"
            return BrokenOffError(ImageError(ErrorCode.FETCH_FAILED, message))
        case _:
            return failed(f"cannot be fetched ({type(error).__name__})")


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header (RFC 9110, 10.2.3): a number or a date."""
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _reason(error: BaseException) -> str:
    code = getattr(error, "errno", None)
    return os.strerror(code) if code else one_line(str(error) or type(error).__name__, 100)
