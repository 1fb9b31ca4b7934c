"""Rules of the family `engine`."""
