"""Pods of Kubernetes without Kubernetes: namespaces wired as its plugins do, asked about by netns:, pid: and pod:.

The kernel, the packets and the rules are real. The plumbing is made here, after what the plugins leave behind: `bridge`
and `portmap` of the CNI reference plugins (cni0, CNI-* chains), and Calico's point-to-point links (a /32, the gateway
169.254.1.1 that only proxy ARP answers for, cali-* chains). No kubelet, containerd or crictl is here; `pod:` is asked
through a small program called crictl that prints recorded documents.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nettrace.lab import Lab, teardown
from nettrace.lab.state import state_dir
from nettrace.lab.system import ADMIN_PATH, enter

from .conftest import PREFIX
from .podman import bare_host
from .warm import Asker, Said

pytestmark = pytest.mark.live

NAME = f"{PREFIX}-pods"
PODS = ("p1", "p2", "w1", "w2")
RECORDED = json.loads((Path(__file__).parent.parent / "collect" / "data" / "crictl.json").read_text())

BRIDGE = """
ip link add cni0 type bridge
ip link set cni0 up
ip addr add 10.244.0.1/24 broadcast + dev cni0
sysctl -qw net.ipv4.ip_forward=1
"""
BRIDGED = """
ip link add vp{n} type veth peer name eth0 netns {ns}
ip link set vp{n} master cni0 up
bridge link set dev vp{n} hairpin on
ip -n {ns} link set lo up
ip -n {ns} link set eth0 up
ip -n {ns} addr add 10.244.0.1{n}/24 dev eth0
ip -n {ns} route add default via 10.244.0.1
"""
ROUTED = """
ip link add cali{n} type veth peer name eth0 netns {ns}
ip link set cali{n} up
sysctl -qw net.ipv4.conf.cali{n}.proxy_arp=1
sysctl -qw net.ipv4.neigh.cali{n}.proxy_delay=0
ip route add 10.65.0.{n}/32 dev cali{n} scope link
ip -n {ns} link set lo up
ip -n {ns} link set eth0 up
ip -n {ns} addr add 10.65.0.{n}/32 dev eth0
ip -n {ns} route add 169.254.1.1 dev eth0 scope link
ip -n {ns} route add default via 169.254.1.1 dev eth0
"""
RULES = """*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-8f2a6bd0c1e94f7733b1a5c2 - [0:0]
:CNI-DN-8f2a6bd0c1e94f7733b1a - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
:cali-nat-outgoing - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A POSTROUTING -s 10.244.0.12/32 -m comment --comment "name: \\"cbr0\\" id: \\"p2\\"" -j CNI-8f2a6bd0c1e94f7733b1a5c2
-A POSTROUTING -s 10.244.0.11/32 -m comment --comment "name: \\"cbr0\\" id: \\"p1\\"" -j CNI-8f2a6bd0c1e94f7733b1a5c2
-A POSTROUTING -s 10.65.0.0/24 -m comment --comment "cali:flqWnvo8yq4ULQLa" -j cali-nat-outgoing
-A CNI-8f2a6bd0c1e94f7733b1a5c2 -d 10.244.0.0/24 -m comment --comment "name: \\"cbr0\\" id: \\"p1\\"" -j ACCEPT
-A CNI-8f2a6bd0c1e94f7733b1a5c2 ! -d 224.0.0.0/4 -m comment --comment "name: \\"cbr0\\" id: \\"p1\\"" -j MASQUERADE
-A CNI-DN-8f2a6bd0c1e94f7733b1a -s 10.244.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-8f2a6bd0c1e94f7733b1a -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.244.0.12:80
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \\"cbr0\\" id: \\"p2\\"" -m multiport --dports 8080 \
-j CNI-DN-8f2a6bd0c1e94f7733b1a
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
-A cali-nat-outgoing ! -d 10.65.0.0/24 -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
:cali-FORWARD - [0:0]
:cali-tw-cali3 - [0:0]
-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A cali-FORWARD -o cali3 -j cali-tw-cali3
-A cali-tw-cali3 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""


