"""Rules of the family `tc`."""
