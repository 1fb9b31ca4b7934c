"""Every fault that nettrace can name: one file each, listed here in the order of their codes."""

from __future__ import annotations

from nettrace.rules.addr import (
    duplicate as addr_duplicate,
)
from nettrace.rules.addr import (
    missing as addr_missing,
)
from nettrace.rules.addr import (
    prefix_mismatch as addr_prefix_mismatch,
)
from nettrace.rules.base import Rule
from nettrace.rules.bridge import (
    fdb_wrong as bridge_fdb_wrong,
)
from nettrace.rules.bridge import (
    filter_drop as bridge_filter_drop,
)
from nettrace.rules.bridge import (
    no_address as bridge_no_address,
)
from nettrace.rules.bridge import (
    port_blocked as bridge_port_blocked,
)
from nettrace.rules.bridge import (
    port_isolated as bridge_port_isolated,
)
from nettrace.rules.bridge import (
    port_without_master as bridge_port_without_master,
)
from nettrace.rules.bridge import (
    vlan_filtered as bridge_vlan_filtered,
)
from nettrace.rules.conntrack import (
    invalid_drop as conntrack_invalid_drop,
)
from nettrace.rules.conntrack import (
    stale_entry as conntrack_stale_entry,
)
from nettrace.rules.conntrack import (
    table_full as conntrack_table_full,
)
from nettrace.rules.dns import (
    embedded_rules_missing as dns_embedded_rules_missing,
)
from nettrace.rules.dns import (
    loopback_stub as dns_loopback_stub,
)
from nettrace.rules.dns import (
    name_not_found as dns_name_not_found,
)
from nettrace.rules.dns import (
    resolver_not_listening as dns_resolver_not_listening,
)
from nettrace.rules.dns import (
    server_unreachable as dns_server_unreachable,
)
from nettrace.rules.engine import (
    container_not_running as engine_container_not_running,
)
from nettrace.rules.engine import (
    no_network as engine_no_network,
)
from nettrace.rules.filter import (
    backend_split as filter_backend_split,
)
from nettrace.rules.filter import (
    container_drop as filter_container_drop,
)
from nettrace.rules.filter import (
    direct_access_drop as filter_direct_access_drop,
)
from nettrace.rules.filter import (
    docker_chains_bypassed as filter_docker_chains_bypassed,
)
from nettrace.rules.filter import (
    docker_rules_missing as filter_docker_rules_missing,
)
from nettrace.rules.filter import (
    foreign_firewall as filter_foreign_firewall,
)
from nettrace.rules.filter import (
    forward_policy_drop as filter_forward_policy_drop,
)
from nettrace.rules.filter import (
    icc_disabled as filter_icc_disabled,
)
from nettrace.rules.filter import (
    input_drop as filter_input_drop,
)
from nettrace.rules.filter import (
    internal_network as filter_internal_network,
)
from nettrace.rules.filter import (
    network_isolation as filter_network_isolation,
)
from nettrace.rules.filter import (
    rule_drop as filter_rule_drop,
)
from nettrace.rules.filter import (
    rules_duplicated as filter_rules_duplicated,
)
from nettrace.rules.filter import (
    unpublished_port_drop as filter_unpublished_port_drop,
)
from nettrace.rules.filter import (
    unreadable_table as filter_unreadable_table,
)
from nettrace.rules.link import (
    checksum_offload as link_checksum_offload,
)
from nettrace.rules.link import (
    down as link_down,
)
from nettrace.rules.link import (
    duplicate_mac as link_duplicate_mac,
)
from nettrace.rules.link import (
    no_carrier as link_no_carrier,
)
from nettrace.rules.link import (
    peer_missing as link_peer_missing,
)
from nettrace.rules.macvlan import (
    host_isolation as macvlan_host_isolation,
)
from nettrace.rules.macvlan import (
    mode_isolates as macvlan_mode_isolates,
)
from nettrace.rules.macvlan import (
    parent_down as macvlan_parent_down,
)
from nettrace.rules.model import (
    contradicted as model_contradicted,
)
from nettrace.rules.mtu import (
    black_hole as mtu_black_hole,
)
from nettrace.rules.mtu import (
    mismatch as mtu_mismatch,
)
from nettrace.rules.mtu import (
    overlay_overhead as mtu_overlay_overhead,
)
from nettrace.rules.mtu import (
    veth_mismatch as mtu_veth_mismatch,
)
from nettrace.rules.nat import (
    dnat_missing as nat_dnat_missing,
)
from nettrace.rules.nat import (
    dnat_shadowed as nat_dnat_shadowed,
)
from nettrace.rules.nat import (
    dnat_stale as nat_dnat_stale,
)
from nettrace.rules.nat import (
    hairpin_missing as nat_hairpin_missing,
)
from nettrace.rules.nat import (
    masquerade_missing as nat_masquerade_missing,
)
from nettrace.rules.nat import (
    masquerade_shadowed as nat_masquerade_shadowed,
)
from nettrace.rules.nat import (
    port_exhausted as nat_port_exhausted,
)
from nettrace.rules.nat import (
    return_route_missing as nat_return_route_missing,
)
from nettrace.rules.neigh import (
    ndp_proxy_missing as neigh_ndp_proxy_missing,
)
from nettrace.rules.neigh import (
    stale_static as neigh_stale_static,
)
from nettrace.rules.neigh import (
    table_overflow as neigh_table_overflow,
)
from nettrace.rules.neigh import (
    unresolved as neigh_unresolved,
)
from nettrace.rules.overlay import (
    peer_unknown as overlay_peer_unknown,
)
from nettrace.rules.overlay import (
    underlay_blocked as overlay_underlay_blocked,
)
from nettrace.rules.overlay import (
    vni_mismatch as overlay_vni_mismatch,
)
from nettrace.rules.overlay import (
    vtep_address as overlay_vtep_address,
)
from nettrace.rules.port import (
    listens_on_loopback as port_listens_on_loopback,
)
from nettrace.rules.port import (
    not_listening as port_not_listening,
)
from nettrace.rules.port import (
    not_published as port_not_published,
)
from nettrace.rules.port import (
    published_on_loopback as port_published_on_loopback,
)
from nettrace.rules.port import (
    shadowed as port_shadowed,
)
from nettrace.rules.remote import (
    no_reply as remote_no_reply,
)
from nettrace.rules.remote import (
    rejected as remote_rejected,
)
from nettrace.rules.route import (
    blackhole as route_blackhole,
)
from nettrace.rules.route import (
    default_hijacked as route_default_hijacked,
)
from nettrace.rules.route import (
    gateway_is_local as route_gateway_is_local,
)
from nettrace.rules.route import (
    loop as route_loop,
)
from nettrace.rules.route import (
    missing as route_missing,
)
from nettrace.rules.route import (
    policy_rule as route_policy_rule,
)
from nettrace.rules.route import (
    reply_asymmetric as route_reply_asymmetric,
)
from nettrace.rules.route import (
    subnet_overlap as route_subnet_overlap,
)
from nettrace.rules.route import (
    wrong_device as route_wrong_device,
)
from nettrace.rules.route import (
    wrong_gateway as route_wrong_gateway,
)
from nettrace.rules.sysctl import (
    accept_ra as sysctl_accept_ra,
)
from nettrace.rules.sysctl import (
    arp_ignore as sysctl_arp_ignore,
)
from nettrace.rules.sysctl import (
    bridge_nf_call_off as sysctl_bridge_nf_call_off,
)
from nettrace.rules.sysctl import (
    bridge_nf_call_on as sysctl_bridge_nf_call_on,
)
from nettrace.rules.sysctl import (
    interface_forwarding_off as sysctl_interface_forwarding_off,
)
from nettrace.rules.sysctl import (
    ip_forward_off as sysctl_ip_forward_off,
)
from nettrace.rules.sysctl import (
    ipv6_disabled as sysctl_ipv6_disabled,
)
from nettrace.rules.sysctl import (
    route_localnet_off as sysctl_route_localnet_off,
)
from nettrace.rules.sysctl import (
    rp_filter as sysctl_rp_filter,
)
from nettrace.rules.tc import (
    drop as tc_drop,
)

