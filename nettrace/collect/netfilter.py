"""Every netfilter rule of a namespace, as text of the kernel's own tools, without changing anything by looking.

iptables-save can create tables and load modules. So the kernel is first asked over netlink which nft tables and
chains there are, and /proc which legacy tables; only tools that will find something are run, all at once, and none
where there is nothing. See nft(8), iptables-save(8), ebtables(8), ipset(8).
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nettrace.collect.netlink import NETLINK_NETFILTER, Channel, attribute, attributes
from nettrace.collect.proc import module_available, read_text
from nettrace.model.base import Missing, Present
from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netns import Netns

if TYPE_CHECKING:
    import subprocess

__all__ = ["Listing", "Tools", "is_whole", "parse_nft_chains", "parse_nft_devices", "with_devices"]

NFT_MSG_GETTABLE = 10 << 8 | 1
NFT_MSG_GETCHAIN = 10 << 8 | 4
NFGENMSG_BYTES = 20
NFPROTO = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}

#: Chains that iptables-nft and ebtables-nft make; their rules are opaque in nft's own listing.
XT_TABLES = {"filter", "nat", "mangle", "raw", "security", "broute"}
XT_CHAINS = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING", "BROUTING"}

TIMEOUT_S = 10.0
#: How often a listing is made that breaks off, and how long is waited in between.
ATTEMPTS = 4
PAUSE_S = 0.02
SEARCH = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")


class Tools:
    """Where the programs are, by what they really are: `iptables-save` may be a link to either backend."""

    def __init__(self, path: str | None = None) -> None:
        given = path if path is not None else os.environ.get("PATH", "")
        self._folders = tuple(dict.fromkeys([each for each in given.split(os.pathsep) if each] + list(SEARCH)))

    def find(self, *names: str) -> str | None:
        """Return the path of the first of the programs that exists, or None."""
        paths = (f"{folder}/{name}" for name in names for folder in self._folders)
        return next((path for path in paths if os.access(path, os.X_OK)), None)

    def save(self, program: str, backend: str) -> list[str] | None:
        """Return the command that prints the rules of one backend, "nft" or "legacy"; `program` as "iptables-save"."""
        stem, _, rest = program.partition("-")
        direct = self.find(f"{stem}-{backend}-{rest}")
        if direct is not None:
            return [direct]
        multi = f"xtables-{backend}-multi"
        found = self.find(multi)
        if found is not None:
            return [found, program]
        plain = self.find(program)
        if plain is not None and Path(plain).resolve().name == multi:
            return [plain]
        return None


class _Run:
    """One listing on its way: a child process of the namespace, started before anyone waits for it.

    The tools read one kind of object after the other. Where the rules change meanwhile, nft and iptables-save may
    end well with half a document, or none; such a listing is made again.
    """

    def __init__(self, argv: Sequence[str], format: DumpFormat, backend: str, family: str) -> None:
        self.format, self.backend, self.family = format, backend, family
        self.what = " ".join([Path(argv[0]).name, *argv[1:]])
        self._argv = argv
        self._child = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        import subprocess

        environment: Mapping[str, str] = {**os.environ, "LC_ALL": "C"}
        return subprocess.Popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )

    def cancel(self) -> None:
        """End the child and let go of its pipes."""
        self._child.kill()
        self._child.communicate()

    def finish(self) -> NetfilterDump | str:
        """Wait for the listing; return it, or why there is none. Must be called from inside the namespace."""
        import subprocess

        trouble = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_S)
                self._child = self._started()
            try:
                out, err = self._child.communicate(timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.cancel()
                return f"`{self.what}` did not end within {TIMEOUT_S:.0f} s"
            if self._child.returncode != 0:
                said = (err.decode(errors="replace").strip().splitlines() or ["no message"])[0]
                trouble = f"`{self.what}` failed: {said}"
            elif not is_whole(out, self.format):
                trouble = f"`{self.what}` broke off {ATTEMPTS} times: the rules keep changing"
            else:
                text = out.decode(errors="replace")
                return NetfilterDump(format=self.format, backend=self.backend, family=self.family, text=text)
        return trouble


def is_whole(listing: bytes, format: DumpFormat) -> bool:
    """Tell whether a listing ends as it should, so that nothing of it is missing."""
    if format is DumpFormat.NFT_JSON:
        try:
            msgspec.json.decode(listing, type=msgspec.Raw)
        except msgspec.DecodeError:
            return False
        return True
    if format is DumpFormat.IPTABLES_SAVE:
        lines = listing.splitlines()
        # Of a table that it cannot show it says at least so, in a comment.
        return bool(lines) and sum(line.startswith(b"*") for line in lines) == lines.count(b"COMMIT")
    return True


class Listing:
    """The rules of one namespace, on their way.

    `start` and `result` must be called from inside the namespace; between them the tools run beside the caller.
    """

    def __init__(self, tools: Tools | None = None) -> None:
        self.tools = tools or Tools()
        self.runs: list[_Run] = []
        self.dumps: list[NetfilterDump] = []
        self.reasons: list[str] = []
        self.devices: dict[tuple[str, str, str], tuple[str, ...]] = {}

    def start(self, ns: Netns) -> None:
        """Find out which tables there are, and run the tools that print them.

        Raises PrivilegeError when the kernel does not show its tables.
        """
        self._start_nft(ns)
        self._start_legacy()

    def result(self) -> Present[NetfilterDump] | Missing:
        """Wait for the tools, and return what they printed; `reasons` then say what could not be read, and why.

        Missing means that there may be rules of which nothing is known; Present without rows that there are none.
        """
        self._finish()
        self._finish_sets()
        if self.reasons and not self.dumps:
            return Missing(reason="; ".join(self.reasons))
        return Present(rows=tuple(self.dumps))

    def cancel(self) -> None:
        """End the tools that are still running."""
        for run in self.runs:
            run.cancel()
        self.runs = []

    def _start(self, argv: Sequence[str], format: DumpFormat, backend: str, family: str) -> None:
        try:
            self.runs.append(_Run(argv, format, backend, family))
        except OSError as error:
            self.reasons.append(f"{argv[0]} cannot be run: {error.strerror}")

    def _start_nft(self, ns: Netns) -> None:
        """Start listing what nf_tables holds, if it holds anything."""
        if not module_available("nf_tables"):
            return
        body = struct.pack(">BBH", 0, 0, 0)
        with Channel(ns, NETLINK_NETFILTER) as channel:
            try:
                tables = channel.dump(NFT_MSG_GETTABLE, body)
                messages = channel.dump(NFT_MSG_GETCHAIN, body) if tables else []
            except OSError as error:
                if error.errno in (22, 95, 93):  # EINVAL, EOPNOTSUPP, EPROTONOSUPPORT: a kernel without nf_tables
                    return
                self.reasons.append(f"nf_tables cannot be listed: {error.strerror}")
                return
        if not tables:
            return
        chains, self.devices = parse_nft_chains(messages), parse_nft_devices(messages)
        nft = self.tools.find("nft")
        if nft is not None:
            self._start([nft, "-j", "list", "ruleset"], DumpFormat.NFT_JSON, "nft", "all")
        else:
            self.reasons.append("nft is not installed: rules that iptables-nft did not make are unknown")
        xt = {family for family, table, chain in chains if table in XT_TABLES and chain in XT_CHAINS}
        for family, program in (("ip", "iptables-save"), ("ip6", "ip6tables-save")):
            if family in xt:
                self._start_save(program, "nft", family, DumpFormat.IPTABLES_SAVE, ["-c"])
        if "bridge" in xt:
            self._start_save("ebtables-save", "nft", "bridge", DumpFormat.EBTABLES_SAVE, [])

    def _start_legacy(self) -> None:
        """Start listing what ip_tables holds; tables that nobody has used yet do not exist, and are not made."""
        for family, program, names in (
            ("ip", "iptables-save", "ip_tables_names"),
            ("ip6", "ip6tables-save", "ip6_tables_names"),
        ):
            try:
                used = read_text(f"/proc/thread-self/net/{names}").split()
            except FileNotFoundError:
                continue
            except OSError as error:
                self.reasons.append(f"/proc/net/{names} cannot be read: {error.strerror}")
                continue
            if used:
                self._start_save(program, "legacy", family, DumpFormat.IPTABLES_SAVE, ["-c"])

    def _start_save(self, program: str, backend: str, family: str, format: DumpFormat, options: Sequence[str]) -> None:
        argv = self.tools.save(program, backend)
        if argv is None:
            self.reasons.append(f"{program} for the {backend} backend is not installed: its {family} rules are opaque")
        else:
            self._start([*argv, *options], format, backend, family)

    def _finish(self) -> None:
        """Wait for everything that was started."""
        for run in self.runs:
            done = run.finish()
            if isinstance(done, str):
                self.reasons.append(done)
            elif self.devices and done.format is DumpFormat.NFT_JSON:
                self.dumps.append(msgspec.structs.replace(done, text=with_devices(done.text, self.devices)))
            else:
                self.dumps.append(done)
        self.runs = []

    def _finish_sets(self) -> None:
        """List the ipsets when some rule mentions one."""
        if not any(mark in dump.text for dump in self.dumps for mark in ("--match-set", "--add-set", "--map-set")):
            return
        ipset = self.tools.find("ipset")
        if ipset is None:
            self.reasons.append("ipset is not installed: rules that ask a set cannot be evaluated")
            return
        self._start([ipset, "save"], DumpFormat.IPSET_SAVE, "nft", "all")
        self._finish()


def parse_nft_chains(messages: Sequence[bytes]) -> list[tuple[str, str, str]]:
    """Return (family, table, chain) of every NFT_MSG_NEWCHAIN message (nf_tables_fill_chain_info)."""
    found = []
    for message in messages:
        table, chain = attribute(message, 1, offset=NFGENMSG_BYTES), attribute(message, 3, offset=NFGENMSG_BYTES)
        names = [(each or b"").rstrip(b"\0").decode(errors="replace") for each in (table, chain)]
        found.append((NFPROTO.get(message[16], str(message[16])), names[0], names[1]))
    return found


def parse_nft_devices(messages: Sequence[bytes]) -> dict[tuple[str, str, str], tuple[str, ...]]:
    """Return the devices of every chain that is bound to some, by (family, table, chain) (nft_dump_basechain_hook)."""
    found: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for message, place in zip(messages, parse_nft_chains(messages), strict=True):
        hook = attribute(message, 4, offset=NFGENMSG_BYTES)
        if hook is None:
            continue
        several = attribute(hook, 4)
        names = [payload for kind, payload in attributes(several) if kind == 1] if several is not None else []
        single = attribute(hook, 3)
        if not names and single is not None:
            names = [single]
        if names:
            found[place] = tuple(each.rstrip(b"\0").decode(errors="replace") for each in names)
    return found


def with_devices(listing: str, devices: Mapping[tuple[str, str, str], Sequence[str]]) -> str:
    """Add the devices of chains to nft's JSON: nft 1.0.6 leaves them out, and the chain would seem to be for all."""
    document = msgspec.json.decode(listing)
    for each in document.get("nftables", []):
        chain = each.get("chain")
        if isinstance(chain, dict):
            bound = devices.get((str(chain.get("family")), str(chain.get("table")), str(chain.get("name"))))
            if bound and "dev" not in chain:
                chain["dev"] = list(bound)
    return msgspec.json.encode(document).decode()
