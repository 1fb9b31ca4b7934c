"""Rules of the family `macvlan`."""
