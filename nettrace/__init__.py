"""Explains why a container cannot connect."""

from nettrace._version import __version__

__all__ = ["__version__"]
