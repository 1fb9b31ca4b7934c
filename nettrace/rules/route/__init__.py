"""Rules of the family `route`."""
