"""Rules of the family `neigh`."""
