"""One lab: make it, find it again, run things in it, break it, mend it, take it away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from nettrace.errors import LabError
from nettrace.lab import facts, faults, plain, state, teardown, wiring
from nettrace.lab.state import BrokenFault, LabEngine, LabState, NamespaceState, Step, state_dir
from nettrace.lab.system import ADMIN_PATH, alive, enter, identify, require

__all__ = ["Lab", "down_all", "engine_available"]

#: What a client of the engine would take from its caller's environment, and a lab must not inherit.
CLIENT_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "CONTAINER_HOST")


class Lab:
    """One throw-away host with its internet; as a context manager, it is taken down at the end.

    An object is only a handle: the lab itself lives in the kernel and in its state file until `down`.
    """

    def __init__(self, lab_state: LabState) -> None:
        self.state = lab_state

    # making, finding, taking away

    @classmethod
    def up(
        cls,
        name: str,
        engine: LabEngine = "docker",
        *,
        docker_dir: str | Path | None = None,
        legacy_iptables: bool = False,
        docker_args: Sequence[str] = (),
        content: bool = True,
    ) -> Lab:
        """Make a lab and return it when everything in it answers.

        `docker_dir` is a folder with another engine or a short name such as docker-28; `docker_args` are further
        arguments of dockerd; without `content` a Docker lab starts with no networks, containers or image of its own.
        Whatever goes wrong, nothing is left behind. Raises LabError, or PrivilegeError without root.
        """
        wiring.check_name(name)
        _check_programs(engine, docker_dir)
        folder = None
        if docker_dir is not None:
            from nettrace.lab.fetch import resolve_docker_dir

            folder = resolve_docker_dir(str(docker_dir))
        draft = _draft(name, engine)
        try:
            _claim(draft)
            return cls(_build(draft, folder, legacy_iptables, docker_args, content))
        except BaseException:
            if _has_name(draft):
                teardown.remove(name)
            raise

    @classmethod
    def find(cls, name: str) -> Lab:
        """Return a lab that is up; raises LabError when there is none of that name, or it is not finished."""
        found = state.load(wiring.check_name(name))
        if found.phase != "ready":
            doing = "is still being made" if alive(found.builder) else "was never finished"
            raise LabError(f"lab {name} {doing}: wait for it, or take it away with `nettrace lab down {name}`")
        return cls(found)

    def down(self) -> None:
        """Take the lab away, with everything that was started in it."""
        teardown.remove(self.name)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *exc: object) -> None:
        self.down()

    def __repr__(self) -> str:
        return f"Lab({self.name!r}, engine={self.state.engine!r})"

    # what it is

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.state.name

    @property
    def engine(self) -> LabEngine:
        """The lab's kind: "docker" or "none"."""
        return self.state.engine

    @property
    def host(self) -> str:
        """Path that opens the host's namespace."""
        return _there(self.state.host).path

    @property
    def inet(self) -> str:
        """Path that opens the internet's namespace."""
        return _there(self.state.inet).path

    @property
    def docker_host(self) -> str | None:
        """The engine's address for DOCKER_HOST, or None in a lab without one."""
        return self.state.docker_host

    def netns_of(self, where: str) -> str:
        """Return the path that opens a namespace of the lab: host, inet, or a container by name."""
        if where in ("host", "inet"):
            return self.host if where == "host" else self.inet
        return facts.container_path(self.state, where)

    @property
    def facts(self) -> facts.Facts:
        """What can be said about the lab now: `str(lab.facts["app"].ip)`; never older than this call."""
        return facts.Facts(self.state, lambda argv, where: self.check(argv, where))

    # running things in it

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment that programs of the lab's host have: its PATH, and DOCKER_HOST for its engine."""
        env = {key: value for key, value in os.environ.items() if key not in CLIENT_VARIABLES}
        own = self.state.path.removesuffix(ADMIN_PATH)
        env["PATH"] = f"{own}{os.environ.get('PATH', '')}:{ADMIN_PATH}:{Path(sys.executable).parent}"
        if self.state.docker_host:
            env["DOCKER_HOST"] = self.state.docker_host
        env["NETTRACE_LAB"] = self.name
        return env | dict(more or {})

    def command(self, argv: Sequence[str], where: str = "host") -> list[str]:
        """Return the full command that runs `argv` inside a namespace of the lab."""
        return [*enter(self.netns_of(where)), *argv]

    def exec(
        self,
        argv: Sequence[str],
        where: str = "host",
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the network namespace of host, inet or a container, and return what became of it.

        Only the network namespace changes: the files and programs are the machine's. Raises LabError when it does
        not end in time.
        """
        try:
            return subprocess.run(
                self.command(argv, where),
                env=self.environment(env),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{argv[0]} did not end within {timeout_s:g} s in {where} of lab {self.name}") from error

    def check(
        self, argv: Sequence[str], where: str = "host", *, env: Mapping[str, str] | None = None, timeout_s: float = 60
    ) -> str:
        """Run a program as `exec` does and return its output; raises LabError when it fails."""
        done = self.exec(argv, where, env=env, timeout_s=timeout_s)
        if done.returncode != 0:
            said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
            raise LabError(f"in {where} of lab {self.name}, `{' '.join(argv)}` failed: {said}")
        return done.stdout

    def docker(self, *args: str, timeout_s: float = 60) -> str:
        """Run the docker client against the lab's engine and return its output; raises LabError when it fails."""
        if self.state.docker_host is None:
            raise LabError(f"lab {self.name} has no engine: make one with `nettrace lab up NAME --engine docker`")
        return self.check(["docker", *args], timeout_s=timeout_s)

    def nettrace(
        self,
        args: Sequence[str],
        where: str = "host",
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run nettrace in the lab as a user would on a real host, with this very Python."""
        return self.exec([sys.executable, "-m", "nettrace", *args], where, env=env, timeout_s=timeout_s)

    def run_container(
        self,
        name: str,
        network: str = "bridge",
        command: Sequence[str] = ("tail", "-f", "/dev/null"),
        *,
        published: Mapping[int, int] | None = None,
    ) -> str:
        """Start one more container of a Docker lab and return its id; `published` maps host ports to TCP ports."""
        if self.state.docker_host is None:
            raise LabError(f"lab {self.name} has no engine that could start {name}")
        from nettrace.lab import docker
        from nettrace.lab.api import DockerAPI

        api = DockerAPI(self.state.docker_host.removeprefix("unix://"))
        return docker.create_container(api, name, network, command, published)

    def reaches(
        self,
        src: str,
        dst: str,
        *,
        proto: str = "icmp",
        port: int | None = None,
        size: int | None = None,
        timeout_s: float = 1.0,
    ) -> bool:
        """Tell whether `src` (host, inet, a container) gets an answer from `dst` (an address or a container)."""
        from nettrace.lab.reach import reaches

        address = dst if "." in dst or ":" in dst else str(facts.render(f"{{{dst}.ip}}", self.facts))
        return reaches(self.netns_of(src), address, proto=proto, port=port, size=size, timeout_s=timeout_s)

    # breaking and mending

    def hosts_fault(self, name: str) -> str | None:
        """Return why this lab cannot have a fault, or None when it can."""
        return faults.obstacle(faults.fault(name), self.state)

    def prepare(self, name: str) -> None:
        """Make the circumstances that a fault needs (a further container, a server); done twice, it changes nothing.

        What it makes stays until the lab is taken down. Raises LabError when this lab cannot have the fault.
        """
        wanted = faults.fault(name)
        obstacle = faults.obstacle(wanted, self.state)
        if obstacle is not None:
            raise LabError(f"lab {self.name} cannot have {name}: {obstacle}")
        known = self.facts
        for step in wanted.setup:
            self._step(_filled(step, known))

    def break_fault(self, name: str) -> tuple[Step, ...]:
        """Bring a fault about and return the commands that did; they and their undoing are noted in the state.

        Raises LabError when this lab cannot have it, has it already, or a command fails (what was done is undone).
        """
        wanted = faults.fault(name)
        self.refresh()
        if any(each.name == name for each in self.state.broken):
            raise LabError(f"lab {self.name} already has {name}: mend it with `nettrace lab mend {self.name} {name}`")
        self.prepare(name)
        known = self.facts
        steps = tuple(_filled(step, known) for step in wanted.break_commands)
        mend = tuple(_filled(step, known) for step in wanted.mend_commands)
        if steps:
            self._note((*self.state.broken, BrokenFault(name=name, mend=mend)))
        try:
            for step in steps:
                self._step(step)
        except LabError:
            for step in mend:
                self.exec(["sh", "-c", step.command], step.where, env={"PATH": self.state.path})
            self._note(tuple(each for each in self.state.broken if each.name != name))
            raise
        return steps

    def mend(self, name: str | None = None) -> tuple[Step, ...]:
        """Take a fault back, or all of them, the latest first, and return the commands that did.

        Every command is run, whatever became of the one before. Raises LabError when the lab does not have the fault,
        or when a command failed: then the lab may not be as it was.
        """
        self.refresh()
        chosen = [each for each in reversed(self.state.broken) if name in (None, each.name)]
        if name is not None and not chosen:
            faults.fault(name)
            raise LabError(f"lab {self.name} does not have {name}: nothing to mend")
        done: list[Step] = []
        failed: list[str] = []
        for each in chosen:
            for step in each.mend:
                try:
                    self._step(step)
                except LabError as error:
                    failed.append(str(error))
                done.append(step)
            self._note(tuple(other for other in self.state.broken if other != each))
        if failed:
            raise LabError(f"lab {self.name} may not be as it was, better make a new one: {'; '.join(failed)}")
        return tuple(done)

    def flow_of(self, name: str) -> list[str]:
        """Return the arguments of `nettrace` that show a fault in this lab: path, source, destination, options."""
        flow = faults.fault(name).flow
        known = self.facts
        return ["path", *(facts.render(part, known) for part in (flow.src, flow.dst, *flow.args))]

    def refresh(self) -> None:
        """Read the lab's state again, as another process may have changed it."""
        self.state = state.load(self.name)

    def _note(self, broken: tuple[BrokenFault, ...]) -> None:
        self.state = msgspec.structs.replace(self.state, broken=broken)
        state.save(self.state)

    def _step(self, step: Step) -> None:
        self.check(["sh", "-c", step.command], step.where, env={"PATH": self.state.path}, timeout_s=120)


def down_all() -> tuple[str, ...]:
    """Take every lab away, also what crashed ones left behind, and return their names."""
    names = teardown.leftovers()
    for name in names:
        teardown.remove(name)
    return names


def engine_available() -> bool:
    """Tell whether this machine has what a Docker lab needs."""
    import shutil

    programs = ("dockerd", "containerd", "runc", "busybox", "docker")
    return all(shutil.which(program, path=ADMIN_PATH) is not None for program in programs)


def _there(namespace: NamespaceState | None) -> NamespaceState:
    assert namespace is not None, "a lab that is ready has its namespaces"
    return namespace


def _filled(step: Step, known: facts.Facts) -> Step:
    return Step(where=step.where, command=facts.render(step.command, known))


def _check_programs(engine: LabEngine, docker_dir: str | Path | None) -> None:
    require("ip", "nsenter", "iptables-restore", "ip6tables-restore")
    if engine == "docker":
        require("runc", "docker", "busybox")
        if docker_dir is None:
            require("dockerd", "containerd")
    elif docker_dir is not None:
        raise LabError("--docker-dir is of no use without an engine: leave out --engine none")


def _draft(name: str, engine: LabEngine) -> LabState:
    """Return the first state of a lab that this process is about to make."""
    builder = identify(os.getpid(), "builder")
    assert builder is not None, "a process that asks for itself exists"
    return LabState(name=name, engine=engine, phase="building", builder=builder, created_at_ns=time.time_ns())


def _claim(draft: LabState) -> None:
    """Make the lab's folder, which is the lock on its name, with its first state in it; raises LabError when taken."""
    name = draft.name
    if any(wiring.lab_of(each) == name for each in teardown.namespaces()) or not state.claim(draft):
        raise LabError(
            f"there is a lab named {name} already: take it away with `nettrace lab down {name}`, or choose another name"
        )


def _has_name(draft: LabState) -> bool:
    """Tell whether the name is this lab's, however far its making came, and not that of one that was there before."""
    try:
        found = state.load(draft.name)
    except LabError:
        return False
    return (found.builder, found.created_at_ns) == (draft.builder, draft.created_at_ns)


def _build(
    draft: LabState, docker_dir: Path | None, legacy_iptables: bool, docker_args: Sequence[str], content: bool
) -> LabState:
    """Make everything that the draft stands for, and save the finished state."""
    from nettrace.lab import docker

    name = draft.name
    path = docker.search_path(docker_dir, _legacy_links(name) if legacy_iptables else None)
    containers = plain.PARTS if draft.engine == "none" else ()
    made = wiring.add_namespaces(name, ("host", "inet", *containers), ("host", "inet") if containers else ("inet",))
    host, inet = made.pop("host"), made.pop("inet")
    draft = msgspec.structs.replace(
        draft,
        host=host,
        inet=inet,
        containers=made,
        path=path,
        legacy_iptables=legacy_iptables,
        docker_dir=str(docker_dir) if docker_dir else None,
    )
    state.save(draft)
    if draft.engine == "none":
        plain.before_wiring(made)
        wiring.wire_uplink(host, inet, plain.host_wiring(made))
        plain.load_rules(host, path)
        internet = wiring.serve_internet(name, inet)
        first = plain.fill(name, made)
        draft = msgspec.structs.replace(
            draft, processes=(internet, *first.values()), intent=plain.describe(name, made, first)
        )
    else:
        from nettrace.lab.api import DockerAPI

        wiring.wire_uplink(host, inet)
        internet = wiring.serve_internet(name, inet)
        daemons = docker.start(name, host, path, docker_args)
        api = DockerAPI(str(docker.socket_path(name)))
        if content:
            docker.fill(api)
        draft = msgspec.structs.replace(
            draft,
            processes=(internet, *daemons),
            docker_host=f"unix://{docker.socket_path(name)}",
            docker_version=api.version(),
        )
    ready = msgspec.structs.replace(draft, phase="ready")
    state.save(ready)
    return ready


def _legacy_links(name: str) -> Path:
    """Make a folder of links that lead iptables and its kin to the legacy back end, and return it."""
    import shutil

    require("xtables-legacy-multi")
    target = shutil.which("xtables-legacy-multi", path=ADMIN_PATH)
    assert target is not None, "require() has just found it"
    folder = state_dir(name) / "bin"
    folder.mkdir()
    for family in ("iptables", "ip6tables"):
        for suffix in ("", "-save", "-restore"):
            (folder / f"{family}{suffix}").symlink_to(target)
    return folder
