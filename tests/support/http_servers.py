"""Servers on loopback that misbehave by script, and a small proxy, on a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.support.patience import PATIENCE

OK_BODY = b"the picture"


def answer(body: bytes = OK_BODY, status: str = "200 OK", **headers: str) -> bytes:
    """A whole response with a right Content-Length; header names with `_` for `-`."""
    lines = [f"HTTP/1.1 {status}"]
    fields = {"Content_Length": str(len(body))} | headers
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@dataclass
class Request:
    """What a client has sent, and the connection it came by."""

    target: str
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *parts: bytes, pause: float = 0.0) -> None:
        """Write each part on its own, with a pause between."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(pause)


Behaviour = Callable[[Request], Awaitable[bool | None]]
"""Answers one request; True keeps the connection for another one."""


@dataclass
class Server:
    """A server whose behaviours are chosen by path; counts what it sees."""

    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 0
    tls: ssl.SSLContext | None = None
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    sent: int = 0
    now: int = 0
    most: int = 0

    def url(self, path: str = "/", host: str | None = None, user: str = "") -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{user}{host or self.host}:{self.port}{path}"

    def paths(self) -> list[str]:
        return [request.target for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            with contextlib.suppress(OSError, RuntimeError, ssl.SSLError):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = {
            name.lower(): value.strip() for name, _, value in (ln.partition(":") for ln in lines)
        }
        request = Request(first.split(" ")[1], headers, reader, writer)
        self.requests.append(request)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            path = request.target.partition("?")[0]
            behaviour = self.behaviours.get(path) or self.behaviours["*"]
            return bool(await behaviour(request))
        finally:
            self.now -= 1


def plain(response: bytes, keep: bool = True) -> Behaviour:
    """Always the same bytes."""

    async def behave(request: Request) -> bool:
        await request.send(response)
        return keep

    return behave


def parts(*pieces: bytes, pause: float = 0.02, linger: float = 0.0) -> Behaviour:
    """Bytes piece by piece, then the end of the connection."""

    async def behave(request: Request) -> bool:
        await request.send(*pieces, pause=pause)
        await asyncio.sleep(linger)
        return False

    return behave


def endless(start: bytes, piece: bytes, pause: float = 0.0) -> Behaviour:
    """A start, then the same piece until the client has gone."""

    async def behave(request: Request) -> bool:
        await request.send(start)
        while not request.writer.is_closing():
            await request.send(piece, pause=pause)
        return False

    return behave


def redirect(location: str, status: str = "302 Found") -> Behaviour:
    return plain(answer(b"", status, Location=location))


def sequence(*behaviours: Behaviour) -> Behaviour:
    """One behaviour after the other; the last one for good."""
    left = list(behaviours)

    async def behave(request: Request) -> bool | None:
        current = left.pop(0) if len(left) > 1 else left[0]
        return await current(request)

    return behave


class Farm:
    """Runs servers on one background loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda *_: None)
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self._running: list[asyncio.Server] = []

    def start(self, server: Server) -> Server:
        async def begin() -> None:
            running = await asyncio.start_server(
                server.serve, server.host.strip("[]"), server.port, ssl=server.tls, limit=1 << 20
            )
            self._running.append(running)
            server.port = running.sockets[0].getsockname()[1]

        asyncio.run_coroutine_threadsafe(begin(), self.loop).result(PATIENCE)
        return server

    def close(self) -> None:
        async def end() -> None:
            for running in self._running:
                running.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()


@dataclass
class Proxy:
    """A proxy that does what proxies do: absolute URLs and CONNECT, to one server only."""

    to_port: int
    to_host: str = "127.0.0.1"
    asked: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)

    async def behave(self, request: Request) -> bool:
        self.asked.append(request.target)
        self.authorizations.append(request.headers.get("proxy-authorization", ""))
        reader, writer = await asyncio.open_connection(self.to_host, self.to_port)
        if ":" in request.target and "//" not in request.target:
            await request.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = "/" + request.target.split("/", 3)[3]
            host = request.headers["host"]
            head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
        await asyncio.gather(_pump(reader, request.writer), _pump(request.reader, writer))
        return False


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()
