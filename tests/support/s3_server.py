"""A real S3 server on loopback (moto's), with faults on demand."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

from tests.support.patience import PATIENCE


@dataclass
class S3Server:
    """Where the server is, and what it was asked."""

    port: int = 0
    client: Any = None
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    refuse: Callable[[dict[str, Any]], tuple[str, str] | None] = lambda environ: None

    def uri(self, bucket: str, key: str = "", extra: str = "") -> str:
        """An object's URI with the options that lead to this server."""
        return (
            f"s3://{bucket}/{key}?region=us-east-1&scheme=http"
            f"&endpoint_override=127.0.0.1:{self.port}{extra}"
        )

    def put(self, bucket: str, objects: dict[str, bytes]) -> None:
        """A new bucket with these objects."""
        self.client.create_bucket(Bucket=bucket)
        for key, data in objects.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def put_many(self, bucket: str, keys: Iterable[str]) -> None:
        """Small objects put into the server's own store, past HTTP, in a new bucket."""
        self.client.create_bucket(Bucket=bucket)
        backend = s3_backends["123456789012"]["aws"]
        for key in keys:
            backend.put_object(bucket, key, b"x")

    def keys(self, bucket: str) -> dict[str, int]:
        """Sizes of all objects."""
        found = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {item["Key"]: item["Size"] for item in found}

    @contextlib.contextmanager
    def refusing(self, rule: Callable[[dict[str, Any]], tuple[str, str] | None]) -> Iterator[None]:
        """Answer with a status and a code where the rule gives them."""
        self.refuse = rule
        try:
            yield
        finally:
            self.refuse = lambda environ: None


@contextlib.contextmanager
def fake_credentials() -> Iterator[None]:
    """Credentials that only such a server takes, and nobody else is asked for any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        yield


@contextlib.contextmanager
def serve_s3() -> Iterator[S3Server]:
    """The server, until the block ends."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    backend = DomainDispatcherApplication(create_backend_app)
    server = S3Server()

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        server.requests.append(
            (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
        )
        refused = server.refuse(environ)
        if refused is None:
            answer: Iterable[bytes] = backend(environ, start)
            return answer
        if environ.get("wsgi.input_terminated"):  # an upload
            environ["wsgi.input"].read()
        start(refused[0], [("Content-Type", "application/xml")])
        return [f"<Error><Code>{refused[1]}</Code><Message>no</Message></Error>".encode()]

    http = make_server("127.0.0.1", 0, application, threaded=True)
    server.port = http.port
    server.client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{http.port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"max_attempts": 1}),
    )
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join(PATIENCE)
        http.server_close()
