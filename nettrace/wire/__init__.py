"""Bytes on the wire: build probes, recognise them again, filter for them in the kernel, keep them as pcapng.

The only part of nettrace that imports Scapy, and it does so inside functions: Scapy costs a fifth of a second.
"""
