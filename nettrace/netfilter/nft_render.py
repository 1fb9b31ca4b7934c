"""Print rules of libnftables-json(5) the way `nft list` prints them.

Modelled on the print functions of nftables 1.0.6 (expression.c, statement.c, datatype.c).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from nettrace.netfilter.nft_types import BITMASKS, QUOTED, SYMBOLS, UNQUALIFIED_META, type_of

__all__ = ["render_expression", "render_rule", "render_statement"]

Json: TypeAlias = Any

#: Types that nft prints as numbers with leading zeros where no name fits, and how many digits.
_HEX: dict[str, int] = {
    "mark": 8,
    "dscp": 2,
    "ecn": 2,
    "ether_type": 4,
    "ct_state": 8,
    "ct_status": 8,
    "ct_event": 8,
    "tcp_flag": 1,
    "bitmask": 1,
    "raw": 1,
}

#: How tightly the operators bind; a looser one inside a tighter one is printed in parentheses.
_BINDS: dict[str, int] = {"|": 1, "^": 2, "&": 3, "<<": 4, ">>": 4}

_NAT = ("snat", "dnat", "masquerade", "redirect")
_DEFAULT_REJECT: dict[str, str] = {"ip": "icmp", "ip6": "icmpv6"}


def render_rule(expr: Iterable[Json], comment: str = "", *, family: str = "inet", stateless: bool = True) -> str:
    """Return a rule as one line; with `stateless`, counts are left out, as `nft -s list` does."""
    renderer = _Renderer(family, stateless)
    parts = [renderer.statement(each) for each in expr]
    if comment:
        parts.append(f'comment "{comment}"')
    return " ".join(part for part in parts if part)


def render_statement(statement: Json, *, family: str = "inet", stateless: bool = True) -> str:
    """Return one statement; what has no known form is returned as its JSON would read."""
    return _Renderer(family, stateless).statement(statement)


def render_expression(expression: Json, *, family: str = "inet") -> str:
    """Return one expression, such as "ip saddr" or "meta mark & 0x000000ff"."""
    return _Renderer(family, stateless=True).expression(expression, "")


class _Renderer:
    """Prints for one table's family."""

    def __init__(self, family: str, stateless: bool) -> None:
        self.family = family
        self.stateless = stateless

    # --- Statements ------------------------------------------------------------------------------------------------

    def statement(self, statement: Json) -> str:
        """Print one statement."""
        if isinstance(statement, str):
            return statement
        if not isinstance(statement, dict) or len(statement) != 1:
            return _raw(statement)
        ((kind, body),) = statement.items()
        if body is None:
            return self._bare(kind)
        if kind == "unknown" and isinstance(body, str):
            return body
        if kind in _NAT:
            return self._nat(kind, body)
        if kind in ("ct helper", "ct timeout", "ct expectation"):
            return f"{kind} set {self._object(body)}"
        printer = getattr(self, "_stmt_" + kind.replace(" ", "_"), None)
        if printer is None or (kind in ("limit", "quota", "synproxy", "counter") and not isinstance(body, dict)):
            return f"{kind} name {self._object(body)}" if isinstance(body, str) else _raw(statement)
        if kind in ("limit", "quota", "synproxy", "counter") and "map" in body:
            return f"{kind} name {self.expression(body, 'string')}"
        printed: str = printer(body) if isinstance(body, dict) else _raw(statement)
        return printed

    def _bare(self, kind: str) -> str:
        if kind == "reject":
            return "reject"
        return kind

    def _object(self, body: Json) -> str:
        return f'"{body}"' if isinstance(body, str) else self.expression(body, "string")

    def _stmt_match(self, body: dict[str, Json]) -> str:
        left, right, op = body.get("left"), body.get("right"), body.get("op", "==")
        kind = type_of(left, self.family)
        if kind in BITMASKS and isinstance(left, dict) and op in ("==", "!="):
            masked = left.get("&")
            if masked is not None and _is_flags(right) and len(masked) == 2 and _is_flags(masked[1]):
                shown = f"{self._flags(right, kind)} / {self._flags(masked[1], kind)}"
                return f"{self.expression(masked[0], '')} {'!= ' if op == '!=' else ''}{shown}"
        shown = self._flags(right, kind) if isinstance(right, list) else self._right(right, left, kind)
        operator = "" if self._implied(op, left, right, kind) else f"{op} "
        return f"{self.expression(left, '')} {operator}{shown}"

    def _implied(self, op: str, left: Json, right: Json, kind: str) -> bool:
        if op == "in":
            return True
        if op != "==":
            return False
        if isinstance(left, dict) and any(each in left for each in _BINDS):
            return False
        is_set = "set" in right if isinstance(right, dict) else isinstance(right, str) and right.startswith("@")
        return kind not in BITMASKS or is_set

    def _flags(self, value: Json, kind: str) -> str:
        values = value if isinstance(value, list) else [value]
        return ",".join(self.value(each, kind) for each in values)

    def _right(self, right: Json, left: Json, kind: str) -> str:
        if kind == "concat" and isinstance(left, dict):
            kinds = [type_of(part, self.family) for part in left["concat"]]
            if isinstance(right, dict) and "set" in right:
                return self._set(right["set"], kinds, "")
            if isinstance(right, dict) and "concat" in right:
                return self._concat_values(right["concat"], kinds)
        if isinstance(right, dict) and "set" in right:
            return self._set(right["set"], [kind], "")
        return self.value(right, kind)

    def _stmt_vmap(self, body: dict[str, Json]) -> str:
        return self._lookup(body, "vmap", "verdict")

    def _lookup(self, body: dict[str, Json], word: str, data_kind: str) -> str:
        key, data = body.get("key"), body.get("data")
        kinds = self._kinds(key)
        shown = self._set(data["set"], kinds, data_kind) if isinstance(data, dict) and "set" in data else str(data)
        return f"{self.expression(key, '')} {word} {shown}"

    def _kinds(self, key: Json) -> list[str]:
        if isinstance(key, dict) and "concat" in key:
            return [type_of(part, self.family) for part in key["concat"]]
        return [type_of(key, self.family)]

    def _stmt_mangle(self, body: dict[str, Json]) -> str:
        key, value = body.get("key"), body.get("value")
        kind = type_of(key, self.family)
        shown = self._flags(value, kind) if isinstance(value, list) else self.value(value, kind)
        return f"{self.expression(key, '')} set {shown}"

    def _stmt_counter(self, body: dict[str, Json]) -> str:
        if self.stateless:
            return "counter"
        return f"counter packets {body.get('packets', 0)} bytes {body.get('bytes', 0)}"

    def _stmt_quota(self, body: dict[str, Json]) -> str:
        over = "over " if body.get("inv") else ""
        used = f" used {body['used']} {body.get('used_unit', 'bytes')}" if "used" in body and not self.stateless else ""
        return f"quota {over}{body.get('val')} {body.get('val_unit', 'bytes')}{used}"

    def _stmt_limit(self, body: dict[str, Json]) -> str:
        over = "over " if body.get("inv") else ""
        unit, burst = body.get("rate_unit"), body.get("burst", 0 if "rate_unit" in body else 5)
        rate = f"{body.get('rate')} {unit}/{body.get('per')}" if unit else f"{body.get('rate')}/{body.get('per')}"
        shown = ""
        if unit and burst:
            shown = f" burst {burst} {body.get('burst_unit', 'bytes')}"
        elif not unit and burst not in (0, 5):
            shown = f" burst {burst} packets"
        return f"limit rate {over}{rate}{shown}"

    def _stmt_last(self, body: dict[str, Json]) -> str:
        return "last" if self.stateless else f"last used {_duration(int(body.get('used', 0)))}"

    def _stmt_ct_count(self, body: dict[str, Json]) -> str:
        return f"ct count {'over ' if body.get('inv') else ''}{body.get('val')}"

    def _stmt_log(self, body: dict[str, Json]) -> str:
        parts = ["log"]
        if "prefix" in body:
            parts.append(f'prefix "{body["prefix"]}"')
        parts += [f"{key} {body[key]}" for key in ("group", "snaplen", "queue-threshold", "level") if key in body]
        flags = _as_list(body.get("flags", []))
        tcp = [flag.partition(" ")[2] for flag in flags if flag.startswith("tcp ")]
        if tcp:
            parts.append(f"flags tcp {','.join(tcp)}")
        parts += [f"flags {flag}" for flag in flags if not flag.startswith("tcp ")]
        return " ".join(parts)

    def _stmt_queue(self, body: dict[str, Json]) -> str:
        flags = _as_list(body.get("flags", []))
        parts = ["queue"]
        if flags:
            parts.append(f"flags {','.join(flags)}")
        if "num" in body:
            parts.append(f"to {self.value(body['num'], 'integer')}")
        return " ".join(parts)

    def _stmt_reject(self, body: dict[str, Json]) -> str:
        kind, code = body.get("type"), body.get("expr")
        default = _DEFAULT_REJECT.get(self.family, "icmpx")
        if kind is None or (kind == default and code == "port-unreachable"):
            return "reject"
        if kind == "tcp reset":
            return "reject with tcp reset"
        return f"reject with {kind} {code}"

    def _nat(self, kind: str, body: Json) -> str:
        if not isinstance(body, dict):
            return _raw({kind: body})
        parts = [kind]
        prefix = "prefix" in _as_list(body.get("type_flags", []))
        if "family" in body:
            parts.append(str(body["family"]))
        if prefix:
            parts.append("prefix")
        target = self._target(body)
        if target:
            parts.append(f"to {target}")
        flags = [flag for flag in _as_list(body.get("flags", [])) if flag != "netmap" or not prefix]
        if flags:
            parts.append(",".join(flags))
        return " ".join(parts)

    def _target(self, body: dict[str, Json]) -> str:
        address, port = body.get("addr"), body.get("port")
        if address is None and port is None:
            return ""
        shown = "" if address is None else self._bracketed(address, bracket=port is not None)
        return shown if port is None else f"{shown}:{self.value(port, 'integer')}"

    def _bracketed(self, address: Json, *, bracket: bool) -> str:
        if isinstance(address, str):
            return f"[{address}]" if bracket and ":" in address else address
        if isinstance(address, dict) and "range" in address:
            return "-".join(self._bracketed(end, bracket=bracket) for end in address["range"])
        return self.value(address, "address")

    def _stmt_tproxy(self, body: dict[str, Json]) -> str:
        family = f"{body['family']} " if "family" in body else ""
        return f"tproxy {family}to {self._target(body)}"

    def _stmt_fwd(self, body: dict[str, Json]) -> str:
        device = self.value(body.get("dev"), "ifname")
        if "addr" in body:
            return f"fwd {body.get('family', 'ip')} to {self.value(body['addr'], 'address')} device {device}"
        return f"fwd to {device}"

    def _stmt_dup(self, body: dict[str, Json]) -> str:
        address = body.get("addr")
        kind = "ifname" if self.family == "netdev" else "address"
        device = f" device {self.value(body['dev'], 'ifname')}" if "dev" in body else ""
        return f"dup to {self.value(address, kind)}{device}"

    def _stmt_flow(self, body: dict[str, Json]) -> str:
        return f"flow add {body.get('flowtable')}"

    def _stmt_set(self, body: dict[str, Json]) -> str:
        return f"{body.get('op')} {body.get('set')} {{ {self._set_key(body)} }}"

    def _stmt_map(self, body: dict[str, Json]) -> str:
        data = self.expression(body.get("data"), "")
        return f"{body.get('op')} {body.get('map')} {{ {self._set_key(body)} : {data} }}"

    def _set_key(self, body: dict[str, Json]) -> str:
        parts = [self._element(body.get("elem"), [""])]
        parts += [_Renderer(self.family, stateless=True).statement(each) for each in body.get("stmt", [])]
        return " ".join(parts)

    def _stmt_meter(self, body: dict[str, Json]) -> str:
        inner = _Renderer(self.family, stateless=True).statement(body.get("stmt"))
        key = self._element(body.get("key"), [""])
        return f"meter {body.get('name')} size {body.get('size', 65535)} {{ {key} {inner} }}"

    def _stmt_synproxy(self, body: dict[str, Json]) -> str:
        parts = ["synproxy"]
        if "mss" in body or "wscale" in body:
            parts.append(f"mss {body.get('mss', 0)} wscale {body.get('wscale', 0)}")
        return " ".join([*parts, *_as_list(body.get("flags", []))])

    def _stmt_reset(self, body: dict[str, Json]) -> str:
        return f"reset {self.expression(body, '')}"

    def _stmt_xt(self, body: dict[str, Json]) -> str:
        return f'xt {body.get("type")} "{body.get("name")}"'

    def _stmt_jump(self, body: dict[str, Json]) -> str:
        return f"jump {body.get('target')}"

    def _stmt_goto(self, body: dict[str, Json]) -> str:
        return f"goto {body.get('target')}"

    # --- Sets -------------------------------------------------------------------------------------------------------

    def _set(self, elements: Json, kinds: list[str], data_kind: str) -> str:
        return f"{{ {', '.join(self._member(each, kinds, data_kind) for each in _as_list(elements))} }}"

    def _member(self, element: Json, kinds: list[str], data_kind: str) -> str:
        if isinstance(element, list) and len(element) == 2:
            key, data = element
            if data_kind == "verdict":
                shown = self.statement(data)
            elif isinstance(data, dict) and "concat" in data:
                shown = self._concat_values(data["concat"], [])
            else:
                shown = self.value(data, data_kind)
            return f"{self._element(key, kinds)} : {shown}"
        return self._element(element, kinds)

    def _element(self, element: Json, kinds: list[str]) -> str:
        if isinstance(element, dict) and "elem" in element and isinstance(element["elem"], dict):
            body = element["elem"]
            parts = [self._element(body.get("val"), kinds)]
            for word in ("timeout", "expires"):
                if word in body:
                    parts.append(f"{word} {_duration(int(body[word]) * 1000)}")
            known = ("val", "timeout", "expires", "comment")
            parts += [self.statement({k: v}) for k, v in body.items() if k not in known]
            if "comment" in body:
                parts.append(f'comment "{body["comment"]}"')
            return " ".join(parts)
        if isinstance(element, dict) and "concat" in element:
            return self._concat_values(element["concat"], kinds)
        return self.value(element, kinds[0] if kinds else "")

    def _concat_values(self, values: list[Json], kinds: list[str]) -> str:
        return " . ".join(self.value(each, kinds[at] if at < len(kinds) else "") for at, each in enumerate(values))

    # --- Expressions --------------------------------------------------------------------------------------------------

    def value(self, value: Json, kind: str) -> str:
        """Print a right-hand side: a constant of a type, or an expression."""
        if isinstance(value, dict):
            return self.expression(value, kind)
        if isinstance(value, list):
            return ",".join(self.value(each, kind) for each in value)
        return _constant(value, kind)

    def expression(self, expression: Json, kind: str) -> str:
        """Print an expression; constants inside are of type `kind`."""
        if not isinstance(expression, dict) or len(expression) != 1:
            return self.value(expression, kind) if not isinstance(expression, dict) else _raw(expression)
        ((name, body),) = expression.items()
        if name in _BINDS and isinstance(body, list):
            return self._binary(name, body, kind)
        if name == "concat" and isinstance(body, list):
            return " . ".join(self.expression(part, kind) for part in body)
        if name == "range" and isinstance(body, list):
            return "-".join(_in_range(end, kind) for end in body)
        if name == "set":
            return self._set(body, [kind], "")
        if not isinstance(body, dict):
            return _raw(expression)
        if name == "prefix":
            return f"{self.value(body.get('addr'), kind)}/{body.get('len')}"
        if name == "elem":
            return self._element(expression, [kind])
        if name == "map":
            return self._lookup(body, "map", kind)
        if name == "vmap":
            return self._lookup(body, "vmap", "verdict")
        printer = getattr(self, "_expr_" + name.replace(" ", "_"), None)
        printed: str = printer(body) if printer is not None else _raw(expression)
        return printed

    def _binary(self, op: str, operands: list[Json], kind: str) -> str:
        wanted = kind or type_of({op: operands}, self.family)
        shown = []
        for at, each in enumerate(operands):
            text = self.expression(each, "" if at and op in ("<<", ">>") else wanted)
            inner = next((o for o in _BINDS if isinstance(each, dict) and o in each), None)
            shown.append(f"({text})" if inner is not None and _BINDS[inner] < _BINDS[op] else text)
        return f" {op} ".join(shown)

    def _expr_meta(self, body: dict[str, Json]) -> str:
        key = str(body.get("key"))
        return key if key in UNQUALIFIED_META else f"meta {key}"

    def _expr_payload(self, body: dict[str, Json]) -> str:
        if "base" in body:
            return f"@{body['base']},{body.get('offset')},{body.get('len')}"
        tunnel = f"{body['tunnel']} " if "tunnel" in body else ""
        return f"{tunnel}{body.get('protocol')} {body.get('field')}"

    def _expr_ct(self, body: dict[str, Json]) -> str:
        key, direction = str(body.get("key")), body.get("dir")
        if key in ("saddr", "daddr") and self.family in ("ip", "ip6"):
            key = f"{self.family} {key}"
        return f"ct {direction} {key}" if direction else f"ct {key}"

    def _expr_fib(self, body: dict[str, Json]) -> str:
        return f"fib {' . '.join(_as_list(body.get('flags', [])))} {body.get('result')}"

    def _expr_rt(self, body: dict[str, Json]) -> str:
        family = f"{body['family']} " if "family" in body else ""
        return f"rt {family}{body.get('key')}"

    def _expr_socket(self, body: dict[str, Json]) -> str:
        level = f" level {body['level']}" if "level" in body else ""
        return f"socket {body.get('key')}{level}"

    def _expr_osf(self, body: dict[str, Json]) -> str:
        ttl = f"ttl {body['ttl']} " if "ttl" in body else ""
        return f"osf {ttl}{body.get('key')}"

    def _expr_ipsec(self, body: dict[str, Json]) -> str:
        number = f"spnum {body['spnum']} " if body.get("spnum") else ""
        family = f"{body['family']} " if "family" in body else ""
        return f"ipsec {body.get('dir')} {number}{family}{body.get('key')}"

    def _expr_exthdr(self, body: dict[str, Json]) -> str:
        return f"{body.get('name')} {body['field']}" if "field" in body else f"exthdr {body.get('name')}"

    def _option(self, kind: str, body: dict[str, Json]) -> str:
        if "base" in body:
            whole = body.get("offset") == 0 and body.get("len") == 8
            return (
                f"{kind} {body['base']}" if whole else f"{kind} @{body['base']},{body.get('offset')},{body.get('len')}"
            )
        if "type" in body:
            return f"{kind} {body['type']}"
        return f"{kind} {body.get('name')}{' ' + str(body['field']) if 'field' in body else ''}"

    def _expr_tcp_option(self, body: dict[str, Json]) -> str:
        return self._option("tcp option", body)

    def _expr_ip_option(self, body: dict[str, Json]) -> str:
        return self._option("ip option", body)

    def _expr_sctp_chunk(self, body: dict[str, Json]) -> str:
        return self._option("sctp chunk", body)

    def _expr_dccp_option(self, body: dict[str, Json]) -> str:
        return self._option("dccp option", body)

    def _expr_numgen(self, body: dict[str, Json]) -> str:
        return f"numgen {body.get('mode')} mod {body.get('mod')}{_offset(body)}"

    def _expr_jhash(self, body: dict[str, Json]) -> str:
        seed = f" seed 0x{body['seed']:x}" if isinstance(body.get("seed"), int) else ""
        return f"jhash {self.expression(body.get('expr'), '')} mod {body.get('mod')}{seed}{_offset(body)}"

    def _expr_symhash(self, body: dict[str, Json]) -> str:
        return f"symhash mod {body.get('mod')}{_offset(body)}"

    def _expr_tunnel(self, body: dict[str, Json]) -> str:
        return f"tunnel {body.get('key')}"


