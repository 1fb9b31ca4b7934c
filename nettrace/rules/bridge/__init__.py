"""Rules of the family `bridge`."""
