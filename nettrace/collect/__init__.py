"""Live kernel and engines to Snapshot. I/O lives in read_* functions; parse_* functions are pure."""

from nettrace.collect.collector import Collector

__all__ = ["Collector"]
