"""Rules of the family `dns`."""
