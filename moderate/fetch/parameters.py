"""Which parameters of a URL are secrets: by their names, and where a name tells little, by value.

What is masked no longer tells two URLs apart. So only what can be expected to be a credential is
masked. A name such as `key`, which as often says which image is meant, counts only with a value
that looks like one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote, unquote

# Of names in lower case, with letters and digits alone.
_SECRET = re.compile(
    r"sig|hmac|auth|authorization|bearer|pass|passwd|passphrase|pwd|otp|jwt|jsessionid|phpsessid"
    r"|hdnts|hdnea|hdntl|googleaccessid"
    r"|.*(signature|token|secret|password|credentials?|(api|access|secret|private|auth)key(id)?"
    r"|subscriptionkey)"
)
_SIGNATURE = re.compile(r"sig|.*signature")
# Of URLs that CloudFront signs; without a signature they are names like any other.
_BESIDE_SIGNATURES = frozenset({"policy", "keypairid"})
_AMBIGUOUS = frozenset({"key", "sid", "session", "sessionid", "sign", *_BESIDE_SIGNATURES})

# A value ends at a `?`, too: a URL in it, as those of image proxies have one, has its own query.
_PARAMETER = re.compile(r"(?<=[?&;#])([^=&;#?]+)=([^&;#?]*)")
_WHOLE_VALUE = re.compile(r"[^&;#]*")
_NO_LETTERS_OR_DIGITS = re.compile(r"[^a-z0-9]")
_WEB_TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")

_SHORTEST = 20  # letters and digits of a value that may be a credential
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DIGEST = re.compile(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}")
_FILE = re.compile(r".*\.[A-Za-z][A-Za-z0-9]{1,4}", re.DOTALL)
_SEPARATORS = re.compile(r"[-_./+=~:]")
_CREDENTIAL_CHARACTERS = re.compile(r"[A-Za-z0-9]+")


def mask_parameters(url: str, mask_url: Callable[[str], str]) -> str:
    """`url` with the values of its secret parameters as `***`.

    mask_url masks a URL that is the value of a parameter. Where only its value makes a parameter a
    secret, the start of a digest follows the `***`, so that two images stay apart should it have
    been their name after all.
    """
    parameters = list(_PARAMETER.finditer(url))
    names = [_plain(match[1]) for match in parameters]
    is_signed = any(map(_SIGNATURE.fullmatch, names))
    parts = []
    end = 0
    for match, name in zip(parameters, names, strict=True):
        if match.start() < end or not match[2]:
            continue
        value, value_end = unquote(match[2]), match.end()
        beside = is_signed and name in _BESIDE_SIGNATURES
        if beside or _SECRET.fullmatch(name) or _WEB_TOKEN.fullmatch(value):
            masked = "***"
            value_end = _WHOLE_VALUE.match(url, match.start(2)).end()  # type: ignore[union-attr]
        elif name in _AMBIGUOUS and _looks_secret(name, value):
            masked = "***" + hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()[:8]
        elif "://" in value and (inner := mask_url(value)) != value:
            masked = inner if value == match[2] else quote(inner, safe="*", errors="replace")
        else:
            continue
        parts += [url[end : match.start(2)], masked]
        end = value_end
    return "".join([*parts, url[end:]])


def _plain(name: str) -> str:
    return _NO_LETTERS_OR_DIGITS.sub("", unquote(name).lower())


def _looks_secret(name: str, value: str) -> bool:
    """Whether a value is as random as a credential, rather than a name that a person could choose.

    Random text changes between digits, capitals and small letters at almost every second character;
    words, numbers and dates do so rarely. A digest may be an image's name, but as the value of
    `sign` it is a signature.
    """
    if _UUID.fullmatch(value) or _FILE.fullmatch(value):
        return False
    if _DIGEST.fullmatch(value):
        return name == "sign"
    text = _SEPARATORS.sub("", value)
    if len(text) < _SHORTEST or not _CREDENTIAL_CHARACTERS.fullmatch(text):
        return False
    kinds = [(char.isdigit(), char.isupper()) for char in text]
    return sum(one != other for one, other in pairwise(kinds)) >= len(text) / 4
