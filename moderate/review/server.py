"""The local web server of a review: a page, its data, pictures, and decisions.

Starlette runs it; what blocks (files, decoders, SQLite) runs on its worker threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib.resources import files
from typing import Any, get_args

import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from moderate.errors import ModerateError
from moderate.policy.model import Policy
from moderate.review.access import COOKIE, HEADERS, Access, Browser
from moderate.review.journal import MOST_NOTE, HumanDecision, Reveal
from moderate.review.pictures import Picture, Pictures
from moderate.review.rows import Copies
from moderate.review.session import MOST_AT_ONCE, Judgement, NotYoursError, Session
from moderate.review.shown import shown_row
from moderate.sources.originals import OriginalError
from moderate.text import printable

MOST_BODY = 64 << 10
"""Bytes of a request's body."""

_PAGE = {
    "review.css": "text/css",
    "icon.svg": "image/svg+xml",
    **{
        f"{name}.js": "text/javascript"
        for name in ("review", "api", "breaks", "details", "dom", "items", "keys", "stage", "tiles")
    },
}
"""The files of the page, and what they are. Nothing else is served, whatever a URL says."""


_GO_ON = (
    '<!doctype html><html lang="en"><title>Review</title>'
    '<link rel="icon" href="/page/icon.svg">'
    '<meta http-equiv="refresh" content="0; url=/"><p><a href="/">Go on to the review</a></p>'
)


class _RefusedError(Exception):
    """A request is answered with a status and a sentence; `code` is for the page to act on."""

    def __init__(self, status: int, reason: str, code: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.code = code


def application(
    session: Session,
    pictures: Pictures,
    access: Access,
    policy: Policy,
    title: str,
    copies: Mapping[str, Copies] | None = None,
) -> Starlette:
    """The server's application.

    title is what the page calls the results. copies are other files with the same bytes, by path.
    """
    app = _Server(session, pictures, access, policy, title, copies or {})
    routes = [
        Route("/", app.page, methods=["GET"]),
        Route("/page/{name}", app.page_file, methods=["GET"]),
        Route("/api/session", app.about, methods=["GET"]),
        Route("/api/next", app.next, methods=["GET"]),
        Route("/api/pictures/{number:int}", app.frames, methods=["GET"]),
        Route("/api/pictures/{number:int}/{frame:int}/{size}", app.picture, methods=["GET"]),
        Route("/api/decide", app.decide, methods=["POST"]),
        Route("/api/undo", app.undo, methods=["POST"]),
        Route("/api/invite", app.invite, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=app.guard)],
        exception_handlers={
            _RefusedError: _refused,
            NotYoursError: _not_yours,
            ModerateError: _failed,
            404: _not_found,
            405: _not_found,
        },
    )


