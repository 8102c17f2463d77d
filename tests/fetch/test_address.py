"""The address guard: what counts as public, and that no spelling of another address does."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from moderate.errors import ConfigError
from moderate.fetch.address import is_public, make_guard
from moderate.fetch.http import HttpFetcher
from moderate.fetch.local import FetchError
from moderate.fetch.options import HttpOptions
from moderate.fetch.url import HttpUrl, parse_url
from moderate.types import ErrorCode
from tests.support.patience import PATIENCE

NOT_PUBLIC_TEXT = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1
127.255.255.254 169.254.169.254 169.254.0.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192
192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.7 224.0.0.1
239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1
64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 100:0:0:1::1 2001::1 2001:0:7f00:1::
2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1 5f00::1 fc00::1
fd00:ec2::254 fd20:ce::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1 4000::1 2606:4700::1%eth0
"""
NOT_PUBLIC = NOT_PUBLIC_TEXT.split()

PUBLIC_TEXT = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
169.253.255.255 172.15.255.255 172.32.0.0 192.0.1.1 192.167.255.255 198.17.255.255 198.20.0.0
223.255.255.255 2606:4700:4700::1111 2a00:1450:4001:81b::200e 2001:4860:4860::8888
::ffff:8.8.8.8 64:ff9b::8.8.8.8
"""
PUBLIC = PUBLIC_TEXT.split()

# As a URL's host. Every one leads, somewhere, to this machine or its private network.
SPELLINGS_TEXT = """
127.0.0.1 127.1 127.0.1 127.0.0.1. 127.1. 127.00.00.01 127.000.000.001 0177.0.0.1 0177.1
00000177.0.0.1 0x7f.0.0.1 0x7F.0x0.0x0.0x1 0x7f.1 0x7f000001 0X7F000001 2130706433 017700000001
0000017700000001 2130706433. 0x7f000001. 127.0x1 127.0.0x1 0177.0x0.1 127.0.65535
127.16777215 0 0.0.0.0 0x0 00 0. 10.1 0xa.1 012.1 167772161 192.168.257 192.0xa80101 0xc0a80001
3232235521 030052000001 172.16.1 2886729729 0xac100001 169.254.43518 2852039166 0xa9fea9fe
0251.0376.0251.0376 025177524776 0xa9.254.0xa9.0376 100.100.51400 1684300900
[::1] [::] [0:0:0:0:0:0:0:1] [0000:0000:0000:0000:0000:0000:0000:0001] [::0:1] [::127.0.0.1]
[::7f00:1] [::ffff:127.0.0.1] [::FFFF:7F00:1] [0:0:0:0:0:ffff:127.0.0.1] [::ffff:a9fe:a9fe]
[::ffff:0:127.0.0.1] [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::]
[2001:0:7f00:1::] [fd00:ec2::254] [fe80::1] [ff02::1] [fe80::1%25lo] [::1%25lo]
%31%32%37.0.0.1 127%2e0.0.1 %30x7f.1 １２７.0.0.1 １２７．０．０．１ 127。0。0。1 127｡0｡0｡1
①②⑦.⓪.⓪.① ０ｘ7f.1 ⑯⑨.②⑤④.①⑥⑨.②⑤④ localhost LOCALHOST LocalHost ｌｏｃａｌｈｏｓｔ ⓛⓞⓒⓐⓛⓗⓞⓢⓣ
"""
SPELLINGS = SPELLINGS_TEXT.split()


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", [a for a in PUBLIC if ":" not in a])
def test_embedded_addresses_are_judged_as_what_they_embed(address: str) -> None:
    for prefix in ("::ffff:", "64:ff9b::"):
        assert is_public(ipaddress.ip_address(prefix + address))
    for prefix in ("::", "64:ff9b:1::"):
        assert not is_public(ipaddress.ip_address(prefix + address))


@pytest.fixture(scope="module")
def guarded() -> Iterator[HttpFetcher]:
    options = HttpOptions(total_timeout=5, connect_timeout=2, attempts=1)
    with HttpFetcher(options) as fetcher:
        yield fetcher


def test_there_are_at_least_71_spellings() -> None:
    assert len(set(SPELLINGS)) >= 71


@pytest.mark.parametrize("host", SPELLINGS)
@pytest.mark.parametrize("form", ["http://{}/", "HTTPS://user:pw@{}:8443/a?b#c"])
def test_no_spelling_is_fetched(guarded: HttpFetcher, host: str, form: str) -> None:
    with pytest.raises(FetchError) as caught:
        guarded.submit(form.format(host)).result(PATIENCE)
    zone = "%25" in host
    expected = ErrorCode.BAD_URL if zone else ErrorCode.ADDRESS_NOT_ALLOWED
    assert caught.value.error.code == expected
    assert "pw" not in caught.value.error.message


@pytest.mark.parametrize(
    "host",
    [
        "256.1",
        "127.0.0.0.1",
        "08.1",
        "1.2.3.4.5",
        "0x100000000",
        "4294967296",
        "[::1",
        "[1.2.3.4]",
        "[::ffff:127.1]",
        "a..b",
        "a b",
        "a\tb",
        "",
        ".",
        "[]",
        "evil.com\\@127.0.0.1",
        "xn--ä",
    ],
)
def test_what_is_no_host_is_no_url(host: str) -> None:
    url = parse_url(f"http://{host}/")
    assert not isinstance(url, HttpUrl)
    assert url.code == ErrorCode.BAD_URL


def test_allowed_networks_and_names() -> None:
    guard = make_guard(
        False, ("10.1.0.0/16", "127.0.0.1", "[fd00::1]", "Intern.example.", "bücher.de")
    )
    assert guard.allows("10.1.2.3")
    assert guard.allows("::ffff:10.1.2.3")
    assert guard.allows("127.0.0.1")
    assert guard.allows("fd00::1")
    assert guard.allows("8.8.8.8")
    assert not guard.allows("10.2.0.1")
    assert not guard.allows("fd00::2")
    assert not guard.allows("127.0.0.2")
    assert not guard.allows("fe80::1%eth0")
    assert not guard.allows("not an address")
    assert guard.trusts("intern.example")
    assert guard.trusts("intern.example.")
    assert guard.trusts("xn--bcher-kva.de")
    assert not guard.trusts("sub.intern.example")
    assert not guard.trusts("intern.example.evil.com")
    assert make_guard(True, ()).allows("127.0.0.1")


@pytest.mark.parametrize(
    "entry", ["", "10.0.0.0/33", "a b", "http://x", "x:80", "x/y", "*.x", "u@x"]
)
def test_allowed_hosts_that_are_none(entry: str) -> None:
    with pytest.raises(ConfigError, match="neither a host name nor a network"):
        make_guard(False, (entry,))
