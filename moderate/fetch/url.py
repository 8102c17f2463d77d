"""What a URL says: http and https URLs taken apart and masked, and data: URLs as bytes."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin

import idna

from moderate.fetch.local import FetchError
from moderate.fetch.parameters import mask_parameters
from moderate.text import one_line, printable
from moderate.types import ErrorCode, ImageError

MAX_URL_LENGTH = 16_384
"""Characters; servers commonly stop at 8,192."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BREAKS_URL = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\u3000]")
# What RFC 3986 allows in a path and query, and `%`: what is encoded already stays as it is, as
# signed URLs are signed letter by letter.
_KEPT = "!#$%&'()*+,/:;=?@[]~"

# Possessive, as the text may be of any length and from anyone: none of these goes back over what
# an earlier part has matched.
_USER_INFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*+:)?([/\\]{2,}+)[^/?#]*@")
_AUTHORITY = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*+:)?[/\\]{2,}+)([^/?#@\[]*+)")
_PORT_ENDS = re.compile(r"\d*+[/?#]")
_MOST_NESTED = 4
"""Levels of URLs within a URL's parameters; what is deeper is not shown."""
_BASE64 = re.compile(rb"; *base64\Z", re.IGNORECASE)
_ASCII_SPACE = b"\t\n\x0c\r "


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """An http or https URL, taken apart. It may hold credentials: show only `mask(text)`.

    `host` is ASCII in lower case: a name (with its trailing dot, if it has one), an IPv4 address
    as four decimal numbers whatever its spelling was, or an IPv6 address without brackets.
    `target` is the path and query, as they go on the wire. `user_info` is user name and password.
    """

    scheme: str
    host: str
    port: int
    target: str
    user_info: tuple[str, str] | None = field(default=None, repr=False)

    @property
    def origin(self) -> tuple[str, str, int]:
        """What has to be equal for credentials to be meant for it, too."""
        return (self.scheme, self.host, self.port)

    @property
    def text(self) -> str:
        """The URL without credentials in front of the host, as it is requested."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def parse_url(text: str) -> HttpUrl | ImageError:
    """Take an http or https URL apart, or say why it is none (`bad_url`).

    Hosts are read as the URL Standard of the WHATWG reads them: percent-decoded, mapped by UTS 46,
    and every number form of IPv4 (decimal, octal, hexadecimal, fewer than four parts) recognised.
    Fragments are dropped; spaces and control characters are refused, not guessed at.
    """
    try:
        return _parse(text)
    except _BadUrl as problem:
        return ImageError(ErrorCode.BAD_URL, str(problem))


def join(base: HttpUrl, location: str) -> HttpUrl | ImageError:
    """Where a redirect from `base` leads; spaces are encoded, as every browser does."""
    location = location.strip(" \t").replace(" ", "%20")
    try:
        return parse_url(urljoin(base.text, location))
    except ValueError:  # brackets that do not match
        return ImageError(ErrorCode.BAD_URL, "the server redirects to something that is no URL")


def mask_secrets(url: str) -> str:
    """`url` with user name, password and the values of secret parameters as `***`.

    Works on any text; a data: URL loses its body.
    """
    return _masked(url, _MOST_NESTED)


def mask(url: str) -> str:
    """`mask_secrets`, with control and direction-changing characters as escapes."""
    return printable(mask_secrets(url))


def read_data_url(text: str, max_bytes: int) -> bytes:
    """The bytes of a data: URL, by the Fetch Standard of the WHATWG: base64 or percent-encoded.

    Raises FetchError: `bad_url` where it does not decode, `file_too_large` (before decoding
    base64) over `max_bytes`, `empty_file`.
    """
    text = text.strip("".join(map(chr, range(0x21))))
    if text[:5].lower() != "data:":
        raise _data_error("does not start with data:")
    media_type, comma, body = text[5:].partition("#")[0].partition(",")
    if not comma:
        raise _data_error("has no comma between type and data")
    # Media types are kept only to see whether they end in `;base64`.
    kind = media_type.strip().encode("utf-8", "surrogateescape")
    # Tabs and line ends are dropped from any URL before anything else looks at it.
    encoded = body.encode("utf-8", "surrogateescape").translate(None, b"\t\n\r")
    data = unquote_to_bytes(encoded)
    if _BASE64.search(kind):
        data = _decode_base64(data.translate(None, _ASCII_SPACE), max_bytes)
    _check_size(len(data), max_bytes)
    if not data:
        raise FetchError(ImageError(ErrorCode.EMPTY_FILE, "the data: URL holds no bytes"), 0)
    return data


class _BadUrl(Exception):  # noqa: N818 - never leaves this module
    """The message of a `bad_url`."""


def _parse(text: str) -> HttpUrl:
    if len(text) > MAX_URL_LENGTH:
        raise _BadUrl(f"the URL has {len(text)} characters; the limit is {MAX_URL_LENGTH}")
    if match := _BREAKS_URL.search(text):
        what = "a space" if match[0] == " " else "a control character or odd space"
        raise _BadUrl(f"the URL holds {what} at position {match.start() + 1}; percent-encode it")
    scheme_match = _SCHEME.match(text)
    scheme = scheme_match[1].lower() if scheme_match else ""
    if scheme not in _DEFAULT_PORTS:
        kind = f"{one_line(scheme, 20)}: URLs" if scheme else "URLs without a scheme"
        raise _BadUrl(f"{kind} are not fetched; only http:// and https:// are")
    rest = text[len(scheme) + 1 :].partition("#")[0]
    if not rest.startswith("//"):
        raise _BadUrl(f"the URL needs two slashes after {scheme}:")
    end = re.search(r"[/?]", rest[2:])
    cut = 2 + end.start() if end else len(rest)
    authority, target = rest[2:cut], rest[cut:]
    if "\\" in authority:
        raise _BadUrl("the URL holds a backslash where its host should be")
    user_info, at, host_port = authority.rpartition("@")
    host, port = _split_port(host_port)
    return HttpUrl(
        scheme,
        _canonical_host(host),
        _port_number(port, scheme),
        _encoded(target if target.startswith("/") else "/" + target),
        _user_and_password(user_info) if at else None,
    )


def _split_port(host_port: str) -> tuple[str, str]:
    if host_port.startswith("["):
        inner, bracket, rest = host_port[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _BadUrl("the brackets around the URL's IPv6 address do not match")
        return f"[{inner}]", rest[1:]
    host, _, port = host_port.partition(":")
    if ":" in port:
        raise _BadUrl("the URL's host has more than one colon; an IPv6 address needs brackets")
    return host, port


def _port_number(text: str, scheme: str) -> int:
    if not text:
        return _DEFAULT_PORTS[scheme]
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise _BadUrl("the URL's port is not a number from 1 to 65535")
    return int(text)


def _user_and_password(text: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    return unquote(user), unquote(password)


def _canonical_host(text: str) -> str:
    if text.startswith("["):
        try:
            address = ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            raise _BadUrl("the URL's host is not an IPv6 address") from None
        if address.scope_id is not None:
            raise _BadUrl("the URL's IPv6 address names a network interface; leave out the %…")
        return str(address)
    host = _ascii_host(unquote(text, errors="surrogateescape"))
    if not host:
        raise _BadUrl("the URL has no host")
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(host.removesuffix("."))
    if len(host) > 254 or not all(map(_LABEL.fullmatch, labels)):
        raise _BadUrl("the URL's host is not a valid host name")
    return host


def _ascii_host(host: str) -> str:
    if host.isascii():
        return host.lower()
    try:
        mapped = idna.uts46_remap(host, std3_rules=False)
        return mapped if mapped.isascii() else idna.encode(mapped).decode("ascii")
    except UnicodeError:  # idna's own errors are of this kind
        raise _BadUrl("the URL's host is not a valid international host name") from None


def _ipv4(host: str) -> str:
    # inet_aton reads every spelling: 127.1, 0x7f000001, 017700000001.
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        raise _BadUrl("the URL's host ends in a number and is not an IPv4 address") from None


def _encoded(target: str) -> str:
    return quote(target, safe=_KEPT, errors="surrogateescape")


def _without_user(match: re.Match[str]) -> str:
    return f"{match[1] or ''}{match[2]}***@"


def _masked(url: str, levels: int) -> str:
    """`mask_secrets`; URLs that are parameters' values are masked to so many levels."""
    if url[:5].lower() == "data:":
        head, comma, body = url.partition(",")
        return f"{head[:100]}{comma}… ({len(body)} characters)"
    masked = _USER_INFO.sub(_without_user, url, count=1)
    if masked == url:
        masked = _without_broken_user(url)
    return mask_parameters(masked, lambda value: _masked(value, levels - 1) if levels else "***")


def _without_broken_user(url: str) -> str:
    """The URL without what comes before its last `@`, where that may be a password with a slash.

    `http://user:pa/ss@host` is one that nothing but a person can read. A colon that only a port
    follows, up to the path, starts no password.
    """
    authority = _AUTHORITY.match(url)
    last_at = url.rfind("@")
    if authority is None or last_at < authority.end():
        return url
    colon = authority[2].find(":")
    if colon < 0 or (
        ":" not in authority[2][colon + 1 :]
        and _PORT_ENDS.match(url, authority.start(2) + colon + 1)
    ):
        return url
    return f"{authority[1]}***@{url[last_at + 1 :]}"


def _decode_base64(raw: bytes, max_bytes: int) -> bytes:
    # Padding may be missing, but what there is has to fit.
    if len(raw) % 4 == 0:
        raw = raw[:-2] + raw[-2:].rstrip(b"=")
    _check_size(len(raw) * 3 // 4, max_bytes)
    try:
        if len(raw) % 4 == 1 or b"=" in raw:
            raise _data_error("holds base64 of a length that cannot be")
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except binascii.Error:
        raise _data_error("holds characters that are not base64") from None


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        message = f"{size} bytes is over the limit of {max_bytes}; raise it with --max-file-size"
        raise FetchError(ImageError(ErrorCode.FILE_TOO_LARGE, message), size)


def _data_error(problem: str) -> FetchError:
    return FetchError(ImageError(ErrorCode.BAD_URL, f"the data: URL {problem}"))
