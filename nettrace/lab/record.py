"""Record cases: ask on a real lab, and keep everything that the answer stands on in `fixtures/cases/<slug>/`.

`python -m nettrace.lab.record [SLUG…]` records all cases again, or those named, each in a lab of its kind. A case
whose answer is not the expected one is not kept: what was recorded before stays, and the exit code is 1.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from nettrace.bundle.archive import read_bundle, write_folder
from nettrace.bundle.format import MANIFEST, TEXTS, Bundle, decode_manifest
from nettrace.errors import LabError, NettraceError, UsageError
from nettrace.model.base import Model

if TYPE_CHECKING:
    from nettrace.lab import Lab

__all__ = ["CASES", "RECIPES", "Expected", "Recipe", "main", "record", "seal", "without_texts"]

#: Where cases are kept, below the folder that this is started in: the repository's.
CASES = Path("fixtures/cases")

LabKind = Literal["docker", "docker-28", "none"]


class Expected(Model):
    """What the answer must be: the outcome, the first finding's code, and where the packet stops."""

    outcome: str
    code: str | None = None
    segment: str | None = None
    direction: str | None = None


class Recipe(Model):
    """One case: a lab of some kind, a fault of its registry (None: healthy), and the question.

    `args` is the question of a healthy case; a fault brings its own. `outcome` is what must come of it; the code and
    the place are the fault's.
    """

    slug: str
    title: str
    lab: LabKind = "docker"
    fault: str | None = None
    args: tuple[str, ...] = ()
    outcome: str = "stopped"

    @property
    def expected(self) -> Expected:
        """What the answer must be, taken from the lab's registry of faults."""
        if self.fault is None:
            return Expected(outcome=self.outcome)
        from nettrace.lab.faults import fault

        known = fault(self.fault)
        return Expected(
            outcome=self.outcome, code=known.code, segment=known.segment.value, direction=known.direction.value
        )


def _healthy(slug: str, title: str, *args: str, lab: LabKind = "docker") -> Recipe:
    return Recipe(slug=slug, title=title, lab=lab, args=("path", *args), outcome="delivered")


def _fault(slug: str, fault: str, title: str, *, lab: LabKind = "docker", outcome: str = "stopped") -> Recipe:
    return Recipe(slug=slug, title=title, lab=lab, fault=fault, outcome=outcome)


#: Every case. Slugs are folder names, and never reused for something else.
RECIPES: tuple[Recipe, ...] = (
    _healthy("healthy-out", "A container reaches the internet by ping.", "app", "8.8.8.8"),
    _healthy("healthy-out-plain", "The same without an engine.", "app", "8.8.8.8", lab="none"),
    _healthy(
        "healthy-peer",
        "A container reaches another on its bridge by TCP.",
        *("app", "web", "--proto", "tcp", "--port", "80"),
        lab="docker-28",
    ),
    _fault("masquerade-missing", "masquerade-deleted", "The MASQUERADE rule of docker0's subnet is deleted."),
    _fault("masquerade-missing-28", "masquerade-deleted", "The same on Docker 28.", lab="docker-28"),
    _fault("masquerade-shadowed", "masquerade-accepted-first", "A rule before MASQUERADE accepts.", lab="none"),
    _fault("icc-disabled", "icc-disabled", "Two containers on a network whose containers may not talk."),
    _fault("icc-disabled-28", "icc-disabled", "The same on Docker 28.", lab="docker-28"),
    _fault("mtu-mismatch", "uplink-mtu", "The uplink's MTU is smaller than the bridge's.", outcome="degraded"),
    _fault("route-missing", "container-default-deleted", "The container has no default route.", lab="none"),
    _fault("route-missing-host", "host-default-deleted", "The host has no default route.", lab="docker-28"),
    _fault("route-wrong-device", "host-route-wrong-device", "A host route leads into a wrong network."),
    _fault("ip-forward-off", "ip-forward-off", "The host forwards nothing.", lab="docker-28"),
    _fault("link-down", "bridge-down", "The bridge is down.", lab="none"),
    _fault("port-without-master", "veth-detached", "The container's veth is a port of no bridge."),
    _fault("forward-policy-drop", "accept-deleted", "FORWARD drops by policy what no rule accepts."),
    _fault("rule-drop", "forward-drop", "A rule in FORWARD drops.", lab="docker-28"),
    _fault("rule-drop-nft", "nft-table-drop", "A rule in an nft table of its own drops.", lab="none"),
    _fault("rp-filter", "rp-filter-bridge", "The strict reverse path filter drops.", lab="none"),
    _fault("port-not-listening", "port-closed", "Nothing listens on the port of the other container."),
    _fault("dns-server-unreachable", "dns-port-blocked", "A rule drops the container's DNS queries.", lab="docker-28"),
    _fault("dns-rules-missing", "dns-nat-flushed", "The redirect to Docker's name server is flushed."),
    _fault("container-not-running", "source-stopped", "The source container is stopped."),
    _fault("destination-not-running", "destination-stopped", "The destination is stopped.", lab="docker-28"),
    _fault("no-reply", "remote-silent", "The remote address never answers, and nobody here can say why."),
)


