"""Support bundles: one file that holds a question, all that its answer stands on, and what a human helper wants."""

from nettrace.bundle.archive import read_bundle, write_bundle, write_folder
from nettrace.bundle.format import Asked, Bundle, Cut, Manifest, Member, Run, decode_member

__all__ = [
    "Asked",
    "Bundle",
    "Cut",
    "Manifest",
    "Member",
    "Run",
    "decode_member",
    "read_bundle",
    "write_bundle",
    "write_folder",
]
