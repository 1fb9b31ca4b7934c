"""Faults of the bridge networks that `directions` builds: what breaks each, what mends it, and what must be named.

A fault is broken and mended with shell commands on the host, the internet or a container; names in braces are the
lab's (`{br.four}` a bridge, `{ip.web.bridge}` an address, `{dev.both.four}` a container's interface in a network,
`{veth.web}` the host's end of its first one, `{proxy.8080}` the process ids of the userland proxies that listen there).

`python -m tests.live.direction_faults [WORD]` breaks all of them on every engine, as root.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nettrace.lab import Lab
from tests.live.directions import (
    NETS,
    UPLINK,
    UPLINK6,
    Cell,
    Judged,
    addresses,
    api_of,
    ask_oracle,
    down,
    engines,
    major,
    up,
)
from tests.live.warm import Asker

OUT, OUT6 = "8.8.8.8", "2001:4860:4860::8888"


@dataclass(frozen=True)
class Break:
    """One fault. `steps` and `undo` are (where, command); an empty `code` means that the flow must still be delivered.

    `kind` is the only kind of lab that can have it ("" for both), `since` and `until` majors of Docker.
    """

    name: str
    flow: tuple[str, ...]
    steps: tuple[tuple[str, str], ...]
    undo: tuple[tuple[str, str], ...]
    code: str
    place: str = ""
    kind: str = ""
    since: int = 0
    until: int = 99

    def fits(self, version: int, kind: str) -> bool:
        return self.since <= version <= self.until and self.kind in ("", kind)


def _host(*commands: str) -> tuple[tuple[str, str], ...]:
    return tuple(("host", each) for each in commands)


def _rule(add: str, tool: str = "iptables") -> dict[str, tuple[tuple[str, str], ...]]:
    """Return a rule that is put first in its chain, and its undoing."""
    return {"steps": _host(f"{tool} {add}"), "undo": _host(f"{tool} {add.replace('-I ', '-D ', 1)}")}


def _gone(rule: str, tool: str = "iptables") -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the deletion of a rule, and how it is put back at the head of its chain."""
    gone, back = rule.replace("-A ", "-D ", 1), rule.replace("-A ", "-I ", 1)
    return {"steps": _host(f"{tool} {gone}"), "undo": _host(f"{tool} {back}")}


