"""Commands as they stand before their output in a paste: what they list, and in which namespace.

Only what changes the meaning of the output is read: the table, the family, a filter behind a pipe, and the wrappers
that lead into another namespace (`docker exec`, `nsenter`, `ip netns exec`, `ip -n`).
"""

from __future__ import annotations

import re
from enum import StrEnum

from msgspec.structs import replace

from nettrace.model.base import Model

__all__ = ["Command", "Kind", "command_of_name", "parse_command", "prompt_of"]


class Kind(StrEnum):
    """What a listing is, named after the command that prints it."""

    SAVE = "iptables-save"
    SPECS = "iptables -S"
    LISTING = "iptables -L"
    NFT_TEXT = "nft list ruleset"
    NFT_JSON = "nft -j list ruleset"
    IPSET = "ipset save"
    EBTABLES = "ebtables-save"
    LINK = "ip link"
    ROUTE = "ip route"
    RULE = "ip rule"
    NEIGH = "ip neigh"
    FDB = "bridge fdb"
    BRIDGE_LINK = "bridge link"
    BRIDGE_VLAN = "bridge vlan"
    SYSCTL = "sysctl"
    SS = "ss"
    NETSTAT = "netstat"
    CONNTRACK = "conntrack -L"
    DOCKER_INSPECT = "docker inspect"
    DOCKER_NETWORK = "docker network inspect"
    DOCKER_INFO = "docker info"
    DOCKER_VERSION = "docker version"
    DOCKER_PS = "docker ps"
    #: Recognised, of no use to the model.
    OTHER = "other"
    #: JSON that breaks off, or that nobody knows.
    BROKEN = "unreadable JSON"


class Command(Model):
    """One command line. `kind` is None for a command that lists nothing of use; `place` names a namespace.

    `place`: "container:NAME", "pid:N", "netns:NAME", None for the host. `part`: the output may lack something, since
    the command asked for a part, or its output went through a filter.
    """

    text: str
    kind: Kind | None = None
    place: str | None = None
    table: str | None = None
    family: str | None = None
    backend: str | None = None
    proto: str | None = None
    sysctl: str | None = None
    everything: bool = False
    addresses: bool = False
    part: bool = False
    #: What stood before it: whose shell it was typed in.
    prompt: str = ""


_WRAPPERS = ("sudo", "command", "exec", "time", "doas", "env", "stdbuf", "timeout")
_TOOLS = re.compile(
    r"(?:ip6?|ip6?tables(?:-(?:nft|legacy))?(?:-save)?|xtables-(?:nft|legacy)-multi|nft|ipset|ebtables(?:-\w+)*|bridge|brctl"
    r"|sysctl|ss|netstat|conntrack|docker|docker-compose|podman|nsenter|cat|ifconfig|route|arp|tcpdump|ping|curl|uname"
    r"|systemctl|journalctl|ls|ethtool|tc|dmesg|kubectl|crictl|nerdctl|lsmod|hostname|dig|nslookup|traceroute|wget|telnet"
    r"|nc|echo|grep|ufw|firewall-cmd|modprobe|cd|vi|service|exit|sh|bash|ps|id|whoami|ll)"
)
#: user@host:~$, [user@host dir]#, host#, bash-5.1#, ➜, and the plain signs, also "+ " of `set -x`.
_PROMPT = re.compile(
    r"""
    (?: \s{0,8}
        (?: \([\w.-]{1,40}\)\ )?
        (?: \[[^\]\n]{1,80}\] | [\w.+-]{1,64}@[\w.-]{1,64}[^\n$\#%>]{0,80} | [\w.-]{1,64}(?::[^\n$\#%>]{0,80})? )?
        \s?[$\#%]
      | \+{1,3} | /\ \# | ~\ \# | ➜\s+\S{1,40} | ❯ | λ
    ) \s+ (\S.{0,2000})
    """,
    re.VERBOSE,
)
#: A command named in a line of prose or a heading: `ip addr`:, **iptables-save**, <summary>ip route</summary>.
_NAMED = re.compile(
    r"""
    [\s\#*_=>-]{0,12} (?:<[^<>]{1,60}>){0,3} (?:[Oo]utput\ (?:of|from)\ |[Rr]esult\ of\ )?
    [*_`'"“]{0,4} ([a-z][^`*"”<>]{1,160}?) [*_`'"”]{0,4}
    \s*(?:</[^<>]{1,60}>){0,3} \s*(?:output)?\s?[:=\s\#*_-]{0,40}
    """,
    re.VERBOSE,
)


