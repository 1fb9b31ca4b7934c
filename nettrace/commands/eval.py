"""`nettrace eval RULES…`: what a saved ruleset does to one packet. Offline: no root, no engine, no kernel."""

from __future__ import annotations

import gc
import sys
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nettrace.errors import InputError, UsageError
from nettrace.model.netfilter import CtState

if TYPE_CHECKING:
    from nettrace.evaluation import Surroundings
    from nettrace.model.flow import Packet

EPILOG = """\b
RULES are files ("-" for standard input) as these commands print them:
  iptables-save, ip6tables-save, nft list ruleset, nft -j list ruleset, ipset save, ebtables-save

\b
Examples:
  iptables-save | nettrace eval - --in docker0 --src 172.17.0.2 --dst 8.8.8.8 --proto icmp
  nettrace eval rules.txt --in eth0 --src 203.0.113.9 --dst 192.0.2.5 --proto tcp --dport 8080 \\
      --addr eth0=192.0.2.5/24 --addr docker0=172.17.0.1/16 --route '0.0.0.0/0 via 192.0.2.1 dev eth0'

\b
Exit codes: 0 accepted, 1 dropped or rejected, 2 usage, 3 unknown, 4 unreadable rules.
"""

EXIT_CODE = {"accept": 0, "drop": 1, "reject": 1, "unknown": 3}
ICMP_NAMES = {
    "echo-request": (8, 128),
    "echo-reply": (0, 129),
    "destination-unreachable": (3, 1),
    "time-exceeded": (11, 3),
}
PROTOCOLS = {"icmp": (1, 58), "icmpv6": (58, 58), "tcp": (6, 6), "udp": (17, 17), "sctp": (132, 132), "esp": (50, 50)}
MAX_BYTES = 64 * 1024 * 1024


@click.command("eval", epilog=EPILOG, short_help="What a saved ruleset does to one packet.")
@click.argument("rules", nargs=-1, required=True, metavar="RULES…")
@click.option("--in", "iif", metavar="IFACE", help="The packet comes in by this interface.")
@click.option("--local", is_flag=True, help="The packet is sent by the host itself.")
@click.option("--out", "oif", metavar="IFACE", help="It leaves by this interface; else --route tells.")
@click.option("--src", required=True, metavar="A", help="Source address.")
@click.option("--dst", required=True, metavar="B", help="Destination address.")
@click.option("--proto", required=True, metavar="P", help="icmp, tcp, udp, sctp, esp, or a number.")
@click.option("--sport", type=click.IntRange(0, 65535), help="Source port (40000 if left out).")
@click.option("--dport", type=click.IntRange(0, 65535), help="Destination port.")
@click.option(
    "--ctstate",
    type=click.Choice([each.value for each in CtState if each is not CtState.NONE]),
    default="new",
    show_default=True,
    help="What conntrack says of the packet.",
)
@click.option("--mark", default="0", metavar="N", help="The packet's mark (0x is understood).")
@click.option("--icmp-type", metavar="T", help="ICMP type, a number or a name (echo-request if left out).")
@click.option("--addr", "addresses", multiple=True, metavar="IFACE=CIDR", help="An address of the host; repeat it.")
@click.option("--route", "routes", multiple=True, metavar="'CIDR [via GW] dev IFACE'", help="A route; repeat it.")
@click.option("--ipset", "ipsets", multiple=True, type=click.Path(path_type=Path), help="Output of `ipset save`.")
@click.option("--length", type=click.IntRange(20, 65535), default=60, show_default=True, help="IP length in bytes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (schema nettrace.eval/1).")
def command(rules: tuple[str, ...], ipsets: tuple[Path, ...], as_json: bool, **options: Any) -> int:
    """Say what a saved ruleset does to one packet: the verdict, the rule that decides, NAT, and the way there."""
    from nettrace.evaluation import evaluate

    packet = packet_of(options)
    dumps = [dump for name in (*rules, *map(str, ipsets)) for dump in dumps_of(name)]
    around = surroundings_of(options, packet)
    # A ruleset stays until the answer and holds no cycles: walking it again and again costs more than reading it.
    collecting = gc.isenabled()
    gc.disable()
    try:
        result = evaluate(dumps, packet, around)
    finally:
        if collecting:
            gc.enable()
    if as_json:
        from nettrace.model.base import to_json

        click.echo(to_json(result, indent=2).decode())
    else:
        from nettrace.render.evaluation import render_evaluation

        click.echo(render_evaluation(result))
    return EXIT_CODE[result.verdict]


