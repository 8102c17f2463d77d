"""The address guard: which network addresses a URL may lead to."""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from moderate.errors import ConfigError
from moderate.fetch.url import HttpUrl, parse_url
from moderate.text import one_line

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Listed here although `ipaddress` has a list: its `is_global` changed within 3.11, 3.12 and 3.13.
# Sources: the IANA IPv4 Special-Purpose Address Registry, and for the last line the documentation
# of Azure, whose platform services answer there on every virtual machine.
_NOT_PUBLIC_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network, RFC 791
            "10.0.0.0/8",  # private, RFC 1918
            "100.64.0.0/10",  # shared by carriers (CGNAT), RFC 6598
            "127.0.0.0/8",  # loopback, RFC 1122
            "169.254.0.0/16",  # link-local, RFC 3927; metadata of most clouds
            "172.16.0.0/12",  # private, RFC 1918
            "192.0.0.0/24",  # protocol assignments, RFC 6890
            "192.0.2.0/24",  # documentation, RFC 5737
            "192.88.99.0/24",  # 6to4 relays, RFC 7526
            "192.168.0.0/16",  # private, RFC 1918
            "198.18.0.0/15",  # benchmarking, RFC 2544
            "198.51.100.0/24",  # documentation, RFC 5737
            "203.0.113.0/24",  # documentation, RFC 5737
            "224.0.0.0/4",  # multicast, RFC 5771
            "240.0.0.0/4",  # reserved, RFC 1112, and broadcast, RFC 919
            "168.63.129.16/32",  # Azure's platform services
        ),
    )
)

# Everything that IANA has assigned for global unicast lies in 2000::/3 (RFC 4291). Sources of the
# exceptions: the IANA IPv6 Special-Purpose Address Registry.
_GLOBAL_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments, RFC 2928: Teredo, benchmarking, ORCHID
            "2001:db8::/32",  # documentation, RFC 3849
            "2002::/16",  # 6to4, RFC 3056: leads to whatever IPv4 address it embeds
            "3fff::/20",  # documentation, RFC 9637
        ),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052


class AddressRefused(OSError):  # noqa: N818 - an OSError, so that the HTTP client passes it on
    """A connection that was not made because the address is not public."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, "the address is not public")
        self.address = address


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet.

    False for loopback, private, link-local, multicast, carrier-grade NAT, reserved, documentation
    and benchmarking addresses, for IPv6 addresses with a zone, and for the tunnels 6to4 and Teredo.
    IPv4-mapped (::ffff:0:0/96) and NAT64 (64:ff9b::/96) addresses are what the IPv4 address in them
    is.
    """
    embedded = _embedded(address)
    if isinstance(embedded, ipaddress.IPv4Address):
        return not any(embedded in net for net in _NOT_PUBLIC_V4) and embedded.is_global
    return (
        embedded.scope_id is None
        and embedded in _GLOBAL_UNICAST_V6
        and not any(embedded in net for net in _NOT_PUBLIC_V6)
        and embedded.is_global
    )


def _embedded(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is None:
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


@dataclass(frozen=True, slots=True)
class Guard:
    """Which addresses may be connected to, apart from public ones."""

    allow_private: bool
    names: frozenset[str]
    networks: tuple[Network, ...]

    def trusts(self, host: str) -> bool:
        """Whether any address is allowed for this host, which is spelled as in `HttpUrl.host`."""
        return self.allow_private or host.rstrip(".") in self.names

    def allows(self, address: str) -> bool:
        """Whether this address, spelled as by the system's resolver, may be reached."""
        if self.allow_private:
            return True
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return is_public(parsed) or any(_embedded(parsed) in net for net in self.networks)


def make_guard(allow_private: bool, allowed_hosts: Iterable[str]) -> Guard:
    """The guard for these settings.

    `allowed_hosts` holds host names (exact, without wildcards), addresses, and networks such as
    10.1.0.0/16. Raises ConfigError for anything else.
    """
    names = set()
    networks = []
    for entry in allowed_hosts:
        try:
            networks.append(ipaddress.ip_network(entry.strip("[]")))
        except ValueError:
            names.add(_host_name(entry))
    return Guard(allow_private, frozenset(names), tuple(networks))


def _host_name(entry: str) -> str:
    url = parse_url(f"http://{entry}/")
    if isinstance(url, HttpUrl) and not re.search(r"[:/@?#]", entry):
        return url.host.rstrip(".")
    shown = one_line(entry, 80)
    raise ConfigError(
        f"allowed host {shown!r} is neither a host name nor a network such as 10.1.0.0/16"
    )
