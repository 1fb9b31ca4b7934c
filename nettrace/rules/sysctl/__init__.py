"""Rules of the family `sysctl`."""
