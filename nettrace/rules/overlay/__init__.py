"""Rules of the family `overlay`."""