BREAKS = (
    # IPv6 and dual stack
    Break("six-forward-drop", ("d1", OUT6, "icmp"), **_rule("-I FORWARD -i ntdual -j DROP", "ip6tables"),
          code="filter.rule-drop", place="forward host"),
    Break("six-no-route", ("d1", OUT6, "tcp/80"), (("d1", "ip -6 route del default"),),
          (("d1", "ip -6 route add default via fd00:31:1::1 dev eth0"),), "route.missing", "forward source"),
    Break("six-forwarding-off", ("d1", OUT6, "icmp"), _host("sysctl -qw net.ipv6.conf.all.forwarding=0"),
          _host("sysctl -qw net.ipv6.conf.all.forwarding=1",
                "ip -6 route replace default via 2001:db8:203::1 dev eth0"), "sysctl.ip-forward-off", "forward host"),
    Break("six-masquerade-gone", ("d1", OUT6, "icmp"),
          **_gone("-t nat -A POSTROUTING -s fd00:31:1::/64 ! -o ntdual -j MASQUERADE", "ip6tables"),
          code="nat.masquerade-missing", place="reply remote"),
    Break("six-address-gone", ("d1", "{ip.d2.dual6}", "icmp"), (("d2", "ip -6 addr del {ip.d2.dual6}/64 dev eth0"),),
          (("d2", "ip -6 addr add {ip.d2.dual6}/64 dev eth0 nodad"),), "addr.missing"),
    Break("six-ndp-stale", ("d1", "{ip.d2.dual6}", "icmp"),
          (("d1", "ip -6 neigh replace {ip.d2.dual6} lladdr 02:00:00:00:00:77 dev eth0 nud permanent"),),
          (("d1", "ip -6 neigh del {ip.d2.dual6} dev eth0"),), "neigh.stale-static"),
    Break("six-ndp-blocked", ("d1", "{ip.d2.dual6}", "icmp"),
          (("d2", "ip6tables -I INPUT -p icmpv6 --icmpv6-type 135 -j DROP"), ("d1", "ip -6 neigh flush dev eth0")),
          (("d2", "ip6tables -D INPUT -p icmpv6 --icmpv6-type 135 -j DROP"),), "neigh.unresolved"),
    Break("six-dnat-gone", ("inet", UPLINK6, "tcp/8110"), _host("ip6tables -t nat -F DOCKER"),
          (), "nat.dnat-missing", "forward host", kind="noproxy"),
    Break("six-gateway-gone", ("d1", OUT6, "icmp"),
          _host("ip -6 addr del fd00:31:1::1/64 dev ntdual"), _host("ip -6 addr add fd00:31:1::1/64 dev ntdual nodad"),
          "bridge.no-address"),
    Break("six-off-on-bridge", ("d1", OUT6, "icmp"), _host("sysctl -qw net.ipv6.conf.ntdual.disable_ipv6=1"),
          _host("sysctl -qw net.ipv6.conf.ntdual.disable_ipv6=0",
                "ip -6 addr add fd00:31:1::1/64 dev ntdual nodad",), "sysctl.ipv6-disabled"),
    Break("six-published-dropped", ("inet", UPLINK6, "tcp/8110"),
          **_rule("-I FORWARD -p tcp --dport 80 -j DROP", "ip6tables"),
          code="filter.rule-drop", place="forward host"),
    # several networks on one container
    Break("multi-default-wrong", ("both", OUT, "icmp"), (("both", "ip route replace default dev {dev.both.four}"),),
          (("both", "ip route replace default via 172.31.1.1 dev {dev.both.dual}"),), "route.wrong-gateway"),
    Break("multi-default-other-gateway", ("both", OUT, "icmp"),
          (("both", "ip route replace default via {ip.f1.four} dev {dev.both.four}"),),
          (("both", "ip route replace default via 172.31.1.1 dev {dev.both.dual}"),), "route.wrong-gateway"),
    Break("multi-reply-elsewhere", ("f1", "{ip.both.four}", "tcp/80"),
          (("both", "ip route add default via 172.31.1.1 dev {dev.both.dual} table 100"),
           ("both", "ip rule add from {ip.both.four} table 100")),
          (("both", "ip rule del from {ip.both.four} table 100"), ("both", "ip route flush table 100")),
          "route.reply-asymmetric", "reply"),
    Break("multi-reply-more-specific", ("f1", "{ip.both.four}", "icmp"),
          (("both", "ip route add {ip.f1.four}/32 via 172.31.1.1 dev {dev.both.dual}"),),
          (("both", "ip route del {ip.f1.four}/32"),), "route.reply-asymmetric", "reply"),
    Break("multi-rp-filter", ("f1", "{ip.both.four}", "icmp"),
          (("both", "ip route add {ip.f1.four}/32 dev {dev.both.dual}"),
           ("both", "sysctl -qw net.ipv4.conf.{dev.both.four}.rp_filter=1")),
          (("both", "ip route del {ip.f1.four}/32"),
           ("both", "sysctl -qw net.ipv4.conf.{dev.both.four}.rp_filter=2")),
          "sysctl.rp-filter", "forward destination"),
    Break("multi-second-down", ("f1", "{ip.both.four}", "icmp"), (("both", "ip link set {dev.both.four} down"),),
          (("both", "ip link set {dev.both.four} up"),), "link.down", "forward destination"),
    # gateway modes
    Break("routed-no-return", ("r1", OUT, "icmp"), (("inet", f"ip route del 172.31.7.0/24 via {UPLINK}"),),
          (("inet", f"ip route add 172.31.7.0/24 via {UPLINK}"),), "nat.return-route-missing", "reply remote",
          since=28),
    Break("routed-no-return-six", ("r1", OUT6, "icmp"), (("inet", f"ip -6 route del fd00:31:7::/64 via {UPLINK6}"),),
          (("inet", f"ip -6 route add fd00:31:7::/64 via {UPLINK6}"),), "nat.return-route-missing", "reply remote",
          since=28),
    Break("routed-ping-refused", ("inet", "{ip.r1.routed}", "icmp"),
          **_gone("-A DOCKER -o {br.routed} -p icmp -j ACCEPT"),
          code="filter.docker-rules-missing", place="forward host", since=28),
    Break("unprotected-guarded", ("inet", "{ip.u1.unprot}", "tcp/80"),
          **_rule("-t raw -I PREROUTING -d {ip.u1.unprot}/32 ! -i {br.unprot} -j DROP"),
          code="filter.direct-access-drop", place="forward host", since=28),
    Break("unprotected-accept-gone", ("inet", "{ip.u1.unprot}", "icmp"),
          **_gone("-A DOCKER ! -i {br.unprot} -o {br.unprot} -j ACCEPT"),
          code="filter.forward-policy-drop", place="forward host", since=28),
    # without the userland proxy
    Break("noproxy-hairpin-off", ("web", UPLINK, "tcp/8080"), _host("bridge link set dev {veth.web} hairpin off"),
          _host("bridge link set dev {veth.web} hairpin on"), "nat.hairpin-missing", "forward bridge", kind="noproxy"),
    Break("noproxy-own-masquerade-gone", ("web", UPLINK, "tcp/8080"),
          **_gone("-t nat -A POSTROUTING -s {ip.web.bridge}/32 -d {ip.web.bridge}/32 -p tcp --dport 80 -j MASQUERADE"),
          code="nat.hairpin-missing", kind="noproxy"),
    Break("noproxy-localnet-off", ("host", "127.0.0.1", "tcp/8080"),
          _host("sysctl -qw net.ipv4.conf.docker0.route_localnet=0"),
          _host("sysctl -qw net.ipv4.conf.docker0.route_localnet=1"), "sysctl.route-localnet-off", kind="noproxy"),
    Break("noproxy-local-masquerade-gone", ("host", "127.0.0.1", "tcp/8080"),
          **_gone("-t nat -A POSTROUTING -o docker0 -m addrtype --src-type LOCAL -j MASQUERADE"),
          code="nat.masquerade-missing", kind="noproxy"),
    Break("noproxy-output-jump-gone", ("host", UPLINK, "tcp/8080"),
          **_gone("-t nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER"), code="nat.dnat-missing", kind="noproxy"),
    # with the userland proxy
    Break("proxy-killed-neighbour", ("app", UPLINK, "tcp/8080"), _host("kill {proxy.8080}"), (), "nat.hairpin-missing",
          "forward host", kind="proxy"),
    Break("proxy-serves-for-dnat", ("inet", UPLINK, "tcp/8110"), _host("iptables -t nat -F DOCKER"), (), "",
          kind="proxy"),
    Break("proxy-input-drop", ("app", UPLINK, "tcp/8110"), **_rule("-I INPUT -i docker0 -p tcp --dport 8110 -j DROP"),
          code="filter.input-drop", place="forward host", kind="proxy"),
    Break("proxy-own-way-blocked", ("app", UPLINK, "tcp/8110"),
          **_rule("-I OUTPUT -o ntdual -p tcp --dport 80 -j DROP"),
          code="filter.rule-drop", place="forward source", kind="proxy"),
    Break("proxy-service-dead", ("app", UPLINK, "tcp/8110"), (("d2", "iptables -I INPUT -p tcp --dport 80 -j DROP"),),
          (("d2", "iptables -D INPUT -p tcp --dport 80 -j DROP"),), "filter.container-drop", "forward destination",
          kind="proxy"),
    # published on 127.0.0.1
    Break("loopback-output-drop", ("host", "127.0.0.1", "tcp/8081"),
          **_rule("-I OUTPUT -o lo -p tcp --dport 8081 -j DROP"),
          code="filter.rule-drop", kind="proxy"),
    Break("loopback-down", ("host", "127.0.0.1", "tcp/8081"), _host("ip link set lo down"), _host("ip link set lo up"),
          "link.down", kind="proxy"),
    Break("loopback-proxy-killed", ("host", "127.0.0.1", "tcp/8081"), _host("kill {proxy.8081}"), (),
          "nat.dnat-missing", kind="proxy"),
    # hairpin, icc off with a published port, internal
    Break("icc-published-accept-gone", ("inet", UPLINK, "tcp/8130"),
          **_gone("-A DOCKER -d {ip.n2.noicc}/32 ! -i {br.noicc} -o {br.noicc} -p tcp --dport 80 -j ACCEPT"),
          code="filter.forward-policy-drop", place="forward host", until=27),
    Break("icc-published-accept-gone-28", ("inet", UPLINK, "tcp/8130"),
          **_gone("-A DOCKER -d {ip.n2.noicc}/32 ! -i {br.noicc} -o {br.noicc} -p tcp --dport 80 -j ACCEPT"),
          code="filter.docker-rules-missing", place="forward host", since=28),
    Break("icc-not-enforced", ("n1", "n2", "tcp/80"), _host("sysctl -qw net.bridge.bridge-nf-call-iptables=0"),
          _host("sysctl -qw net.bridge.bridge-nf-call-iptables=1"), "sysctl.bridge-nf-call-off"),
    Break("icc-published-dnat-stale", ("inet", UPLINK, "tcp/8130"),
          _host("iptables -t nat -I DOCKER 1 -p tcp --dport 8130 -j DNAT --to-destination 172.31.3.99:80"),
          _host("iptables -t nat -D DOCKER 1"), "nat.dnat-shadowed"),
    Break("internal-bridge-rule", ("s1", "s2", "tcp/80"), **_rule("-I FORWARD -i {br.sealed} -o {br.sealed} -j DROP"),
          code="filter.rule-drop", place="forward bridge"),
    Break("internal-input-drop", ("s1", "host", "icmp"), **_rule("-I INPUT -i {br.sealed} -j DROP"),
          code="filter.input-drop", place="forward host"),
    Break("internal-gateway-gone", ("s1", "host", "icmp"), _host("ip addr flush dev {br.sealed}"),
          _host("ip addr add 172.31.4.1/24 brd + dev {br.sealed}"), "bridge.no-address"),
    # the network's MTU
    Break("mtu-uplink-smaller", ("d1", OUT, "icmp", "1400"), _host("ip link set eth0 mtu 1300"),
          (("host", "ip link set eth0 mtu 1500"), ("d1", "ip route flush cache")), "mtu.mismatch"),
    Break("mtu-inside-larger", ("d1", "{ip.d2.dual}", "icmp", "1500"), (("d1", "ip link set eth0 mtu 1500"),),
          (("d1", "ip link set eth0 mtu 1400"),), "mtu.veth-mismatch"),
    Break("mtu-icmp-lost", ("d1", OUT, "icmp", "1400"),
          _host("ip link set eth0 mtu 1300", "iptables -I OUTPUT -p icmp --icmp-type fragmentation-needed -j DROP"),
          _host("iptables -D OUTPUT -p icmp --icmp-type fragmentation-needed -j DROP", "ip link set eth0 mtu 1500"),
          "mtu.black-hole"),
)  # fmt: skip


