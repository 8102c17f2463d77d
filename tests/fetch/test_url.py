"""URLs taken apart, masked, and data: URLs decoded."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderate.fetch.local import FetchError
from moderate.fetch.url import HttpUrl, join, mask, mask_secrets, parse_url, read_data_url
from moderate.types import ErrorCode, ImageError


def good(text: str) -> HttpUrl:
    url = parse_url(text)
    assert isinstance(url, HttpUrl), url
    return url


def bad(text: str) -> str:
    url = parse_url(text)
    assert isinstance(url, ImageError), url
    assert url.code == ErrorCode.BAD_URL
    assert url.message.isprintable()
    assert "secret" not in url.message
    return url.message


@pytest.mark.parametrize(
    ("text", "requested"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTP://EXAMPLE.com:80/A", "http://example.com/A"),
        ("https://example.com:443?x", "https://example.com/?x"),
        ("https://example.com:8443/#part", "https://example.com:8443/"),
        ("https://example.com:/", "https://example.com/"),
        ("http://user:secret@example.com/a", "http://example.com/a"),
        ("http://a@b@example.com/a", "http://example.com/a"),
        ("http://bücher.example/ä?ü=ß", "http://xn--bcher-kva.example/%C3%A4?%C3%BC=%C3%9F"),
        ("http://a_b.example/%2F%2f%zz+?q=%20+&s=a/b", None),
        ("http://[2606:4700:0::1]:81/", "http://[2606:4700::1]:81/"),
        ("http://example.com./", "http://example.com./"),
        ('http://example.com/"<>\\^`{|}', "http://example.com/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("http://example.com/\udcff", "http://example.com/%FF"),
    ],
)
def test_what_is_requested(text: str, requested: str | None) -> None:
    assert good(text).text == (requested or text)


def test_user_and_password() -> None:
    assert good("http://us%40er:p%3Aw:x@h.example/").user_info == ("us@er", "p:w:x")
    assert good("http://user@h.example/").user_info == ("user", "")
    assert good("http://h.example/a@b").user_info is None
    assert "secret" not in repr(good("http://user:secret@h.example/"))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "x",
            "example.com/a.jpg",
            "//example.com/",
            "/a",
            "C:\\a.jpg",
            "data:,x",
            "ht tp://x/",
        ),
        *("ftp://user:secret@x/", "file:///etc/passwd", "javascript:alert(1)", "gopher://x/"),
        *("http:", "http:/x", "http:x", "http://", "http:///x", "http://?x", "http://:80/"),
        *("http://user:secret@/", "http://x:0/", "http://x:65536/", "http://x:8o/", "http://x:-1/"),
        *(
            "http://x:１/",
            "http://x:80:80/",
            "http://::1/",
            "http://x/a b",
            " http://x/",
            "http://x/\n",
        ),
        *(
            "http://x/\0",
            "http://x\r\nHost: y/",
            "http://x/\u2028",
            "http://x/\x85",
            "http://\u200b/",
        ),
        *("http://-\udcff/", "http://" + "a" * 64 + "/", "http://" + "a." * 130 + "b/"),
        *(
            "http://user:sec/ret@x/",
            "http://x%00/",
            "http://x%2fy/",
            "http://x%40y/",
            "http://a,b/",
        ),
        "http://x/" + "a" * 20_000,
    ],
)
def test_what_is_no_url(text: str) -> None:
    bad(text)


@given(st.text())
def test_any_text_is_a_url_or_an_error(text: str) -> None:
    for whole in (text, "http://" + text, f"https://{text}/", "http://h.example/" + text):
        url = parse_url(whole)
        if isinstance(url, HttpUrl):
            assert url.text.isascii()
            assert url.text.isprintable()
            assert " " not in url.text
            again = parse_url(url.text)
            assert isinstance(again, HttpUrl)
            assert again.text == url.text
        mask(whole)


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/b", "http://h.example/b"),
        ("b", "http://h.example/dir/b"),
        ("?q", "http://h.example/dir/a?q"),
        ("//other.example/b", "http://other.example/b"),
        ("https://other.example/b#c", "https://other.example/b"),
        (" /with space ", "http://h.example/with%20space"),
        ("/\udce4", "http://h.example/%E4"),
        ("../../..", "http://h.example/"),
    ],
)
def test_redirects_lead(location: str, leads_to: str) -> None:
    target = join(good("http://user:pw@h.example/dir/a?x"), location)
    assert isinstance(target, HttpUrl)
    assert target.text == leads_to
    assert target.user_info is None


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://h/", "data:,x", "http://[", "http:////", "\\\\h\\x:y@"],
)
def test_redirects_that_lead_nowhere_http(location: str) -> None:
    target = join(good("http://h.example/"), location)
    assert isinstance(target, ImageError) or target.host == "h.example"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/a.jpg?w=10#top", "http://h/a.jpg?w=10#top"),
        ("http://u:p@h/", "http://***@h/"),
        ("http://u@h/", "http://***@h/"),
        ("HTTP://u:p@q@h/", "HTTP://***@h/"),
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("//u:p@h/", "//***@h/"),
        ("http:\\\\u:p@h/", "http:\\\\***@h/"),
        ("http://u:pa/ss@h/", "http://***@h/"),
        ("http://u:pa?ss@h/", "http://***@h/"),
        ("http://h/@user/a.jpg", "http://h/@user/a.jpg"),
        ("http://h:80/@user:x/a.jpg", "http://h:80/@user:x/a.jpg"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("http://h/?a=1&X-Amz-Signature=s&b=2", "http://h/?a=1&X-Amz-Signature=***&b=2"),
        ("http://h/?X-Amz-Credential=s&X-Amz-Security-Token=t", None),
        ("http://h/?sv=1&sig=s%3D", "http://h/?sv=1&sig=***"),
        ("http://h/?TOKEN=s", "http://h/?TOKEN=***"),
        ("http://h/?access%5Ftoken=s", "http://h/?access%5Ftoken=***"),
        ("http://h/?Signature=s;key=t", "http://h/?Signature=***;key=t"),
        ("http://h/?api_key=s&api-key=t&apikey=u&AWSAccessKeyId=v", None),
        ("http://h/#access_token=s", "http://h/#access_token=***"),
        ("http://h/?key=a=b&token=a=b", "http://h/?key=a=b&token=***"),
        (
            "http://h/?monkey=x&keyword=y&tokens=1&key=",
            "http://h/?monkey=x&keyword=y&tokens=1&key=",
        ),
        ("http://h/key=x", "http://h/key=x"),
        ("data:image/png;base64,QUJD", "data:image/png;base64,… (4 characters)"),
        ("no url at all", "no url at all"),
    ],
)
def test_mask(url: str, shown: str | None) -> None:
    if shown is None:
        assert not any(f"={value}" in mask(url) for value in "stuv")
    else:
        assert mask(url) == shown
    assert mask_secrets(mask_secrets(url)) == mask_secrets(url) or url.startswith("data:")


def test_mask_escapes_controls() -> None:
    assert mask("http://u:p@h/\x1b[31m\u202e\n") == "http://***@h/\\x1b[31m\\u202e\\n"
    assert mask_secrets("http://u:p@h/\n") == "http://***@h/\n"


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("data:,abc", b"abc"),
        ("DATA:,abc", b"abc"),
        (" \n data:,abc \t", b"abc"),
        ("data:text/plain;charset=utf-8,a%20b%zz%", b"a b%zz%"),
        ("data:image/png;base64,QUJD", b"ABC"),
        ("data:image/png;BASE64,QUJDRA==", b"ABCD"),
        ("data:image/png;base64,QUJDRA", b"ABCD"),
        ("data:;base64,QUJDRA", b"ABCD"),
        ("data:;  base64 ,QUJD", b"ABC"),
        ("data:image/png;base64,QU\nJD\r\n RA%3D%3D", b"ABCD"),
        ("data:image/png;base64,QUJD%0A", b"ABC"),
        ("data:base64,QUJD", b"QUJD"),
        ("data:;base64;x,QUJD", b"QUJD"),
        ("data:,a,b", b"a,b"),
        ("data:,abc#def", b"abc"),
        ("data:,a+b", b"a+b"),
        ("data:,a\nb\tc", b"abc"),
        ("data:,ä", "ä".encode()),
        ("data:,%FF%00", b"\xff\x00"),
    ],
)
def test_data_urls(text: str, data: bytes) -> None:
    assert read_data_url(text, 1000) == data


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("data:", ErrorCode.BAD_URL),
        ("data:image/png;base64", ErrorCode.BAD_URL),
        ("http://h/,x", ErrorCode.BAD_URL),
        ("data:;base64,QUJDR", ErrorCode.BAD_URL),
        ("data:;base64,QU=D", ErrorCode.BAD_URL),
        ("data:;base64,QUJDRA=", ErrorCode.BAD_URL),
        ("data:;base64,QUJDR===", ErrorCode.BAD_URL),
        ("data:;base64,QUJDRA=====", ErrorCode.BAD_URL),
        ("data:;base64,QU-_", ErrorCode.BAD_URL),
        ("data:;base64,QUJD\u00e4\u00e4", ErrorCode.BAD_URL),
        ("data:;base64,\udcff\udcff\udcff\udcff", ErrorCode.BAD_URL),
        ("data:,", ErrorCode.EMPTY_FILE),
        ("data:;base64,", ErrorCode.EMPTY_FILE),
        ("data:;base64," + "A" * 2000, ErrorCode.FILE_TOO_LARGE),
        ("data:;base64," + "!" * 2000, ErrorCode.FILE_TOO_LARGE),
        ("data:," + "A" * 1001, ErrorCode.FILE_TOO_LARGE),
    ],
)
def test_data_urls_that_give_nothing(text: str, code: ErrorCode) -> None:
    with pytest.raises(FetchError) as caught:
        read_data_url(text, 1000)
    assert caught.value.error.code == code


@given(st.binary(min_size=1, max_size=300))
def test_data_urls_round_trip(data: bytes) -> None:
    encoded = base64.b64encode(data).decode()
    for body in (encoded, encoded.rstrip("="), "\n".join(encoded)):
        assert read_data_url(f"data:image/png;base64,{body}", 300) == data
    percent = "".join(f"%{byte:02x}" for byte in data)
    assert read_data_url(f"data:,{percent}", 300) == data


BROKEN = {
    "colons": "http://" + ":" * 100_000,
    "colons and letters": "s3://" + ":a" * 50_000,
    "backslashes": "http://" + "\\" * 500_000,
    "digits": "http://a:" + "1" * 100_000,
    "parameters": "http://a/?" + "a&" * 50_000,
    "a scheme": "a" * 100_000,
    "passwords": "http://" + "a:b/" * 25_000 + "@c",
}


@pytest.mark.parametrize("url", BROKEN.values(), ids=list(BROKEN))
def test_masking_a_url_of_any_form_does_not_go_back(url: str) -> None:
    """With patterns that go back over what they matched, each takes from half an hour to years."""
    masked = mask_secrets(url)
    assert masked in (url, "http://***@c")
