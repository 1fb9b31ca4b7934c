"""Values as iptables writes them: addresses with masks, port ranges, numbers with masks. Each raises ValueError."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address, ip_network

from nettrace.netfilter.names import PROTOCOLS, SERVICES
from nettrace.netfilter.ruleset import Condition, Item, Masked, Range, Wildcard

__all__ = ["addresses", "interface", "masked", "number", "port", "ports", "prefix", "protocol", "span", "unzone"]

FULL = {4: 0xFFFFFFFF, 6: (1 << 128) - 1}


def number(text: str) -> int:
    """Return a number: decimal, 0x hexadecimal or 0 octal, as strtoul reads it."""
    if text[:1] == "0" and len(text) > 1 and text[1] not in "xX":
        return int(text, 8)
    return int(text, 0)


def masked(text: str) -> Item:
    """Return the item of "value" or "value/mask"."""
    value, slash, mask = text.partition("/")
    if not slash:
        return number(value)
    return Masked(value=number(value), mask=number(mask))


#: The octets of a dotted address, as they are written; whole addresses are most of what large rulesets hold.
_OCTETS: dict[str, int] = {str(number): number for number in range(256)}


@lru_cache(maxsize=65536)
def prefix(text: str, family: int) -> Item | None:
    """Return the item of "address", "address/length" or "address/mask"; None when it is every address.

    A host name cannot be resolved here and raises ValueError.
    """
    host, slash, mask_text = text.partition("/")
    if family == 4 and (not slash or mask_text == "32"):
        octets = [_OCTETS.get(each, -1) for each in host.split(".")]
        if len(octets) == 4 and -1 not in octets:
            return octets[0] << 24 | octets[1] << 16 | octets[2] << 8 | octets[3]
    full = FULL[family]
    address = ip_address(unzone(host))
    if address.version != family:
        raise ValueError(f"{host} is no IPv{family} address")
    if not slash:
        return int(address)
    if mask_text.isdigit():
        width = 32 if family == 4 else 128
        length = int(mask_text)
        if length > width:
            raise ValueError(f"/{mask_text} is no prefix length")
        mask = full ^ ((1 << (width - length)) - 1)
    else:
        mask = int(ip_address(mask_text))
    if mask == full:
        return int(address)
    if mask == 0:
        return None
    return Masked(value=int(address) & mask, mask=mask)


def address_condition(field: str, text: str, family: int, *, negated: bool) -> tuple[Condition, ...]:
    """Return what an address match asks of a field of the packet; nothing when the text is no address of the family."""
    try:
        item = prefix(text, family)
    except ValueError:
        return ()
    if isinstance(item, Masked):
        return ((field, item.mask, item.value, negated),)
    return ((field, None, item, negated) if item is not None else (field, 0, 0, negated),)


def unzone(text: str) -> str:
    """Return an address without brackets and zone."""
    return text.strip("[]").partition("%")[0]


def addresses(text: str, family: int) -> tuple[int, int]:
    """Return the ends of "address", "low-high" or "network/length"."""
    if "/" in text:
        network = ip_network(text, strict=False)
        return int(network.network_address), int(network.broadcast_address)
    low, dash, high = text.partition("-")
    first = ip_address(unzone(low))
    last = ip_address(unzone(high)) if dash else first
    if first.version != family or last.version != family or int(last) < int(first):
        raise ValueError(f"{text} is no IPv{family} address range")
    return int(first), int(last)


def interface(text: str) -> Item | None:
    """Return the item of an interface name, where a final + stands for anything; None when it is any interface."""
    if text == "+":
        return None
    if text.endswith("+"):
        return Wildcard(prefix=text[:-1])
    return text


def port(text: str) -> int:
    """Return a port number or the number of a service name."""
    if text.isdigit():
        value = int(text)
        if value > 65535:
            raise ValueError(f"{text} is no port")
        return value
    if text in SERVICES:
        return SERVICES[text]
    raise ValueError(f"{text} is no port number, and no service known here")


def ports(text: str, *, separator: str = ":") -> Item:
    """Return the item of "port" or "low:high", where either end may be left out."""
    if separator not in text:
        return port(text)
    low, _, high = text.partition(separator)
    return Range(low=port(low) if low else 0, high=port(high) if high else 65535)


def span(text: str, *, separator: str = ":", top: int = 0xFFFFFFFF) -> Item:
    """Return the item of "number" or "low:high"."""
    if separator not in text:
        return number(text)
    low, _, high = text.partition(separator)
    return Range(low=number(low) if low else 0, high=number(high) if high else top)


def protocol(text: str) -> int:
    """Return the number of an IP protocol; 0 is every protocol."""
    if text.isdigit():
        return int(text)
    found = PROTOCOLS.get(text.lower())
    if found is None:
        raise ValueError(f"{text} is no protocol known here")
    return found