class Names:
    """What the braces in a fault's commands stand for."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.known = addresses(lab)
        self.bridges = {
            row["Name"]: row["Options"].get("com.docker.network.bridge.name") or f"br-{row['Id'][:12]}"
            for row in api_of(lab).call("GET", "/networks")
            if row["Driver"] == "bridge"
        }

    def fill(self, text: str) -> str:
        """Return a text with the names filled in."""
        return re.sub(r"\{(\w+)\.([\w.]+)\}", lambda found: self._one(found[1], found[2]), text)

    def _one(self, what: str, name: str) -> str:
        if what == "br":
            return self.bridges[name]
        if what == "ip":
            box, network = name.split(".")
            six = network.endswith("6")
            return self.known[box][network.removesuffix("6")][1 if six else 0]
        if what == "dev":
            held = self._one("ip", name)
            listed = self.lab.check(["ip", "-o", "addr"], name.split(".")[0]).splitlines()
            return next(row.split()[1] for row in listed if f" {held}/" in row)
        if what == "veth":
            index = (
                self.lab.check(["cat", "/proc/self/net/dev"], name)
                and self.lab.check(["ip", "-o", "link", "show", "eth0"], name).split("eth0@if")[1].split(":")[0]
            )
            rows = self.lab.check(["ip", "-o", "link"]).splitlines()
            return next(row.split(": ")[1].split("@")[0] for row in rows if row.startswith(f"{index}: "))
        listed = self.lab.check(["ss", "-Hltnp", "sport", "=", f":{name}"])
        return " ".join(sorted(set(re.findall(r"docker-proxy\",pid=(\d+)", listed))))


def cell_of(names: Names, each: Break) -> Cell:
    """Return the flow that shows a fault."""
    src, dst, what = (names.fill(part) for part in each.flow[:3])
    proto, _, port = what.partition("/")
    address = dst
    if dst in names.known:
        shared = [network for network in names.known[dst] if network in names.known.get(src, {})]
        address = names.known[dst][shared[0]][0]
    elif dst == "host":
        net = next(net for net in NETS if net.name in names.known[src])
        address = net.subnet.replace(".0/24", ".1")
    size = int(each.flow[3]) if len(each.flow) > 3 else None
    return Cell(src, dst, proto, int(port) if port else None, address, code=each.code, size=size)


def run(names: Names, steps: tuple[tuple[str, str], ...]) -> None:
    """Run steps; raises LabError when one fails."""
    for where, command in steps:
        names.lab.check(["sh", "-c", names.fill(command)], where, env={"PATH": names.lab.state.path})


def save(lab: Lab) -> dict[str, str]:
    """Return all rules of both families, for faults that flush."""
    return {tool: lab.check([f"{tool}-save"]) for tool in ("iptables", "ip6tables")}


def restore(lab: Lab, saved: dict[str, str]) -> None:
    """Load saved rules again."""
    for tool, text in saved.items():
        done = lab.exec([f"{tool}-restore"], stdin=text)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, tool, stderr=done.stderr)


def broken(lab: Lab, names: Names, asker: Asker, fault: Break) -> Judged:
    """Break, ask a program in the source and nettrace at once, mend, and return what both said."""
    cell, saved = cell_of(names, fault), save(lab)
    quick = cell.proto != "tcp"
    try:
        run(names, fault.steps)
        with ThreadPoolExecutor(max_workers=1) as pool:
            reached = pool.submit(ask_oracle, lab, cell, quick=quick)
            said = asker.ask(cell.question(lab))
            return Judged(cell, reached.result(), said)
    finally:
        for where, command in fault.undo:
            lab.exec(["sh", "-c", names.fill(command)], where)
        restore(lab, saved)


def main(argv: Sequence[str]) -> int:
    """Break every fault in labs of its own, on every engine and kind that can have it; 1 when one is misnamed."""
    bad = 0
    for engine in engines():
        for kind in ("proxy", "noproxy"):
            lab = up(f"flt{os.getpid()}-{engine[-2:]}{kind[:1]}", engine, kind)
            asker, names = Asker(lab), Names(lab)
            try:
                for fault in BREAKS:
                    if not fault.fits(major(lab), kind) or not all(each in fault.name for each in argv):
                        continue
                    seen = broken(lab, names, asker, fault)
                    right = seen.agrees and seen.place.startswith(fault.place)
                    bad += not right
                    print(engine, kind, "   " if right else "BAD", f"{fault.name:32}", seen.line(), flush=True)
            finally:
                asker.close()
                down(lab)
    print(f"{bad} misnamed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