@dataclass
class Node:
    """The node, and the process of each pod's sandbox."""

    lab: Lab
    pids: dict[str, int]

    def sh(self, script: str) -> None:
        self.lab.check(["sh", "-ec", script])

    def netns(self, pod: str) -> str:
        return f"ntlab-{NAME}-{pod}"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """p1 and p2 on cni0 (p2 serves port 80 and has the host port 8080), w1 and w2 (3 and 4) behind Calico's links."""
    processes = []
    try:
        lab = bare_host(NAME, PODS)
        found = Node(lab, {})
        found.sh(BRIDGE)
        for number, pod, script in ((1, "p1", BRIDGED), (2, "p2", BRIDGED), (3, "w1", ROUTED), (4, "w2", ROUTED)):
            found.sh(script.format(n=number, ns=found.netns(pod)))
            serve = ["busybox", "httpd", "-f", "-p", "80", "-h", str(state_dir(NAME))]
            argv = [*enter(f"/run/netns/{found.netns(pod)}"), *serve]
            # What the pause container is to a pod: the process that its namespace is known by.
            process = subprocess.Popen(argv, env={"PATH": ADMIN_PATH}, start_new_session=True)
            processes.append(process)
            found.pids[pod] = process.pid
        lab.exec(["iptables-restore"], stdin=RULES).check_returncode()
        for pod, gateway in (("p1", "10.244.0.1"), ("p2", "10.244.0.1"), ("w1", "10.244.0.1"), ("w2", "10.244.0.1")):
            # Pods talk: the node knows where they are.
            argv = [*enter(f"/run/netns/{found.netns(pod)}"), "busybox", "ping", "-c", "1", "-W", "2", gateway]
            subprocess.run(argv, env={"PATH": ADMIN_PATH}, check=True, capture_output=True)
        yield found
    finally:
        for process in processes:
            process.kill()
            process.wait()
        teardown.remove(NAME)


@pytest.fixture(scope="module")
def asker(node: Node) -> Iterator[Asker]:
    made = Asker(node.lab)
    yield made
    made.close()


def ask(asker: Asker, *question: str) -> Said:
    said = asker.ask(["path", *question, "--json", "--timeout", "0.5"])
    assert "Traceback" not in said.err
    return said


def codes(said: Said) -> list[str]:
    return [each["code"] for each in said.verdict["findings"]]


def form(node: Node, word: str) -> str:
    """Turn a pod's name into an endpoint: the bridged ones by process, the routed ones by namespace."""
    if word in ("p1", "p2"):
        return f"pid:{node.pids[word]}"
    return f"netns:{node.netns(word)}" if word in PODS else word


INTERNET = f"netns:ntlab-{NAME}-inet"
HTTP = ("--proto", "tcp", "--port", "80")
HOSTPORT = (INTERNET, "203.0.113.2", "--proto", "tcp", "--port", "8080")


@pytest.mark.parametrize(
    "question",
    [
        ("p1", "8.8.8.8"),
        ("p1", "p2", *HTTP),
        ("p1", "host"),
        ("host", "p1"),
        HOSTPORT,
        ("p1", "203.0.113.2", "--proto", "tcp", "--port", "8080"),
        ("p2", "203.0.113.2", "--proto", "tcp", "--port", "8080"),
        ("w1", "8.8.8.8"),
        ("w1", "w2", *HTTP),
        ("w1", "p1"),
        ("host", "w2", *HTTP),
    ],
    ids=lambda question: " ".join(question).replace(PREFIX, "lab"),
)
def test_healthy(node: Node, asker: Asker, question: tuple[str, ...]) -> None:
    said = ask(asker, *(form(node, word) for word in question))
    assert (said.code, said.verdict["outcome"], codes(said)) == (0, "delivered", [])


@dataclass(frozen=True)
class Broken:
    """One thing that is broken, and how it is taken back; `owner` is who wrote the rule that drops."""

    code: str
    segment: str
    direction: str
    commands: str
    mend: str
    question: tuple[str, ...]
    says: str = ""


