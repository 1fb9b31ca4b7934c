"""`nettrace path SRC DST`: why can't SRC reach DST?

Collect, predict, probe, correlate, diagnose, render: each a function of its own; this file only strings them
together, and turns options into a question.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from nettrace._version import __version__
from nettrace.errors import NamespaceGone, NettraceError, PrivilegeError, UsageError
from nettrace.model.base import rows
from nettrace.model.flow import HEADER_BYTES, Flow, Proto
from nettrace.model.verdict import EXIT_CODE, Result, Severity, Timing, Verdict

if TYPE_CHECKING:
    from nettrace.bundle.format import Bundle
    from nettrace.collect import Collector
    from nettrace.correlate import Inner
    from nettrace.model.intent import Container, Intent
    from nettrace.model.observe import Observation
    from nettrace.model.path import Trace
    from nettrace.model.snapshot import Snapshot
    from nettrace.model.texts import RawText
    from nettrace.peer.company import Company
    from nettrace.peer.ssh import PeerAddress
    from nettrace.recorded import RecordedHost
    from probes.builder import BuildProbe
    from probes.plan import ProbePlan

EPILOG = """\b
SRC and DST are each one of:
  web, c5ff39f37596, container:web     a container, by name, id or unique id prefix
  netns:NAME, netns:/path, pid:1234    a network namespace
  pod:NAMESPACE/NAME                   a pod of this node, as crictl finds it
  host                                 the namespace nettrace was started in
  8.8.8.8, 2001:db8::1, example.org    an address, or a name as SRC resolves it (DST only); an address
                                       beyond this host as SRC: what comes from there is predicted
  b:web                                a container of the host that --peer b=ssh://… names (DST only)

\b
Examples:
  nettrace path web 8.8.8.8
  nettrace path web db --proto tcp --port 5432
  nettrace path web 8.8.8.8 --size 1500
  nettrace path web example.org --json | jq '.findings[0]'
  nettrace path web b:db --peer b=ssh://root@203.0.113.3