def without_texts(bundle: Bundle) -> Bundle:
    """Return a bundle without the raw texts, which no replay reads and every recording writes differently."""
    return replace(bundle, members={name: data for name, data in bundle.members.items() if not name.startswith(TEXTS)})


def seal(folder: Path) -> None:
    """Write the manifest of a case anew, after its members were changed by hand or by a merge."""
    manifest = decode_manifest((folder / MANIFEST).read_bytes())
    names = [each.name for each in manifest.members]
    write_folder(folder, Bundle(manifest=manifest, members={name: (folder / name).read_bytes() for name in names}))


def case_toml(recipe: Recipe, args: Sequence[str], engine: str | None) -> str:
    """Return case.toml: what was asked, where, and what the answer must be."""
    lines = [
        f"title = {json.dumps(recipe.title)}",
        f"lab = {json.dumps(recipe.lab)}",
        *([f"engine = {json.dumps(engine)}"] if engine is not None else []),
        *([f"fault = {json.dumps(recipe.fault)}"] if recipe.fault is not None else []),
        f"args = {json.dumps(list(args))}",
        "",
        "[expected]",
    ]
    expected = recipe.expected
    for key in ("outcome", "code", "segment", "direction"):
        value = getattr(expected, key)
        if value is not None:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def record(lab: Lab, recipe: Recipe, folder: Path) -> None:
    """Bring the recipe's fault about in a lab, ask, keep the case in `folder`, and mend the lab.

    Raises LabError when the answer is not the expected one; `folder` is then as it was.
    """
    args = list(recipe.args)
    if recipe.fault is not None:
        lab.prepare(recipe.fault)
        args = lab.flow_of(recipe.fault)
        lab.break_fault(recipe.fault)
    try:
        with tempfile.TemporaryDirectory(prefix="nettrace-record-") as draft:
            path = Path(draft, "bundle.tar.gz")
            done = lab.nettrace(["bundle", "create", *args[1:], "--json", "-o", str(path)])
            if done.returncode not in (0, 1, 3):
                raise LabError(f"{recipe.slug}: nettrace ended with {done.returncode}: {done.stderr.strip()}")
            differs = differences(recipe.expected, json.loads(done.stdout))
            if differs:
                raise LabError(f"{recipe.slug}: not recorded, the answer is not the expected one: {differs}")
            bundle = read_bundle(path)
            shutil.rmtree(folder, ignore_errors=True)
            write_folder(folder, without_texts(bundle))
            (folder / "case.toml").write_text(case_toml(recipe, args, lab.state.docker_version))
    finally:
        lab.mend()


def differences(expected: Expected, verdict: dict[str, object]) -> str:
    """Return where a verdict (schema nettrace.verdict/1, decoded) is not as expected, "" when it is."""
    findings, stop = verdict["findings"], verdict["stop"]
    assert isinstance(findings, list)
    got = Expected(
        outcome=str(verdict["outcome"]),
        code=findings[0]["code"] if findings else None,
        segment=stop["segment"] if isinstance(stop, dict) else None,
        direction=stop["direction"] if isinstance(stop, dict) else None,
    )
    return ", ".join(
        f"{key} is {getattr(got, key)}, not {getattr(expected, key)}"
        for key in ("outcome", "code", "segment", "direction")
        if getattr(got, key) != getattr(expected, key)
    )


def _chosen(slugs: Iterable[str]) -> tuple[Recipe, ...]:
    wanted = set(slugs)
    unknown = wanted - {each.slug for each in RECIPES}
    if unknown:
        raise UsageError(f"there is no case {', '.join(sorted(unknown))}: cases are listed in {__file__}")
    return tuple(each for each in RECIPES if not wanted or each.slug in wanted)


def main(slugs: Sequence[str] | None = None) -> int:
    """Record the cases named on the command line, or all of them; return 1 when one could not be."""
    from nettrace.lab import Lab

    failed = 0
    try:
        chosen = _chosen(sys.argv[1:] if slugs is None else slugs)
        for kind in dict.fromkeys(each.lab for each in chosen):
            engine: Literal["docker", "none"] = "none" if kind == "none" else "docker"
            directory = kind if kind == "docker-28" else None
            with Lab.up(f"record-{kind}", engine=engine, docker_dir=directory) as lab:
                for recipe in chosen:
                    if recipe.lab != kind:
                        continue
                    try:
                        record(lab, recipe, CASES / recipe.slug)
                    except LabError as error:
                        failed += 1
                        print(f"record: {error}", file=sys.stderr)
                    else:
                        print(f"recorded {recipe.slug}", flush=True)
    except NettraceError as error:
        print(f"record: {error}", file=sys.stderr)
        return error.exit_code
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
