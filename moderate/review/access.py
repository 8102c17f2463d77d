"""Who may talk to the review server: its own page, in the browsers that were let in.

The server has pictures that nobody else is to see and decisions that nobody else is to make, and
it is reachable by every page that is open in the same browser. Each request has to name the server
by a name it has (against DNS rebinding), must not come from another site, and has to carry a cookie
that is given for a token; those that change something also a token of their own.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass

COOKIE = "moderate_review"
CSRF_HEADER = "x-moderate-csrf"

MOST_BROWSERS = 1_000
MOST_INVITATIONS = 100

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""Of every response."""


@dataclass(frozen=True, slots=True)
class Browser:
    """One that was let in: who works with it, and the token that its changes carry."""

    reviewer: str
    csrf: str


class Access:
    """Tokens, cookies, and what requests have to look like; for any number of threads.

    hosts are the names of the server, with its port where that is not 80. `fixed` are tokens that
    may be used again and again, and whose reviewers they are.
    """

    def __init__(self, hosts: frozenset[str], fixed: Mapping[str, str] | None = None) -> None:
        self._hosts = hosts
        self._fixed = dict(fixed or {})
        self._lock = threading.Lock()
        self._once: dict[str, str] = {}
        self._browsers: dict[str, Browser] = {}

    def invite(self, reviewer: str) -> str:
        """A token that lets one browser in, once."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._once[token] = reviewer
            while len(self._once) > MOST_INVITATIONS:
                del self._once[next(iter(self._once))]
        return token

    def let_in(self, token: str) -> str | None:
        """The cookie for a token; None for a wrong one."""
        with self._lock:
            reviewer = self._taken(token)
            if reviewer is None:
                return None
            cookie = secrets.token_urlsafe(32)
            self._browsers[cookie] = Browser(reviewer, secrets.token_urlsafe(32))
            while len(self._browsers) > MOST_BROWSERS:
                del self._browsers[next(iter(self._browsers))]
            return cookie

    def _taken(self, token: str) -> str | None:
        found = None
        for known in [*self._once, *self._fixed]:  # all, so that the time tells nothing
            if hmac.compare_digest(known.encode(), token.encode("utf-8", "replace")):
                found = known
        if found is None:
            return None
        return self._once.pop(found, None) or self._fixed.get(found)

    def browser(self, cookie: str | None) -> Browser | None:
        """Whose cookie that is."""
        with self._lock:
            return self._browsers.get(cookie) if cookie else None

    def refusal(self, method: str, headers: Mapping[str, str], *, entering: bool) -> str | None:
        """Why a request is refused whoever sends it; None where it is not.

        headers have their names in lower case. entering: it is the one that brings the token, which
        a link in a terminal or a mail may lead to.
        """
        if headers.get("host", "").lower() not in self._hosts:
            return "the server has another name"
        site = headers.get("sec-fetch-site")
        if site not in (None, "same-origin", "none") and not entering:
            return "the request comes from another site"
        origin = headers.get("origin")
        if origin is not None and origin.lower().removeprefix("http://") not in self._hosts:
            return "the request comes from another site"
        if method not in ("GET", "HEAD") and origin is None and site is None:
            return "the request does not say where it comes from"
        return None

    def may_change(self, browser: Browser, headers: Mapping[str, str]) -> bool:
        """Whether a request carries the token for changes."""
        given = headers.get(CSRF_HEADER, "")
        return hmac.compare_digest(given.encode("utf-8", "replace"), browser.csrf.encode())


def parse_tokens(text: str) -> dict[str, str]:
    """The tokens of a token file: lines of NAME TOKEN, `#` begins a comment.

    Raises ValueError, naming the line.
    """
    tokens: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise ValueError(f"line {number}: write NAME TOKEN")
        name, token = words
        if len(token) < 24:
            raise ValueError(f"line {number}: the token is short; use 24 characters or more")
        if token in tokens:
            raise ValueError(f"line {number}: the token is that of {tokens[token]}, too")
        tokens[token] = name
    if not tokens:
        raise ValueError("there is no token")
    return tokens
