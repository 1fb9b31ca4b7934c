"""Printed remedies applied for real: root pastes the commands on the host, asks again, and the flow is delivered.

Afterwards a lab is as it was broken, as far as netfilter goes, so that a fault's own mending finds what it made.
"""

from __future__ import annotations

from nettrace.errors import LabError
from nettrace.lab import Fault, Lab

from .warm import Said

#: Faults whose remedy cannot be proven by pasting it, and why. What is told of each must not be "yes".
NOT_PASTED = {
    "conntrack-full": "nf_conntrack_max belongs to the machine's own namespace: a lab's host cannot set it",
    "default-hijacked": "which router leads out is not known here: the command has a place to fill in",
    "host-default-deleted": "which router leads out is not known here: the command has a place to fill in",
    "host-default6-deleted": "which router leads out is not known here: the command has a place to fill in",
    "uplink-down": "the default route went with the link: the command has a place to fill in",
    "uplink-gateway-absent": "which router is the right one is for a person to say",
    "uplink-no-carrier": "the other end of the cable is not this host's",
    "uplink-mtu": "an MTU can only be given to a network that is made anew",
    "mtu-black-hole": "an MTU can only be given to a network that is made anew",
    "listens-on-loopback": "the address that a program listens on is set in its own configuration",
    "remote-silent": "the far end is not this host's",
    "remote-silent-udp": "the far end is not this host's",
    "remote-rejects": "the far end is not this host's",
    "default-into-loopback": "which router leads out is not known here: the command has a place to fill in",
    "router-remembers-wrong-mac": "the router is not this host's",
    "route-loop": "the looping routes are not this host's",
    "dns-loopback-stub": "which name server a container should ask is for a person to say",
    "dns-dead-server": "which name server a container should ask is for a person to say",
    "dns-redirect-astray": "a lab has no service manager that could restart the engine",
    "dns-remote-silent": "the far end is not this host's",
    "reply-checksum-spoilt": "the lab spoils checksums itself; there is no offloading to switch off",
    "checksum-spoilt": "the lab spoils checksums itself; there is no offloading to switch off",
}
#: The same in labs without an engine: there is none to restart, or to connect a container again.
WITHOUT_ENGINE = {"docker-chain-jump-deleted", "forward-flushed", "ruleset-flushed", "veth-deleted-plain"}
#: Remedies that work although the model cannot say so: a container that is started or connected gets a namespace anew;
#: the ports that conntrack has left are not modelled.
BEYOND_THE_MODEL = {
    "source-stopped",
    "destination-stopped",
    "publisher-stopped",
    "veth-deleted",
    "snat-port-exhausted",
}
STOPPING = ("blocking", "degrading")
_TABLES = "for t in iptables ip6tables iptables-legacy ip6tables-legacy; do"


def not_pasted(lab: Lab, fault: Fault) -> bool:
    """Tell whether a fault's remedy cannot be proven in this lab."""
    return fault.name in NOT_PASTED or (lab.engine == "none" and fault.name in WITHOUT_ENGINE)


def stopping(said: Said) -> list[dict[str, object]]:
    """Return the remedies of everything that stops or degrades a flow."""
    return [each["remedy"] for each in said.verdict["findings"] if each["severity"] in STOPPING]


def _commands(remedy: dict[str, object]) -> list[object]:
    commands = remedy["commands"]
    assert isinstance(commands, list)
    assert commands
    return commands


def paste(lab: Lab, said: Said) -> None:
    """Run every command of the remedies on the lab's host, in order, and hold each to its end without an error."""
    # What stops a name server's answer stops the flow: one object may be told by two findings.
    for command in dict.fromkeys(str(each) for remedy in stopping(said) for each in _commands(remedy)):
        try:
            lab.check(["sh", "-c", command])
        except LabError as error:
            raise AssertionError(f"the printed remedy fails: {error}") from error


def keep_rules(lab: Lab, fault: Fault, said: Said) -> dict[str, str]:
    """Save the rules of the host and of the namespaces that a fault changes; returns where, by namespace.

    Nothing is saved where the remedy edits no rules itself: what an engine writes anew is right as it is.
    """
    if not any("tables" in str(command) for remedy in stopping(said) for command in _commands(remedy)):
        return {}
    places = {"host", *(step.where for step in fault.break_commands if step.where != "inet")}
    saved = {where: f"/run/nettrace-test-{lab.name}-{where}" for where in places}
    for where, path in saved.items():
        lab.exec(["sh", "-c", f"{_TABLES} $t-save > {path}.$t 2>/dev/null; done"], where)
    return saved


def load_rules(lab: Lab, saved: dict[str, str]) -> None:
    """Load the rules again that `keep_rules` saved."""
    for where, path in saved.items():
        script = f"{_TABLES} [ ! -s {path}.$t ] || $t-restore < {path}.$t; rm -f {path}.$t; done 2>/dev/null"
        lab.exec(["sh", "-c", script], where)
