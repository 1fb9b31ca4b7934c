"""Rules of the family `port`."""