\b
Exit codes: 0 delivered, 1 stopped or degraded, 2 usage, 3 inconclusive, 4 cannot work here.
"""

#: A namespace on the way that was not read is read and the walk begun again; a way has fewer namespaces than this.
MAX_ROUNDS = 12


#: A host that is asked about is at work: where processors are short, its work comes first (see nice(1)). On an idle
#: machine this changes nothing.
POLITENESS = 5


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, checked."""

    src: str
    dst: str
    proto: Proto
    port: int | None
    size: int | None
    family: int | None
    count: int
    timeout_s: float
    kernel_trace: bool = True
    peers: tuple[PeerAddress, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict, with what it stands on."""

    verdict: Verdict
    before: Snapshot
    after: Snapshot | None
    trace: Trace
    observation: Observation | None
    dports: tuple[int, ...] = ()
    tunnels: tuple[int, ...] = ()
    texts: tuple[RawText, ...] = ()


@click.command(epilog=EPILOG, short_help="Why can't SRC reach DST?")
@click.argument("src")
@click.argument("dst")
@click.option(
    "--proto",
    type=click.Choice([each.value for each in Proto]),
    help="Default: icmp; tcp where SRC is an address and --port is given.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Destination port, for tcp and udp.")
@click.option("--size", type=int, metavar="BYTES", help="IP length of the probe; it may not be fragmented (DF).")
@click.option("-4", "family", flag_value=4, type=int, help="IPv4 only.")
@click.option("-6", "family", flag_value=6, type=int, help="IPv6 only.")
@click.option("--count", type=click.IntRange(1, 100), default=1, show_default=True, help="Probes to send.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.05, 60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long silence is listened to.",
)
@click.option("--predict", "predict_only", is_flag=True, help="Ask the model alone; no packet is sent.")
@click.option(
    "--kernel-trace/--no-kernel-trace",
    default=True,
    help="Let the kernel report the rules and drops that the probe meets (a table and a trace of nettrace's own, gone "
    "with it).  [default: on]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (schema nettrace.verdict/1).")
@click.option("--pcap", type=click.Path(dir_okay=False, path_type=Path), help="Write what was captured, as pcapng.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME=ssh://USER@HOST[:PORT]",
    help="Ask another host too, by ssh: what it holds, and what passes there. Its containers are NAME:container.",
)
@click.option(
    "--bundle",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep all that the answer stands on in a support bundle (.tar.gz), for `nettrace replay`.",
)
@click.option("--redact", is_flag=True, help="Replace names and addresses in the bundle, see `nettrace bundle redact`.")
def command(
    src: str,
    dst: str,
    proto: str | None,
    port: int | None,
    size: int | None,
    family: int | None,
    count: int,
    timeout_s: float,
    predict_only: bool,
    kernel_trace: bool,
    as_json: bool,
    pcap: Path | None,
    peers: tuple[str, ...],
    bundle: Path | None,
    redact: bool,
) -> int:
    """Say where packets from SRC to DST stop, which kernel object stops them, and what mends it."""
    return run(
        src,
        dst,
        proto=proto,
        port=port,
        size=size,
        family=family,
        count=count,
        timeout_s=timeout_s,
        predict_only=predict_only,
        kernel_trace=kernel_trace,
        as_json=as_json,
        pcap=pcap,
        peers=peers,
        bundle=bundle,
        redact=redact,
    )


def run(
    src: str,
    dst: str,
    *,
    proto: str | None,
    port: int | None,
    size: int | None,
    family: int | None,
    count: int,
    timeout_s: float,
    predict_only: bool,
    kernel_trace: bool,
    as_json: bool,
    pcap: Path | None,
    bundle: Path | None,
    redact: bool = False,
    peers: tuple[str, ...] = (),
    replace: bool = True,
    announce: bool = False,
) -> int:
    """Ask, write what is to be kept, print the answer, and return the exit code.

    `replace`: the bundle may take the place of a file; `announce`: say on stderr where it was written.
    """
    question = ask(
        src,
        dst,
        proto=proto,
        port=port,
        size=size,
        family=family,
        count=count,
        timeout_s=timeout_s,
        kernel_trace=kernel_trace,
        peers=peers,
    )
    if redact and bundle is None:
        raise UsageError("--redact is about what is kept: say where, with --bundle FILE")
    if redact and peers:
        raise UsageError("--redact does not know the names of --peer hosts: leave one of the two out")
    if bundle is not None:
        check_folder(bundle)
    if pcap is not None and predict_only:
        raise UsageError("--pcap needs a probe, and --predict sends none; leave one of them out")
    gather = gather_texts if bundle is not None else None
    if predict_only:
        answer = answer_live(question, predict_only=True, gather=gather)
    else:
        from probes.builder import Builder

        check_capabilities(predict_only=False)
        be_polite()
        with Builder() as builder:
            answer = answer_live(question, build=builder.build, gather=gather)
    if pcap is not None and answer.observation is not None:
        write_pcap(pcap, answer)
    if bundle is not None:
        from nettrace.bundle.archive import write_bundle

        kept = bundle_of(answer, question)
        if redact:
            from nettrace.redacting import redact_bundle

            kept, _translation = redact_bundle(kept, os.urandom(32))
        write_bundle(bundle, kept, replace=replace)
        if announce:
            from nettrace.render.safe import safe

            click.echo(f"wrote {safe(str(bundle))} ({bundle.stat().st_size / 1000:.0f} kB)", err=True)
    show(answer.verdict, as_json=as_json)
    return EXIT_CODE[answer.verdict.outcome]


def ask(
    src: str,
    dst: str,
    *,
    proto: str | None = None,
    port: int | None = None,
    size: int | None = None,
    family: int | None = None,
    count: int = 1,
    timeout_s: float = 1.0,
    kernel_trace: bool = True,
    peers: Sequence[str] = (),
) -> Question:
    """Check the options against each other; raises UsageError with what to change.

    Without `proto` it is ICMP; but who names an address for the source and a port means a connection.
    """
    kind = Proto(proto or ("tcp" if port is not None and is_address(src) else "icmp"))
    if kind is Proto.ICMP and port is not None:
        raise UsageError("icmp has no ports: leave --port out, or say --proto tcp or --proto udp")
    if kind is not Proto.ICMP and port is None:
        raise UsageError(f"--proto {kind} needs --port, as in: nettrace path {src} {dst} --proto {kind} --port 80")
    if size is not None:
        least = min(HEADER_BYTES[kind, each] for each in ((family,) if family else (4, 6)))
        if not least <= size <= 65535:
            raise UsageError(
                f"--size {size} is impossible: {kind} probes have {least} to 65535 bytes, IP header included"
            )
    return Question(
        src=src,
        dst=dst,
        proto=kind,
        port=port,
        size=size,
        family=family,
        count=count,
        timeout_s=timeout_s,
        kernel_trace=kernel_trace,
        peers=read_peers(peers),
    )


def is_address(text: str) -> bool:
    """Tell whether an endpoint is typed as an address."""
    from ipaddress import ip_address

    with contextlib.suppress(ValueError):
        return bool(ip_address(text.strip().removeprefix("[").removesuffix("]")))
    return False


def read_peers(texts: Sequence[str]) -> tuple[PeerAddress, ...]:
    """Return the hosts that --peer names; raises UsageError when one makes no sense or a name is there twice."""
    if not texts:
        return ()
    from nettrace.peer.ssh import parse_peer

    peers = tuple(parse_peer(each) for each in texts)
    names = [each.name for each in peers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two peers are called {twice}: give each --peer a name of its own")
    return peers


def answer_live(
    question: Question,
    *,
    predict_only: bool = False,
    build: BuildProbe | None = None,
    gather: Callable[[Collector, Snapshot], tuple[RawText, ...]] | None = None,
) -> Answer:
    """Answer a question on this host: collect, predict, probe, correlate, diagnose.

    `build` makes the probes; `gather` reads raw texts when everything else is done, while the namespaces are open.
    """
    from nettrace.collect import Collector

    started = time.monotonic()
    check_capabilities(predict_only=predict_only)
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(Collector())
        collector: Collector | Company = own
        if question.peers:
            from nettrace.peer.company import Company

            collector = stack.enter_context(Company(own, question.peers))
        flow = collector.resolve(
            question.src,
            question.dst,
            proto=question.proto,
            dport=question.port,
            size=question.size,
            family=question.family,
        )
        check_size(flow)
        if collector.lookup is None:
            looked = look(collector, flow)
        else:
            from nettrace.commands._first_leg import look_at_names, settled_by_answer

            looked = look_at_names(collector, flow)[1:]
            predict_only = predict_only or settled_by_answer(collector.lookup)
        answer = answer_flow(question, collector, looked, started=started, predict_only=predict_only, build=build)
        if gather is not None:
            answer = msgspec.structs.replace(answer, texts=gather(own, own_half(answer.after or answer.before)))
        return answer


def answer_flow(
    question: Question,
    collector: Collector | Company,
    looked: tuple[Snapshot, Trace],
    *,
    started: float,
    predict_only: bool,
    build: BuildProbe | None,
) -> Answer:
    """Answer for one flow, and for the connection that a userland proxy makes for it.

    `looked` is what was read for the flow, with its trace; `started` are monotonic seconds.
    """
    from nettrace.predict.relay import relay_flow

    before, trace = looked
    if trace.flow.from_outside and not predict_only:
        from nettrace.commands._inner import answer_from_outside

        answer = answer_from_outside(question, collector, before, trace, build, started=started)
    else:
        answer = answer_here(question, collector, before, trace, started=started, plain=predict_only, build=build)
    relay = relay_flow(before, trace)
    if relay is None or answer.verdict.outcome is Result.STOPPED or was_echoed(answer):
        return answer
    from nettrace.commands._inner import joined

    begun = time.monotonic()
    looked = look(collector, relay)
    second = answer_flow(question, collector, looked, started=begun, predict_only=predict_only, build=build)
    return joined(answer, second)


def is_unexplained(verdict: Verdict) -> bool:
    """Tell whether packets were lost and nothing that was read says why."""
    blamed = any(each.severity in (Severity.BLOCKING, Severity.DEGRADING) for each in verdict.findings)
    return verdict.outcome is not Result.DELIVERED and not blamed


def read_neighbours(collector: Collector | Company, trace: Trace, before: Snapshot) -> bool:
    """Read the namespaces behind the other ports of the bridges on the way; true when there were any."""
    from nettrace.predict.strangers import MOST_NEIGHBOURS, neighbours_unread

    inodes, containers = neighbours_unread(trace, before)
    if max(len(inodes), len(containers)) > MOST_NEIGHBOURS:
        return False
    return any(read_strangers(collector, inodes, containers))


def was_echoed(answer: Answer) -> bool:
    """Tell whether the datagram itself was answered: then the container has answered it, through the proxy."""
    datagram = answer.trace.flow.proto is Proto.UDP
    return datagram and answer.observation is not None and answer.verdict.outcome is Result.DELIVERED


def answer_here(
    question: Question,
    collector: Collector | Company,
    before: Snapshot,
    trace: Trace,
    *,
    started: float,
    plain: bool,
    build: BuildProbe | None,
) -> Answer:
    """Probe a prediction, unless it is to stand alone (`plain`), and conclude."""
    from nettrace.predict import predict
    from nettrace.predict.strangers import strangers

    collected = time.monotonic()
    planned = plan(before, trace, question) if not plain else None
    try:
        observation = probe(collector, trace, planned, build) if planned is not None else None
    except NamespaceGone:
        fallen = without(before, trace.flow, collector.fallen(), timing=(started, collected, time.monotonic()))
        if fallen is None:
            raise
        return fallen
    probed = time.monotonic()
    after = collector.read_after() if planned is not None else None
    if after is not None and any(read_strangers(collector, *strangers(trace, before, after, observation=observation))):
        # Somebody else answered than was known before the probe.
        before, after = collector.snapshot(), collector.read_after()
        trace = predict(before, trace.flow)
    timing = (started, collected, probed)
    answer = conclude(trace.flow, before, after, trace, observation, timing=timing)
    if planned is None:
        return answer
    if is_unexplained(answer.verdict) and read_neighbours(collector, trace, before):
        before, after = collector.snapshot(), collector.read_after()
        answer = conclude(trace.flow, before, after, predict(before, trace.flow), observation, timing=timing)
    from probes.witness.session import wait_until_closed

    wait_until_closed()
    if answer.verdict.outcome is not Result.DELIVERED:
        fallen = without(before, trace.flow, collector.fallen(), timing=(started, collected, probed))
        if fallen is not None:
            return fallen
    return msgspec.structs.replace(answer, dports=planned.token.dports, tunnels=planned.token.vxlan_ports)


def without(
    before: Snapshot, flow: Flow, fallen: Sequence[Container], *, timing: tuple[float, float, float]
) -> Answer | None:
    """Answer as it is now that containers at the ends have ended, or been started anew, while they were asked.

    What was seen meanwhile is of a container that is no more. None where all are what they were.
    """
    if not fallen:
        return None
    from nettrace.predict import predict
    from nettrace.rules.change import set_status

    for each in fallen:
        before = set_status(each, each.status)(before)
    return conclude(flow, before, None, predict(before, flow), None, timing=timing)


def own_half(snapshot: Snapshot) -> Snapshot:
    """Return what a snapshot holds of this host alone: raw texts are read here, not on peers."""
    here = tuple(each for each in snapshot.namespaces if snapshot.peer_of(each.id) is None)
    return msgspec.structs.replace(snapshot, namespaces=here, peers=())


#: Capabilities by their bit (linux/capability.h): to enter namespaces, and to open raw and packet sockets.
CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_SYS_PTRACE": 19}
PROBE_CAPABILITIES = {"CAP_NET_RAW": 13, "CAP_NET_ADMIN": 12}


def be_polite() -> None:
    """Lower the priority of this process, unless somebody has chosen one for it."""
    with contextlib.suppress(OSError):
        if os.nice(0) == 0:
            os.nice(POLITENESS)


def check_capabilities(*, predict_only: bool, command: str = "path") -> None:
    """Raise PrivilegeError when the process lacks a capability that the question needs."""
    with Path("/proc/self/status").open() as status:
        held = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    needed = CAPABILITIES if predict_only else {**CAPABILITIES, **PROBE_CAPABILITIES}
    lacking = [name for name, bit in needed.items() if not held >> bit & 1]
    if lacking:
        raise PrivilegeError(
            f"nettrace {command} lacks {', '.join(lacking)}: run it as root, as in: sudo nettrace {command} …"
        )


def check_size(flow: Flow) -> None:
    """Refuse a size that the resolved family's headers do not fit into."""
    least = HEADER_BYTES[flow.proto, flow.family]
    if flow.size is not None and flow.size < least:
        raise UsageError(
            f"--size {flow.size} is impossible: IPv{flow.family} {flow.proto.value} probes have at least {least} bytes"
        )


def look(collector: Collector | Company | RecordedHost, flow: Flow) -> tuple[Snapshot, Trace]:
    """Read the namespaces on the way, until the walk needs no more of them."""
    from nettrace.predict import predict
    from nettrace.predict.strangers import strangers

    for netns in (flow.src.netns, collector.host_netns, flow.dst.netns):
        if netns is not None:
            collector.read(netns)
    if flow.dst.netns == collector.host_netns and flow.dport is not None:
        collector.find_publisher(flow.proto.value, flow.dport)
    intent = collector.snapshot().intent
    in_a_swarm = any(engine.swarm is not None for engine in intent.engines)
    to_the_host = flow.dst.netns == collector.host_netns and flow.dport is not None
    collector.read_hidden(overlays(intent, flow), ingress=in_a_swarm and to_the_host)
    for container in intent.containers:
        # The packet should get there even where a broken rule leads the walk elsewhere: remedies are proved with it.
        meant = any((port.host_port, port.proto) == (flow.dport, flow.proto.value) for port in container.ports)
        if meant and flow.dst.netns in (None, collector.host_netns):
            collector.read_container(container)
    before = collector.snapshot()
    trace = predict(before, flow)
    for _round in range(MAX_ROUNDS):
        needs = {netns for leg in (trace.forward, trace.reply) if leg is not None for netns in leg.needs}
        fresh = [collector.read(netns) for netns in needs]
        fresh += [collector.read_container(each) for each in destinations(before, trace)]
        fresh += read_strangers(collector, *strangers(trace, before))
        if not any(fresh):
            break
        before = collector.snapshot()
        trace = predict(before, flow)
    return before, trace


def read_strangers(
    collector: Collector | Company | RecordedHost, inodes: Sequence[int], containers: Sequence[Container]
) -> list[bool]:
    """Read the namespaces of those who answer for others' addresses; one that cannot be read is left out."""
    return [
        *(collector.read_container(container) for container in containers),
        *(collector.read(inode) for inode in inodes),
    ]


def overlays(intent: Intent, flow: Flow) -> tuple[str, ...]:
    """Return the ids of the overlay networks by which the source should reach the destination, if any is."""
    source = intent.container(flow.src.id or "")
    address = flow.dst.address
    attached = [intent.network(each.network_id) for each in source.endpoints] if source is not None else []
    return tuple(
        network.id
        for network in attached
        if network is not None and network.driver == "overlay" and address is not None
        if any(address in pool.subnet for pool in network.subnets)
    )


def destinations(before: Snapshot, trace: Trace) -> list[Container]:
    """Return the containers, running or paused, that were given an address which the packet, or its answer, goes to."""
    legs = [leg for leg in (trace.forward, trace.reply) if leg is not None]
    wanted = {
        address for leg in legs for step in (*leg.steps, *leg.beyond) for address in (step.packet.dst, step.next_hop)
    }
    return [
        container
        for container in before.intent.containers
        if container.status in ("running", "paused")
        and any(
            held is not None and held.ip in wanted
            for endpoint in container.endpoints
            for held in (endpoint.ipv4, endpoint.ipv6)
        )
    ]


def plan(before: Snapshot, trace: Trace, question: Question) -> ProbePlan | None:
    """Plan the probe; None when there is nothing to send from, or nowhere to send to."""
    from nettrace.model.path import Reason

    if any(step.reason is Reason.NOT_RUNNING for step in trace.forward.steps):
        return None  # the kernel would answer for a paused one, and complete handshakes
    if trace.flow.src.netns is None or trace.flow.dst.address is None:
        return None
    from probes.plan import plan_probe

    timeout_s = max(question.timeout_s, ASKED_AGAIN_S) if waits_for_neighbour(trace) else question.timeout_s
    return plan_probe(
        trace,
        before,
        count=question.count,
        timeout_s=timeout_s,
        kernel_trace=question.kernel_trace,
        token=os.urandom(8),
    )


#: A next hop that is being asked for is asked again after a second (retrans_time_ms), and only then may it answer.
ASKED_AGAIN_S = 2.2


def waits_for_neighbour(trace: Trace) -> bool:
    """Tell whether the packet must wait for a next hop whose last request went unanswered."""
    steps = [step for leg in (trace.forward, trace.reply) if leg is not None for step in leg.steps]
    entries = [step.neighbour for step in steps if step.neighbour is not None]
    return any(entry.state in ("INCOMPLETE", "FAILED") for entry in entries)


def probe(
    collector: Collector | Company, trace: Trace, planned: ProbePlan, build: BuildProbe | None = None
) -> Observation:
    """Send the probe and listen at every point."""
    from nettrace.collect import Collector
    from nettrace.wire.build import build_probe
    from probes.driver import run_probe

    here = {spec.netns for spec in planned.captures}
    if trace.flow.src.netns is not None:
        here.add(trace.flow.src.netns)
    namespaces = {netns: collector.netns(netns) for netns in here}
    company = collector if not isinstance(collector, Collector) else None
    if company is not None:
        open_points = [point for point in trace.points if point.id not in planned.veiled]
        company.expect(open_points, planned.neighbours)
    observation = run_probe(
        planned,
        namespaces,
        build=build or build_probe,
        meanwhile=import_the_rest,
        armed=company.arm if company is not None else None,
    )
    return company.report(observation) if company is not None else observation


def import_the_rest() -> None:
    """Import what concludes, and what prints, while answers are on their way."""
    import nettrace.correlate
    import nettrace.diagnose
    import nettrace.render.text  # noqa: F401


def conclude(
    flow: Flow,
    before: Snapshot,
    after: Snapshot | None,
    trace: Trace,
    observation: Observation | None,
    *,
    timing: tuple[float, float, float],
    inner: tuple[Observation | None, Inner] | None = None,
) -> Answer:
    """Correlate and diagnose. `timing`: monotonic seconds at the start, after collecting, and after the probe.

    `inner` is what a probe of the last part of the way showed, where the source itself cannot send.
    """
    from nettrace.correlate import beside, correlate
    from nettrace.diagnose import diagnose
    from nettrace.rules.case import Case
    from nettrace.testimony import passings

    told = passings(observation.testimony, before, *([after] if after else [])) if observation is not None else ()
    correlation = correlate(trace, observation, told)
    if inner is not None:
        correlation = beside(correlation, trace, *inner)
    case = Case(
        flow=flow,
        before=before,
        after=after,
        trace=trace,
        correlation=correlation,
        observation=observation,
    )
    started, collected, probed = timing
    spent = Timing(
        total_s=round(time.monotonic() - started, 6),
        collect_s=round(collected - started, 6),
        probe_s=round(probed - collected, 6),
    )
    verdict = diagnose(case, timing=spent, version=__version__)
    shown = inner[0] if inner is not None else observation
    return Answer(verdict=verdict, before=before, after=after, trace=trace, observation=shown)


def show(verdict: Verdict, *, as_json: bool) -> None:
    """Print a verdict on stdout: one JSON document, or text for a person."""
    if as_json:
        from nettrace.render.json import render_json

        click.echo(render_json(verdict))
        return
    import shutil

    from nettrace.render.text import render_text

    terminal = sys.stdout.isatty()
    color = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size((100, 24)).columns if terminal else 100
    unicode = "utf" in (sys.stdout.encoding or "").lower()
    click.echo(render_text(verdict, color=color, width=width, unicode=unicode), color=color)


def arp_types(answer: Answer) -> dict[str, int]:
    """Return the link type (ARPHRD_*) of each point's device."""
    types = {}
    for point in answer.trace.points:
        ns = answer.before.namespace(point.netns)
        for link in rows(ns.links) if ns is not None else ():
            if link.ifindex == point.ifindex:
                types[point.id] = link.arp_type
    return types


def check_folder(path: Path) -> None:
    """Raise NettraceError when a file cannot be written because its folder is not there, before anything is asked."""
    folder = path.absolute().parent
    if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises where it may not look
        raise NettraceError(f"cannot write {path}: there is no folder {folder}, or it may not be entered")


def gather_texts(collector: Collector, snapshot: Snapshot) -> tuple[RawText, ...]:
    """Read the raw texts of every namespace of the answer, and of the engines."""
    from nettrace.collect.texts import read_texts

    return read_texts(collector, snapshot)


def bundle_of(answer: Answer, question: Question) -> Bundle:
    """Return an answer as a support bundle."""
    from nettrace.bundle.format import Asked
    from nettrace.bundling import bundle_of_answer

    asked = Asked(
        src=question.src,
        dst=question.dst,
        proto=question.proto.value,
        port=question.port,
        size=question.size,
        family=question.family,
        count=question.count,
        timeout_s=question.timeout_s,
        predict=answer.observation is None,
    )
    return bundle_of_answer(
        asked=asked,
        flow=answer.trace.flow,
        verdict=answer.verdict,
        before=answer.before,
        after=answer.after,
        observation=answer.observation,
        arp_types=arp_types(answer),
        dports=answer.dports,
        tunnels=answer.tunnels,
        texts=answer.texts,
        took_s=answer.verdict.timing.total_s,
    )


def write_pcap(path: Path, answer: Answer) -> None:
    """Write the captured frames as pcapng, an interface per point; raises NettraceError when the file cannot be."""
    from nettrace.bundling import capture_of

    try:
        path.write_bytes(capture_of(answer.verdict, answer.observation, arp_types(answer)))
    except OSError as error:
        raise NettraceError(f"cannot write {path}: {error.strerror}") from error
