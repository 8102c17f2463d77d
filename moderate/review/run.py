"""Runs the review server until somebody ends it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from moderate.errors import OutputError

GRACE_SECONDS = 2
"""For answers that are under way when the server is ended."""


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; port 0 is a free one. Raises OutputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By this protocol, asyncio knows that it is to send at once; else each answer is 40 ms late.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(64)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"cannot listen on {host} port {port}: {reason}") from None
        yield listener


def host_names(host: str, port: int, others: tuple[str, ...] = ()) -> frozenset[str]:
    """What the Host header may say: names of this server with its port."""
    names = {host, *others}
    if host in ("127.0.0.1", "::1"):
        names |= {"127.0.0.1", "localhost", "::1"}
    shown = {f"[{name}]" if ":" in name else name.lower() for name in names}
    return frozenset(f"{name}:{port}" for name in shown) | (
        frozenset(shown) if port == 80 else frozenset()
    )


def serve(app: Starlette, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Answer until SIGINT or SIGTERM; `on_ready` is called when it begins."""
    config = uvicorn.Config(
        app,
        # Its errors are tracebacks of requests that the end cuts off; ours are logged by ourselves.
        log_level="critical",
        access_log=False,  # URLs name images
        server_header=False,
        date_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        loop="asyncio",
        http="h11",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    on_ready()
    uvicorn.Server(config).run(sockets=[listener])
