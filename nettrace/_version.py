"""The version, read by the build and by `nettrace --version`."""

__version__ = "0.1.0"
