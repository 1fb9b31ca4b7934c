"""Raw texts for a human helper: what the tools of the host print of it."""

from __future__ import annotations

from collections.abc import Mapping

from nettrace.model.base import Model


class RawText(Model):
    """One listing. `owner` is the namespace it was read in, or "engine=docker"; `name` the listing's, as "ip-addr.txt".

    `text` is None when there is none, and `reason` then says why; both are set where the text is not whole.
    """

    owner: str
    name: str
    text: str | None = None
    reason: str | None = None


#: Options of the engines' own network drivers; those of a foreign driver may hold anything, passwords too.
OPEN_OPTIONS = {
    *("parent", "macvlan_mode", "ipvlan_mode", "ipvlan_flag", "encrypted", "mtu", "vlan", "mode", "isolate", "metric"),
    *("no_default_route", "interface_name", "vrf"),
}
OPEN_PREFIX = "com.docker.network."


def open_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return of a network's driver options those that may leave the host."""
    return {key: value for key, value in options.items() if key in OPEN_OPTIONS or key.startswith(OPEN_PREFIX)}
