"""Responses that end exactly where they say, and their bodies, decompressed within a limit."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.http import HttpProcessingError

from moderate.decode.sniff import HEAD_BYTES, sniff
from moderate.fetch.http_errors import failed, retryable, status_error, too_large
from moderate.fetch.local import FetchError
from moderate.text import one_line
from moderate.types import ErrorCode, ImageError


class BrokenConnectionError(aiohttp.ClientConnectionError):
    """A connection that broke off, as an exception for which aiohttp does not retry by itself."""


async def send_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Middleware that keeps aiohttp from sending a request twice: the client counts attempts."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise BrokenConnectionError from error


class Response(aiohttp.ClientResponse):
    """A response that keeps its connection until `give_back` has checked how it ended.

    aiohttp returns a connection to its pool as soon as the body is complete, and reuses it even
    where the server has sent more than it was asked for.
    """

    def _response_eof(self) -> None:
        pass  # aiohttp would return the connection to the pool

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """See aiohttp. Refuses a connection on which an answer arrived before the request."""
        protocol = connection.protocol
        if protocol is not None and len(protocol):
            connection.close()
            raise aiohttp.ServerDisconnectedError
        return await super().start(connection)

    def is_overlong(self) -> bool:
        """Whether more than this response has arrived."""
        protocol = self.connection.protocol if self.connection else None
        if protocol is None:
            return False
        return bool(len(protocol)) or isinstance(protocol.exception(), HttpProcessingError)

    def give_back(self) -> None:
        """Keep the connection for the next request only if this response has ended cleanly.

        Otherwise abort it: an orderly shutdown is one that the server could draw out.
        """
        if self.content.is_eof() and not self.is_overlong():
            return
        if self.connection is not None and self.connection.transport is not None:
            transport = self.connection.transport
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        self.close()


async def read_body(response: Response, limit: int) -> bytes:
    """The body of a 200, at most `limit` bytes and never empty. Raises FetchError."""
    if response.status != 200:
        raise status_error(response.status, response.reason, response.headers.get("Retry-After"))
    length = response.content_length
    if length is not None and length > limit:
        raise too_large(limit, length)
    encoding = ", ".join(response.headers.getall("Content-Encoding", ()))
    inflate = _decoder(encoding)
    parts = []
    received = size = 0
    async for chunk in response.content.iter_any():
        received += len(chunk)
        if received > limit:
            raise too_large(limit)
        if inflate is not None:
            chunk = inflate(chunk, limit - size)
        size += len(chunk)
        parts.append(chunk)
    if inflate is not None:
        inflate(b"", 0)
    await asyncio.sleep(0)  # so that `is_overlong` sees what arrived together with the end
    if response.is_overlong():
        raise failed("the server sent more than it announced")
    if not size:
        raise FetchError(ImageError(ErrorCode.EMPTY_FILE, "the server sent no bytes"), 0)
    body = b"".join(parts)
    if inflate is None:
        _check_plain(encoding, body)
    return body


def _decoder(encoding: str) -> Callable[[bytes, int], bytes] | None:
    """The inverse of a Content-Encoding that was not asked for; None where it is unknown.

    The function takes a chunk and how many bytes may still come out. It raises FetchError beyond
    that, and for an empty chunk before the end of the stream.
    """
    encoding = encoding.strip().lower()
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        return None
    stream: Any = None

    def inflate(chunk: bytes, room: int) -> bytes:
        nonlocal stream
        if not chunk:
            if stream is None or not stream.eof:
                raise retryable("the compressed body ends too early")
            return b""
        if stream is None:
            stream = zlib.decompressobj(_window_bits(encoding, chunk))
        try:
            data: bytes = stream.decompress(chunk, room + 1)
        except zlib.error:
            raise failed("the compressed body cannot be decompressed") from None
        if len(data) > room:
            raise FetchError(
                ImageError(
                    ErrorCode.FILE_TOO_LARGE,
                    "decompresses to more than the limit; raise it with --max-file-size",
                )
            )
        if stream.unused_data:
            raise failed("the compressed body is followed by something else")
        return data

    return inflate


def _check_plain(encoding: str, body: bytes) -> None:
    """Refuse a body in an encoding that cannot be undone, unless it is an image as it is.

    Servers label images `aws-chunked` (S3, after the chunks are gone), `utf-8`, `base64`, `binary`
    or `none` although nothing was done to them: the bytes decide. Raises FetchError.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"} or sniff(body[:HEAD_BYTES]):
        return
    raise failed(f"the server sent {one_line(name, 40)} encoding, which was not asked for")


def _window_bits(encoding: str, start: bytes) -> int:
    if encoding != "deflate":
        return 16 + zlib.MAX_WBITS
    # `deflate` means zlib's format (RFC 9110, 8.4.1.2), but some servers send it without a header.
    return zlib.MAX_WBITS if start[0] & 0x0F == 8 else -zlib.MAX_WBITS
