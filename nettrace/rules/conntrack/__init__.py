"""Rules of the family `conntrack`."""
