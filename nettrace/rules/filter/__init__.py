"""Rules of the family `filter`."""
