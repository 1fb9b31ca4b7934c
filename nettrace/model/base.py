"""What every type of the vocabulary shares: frozen structs, addresses, sections, and their JSON form."""

from __future__ import annotations

import ipaddress
from abc import ABC
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, dataclass_transform

import msgspec

if TYPE_CHECKING:
    IPAddress: TypeAlias = IPv4Address | IPv6Address
    IPNetwork: TypeAlias = IPv4Network | IPv6Network
    IPInterface: TypeAlias = IPv4Interface | IPv6Interface
else:
    # msgspec allows one foreign type in a union; an abstract base that both families belong to is one type.
    class IPAddress(ABC):  # noqa: B024 - only there to register both families with
        """An IPv4 or IPv6 address of the standard library."""

    class IPNetwork(ABC):  # noqa: B024 - only there to register both families with
        """An IPv4 or IPv6 network of the standard library."""

    class IPInterface(ABC):  # noqa: B024 - only there to register both families with
        """An IPv4 or IPv6 address with its prefix length, of the standard library."""

    for _abstract, _members in (
        (IPAddress, (IPv4Address, IPv6Address)),
        (IPNetwork, (IPv4Network, IPv6Network)),
        (IPInterface, (IPv4Interface, IPv6Interface)),
    ):
        for _member in _members:
            _abstract.register(_member)

T = TypeVar("T")
M = TypeVar("M")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the vocabulary: immutable, compared by value, keyword-only."""


class Present(Model, Generic[T], tag="present", tag_field="is"):
    """A table that was read, possibly empty."""

    rows: tuple[T, ...] = ()


class Values(Model, Generic[T], tag="values", tag_field="is"):
    """A set of named values that was read: sysctls, counters."""

    values: dict[str, T] = msgspec.field(default_factory=dict)


class Missing(Model, tag="missing", tag_field="is"):
    """A table that was not read, and why. Never the same as an empty one."""

    reason: str


def rows(section: Present[T] | Missing) -> tuple[T, ...]:
    """Return the rows of a section; none when it is missing (for callers that already handled that)."""
    return section.rows if isinstance(section, Present) else ()


def _encode(value: Any) -> Any:
    if isinstance(value, IPv4Address | IPv6Address | IPv4Network | IPv6Network | IPv4Interface | IPv6Interface):
        return str(value)
    raise NotImplementedError(f"cannot encode {type(value).__name__}")


_PARSERS: dict[Any, Any] = {
    IPAddress: ipaddress.ip_address,
    IPNetwork: ipaddress.ip_network,
    IPInterface: ipaddress.ip_interface,
}


def _decode(kind: type[Any], value: Any) -> Any:
    parser = _PARSERS.get(kind)
    if parser is None or not isinstance(value, str):
        raise ValueError(f"expected an address as text, got {type(value).__name__}")
    return parser(value)


def to_json(value: object, *, indent: int = 0) -> bytes:
    """Encode a model as JSON; `indent` spaces per level, 0 for one line."""
    data = msgspec.json.encode(value, enc_hook=_encode)
    return msgspec.json.format(data, indent=indent) if indent else data


def from_json(data: bytes | str, kind: type[M]) -> M:
    """Decode JSON strictly into a model; raises msgspec.ValidationError or msgspec.DecodeError."""
    return msgspec.json.decode(data, type=kind, dec_hook=_decode)


def json_schema(kind: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a model."""
    return msgspec.json.schema(kind, schema_hook=lambda _kind: {"type": "string"})
