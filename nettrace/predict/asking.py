"""Whether a request for a next hop is heard through the bridge between, and whether its answer comes back.

A request is flooded to every port that floods its kind, an answer goes to the MAC of who asked, which the request has
just taught the bridge, where it learns. Models br_handle_frame_finish and br_flood (net/bridge) for ARP requests
(broadcast), neighbour solicitations (multicast) and their answers (unicast).

What a packet meets on its own way as well, such as a port that does not forward, is left to its own steps.
"""

from __future__ import annotations

from itertools import pairwise

from nettrace.model.base import IPAddress, Model
from nettrace.model.path import Reason
from nettrace.model.snapshot import FdbEntry, Link
from nettrace.netfilter.skb import mac_number, mac_text
from nettrace.predict import bridge as bridging
from nettrace.predict.neigh import Member
from nettrace.predict.world import View, World

__all__ = ["Lost", "bridge_of", "lost", "told_by_rule"]


class Lost(Model):
    """Where a request, or the answer to it, is lost: the bridge's namespace (inode), the port, and why.

    `heard` tells that the request came to who is asked. `flag` is the switch of the port, as bridge(8) prints it.
    """

    netns: int
    link: Link
    reason: Reason
    text: str
    heard: bool
    fdb: FdbEntry | None = None
    flag: str | None = None


def lost(
    world: World, view: View, asker: Link, owner: Member, *, family: int, address: IPAddress, asking: IPAddress
) -> Lost | None:
    """Return what keeps a next hop's answer from who asks for it, None when nothing on their bridge does."""
    here = bridge_of(world, view, asker)
    holder = world.views[owner.netns]
    there = bridge_of(world, holder, holder.links[owner.ifindex])
    if here is None or asker.mac is None:
        return None
    where, bridge, source = here
    target: Link | None = None
    if there is not None and (there[0].id, there[1].ifindex) == (where.id, bridge.ifindex):
        target = there[2]
    elif source is None:
        # The bridge itself asks, and the holder is behind more than one of its ports.
        return _to_the_bridge(where, bridge)
    elif there is not None:
        return None
    if target is not None and source is not None and target.ifindex == source.ifindex:
        return None
    if source is not None and bridging.ingress(where, bridge, source, asker.mac) is not None:
        return None
    if target is not None:
        if bridging.refuses(bridge, source, target) is not None:
            return None
        blocked = bridging.floods(bridge, target, family) if source is not None else None
        if blocked is not None:
            text = f"the request of {asker.name} for {address} is lost: {blocked.text}"
            return Lost(netns=where.id, link=target, reason=blocked.reason, text=text, heard=False, flag=blocked.flag)
        answering = world.far_end(where, target)
        blocked = bridging.ingress(where, bridge, target, answering[1].mac if answering is not None else None)
        if blocked is not None:
            text = f"the answer to {asker.name} for {address} is lost: {blocked.text}"
            return Lost(netns=where.id, link=target, reason=blocked.reason, text=text, heard=True, flag=blocked.flag)
    if source is None:
        return _to_the_bridge(where, bridge)
    return _to_the_asker(world, where, bridge, source, target, asker.mac, asking)


def told_by_rule(world: World, view: View, asker: Link, address: IPAddress) -> str | None:
    """Return the MAC address that a rule of the bridge answers an ARP request with (ebtables' arpreply).

    None where there is none, or where such a rule asks for more than the port and the address.
    """
    here = bridge_of(world, view, asker)
    where, port = (here[0], here[2]) if here is not None else (view, None)
    if port is None or address.version != 4:
        return None
    for table in where.ruleset.tables:
        chain = table.chains.get("PREROUTING") if (table.family, table.name) == ("bridge", "nat") else None
        for each in chain.rules if chain is not None else ():
            words = each.ref.text.split()
            if "arpreply" not in words or "--arpreply-mac" not in words:
                continue
            asks = dict(pairwise(words[2 : words.index("-j")]))
            if all(_fits(word, value, port.name, address) for word, value in asks.items() if word.startswith("-")):
                return mac_text(mac_number(words[words.index("--arpreply-mac") + 1]))
    return None


def _fits(word: str, value: str, port: str, address: IPAddress) -> bool:
    wanted = {"-p": ("ARP", "0806"), "--arp-op": ("Request", "1"), "-i": (port,), "--arp-ip-dst": (str(address),)}
    return value.removesuffix("/32") in wanted.get(word, ())


def bridge_of(world: World, view: View, link: Link) -> tuple[View, Link, Link | None] | None:
    """Return the bridge that a device hangs on: namespace, bridge, and the port; None as port of the bridge itself."""
    if link.kind == "bridge":
        return view, link, None
    far = world.far_end(view, link) if link.kind == "veth" else None
    if far is None or far[1].master is None:
        return None
    bridge = far[0].links.get(far[1].master)
    return (far[0], bridge, far[1]) if bridge is not None and bridge.kind == "bridge" else None


def _to_the_bridge(view: View, bridge: Link) -> Lost | None:
    if bridge.mac is None or bridging.is_local_mac(view, bridge, bridge.mac):
        return None
    entry = next((each for each in view.fdb.get(bridge.ifindex, ()) if each.mac == bridge.mac), None)
    if entry is None:
        text = f"the bridge {bridge.name} has no entry for its own address {bridge.mac}, and takes no answers to it"
        return Lost(netns=view.id, link=bridge, reason=Reason.FDB_WRONG_PORT, text=text, heard=True)
    port = view.links.get(entry.ifindex, bridge)
    text = f"answers to {bridge.name} ({bridge.mac}) go out of {port.name}: a forwarding entry says that it is there"
    return Lost(netns=view.id, link=port, reason=Reason.FDB_WRONG_PORT, text=text, heard=True, fdb=entry)


def _to_the_asker(
    world: World, view: View, bridge: Link, source: Link, target: Link | None, mac: str, asking: IPAddress
) -> Lost | None:
    taken = bridging.taken_up(view, bridge, target, mac) if target is not None else None
    if taken is not None:
        text = f"a forwarding entry says that {mac} is {bridge.name}'s own, so the host takes the answers to it"
        return Lost(
            netns=view.id, link=_at(view, bridge, taken), reason=Reason.FDB_WRONG_PORT, text=text, heard=True, fdb=taken
        )
    choice = bridging.egress(world, view, bridge, target, mac, asking, spoke=True)
    if choice.reason is None or choice.open_ended or choice.needs is not None:
        return None
    text = choice.text.replace(" sends ", " sends answers to ") if choice.entry is not None else choice.text
    link = choice.port or (_at(view, bridge, choice.entry) if choice.entry is not None else source)
    return Lost(
        netns=view.id, link=link, reason=choice.reason, text=text, heard=True, fdb=choice.entry, flag=choice.flag
    )


def _at(view: View, bridge: Link, entry: FdbEntry) -> Link:
    return view.links.get(entry.ifindex, bridge)
