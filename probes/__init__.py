"""Enter namespaces and touch packets: inject, capture, and hear what the kernel says."""