BROKEN = {
    "kube drops": Broken(
        "filter.foreign-firewall",
        "host",
        "forward",
        "iptables -I KUBE-FORWARD -s 10.244.0.0/24 -d 8.8.8.8/32 -j DROP",
        "iptables -D KUBE-FORWARD -s 10.244.0.0/24 -d 8.8.8.8/32 -j DROP",
        ("p1", "8.8.8.8"),
        "kube",
    ),
    "calico policy": Broken(
        "filter.foreign-firewall",
        "host",
        "forward",
        'iptables -A cali-tw-cali3 -m comment --comment "cali:Drop if no policies passed packet" -j DROP',
        'iptables -D cali-tw-cali3 -m comment --comment "cali:Drop if no policies passed packet" -j DROP',
        ("p1", "w1"),
        "calico",
    ),
    "nobody answers for 169.254.1.1": Broken(
        "neigh.unresolved",
        "source",
        "forward",
        f"sysctl -qw net.ipv4.conf.cali3.proxy_arp=0; ip -n ntlab-{NAME}-w1 neigh flush all",
        f"sysctl -qw net.ipv4.conf.cali3.proxy_arp=1; ip -n ntlab-{NAME}-w1 neigh flush all",
        ("w1", "8.8.8.8"),
        "169.254.1.1",
    ),
    "the pod's route is gone, the node's block is left": Broken(
        "route.blackhole",
        "host",
        "forward",
        "ip route del 10.65.0.3/32; ip route add blackhole 10.65.0.0/26 proto 80",
        "ip route del blackhole 10.65.0.0/26; ip route add 10.65.0.3/32 dev cali3 scope link",
        ("p1", "w1"),
        "10.65.0.0/26",
    ),
    "masquerade deleted": Broken(
        "nat.masquerade-missing",
        "remote",
        "reply",
        "iptables -t nat -F CNI-8f2a6bd0c1e94f7733b1a5c2",
        "iptables -t nat -A CNI-8f2a6bd0c1e94f7733b1a5c2 ! -d 224.0.0.0/4 -j MASQUERADE",
        ("p1", "8.8.8.8"),
    ),
    "host port's rule deleted": Broken(
        "port.not-listening",
        "destination",
        "forward",
        "iptables -t nat -F CNI-DN-8f2a6bd0c1e94f7733b1a",
        "iptables -t nat -A CNI-DN-8f2a6bd0c1e94f7733b1a -p tcp --dport 8080 -j DNAT --to-destination 10.244.0.12:80",
        HOSTPORT,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(node: Node, asker: Asker, name: str) -> None:
    broken = BROKEN[name]
    question = tuple(form(node, word) for word in broken.question)
    try:
        node.sh(broken.commands)
        said = ask(asker, *question)
        first, stop = said.verdict["findings"][0], said.verdict["stop"]
        got = (said.code, first["code"], stop["segment"], stop["direction"])
        assert got == (1, broken.code, broken.segment, broken.direction)
        assert broken.says in json.dumps(first)
    finally:
        node.sh(broken.mend)
    assert ask(asker, *question).code == 0


def recorded(node: Node, pod: str) -> dict[str, Any]:
    """Return the recorded inspection of a pod, with the process and namespace that stand for it here."""
    document: dict[str, Any] = json.loads(json.dumps(RECORDED["inspectp"]["web-0"]))
    document["status"]["id"] = f"{pod}{'0' * 62}"
    document["status"]["metadata"]["name"] = pod
    document["info"]["pid"] = node.pids[pod]
    for each in document["info"]["runtimeSpec"]["linux"]["namespaces"]:
        if each["type"] == "network":
            each["path"] = f"/run/netns/{node.netns(pod)}"
    interface = document["info"]["cniResult"]["Interfaces"]["eth0"]
    interface["IPConfigs"] = [{"IP": f"10.244.0.1{pod[1]}", "Gateway": "10.244.0.1"}]
    return document


def test_pods_by_name(node: Node, tmp_path: Path) -> None:
    """pod: is answered through a crictl that prints recorded documents: a program of this test's, not the real one.

    What is real is all that follows from its answer: the namespaces, the packets, and what nettrace says of them.
    """
    documents = {pod: recorded(node, pod) for pod in ("p1", "p2")}
    items = [
        {
            "id": document["status"]["id"],
            "metadata": document["status"]["metadata"],
            "state": "SANDBOX_READY",
            "createdAt": str(1700000000000000000 + number),
        }
        for number, document in enumerate(documents.values())
    ]
    (tmp_path / "pods.json").write_text(json.dumps({"items": items}))
    for document in documents.values():
        (tmp_path / f"{document['status']['id']}.json").write_text(json.dumps(document))
    program = tmp_path / "crictl"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in\npods) cat {tmp_path}/pods.json ;;\ninspectp) cat {tmp_path}/$4.json ;;\nesac\n'
    )
    program.chmod(0o755)
    path = f"{tmp_path}:{node.lab.environment()['PATH']}"
    flags = ["--json", "--timeout", "0.5"]
    said = node.lab.nettrace(["path", "pod:default/p1", "pod:p2", *HTTP, *flags], env={"PATH": path})
    assert said.returncode == 0, said.stderr
    verdict = json.loads(said.stdout)
    assert (verdict["flow"]["src"]["name"], verdict["flow"]["dst"]["name"]) == ("pod:default/p1", "pod:default/p2")
    assert verdict["flow"]["dst"]["address"] == "10.244.0.12"
    assert verdict["hops"][0]["point"].endswith("p1/eth0")
    said = node.lab.nettrace(["path", "pod:default/none", "8.8.8.8", *flags], env={"PATH": path})
    assert (said.returncode, said.stdout) == (4, "")
    assert "no pod on this node is called default/none; there are pod:default/p1, pod:default/p2" in said.stderr
    program.write_text("#!/bin/sh\necho 'level=fatal msg=\"validate CRI v1 runtime API\"' >&2; exit 1\n")
    said = node.lab.nettrace(["path", "pod:default/p1", "8.8.8.8", *flags], env={"PATH": path})
    assert said.returncode == 4
    assert "crictl refuses" in said.stderr


@pytest.mark.skipif(
    any(Path(folder, "crictl").exists() for folder in os.environ.get("PATH", "").split(":")), reason="crictl is here"
)
def test_without_crictl_the_other_forms_are_named(asker: Asker) -> None:
    said = asker.ask(["path", "pod:default/web", "8.8.8.8", "--json"])
    assert (said.code, said.out) == (4, "")
    assert "there is no crictl here" in said.err
    assert "pid:N" in said.err
    assert "netns:" in said.err


def test_the_nodes_folder_is_gone_with_it(node: Node) -> None:
    assert state_dir(NAME).is_dir()