def prompt_of(line: str) -> Command | None:
    """Return the command of a line that is a prompt and a command, else None.

    A bare `# …` could be a comment, and a bare word anything: there only commands that are known count.
    """
    if len(line) > 2200:
        return None
    found = _PROMPT.fullmatch(line)
    if found is not None:
        words = found[1].split()
        first = next((each for each in words if each not in _WRAPPERS and "=" not in each), "")
        if _TOOLS.fullmatch(first.rpartition("/")[2]) is None:
            return None
        prompt = line[: found.start(1)].strip()
        command = parse_command(found[1])
        inside = re.match(r"\[?\w+@([0-9a-f]{12})\b", prompt)
        if inside is not None and command.place is None:
            # A container's own shell: its host is called after its id.
            command = replace(command, place=f"container:{inside[1]}")
        return replace(command, prompt=prompt)
    named = _NAMED.fullmatch(line)
    if named is not None:
        command = parse_command(named[1])
        if command.kind is not None and re.search(r"[`*#<:=]", line) is not None:
            return command
    return None


def command_of_name(name: str) -> Command | None:
    """Return the command that a file is named after, as sosreport does (`ip_route_show_table_all`), else None."""
    stem = name.rpartition("/")[2]
    stem = re.sub(r"\.(?:txt|log|out|json|md|conf)$", "", stem)
    if not stem or len(stem) > 200:
        return None
    spaced = stem.replace("_", " ")
    for text in (spaced, stem, re.sub(r"-+", " -", spaced), spaced.replace("-", " ")):
        command = parse_command(text)
        if command.kind is not None:
            # A name tells too little to say that something was left out.
            return replace(command, part=False)
    return None


def parse_command(text: str) -> Command:
    """Tell what a command line lists; `kind` stays None when it is nothing of use."""
    text = text.strip().strip("`")
    # A command within the command is one word of it.
    whole, text = text, re.sub(r"\$\([^()]*\)|`[^`]*`", lambda found: found[0].replace(" ", "\x01"), text)
    piped = re.split(r"\s(?:\|\||&&|;|2>&1)\s?", f"{text} ", maxsplit=1)[0]
    line, pipe, behind = piped.partition("|")
    line = re.sub(r"\s\d?>{1,2}\s?\S+", "", line)
    words = line.split()
    filters = pipe != "" and re.match(r"\s*(?:cat|less|more|tee|jq(?: \.)?|python3? -m json\.tool)\b", behind) is None
    return _unwrapped(Command(text=whole, part=filters), words)


def _unwrapped(command: Command, words: list[str]) -> Command:
    for _depth in range(6):
        if not words:
            return command
        tool = words[0].rpartition("/")[2]
        if tool in _WRAPPERS or re.fullmatch(r"[A-Za-z_]\w*=\S*", words[0]):
            words = words[1:]
            while (
                tool in ("sudo", "env", "timeout", "stdbuf") and words and (words[0][0] == "-" or words[0][0].isdigit())
            ):
                words = words[1:]
        elif (
            (tool in ("docker", "podman", "nerdctl") and words[1:2] == ["exec"])
            or (tool in ("docker", "docker-compose", "podman-compose") and words[1:3] == ["compose", "exec"])
            or (tool in ("docker-compose", "podman-compose") and words[1:2] == ["exec"])
        ):
            words = words[words.index("exec") + 1 :]
            words, _flags = _without_options(
                words, values=("-u", "--user", "-w", "--workdir", "-e", "--env", "--index")
            )
            if not words:
                return command
            command, words = replace(command, place=f"container:{words[0]}"), words[1:]
        elif tool == "nsenter":
            words, flags = _without_options(words[1:], values=("-t", "--target", "-S", "-G"))
            place = _entered(flags)
            command = replace(command, place=place) if place is not None else command
        elif tool == "ip" and words[1:3] == ["netns", "exec"] and len(words) > 3:
            command, words = replace(command, place=f"netns:{words[3]}"), words[4:]
        elif tool in ("sh", "bash", "ash") and words[1:2] in (["-c"], ["-lc"]):
            words = [word.strip("'\"") for word in words[2:]]
        else:
            break
    return _listed(command, words[0].rpartition("/")[2] if words else "", words[1:])


