"""Tests of the rules: the registry, three cases a rule, and what becomes of a verdict when a section is missing."""
