"""Rules of the family `remote`."""