def _without_options(words: list[str], values: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    flags: dict[str, str] = {}
    at = 0
    while at < len(words) and words[at].startswith("-"):
        name, equal, value = words[at].partition("=")
        if words[at] == "--":
            at += 1
            break
        if not equal and name in values and at + 1 < len(words):
            at += 1
            value = words[at]
        elif not equal and re.fullmatch(r"-t\d+", name):
            name, value = "-t", name[2:]
        flags[name] = value
        at += 1
    return words[at:], flags


def _entered(flags: dict[str, str]) -> str | None:
    net = next((flags[name] for name in ("--net", "-n") if flags.get(name)), "")
    if net.startswith(("/run/netns/", "/var/run/netns/")):
        return f"netns:{net.rpartition('/')[2]}"
    bundled = re.fullmatch(
        r"-n(/(?:var/)?run/netns/(\S+))", next((name for name in flags if name.startswith("-n/")), "")
    )
    if bundled is not None:
        return f"netns:{bundled[2]}"
    target = flags.get("-t") or flags.get("--target")
    if target is None or not any(
        name in ("-n", "--net", "-a", "--all") or (name[1:2] != "-" and "n" in name) for name in flags
    ):
        return None
    if target.isdigit():
        return f"pid:{target}"
    named = re.search(r"([\w.-]+)['\")]*$", target)
    return f"container:{named[1]}" if named is not None and "inspect" in target else None


_TABLE_KINDS = {"-S": Kind.SPECS, "--list-rules": Kind.SPECS, "-L": Kind.LISTING, "--list": Kind.LISTING}
_IP_OBJECTS = (
    ("address", Kind.LINK), ("link", Kind.LINK), ("route", Kind.ROUTE), ("rule", Kind.RULE), ("neighbour", Kind.NEIGH),
    ("neighbor", Kind.NEIGH),
)  # fmt: skip


def _listed(command: Command, tool: str, words: list[str]) -> Command:
    six = tool.startswith("ip6")
    if re.fullmatch(r"ip6?tables(?:-(?:nft|legacy))?-save|ip6?tables-save-(?:nft|legacy)", tool):
        table = _after(words, "-t", "--table")
        return replace(
            command, kind=Kind.SAVE, family="ip6" if six else "ip", backend=_backend(tool), table=table,
            part=command.part or table is not None,
        )  # fmt: skip
    if re.fullmatch(r"ip6?tables(?:-(?:nft|legacy))?", tool):
        kind = next((_TABLE_KINDS[each] for each in words if each in _TABLE_KINDS), None)
        if kind is None:
            bundle = next((each for each in words if re.fullmatch(r"-[a-zA-Z]*[LS][a-zA-Z]*", each)), "")
            kind = Kind.LISTING if "L" in bundle else Kind.SPECS if bundle else None
        table = _after(words, "-t", "--table") or "filter"
        backend = _backend(tool)
        return replace(command, kind=kind, family="ip6" if six else "ip", backend=backend, table=table)
    if tool == "nft" and "list" in words:
        json = any(each in ("-j", "--json") or re.fullmatch(r"-[a-zA-Z]*j[a-zA-Z]*", each) for each in words)
        whole = "ruleset" in words
        return replace(command, kind=Kind.NFT_JSON if json else Kind.NFT_TEXT, part=command.part or not whole)
    if tool == "ip":
        return _ip(command, words)
    if tool == "bridge":
        plain, _flags = _without_options(words, values=("-n", "-netns"))
        what = plain[0] if plain else ""
        kind = Kind.FDB if what.startswith("f") else Kind.BRIDGE_VLAN if what.startswith("v") else None
        kind = Kind.BRIDGE_LINK if what.startswith("l") else kind
        part = command.part or any(each in plain for each in ("dev", "br", "brport"))
        return replace(command, kind=kind, part=part)
    if tool == "sysctl":
        return replace(command, kind=Kind.SYSCTL, everything="-a" in words or "-A" in words, part=command.part)
    if tool in ("ss", "netstat"):
        letters = "".join(each[1:] for each in words if re.fullmatch(r"-[A-Za-z0-9]+", each))
        proto = (
            "tcp" if "t" in letters and "u" not in letters else "udp" if "u" in letters and "t" not in letters else None
        )
        everything = "t" not in letters and "u" not in letters
        part = command.part or ("4" in letters) != ("6" in letters)
        kind = Kind.SS if tool == "ss" else Kind.NETSTAT
        if set(letters) & set("sri") and not set(letters) & set("tulan"):
            return command
        return replace(command, kind=kind, proto=proto, everything=everything, part=part)
    if tool == "conntrack" and any(each in ("-L", "--dump") for each in words):
        filtered = any(each in ("-p", "-s", "-d", "--src", "--dst", "--dport", "-f") for each in words)
        return replace(command, kind=Kind.CONNTRACK, part=command.part or filtered)
    if tool in ("docker", "podman"):
        return _engine(command, words)
    if tool == "ipset":
        return replace(command, kind=Kind.IPSET if "save" in words else None)
    if tool.startswith("ebtables"):
        return replace(command, kind=Kind.EBTABLES if tool.endswith("-save") else None)
    if tool == "cat" and words:
        return _cat(command, words)
    return command


def _cat(command: Command, words: list[str]) -> Command:
    from nettrace.paste.sysctl import parse_proc_path

    key = parse_proc_path(words[0])
    if key is not None and len(words) == 1:
        return replace(command, kind=Kind.SYSCTL, sysctl=key)
    if words[0] == "/proc/net/nf_conntrack":
        return replace(command, kind=Kind.CONNTRACK)
    return command


def _backend(tool: str) -> str | None:
    return "legacy" if "legacy" in tool else "nft" if "nft" in tool else None


def _after(words: list[str], *names: str) -> str | None:
    for at, word in enumerate(words[:-1]):
        if word in names:
            return words[at + 1]
    return None


def _ip(command: Command, words: list[str]) -> Command:
    plain, flags = _without_options(words, values=("-n", "-netns", "-f", "-family"))
    if netns := flags.get("-n") or flags.get("-netns"):
        command = replace(command, place=f"netns:{netns}")
    if not plain:
        return command
    family = (
        "ip6"
        if "-6" in flags
        else "ip"
        if "-4" in flags
        else {"inet": "ip", "inet6": "ip6"}.get(flags.get("-f") or flags.get("-family") or "")
    )
    kind = next((kind for name, kind in _IP_OBJECTS if name.startswith(plain[0])), None)
    rest = plain[1:]
    if rest and not any(word.startswith(rest[0]) for word in ("show", "list", "lst", "ls", "table", "dev", "all")):
        # `ip route get`, `add` and the like list no table; a bare device name after `show` is a part.
        return (
            command if kind is not Kind.LINK else replace(command, kind=kind, addresses=plain[0][0] == "a", part=True)
        )
    rest = [each for each in rest if each not in ("show", "list", "ls", "lst", "sh", "s", "l", "up")]
    if kind is Kind.ROUTE and "cache" in rest:
        return command  # no table
    if kind is Kind.ROUTE:
        table = _after(["x", *rest], "table")
        narrowed = [each for each in rest if each not in ("table", table)]
        return replace(
            command, kind=kind, family=family, table=None if table in ("all", "0") else table,
            everything=table in ("all", "0"), part=command.part or bool(narrowed) or "cache" in rest,
        )  # fmt: skip
    addresses = kind is Kind.LINK and plain[0].startswith("a")
    some = bool(rest) and rest != ["proxy"] and rest != ["nud", "all"]
    part = command.part or some or (kind is Kind.LINK and any(flag in flags for flag in ("-br", "-brief")))
    if kind is Kind.NEIGH and "proxy" in rest:
        part = True
    return replace(command, kind=kind, family=family, addresses=addresses, part=part)


def _engine(command: Command, words: list[str]) -> Command:
    plain, flags = _without_options(words, values=("-H", "--host", "-c", "--context", "-l", "--log-level"))
    del flags
    first, second = (*plain, "", "")[:2]
    formatted = any(each.startswith(("-f", "--format")) for each in plain)
    kind = {
        ("network", "inspect"): Kind.DOCKER_NETWORK,
        ("container", "inspect"): Kind.DOCKER_INSPECT,
        ("container", "ls"): Kind.DOCKER_PS,
        ("system", "info"): Kind.DOCKER_INFO,
    }.get((first, second)) or {
        "inspect": Kind.DOCKER_INSPECT, "info": Kind.DOCKER_INFO, "version": Kind.DOCKER_VERSION, "ps": Kind.DOCKER_PS,
    }.get(first)  # fmt: skip
    if formatted and kind in (Kind.DOCKER_INSPECT, Kind.DOCKER_NETWORK, Kind.DOCKER_PS):
        # A template prints anything; JSON is recognised by itself.
        return command
    return replace(command, kind=kind)