class _Server:
    def __init__(
        self,
        session: Session,
        pictures: Pictures,
        access: Access,
        policy: Policy,
        title: str,
        copies: Mapping[str, Copies],
    ) -> None:
        self._session = session
        self._pictures = pictures
        self._access = access
        self._policy = policy
        self._title = title
        self._copies = copies

    async def guard(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Let in only who may come in; see `access`."""
        entering = request.url.path == "/" and "token" in request.query_params
        reason = self._access.refusal(request.method, request.headers, entering=entering)
        if reason:
            response: Response = _sentence(403, reason)
        elif entering:
            response = self._enter(request)
        else:
            browser = self._access.browser(request.cookies.get(_cookie(request)))
            if browser is None:
                response = _sentence(401, "open the link that 'moderate review' printed")
            elif request.method not in ("GET", "HEAD") and not self._access.may_change(
                browser, request.headers
            ):
                response = _sentence(403, "the request does not come from the page; reload it")
            else:
                request.state.browser = browser
                response = await _answer(request, call_next)
        for name, value in HEADERS.items():
            response.headers[name] = value
        return response

    def _enter(self, request: Request) -> Response:
        if request.method != "GET":  # a program that looks where the link leads uses it up
            return _sentence(405, "open the link in a browser")
        cookie = self._access.let_in(request.query_params["token"])
        if cookie is None:
            if self._access.browser(request.cookies.get(_cookie(request))):
                return RedirectResponse("/", 303)  # the link was opened once more
            return _sentence(
                403, "the link was used already, or is another server's; ask for a new one"
            )
        # A redirect would belong to the site with the link, and go without a strict cookie.
        response = Response(_GO_ON, media_type="text/html")
        response.set_cookie(_cookie(request), cookie, httponly=True, samesite="strict", path="/")
        return response

    async def page(self, request: Request) -> Response:
        """The page itself."""
        return Response(_file("review.html"), media_type="text/html")

    async def page_file(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params["name"]
        if name not in _PAGE:
            raise _RefusedError(404, "there is no such file")
        return Response(_file(name), media_type=_PAGE[name])

    async def about(self, request: Request) -> Response:
        """What the page has to know once: names, thresholds, and its token for changes."""
        browser = _browser(request)
        return _json(
            {
                "title": self._title,
                "reviewer": browser.reviewer,
                "csrf": browser.csrf,
                "policy": self._policy.name,
                "categories": [
                    {
                        "name": name,
                        "review": limits.review if limits else None,
                        "block": limits.block if limits else None,
                    }
                    for name in self._session.categories
                    for limits in (self._policy.limits(name),)
                ],
                "most_note": MOST_NOTE,
                "progress": await _blocking(self._progress, browser),
            }
        )

    async def next(self, request: Request) -> Response:
        """The rows to look at now, and how far the queue is; their pictures are made ready."""
        browser = _browser(request)
        count = _whole_number(request.query_params.get("count", "1"), 1, MOST_AT_ONCE)
        rows = await _blocking(self._session.next, browser.reviewer, count)
        for row in rows:
            self._pictures.ask(row["row"], self._session.row(row["row"]))
        progress = await _blocking(self._progress, browser)
        return _json({"rows": [self._shown(row) for row in rows], "progress": progress})

    async def frames(self, request: Request) -> Response:
        """Which frames of an image can be shown, or why none can; `again` tries once more."""
        try:
            found = await self._found(request, again="again" in request.query_params)
        except OriginalError as error:
            return _json({"frames": [], "problem": str(error)})
        frames = [{"frame": one.frame, "milliseconds": one.milliseconds} for one in found]
        return _json({"frames": frames, "problem": None})

    async def picture(self, request: Request) -> Response:
        """One frame as JPEG; `size` is large or small."""
        size, place = request.path_params["size"], request.path_params["frame"]
        try:
            found = await self._found(request)
        except OriginalError as error:
            raise _RefusedError(404, str(error)) from None
        if size not in ("large", "small") or not 0 <= place < len(found):
            raise _RefusedError(404, "there is no such picture")
        data = found[place].large if size == "large" else found[place].small
        return Response(data, media_type="image/jpeg")

    async def decide(self, request: Request) -> Response:
        """Record a decision. When this answers, it is on the disk.

        A page whose server was replaced by that of another queue does not decide on its rows, and
        nobody approves or blocks what could not be shown.
        """
        values = await _body(request)
        number = _whole_number(values.get("row"), 1, 1 << 62)
        judgement = _judgement(values, self._session.categories)
        row = self._row(number)
        if values.get("path") != printable(row["path"]):
            raise _RefusedError(409, "the queue is another one now: reload the page", "queue")
        if judgement.decision != "unsure":
            try:
                await _coming(self._pictures.ask(number, row))
            except OriginalError as error:
                reason = f"the image could not be shown ({error}): skip it, or say unsure"
                raise _RefusedError(409, reason, "not_shown") from None
        entry = await _blocking(self._session.decide, number, _browser(request).reviewer, judgement)
        progress = await _blocking(self._progress, _browser(request))
        return _json({"id": entry.id, "progress": progress})

    async def undo(self, request: Request) -> Response:
        """Take the last decision back; the row is given again."""
        browser = _browser(request)
        await _body(request)
        row = await _blocking(self._session.undo, browser.reviewer)
        if row is not None:
            self._pictures.ask(row["row"], self._session.row(row["row"]))
        progress = await _blocking(self._progress, browser)
        return _json({"row": None if row is None else self._shown(row), "progress": progress})

    async def invite(self, request: Request) -> Response:
        """A link that lets one more browser in, for another reviewer."""
        values = await _body(request)
        name = values.get("reviewer")
        if not isinstance(name, str) or not name.strip() or len(name) > 100:
            raise _RefusedError(400, "name the reviewer, in 100 characters or fewer")
        token = self._access.invite(name.strip())
        return _json({"link": f"http://{request.headers['host']}/?token={token}"})

    def _progress(self, browser: Browser) -> dict[str, Any]:
        progress = self._session.progress(browser.reviewer)
        names = ("total", "decided", "second_looks", "mine", "severe")
        agreement = self._session.agreement()
        return {
            **{name: getattr(progress, name) for name in names},
            "agreement": agreement and dataclasses.asdict(agreement),
        }

    def _shown(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of `Session.next` as the page gets it."""
        number = row["row"]
        whole = self._session.row(number)  # a carried column may be called `row`, too
        copies = self._copies.get(whole["path"])
        of = self._session.categories
        shown = shown_row(whole, self._session.own, self._policy, copies, of)
        return {**shown, "row": number, "second": row["second"]}

    def _row(self, number: int) -> dict[str, Any]:
        try:
            return self._session.row(number)
        except KeyError:
            raise _RefusedError(404, "there is no such row in the queue", "queue") from None

    async def _found(self, request: Request, *, again: bool = False) -> list[Picture]:
        """The frames of a row's image. Raises OriginalError."""
        number = request.path_params["number"]
        return await _coming(self._pictures.ask(number, self._row(number), again=again))


def _browser(request: Request) -> Browser:
    browser: Browser = request.state.browser
    return browser


def _cookie(request: Request) -> str:
    """The cookie's name: browsers send cookies to every port of a host."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"{COOKIE}_{port}" if port.isdecimal() else COOKIE


async def _coming(future: Future[list[Picture]]) -> list[Picture]:
    """Wait for images; others may wait for the same ones, so that giving up ends nothing."""
    return await asyncio.shield(asyncio.wrap_future(future))


async def _answer(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """The response, with the headers of all others where the server itself fails."""
    try:
        return await call_next(request)
    except Exception:  # told in words, and in full on the terminal
        logging.getLogger(__name__).exception("a request failed")
        return _sentence(500, "the server failed; its terminal says how")


async def _blocking(work: Callable[..., Any], *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True)


def _judgement(values: Mapping[str, Any], categories: Sequence[str]) -> Judgement:
    decision: Any
    revealed: Any
    decision, revealed = values.get("decision"), values.get("revealed", "blur")
    labels, note, seconds = (
        values.get("labels", {}),
        values.get("note", ""),
        values.get("seconds", 0),
    )
    if decision not in get_args(HumanDecision):
        raise _RefusedError(400, "decision: use approve, block or unsure")
    if revealed not in get_args(Reveal):
        raise _RefusedError(400, "revealed: use blur, grey or colour")
    if not isinstance(labels, dict) or not all(
        name in categories and isinstance(value, bool) for name, value in labels.items()
    ):
        raise _RefusedError(400, "labels: use true or false for categories")
    if not isinstance(note, str) or len(note) > MOST_NOTE:
        raise _RefusedError(400, f"note: use text of {MOST_NOTE} characters or fewer")
    if type(seconds) not in (int, float) or not 0 <= seconds <= 86_400:
        raise _RefusedError(400, "seconds: use 0 to 86400")
    identity = values.get("id")
    if identity is not None and not (
        isinstance(identity, str) and re.fullmatch("[0-9a-f]{32}", identity)
    ):
        raise _RefusedError(400, "id: use 32 hexadecimal digits")
    return Judgement(decision, labels, note, round(float(seconds), 3), revealed, identity)


def _whole_number(value: Any, least: int, most: int) -> int:
    with contextlib.suppress(ValueError):
        if type(value) in (int, str) and least <= int(value) <= most:
            return int(value)
    raise _RefusedError(400, f"use a whole number from {least} to {most}")


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MOST_BODY:
            raise _RefusedError(413, "the request is too large")
    try:
        values = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise _RefusedError(400, "the request is no JSON object")
    return values


def _file(name: str) -> bytes:
    return files("moderate.review").joinpath("page", name).read_bytes()


def _json(values: Any) -> JSONResponse:
    return JSONResponse(values)


def _sentence(status: int, text: str, code: str | None = None) -> Response:
    return JSONResponse({"problem": text, "code": code}, status_code=status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, _RefusedError)
    return _sentence(error.status, error.reason, error.code)


async def _not_yours(request: Request, error: Exception) -> Response:
    return _sentence(409, str(error), "not_yours")


async def _failed(request: Request, error: Exception) -> Response:
    return _sentence(500, str(error))


async def _not_found(request: Request, error: Exception) -> Response:
    return _sentence(404, "there is nothing here")
