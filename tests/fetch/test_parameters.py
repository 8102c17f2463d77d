"""Credentials in URLs are masked; what names an image is not, so that its row can be found."""

from __future__ import annotations

import secrets
import string
import uuid
from urllib.parse import quote

import pytest

from moderate.fetch.url import mask_secrets

LONG = "AIzaSyD3xQ7mK9vB2nL5pR8tW1zF4hJ6cG0sYeU"


@pytest.mark.parametrize(
    "query",
    [
        "key=photos/a.jpg",
        "key=photos%2F2024%2Fa.jpg",
        "key=summer-holiday-2024-beach-photo-17",
        f"key={uuid.UUID(int=4711 << 90)}",
        f"key={'9f86d081884c7d65' * 4}",
        "key=IMG_20240115_123456789012345",
        "sid=4f3a9b&session=17&policy=strict&id=9",
        f"id={LONG}",
        f"v={LONG}&hash={LONG}",
        "sign=stop&sign=give-way",
        "monkey=banana&tokens=3&signature=",
        "Policy=house-rules&Key-Pair-Id=APKA1",
        "",
    ],
)
def test_names_stay(query: str) -> None:
    assert mask_secrets(f"https://h/a?{query}") == f"https://h/a?{query}"


@pytest.mark.parametrize(
    ("query", "masked"),
    [
        ("password=x&PWD=y&a=b", "password=***&PWD=***&a=b"),
        ("X-Amz-Credential=A&X-Amz-Date=2&X-Amz-Signature=c",
         "X-Amz-Credential=***&X-Amz-Date=2&X-Amz-Signature=***"),
        ("AWSAccessKeyId=A&Expires=1&Signature=b", "AWSAccessKeyId=***&Expires=1&Signature=***"),
        ("Policy=p&Signature=s&Key-Pair-Id=k&key=a.jpg",
         "Policy=***&Signature=***&Key-Pair-Id=***&key=a.jpg"),
        ("sv=1&sr=b&sig=abc%3D", "sv=1&sr=b&sig=***"),
        ("bearer=a&JSESSIONID=b&otp=3", "bearer=***&JSESSIONID=***&otp=***"),
        ("t=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "t=***"),
        ("access%5Ftoken=1#id_token=2", "access%5Ftoken=***#id_token=***"),
        ("password=a?b&c=d", "password=***&c=d"),
        ("url=https://b/x?w=1&sig=s", "url=https://b/x?w=1&sig=***"),
        ("url=https://b/x?sig=s", "url=https://b/x?sig=***"),
        ("url=https%3A%2F%2Fb%3Fw%3D1%26sig%3Ds", "url=https%3A%2F%2Fb%3Fw%3D1%26sig%3D***"),
        ("url=https://user:pass@b/x", "url=https://***@b/x"),
    ],
)  # fmt: skip
def test_credentials_are_masked(query: str, masked: str) -> None:
    assert mask_secrets(f"https://h/a?{query}") == f"https://h/a?{masked}"


def test_digests_under_the_name_of_a_signature_are_masked() -> None:
    digest = "9f86d081884c7d65" * 4
    assert digest not in mask_secrets(f"https://h/a?sign={digest}")


def test_urls_within_urls_end() -> None:
    url = "https://h/a?sig=secret"
    for _ in range(12):
        url = f"https://h/a?u={quote(url, safe='')}"
    masked = mask_secrets(url)
    assert "secret" not in masked
    assert mask_secrets(masked) == masked
    deep = "".join(f"%{'25' * level}3Fa=://" for level in range(240))
    assert mask_secrets(f"https://h/?a=://{deep}").startswith("https://h/?a=")


def test_what_only_looks_like_a_credential_still_tells_images_apart() -> None:
    other = LONG[::-1]
    shown = [mask_secrets(f"https://h/?key={value}") for value in (LONG, other)]
    assert LONG not in shown[0]
    assert shown[0].startswith("https://h/?key=***")
    assert shown[0] != shown[1]
    assert [mask_secrets(url) for url in shown] == shown


def test_random_values_look_like_credentials() -> None:
    letters = string.ascii_letters + string.digits
    for size in (24, 32, 40):
        values = ["".join(secrets.choice(letters) for _ in range(size)) for _ in range(100)]
        values += [secrets.token_urlsafe(size) for _ in range(100)]
        masked = [v for v in values if v not in mask_secrets(f"https://h/?session={v}")]
        assert len(masked) > 0.95 * len(values)
