"""Rules of the family `nat`."""
