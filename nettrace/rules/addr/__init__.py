"""Rules of the family `addr`."""