def _offset(body: dict[str, Json]) -> str:
    return f" offset {body['offset']}" if body.get("offset") else ""


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_flags(value: Json) -> bool:
    """Tell whether a value is made of plain flags, so that nft prints it with commas."""
    return not isinstance(value, dict) and not (isinstance(value, str) and value.startswith("@"))


def _constant(value: Json, kind: str) -> str:
    if isinstance(value, bool):
        return "exists" if value else "missing"
    if isinstance(value, int):
        if kind == "time":
            return _duration(value * 1000)
        if kind in _HEX:
            return f"0x{value:0{_HEX[kind]}x}"
        return str(value)
    if value is None:
        return "none"
    text = str(value)
    if text == "*" or text.startswith("@"):
        return text
    if kind in QUOTED and not (kind in ("realm", "iface_index", "ifindex") and text.isdigit()):
        return f'"{text}"'
    return text


def _in_range(value: Json, kind: str) -> str:
    """Print an end of a range, where nft prefers numbers to names and seconds to hours."""
    if kind == "time" and isinstance(value, int):
        return f"{value}s"
    symbols = SYMBOLS.get(kind)
    if kind == "dscp" and symbols is not None and isinstance(value, str) and value in symbols:
        return _constant(symbols[value], kind)
    return _constant(value, kind)


def _duration(milliseconds: int) -> str:
    """Print a time as nft does: "1d2h3m4s5ms"."""
    parts = []
    rest = milliseconds
    for unit, size in (("d", 86400000), ("h", 3600000), ("m", 60000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _raw(value: Json) -> str:
    """Print what has no form of its own as compact JSON."""
    from json import dumps

    return dumps(value, separators=(",", ":"), default=str)