#: Written out, so that what runs can be read; a test compares it with the folder.
RULES: tuple[Rule, ...] = (
    addr_duplicate.RULE,
    addr_missing.RULE,
    addr_prefix_mismatch.RULE,
    bridge_fdb_wrong.RULE,
    bridge_filter_drop.RULE,
    bridge_no_address.RULE,
    bridge_port_blocked.RULE,
    bridge_port_isolated.RULE,
    bridge_port_without_master.RULE,
    bridge_vlan_filtered.RULE,
    conntrack_invalid_drop.RULE,
    conntrack_stale_entry.RULE,
    conntrack_table_full.RULE,
    dns_embedded_rules_missing.RULE,
    dns_loopback_stub.RULE,
    dns_name_not_found.RULE,
    dns_resolver_not_listening.RULE,
    dns_server_unreachable.RULE,
    engine_container_not_running.RULE,
    engine_no_network.RULE,
    filter_backend_split.RULE,
    filter_container_drop.RULE,
    filter_direct_access_drop.RULE,
    filter_docker_chains_bypassed.RULE,
    filter_docker_rules_missing.RULE,
    filter_foreign_firewall.RULE,
    filter_forward_policy_drop.RULE,
    filter_icc_disabled.RULE,
    filter_input_drop.RULE,
    filter_internal_network.RULE,
    filter_network_isolation.RULE,
    filter_rule_drop.RULE,
    filter_rules_duplicated.RULE,
    filter_unpublished_port_drop.RULE,
    filter_unreadable_table.RULE,
    link_checksum_offload.RULE,
    link_down.RULE,
    link_duplicate_mac.RULE,
    link_no_carrier.RULE,
    link_peer_missing.RULE,
    macvlan_host_isolation.RULE,
    macvlan_mode_isolates.RULE,
    macvlan_parent_down.RULE,
    model_contradicted.RULE,
    mtu_black_hole.RULE,
    mtu_mismatch.RULE,
    mtu_overlay_overhead.RULE,
    mtu_veth_mismatch.RULE,
    nat_dnat_missing.RULE,
    nat_dnat_shadowed.RULE,
    nat_dnat_stale.RULE,
    nat_hairpin_missing.RULE,
    nat_masquerade_missing.RULE,
    nat_masquerade_shadowed.RULE,
    nat_port_exhausted.RULE,
    nat_return_route_missing.RULE,
    neigh_ndp_proxy_missing.RULE,
    neigh_stale_static.RULE,
    neigh_table_overflow.RULE,
    neigh_unresolved.RULE,
    overlay_peer_unknown.RULE,
    overlay_underlay_blocked.RULE,
    overlay_vni_mismatch.RULE,
    overlay_vtep_address.RULE,
    port_listens_on_loopback.RULE,
    port_not_listening.RULE,
    port_not_published.RULE,
    port_published_on_loopback.RULE,
    port_shadowed.RULE,
    remote_no_reply.RULE,
    remote_rejected.RULE,
    route_blackhole.RULE,
    route_default_hijacked.RULE,
    route_gateway_is_local.RULE,
    route_loop.RULE,
    route_missing.RULE,
    route_policy_rule.RULE,
    route_reply_asymmetric.RULE,
    route_subnet_overlap.RULE,
    route_wrong_device.RULE,
    route_wrong_gateway.RULE,
    sysctl_accept_ra.RULE,
    sysctl_arp_ignore.RULE,
    sysctl_bridge_nf_call_off.RULE,
    sysctl_bridge_nf_call_on.RULE,
    sysctl_interface_forwarding_off.RULE,
    sysctl_ip_forward_off.RULE,
    sysctl_ipv6_disabled.RULE,
    sysctl_route_localnet_off.RULE,
    sysctl_rp_filter.RULE,
    tc_drop.RULE,
)


def rule_of(code: str) -> Rule | None:
    """Return the rule with that code, None when there is none."""
    return next((each for each in RULES if each.code == code), None)
