"""What makes the packets of one run recognisable to that run, and to nobody else.

A probe is followed by what address translation does not touch: a nonce in the ICMP or UDP payload, the sequence
number of a TCP SYN. The nonce is 16 bytes: 4 of magic, 8 of the run's secret, 4 of the probe's number.

Known limits: a UDP server that does not echo the nonce is known by ports alone; where NAT has given the probe another
source port, its answer is recognised again only once that is undone. So is an ICMP error that quotes just 8 bytes.
"""

from __future__ import annotations

import msgspec

from nettrace.model.base import Model
from nettrace.model.flow import Proto

__all__ = ["DNS_PORT", "MAGIC", "MAX_PROBES", "NONCE_BYTES", "SECRET_BYTES", "VXLAN_PORTS", "RunToken", "make_token"]

MAGIC = b"ntrc"
SECRET_BYTES = 8
NONCE_BYTES = 16
#: The probe's number is the low byte of a TCP sequence number, and the acknowledgement adds one to it.
MAX_PROBES = 250
DNS_PORT = 53
#: IANA's port, and the one that Linux took before there was one (drivers/net/vxlan).
VXLAN_PORTS = (4789, 8472)
#: A DNS probe asks for a name whose first label is this byte of length, these letters, and the nonce in hex.
DNS_LABEL = b"\x1bntr"


class RunToken(Model):
    """The marks of one run. `secret` is 8 random bytes; `count` how many probes there are, numbered from 0.

    `sports` are the source ports that the kernel gave, by probe number (empty until it did, and for ICMP); `dports`
    every destination port that the probe may carry on its way, since DNAT changes it. `vxlan_ports` are the outer UDP
    ports inside which the probe may travel.
    """

    secret: bytes
    proto: Proto
    family: int = 4
    count: int = 1
    sports: tuple[int, ...] = ()
    dports: tuple[int, ...] = ()
    vxlan_ports: tuple[int, ...] = VXLAN_PORTS

    @property
    def sequence_base(self) -> int:
        """The upper 24 bits of every TCP sequence number of the run."""
        return int.from_bytes(self.secret[:3], "big")

    @property
    def icmp_id(self) -> int:
        """The ICMP identifier of every echo request of the run (before NAT)."""
        return int.from_bytes(self.secret[3:5], "big")

    def sequence(self, number: int) -> int:
        """Return the TCP sequence number of a probe."""
        return self.sequence_base << 8 | number

    def nonce(self, number: int) -> bytes:
        """Return the 16 bytes that ride in the payload of a probe."""
        return MAGIC + self.secret + number.to_bytes(4, "big")

    def dns_label(self, number: int) -> bytes:
        """Return the first label of the name that a DNS probe asks for, with its length byte."""
        return DNS_LABEL + self.secret.hex().encode() + number.to_bytes(4, "big").hex().encode()

    def with_ports(self, sports: tuple[int, ...]) -> RunToken:
        """Return the same token, knowing the source ports that the kernel gave."""
        return msgspec.structs.replace(self, sports=sports)


def make_token(
    secret: bytes,
    proto: Proto,
    *,
    family: int = 4,
    count: int = 1,
    dports: tuple[int, ...] = (),
    vxlan_ports: tuple[int, ...] = VXLAN_PORTS,
) -> RunToken:
    """Check and return the marks of a run; raises ValueError when the secret or the count does not fit."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a run's secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= count <= MAX_PROBES:
        raise ValueError(f"a run has 1 to {MAX_PROBES} probes, not {count}")
    return RunToken(secret=secret, proto=proto, family=family, count=count, dports=dports, vxlan_ports=vxlan_ports)
