"""A small model hub on loopback: the routes that the real client uses, and ways to misbehave."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by name as file name to bytes; plain files by path; what to do wrong."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_right"
    cut_after: int | None = None  # bytes of a large body, then the connection is closed
    corrupt: set[str] = field(default_factory=set)  # file names whose bodies are altered
    slow: float = 0.0  # seconds between pieces of a body
    redirect: bool = False
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    cdn: str = ""  # another origin, where redirected downloads lie

    def ranges(self) -> list[str]:
        """The Range headers that clients sent."""
        return [headers["range"] for _, _, headers in self.requests if "range" in headers]


def etag(data: bytes) -> str:
    """The hub's ETag of a large file is its sha256."""
    return hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    """Git's name for a file's content, which the hub gives for small files."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, path, headers))
        if path in self.hub.plain:
            return self._send_file(path, self.hub.plain[path], body, {})
        if path.startswith("/cdn/"):
            repo, name = path.removeprefix("/cdn/").split("/~/")
            return self._send_file(name, self.hub.repos[repo][name], body, {})
        for repo, files in self.hub.repos.items():
            allowed = headers.get("authorization") == f"Bearer {self.hub.token}"
            if path.startswith((f"/api/models/{repo}", f"/{repo}/resolve/")) and (
                repo in self.hub.gated and not allowed
            ):
                return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
            if path.startswith(f"/api/models/{repo}"):
                revision = path.partition("/revision/")[2] or "main"
                if revision not in {"main", COMMIT}:
                    return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
                return self._send(200, json.dumps(self._info(repo, files)).encode(), {}, body)
            if path.startswith(f"/{repo}/resolve/"):
                name = path.split("/resolve/")[1].partition("/")[2]
                if name not in files:
                    return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
                return self._resolve(repo, name, files[name], body)
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def _info(self, repo: str, files: dict[str, bytes]) -> dict[str, Any]:
        siblings = []
        for name, data in files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_blob(data)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": etag(data), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        return {"_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings,
                "private": False, "downloads": 0, "tags": []}  # fmt: skip

    def _resolve(self, repo: str, name: str, data: bytes, body: bool) -> None:
        extra = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(data)}"'}
        if self.hub.redirect:
            extra |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{etag(data)}"'}
            return self._send(
                302, b"", {**extra, "Location": f"{self.hub.cdn}/cdn/{repo}/~/{name}"}, body
            )
        return self._send_file(name, data, body, extra)

    def _send_file(self, name: str, data: bytes, body: bool, extra: dict[str, str]) -> None:
        if name.rpartition("/")[2] in self.hub.corrupt:
            data = data[:-1] + bytes((data[-1] ^ 1,))
        status, start = 200, 0
        wanted = self.headers.get("Range")
        if wanted:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            status = 206
            extra = {**extra, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self._send(status, data[start:], {**extra, "Accept-Ranges": "bytes"}, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        limit = self.hub.cut_after
        if limit is not None and len(data) > limit:
            self.wfile.write(data[:limit])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        for at in range(0, len(data), 1 << 14):
            try:
                self.wfile.write(data[at : at + (1 << 14)])
            except OSError:
                return
            if self.hub.slow:
                time.sleep(self.hub.slow)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that listens on 127.0.0.1 while the block runs."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
