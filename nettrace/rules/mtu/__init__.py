"""Rules of the family `mtu`."""