def packet_of(options: dict[str, Any]) -> Packet:
    """Return the packet that the options describe; raises UsageError when they contradict each other."""
    from nettrace.model.flow import Packet

    try:
        src, dst = ip_address(options["src"]), ip_address(options["dst"])
    except ValueError as error:
        raise UsageError(f"{error}: --src and --dst take addresses, as 172.17.0.2") from error
    if src.version != dst.version:
        raise UsageError("--src and --dst are of different families")
    proto = _protocol(options["proto"], src.version)
    ports = proto in (6, 17, 132, 33, 136)
    icmp = proto in (1, 58)
    if not ports and (options["sport"] is not None or options["dport"] is not None):
        raise UsageError(f"{options['proto']} has no ports: leave --sport and --dport out")
    if options["icmp_type"] is not None and not icmp:
        raise UsageError("--icmp-type goes with --proto icmp only")
    return Packet(
        family=src.version,
        src=src,
        dst=dst,
        proto=proto,
        sport=(options["sport"] if options["sport"] is not None else 40000) if ports else None,
        dport=(options["dport"] if options["dport"] is not None else 0) if ports else None,
        icmp_type=_icmp_type(options["icmp_type"], src.version) if icmp else None,
        icmp_code=0 if icmp else None,
        icmp_id=1 if icmp else None,
        tcp_flags=0x02 if proto == 6 and options["ctstate"] == "new" else 0x10 if proto == 6 else None,
        length=options["length"],
        mark=_number(options["mark"], "--mark"),
    )


def _protocol(name: str, family: int) -> int:
    if name.lower() in PROTOCOLS:
        return PROTOCOLS[name.lower()][0 if family == 4 else 1]
    number = _number(name, "--proto")
    if not 0 <= number <= 255:
        raise UsageError(f"--proto {name}: protocol numbers go from 0 to 255")
    return number


def _number(text: str, option: str) -> int:
    try:
        return int(text, 0)
    except ValueError as error:
        raise UsageError(f"{option} {text}: not a number, and no name that nettrace knows") from error


def _icmp_type(text: str | None, family: int) -> int:
    index = 0 if family == 4 else 1
    if text is None:
        return ICMP_NAMES["echo-request"][index]
    return ICMP_NAMES[text][index] if text in ICMP_NAMES else _number(text, "--icmp-type")


def surroundings_of(options: dict[str, Any], packet: Packet) -> Surroundings:
    """Return where the packet is and what is known about the host."""
    from nettrace.evaluation import Surroundings

    if bool(options["iif"]) == options["local"]:
        raise UsageError("say either --in IFACE (the packet comes in there) or --local (the host sends it)")
    addresses = []
    for text in options["addresses"]:
        device, found, address = text.partition("=")
        try:
            if not found or not device:
                raise ValueError("no '='")
            addresses.append((device, ip_interface(address)))
        except ValueError as error:
            raise UsageError(f"--addr {text}: expected IFACE=CIDR, as docker0=172.17.0.1/16 ({error})") from error
    routes = []
    for text in options["routes"]:
        words = text.split()
        try:
            everything = "0.0.0.0/0" if packet.family == 4 else "::/0"
            network = ip_network(everything if words[0] == "default" else words[0], strict=False)
            pairs = dict(zip(words[1::2], words[2::2], strict=True))
            if "dev" not in pairs or set(pairs) - {"dev", "via"}:
                raise ValueError("'dev' is missing, or something else is there")
            gateway = ip_address(pairs["via"]) if "via" in pairs else None
        except (ValueError, IndexError) as error:
            raise UsageError(
                f"--route '{text}': expected 'CIDR [via GW] dev IFACE', as 'default via 192.0.2.1 dev eth0' ({error})"
            ) from error
        routes.append((network, gateway, pairs["dev"]))
    return Surroundings(
        iif=options["iif"],
        oif=options["oif"],
        addresses=tuple(addresses),
        routes=tuple(routes),
        ctstate=CtState(options["ctstate"]),
    )


def dumps_of(name: str) -> list[Any]:
    """Read one file and tell what language it is in."""
    from nettrace.netfilter.sniff import sniff

    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1) if name == "-" else _read(Path(name))
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} has more than {MAX_BYTES >> 20} MB: that is no ruleset")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{name}, line {line}: not UTF-8 text; save the rules again with LC_ALL=C") from error
    return sniff(text, name)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)
