"""The command line: finds the command, and turns every way a run can end into an exit code.

A command lives in a module of its own, ``nettrace.commands.<name>``, whose attribute ``command`` is a
`click.Command`. The module is imported only when the command is called, or asked for its own help: start-up is the
larger part of an answer's time. What a command returns (an int, or None for 0) is the exit code.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import FrameType, TracebackType

import click

from nettrace._version import __version__
from nettrace.errors import NettraceError

__all__ = ["COMMANDS", "EXIT_CANNOT", "main", "root"]

#: Each command and the line that `nettrace --help` shows for it; an own table, so that help imports none of them.
COMMANDS: dict[str, str] = {
    "path": "Why can't SRC reach DST? Where packets stop, what stops them, how to mend it.",
    "eval": "What a saved iptables or nftables ruleset does to one packet; offline, no root.",
    "topo": "Every container, network, bridge and uplink of this host.",
    "explain": "What a finding means, how it is proved, how it is mended.",
    "bundle": "Put all the evidence of a diagnosis in one file, redacted if you like.",
    "replay": "Diagnose a bundle again, anywhere, without root or an engine.",
    "import": "Make a bundle of texts that someone pasted: iptables-save, ip addr, docker inspect …",
    "lab": "Throw-away hosts in namespaces, with a fault of your choice.",
    "demo": "Break a throw-away host, diagnose it, mend it: the first thing to try.",
    "completion": "Print the completion script for bash, zsh or fish.",
}

#: Commands that nettrace itself calls on another host.
HIDDEN = ("_peer",)

_EPILOG = """\b
Examples:
  nettrace path web 8.8.8.8                       a container to an address, by ping
  nettrace path web db --proto tcp --port 5432    a container to another, by a TCP handshake
  nettrace path web example.org --size 1500       a full-sized packet: is the MTU at fault?
  nettrace path host container:web -6             the host to a container, by IPv6
  nettrace path web 8.8.8.8 --predict             ask the model alone; no packet is sent
  nettrace path web 8.8.8.8 --json | jq '.findings[].code'

\b
Exit codes: 0 delivered, 1 a problem was found, 2 usage, 3 inconclusive, 4 cannot work here.
"""

EXIT_USAGE = 2
EXIT_CANNOT = 4
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
EXIT_PIPE = 141  # 128 + SIGPIPE

#: Errors of a machine that has run out of something: no defect, wherever they strike.
_EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS}


class _Root(click.Group):
    """The group of all commands, which knows them by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if _exists(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in (*COMMANDS, *HIDDEN) or not _exists(cmd_name):
            return None
        found = import_module(_module(cmd_name)).command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=COMMANDS[name]) for name in self.list_commands(ctx) if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def _module(name: str) -> str:
    """Return the module of a command; one that is called after a word of the language has an underscore behind it."""
    return f"nettrace.commands.{name}_" if name == "import" else f"nettrace.commands.{name}"


def _exists(name: str) -> bool:
    return find_spec(_module(name)) is not None


@click.group(
    cls=_Root,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, message="nettrace %(version)s")
def root() -> None:
    """Tell why a container cannot reach something.

    nettrace reads what the kernel holds, predicts the packet's way, sends a real packet and watches it at every
    device it passes. Where the two part is the fault: it names the object that stops the traffic, and the command
    that mends it. It changes nothing on the host.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; what goes wrong becomes a message on stderr, never a traceback.

    NETTRACE_DEBUG=1 in the environment lets an unexpected exception show its traceback.
    """
    with _terminated_like_interrupted():
        try:
            _forgive_narrow_encodings()
            code = _run(sys.argv[1:] if argv is None else list(argv))
            _flush()
        except BrokenPipeError:
            _abandon_stdout()
            return EXIT_PIPE
        except _Terminated as stop:
            return stop.code
        except KeyboardInterrupt:
            _say("interrupted")
            return EXIT_INTERRUPTED
        except NettraceError as error:
            _say(str(error))
            return error.exit_code
        except Exception as error:
            if os.environ.get("NETTRACE_DEBUG") == "1":
                raise
            if isinstance(error, OSError) and error.errno in _EXHAUSTED:
                _abandon_stdout()  # it may be what is full
                what = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
                _say(f"the system refuses to go on: {what}")
            else:
                _say(_defect(error))
            return EXIT_CANNOT
        return code


def _run(args: list[str]) -> int:
    if "_NETTRACE_COMPLETE" in os.environ:
        root.main(args, prog_name="nettrace")  # answers the shell, and exits
    try:
        with root.make_context("nettrace", args) as context:
            result = root.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        _say_usage(error)
        return EXIT_USAGE
    except click.ClickException as error:
        _say(error.format_message())
        return EXIT_CANNOT
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else EXIT_CANNOT
    return result if isinstance(result, int) else 0


def _say(message: str) -> None:
    """Print a message for the person at the terminal; names in it may come from anyone, so no escapes pass."""
    from nettrace.render.safe import safe

    lines = message.splitlines() or [""]
    with contextlib.suppress(BrokenPipeError):
        for number, line in enumerate(lines):
            click.echo(("nettrace: " if number == 0 else "") + safe(line), err=True)


def _say_usage(error: click.UsageError) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help; click 8.2 brought it
        click.echo(error.format_message(), err=True)
        return
    where = error.ctx.command_path if error.ctx is not None else "nettrace"
    text = " ".join(error.format_message().split())
    _say(f"{text[:1].lower()}{text[1:]}\nTry '{where} --help'.")


def _defect(error: Exception) -> str:
    trace: TracebackType | None = error.__traceback__
    place = "unknown place"
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.startswith(("nettrace.", "probes.")):
            place = f"{module}:{trace.tb_lineno}"
        trace = trace.tb_next
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return (
        f"this is a defect in nettrace {__version__}, please report it with the command line and this text: "
        f"{what} (at {place}); NETTRACE_DEBUG=1 shows the traceback"
    )


def _flush() -> None:
    """Write out what is buffered while an error can still become an exit code."""
    if sys.stdout is not None:  # None when the caller closed it
        sys.stdout.flush()


def _abandon_stdout() -> None:
    """Point stdout nowhere, so that the interpreter's last flush has nothing to complain about."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _forgive_narrow_encodings() -> None:
    """A terminal that cannot show a sign gets its escape, not an error half-way through the answer."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


class _Terminated(BaseException):
    """SIGTERM or SIGHUP arrived: unwind, close everything, and leave with the code a shell would report."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that captures close and labs come down."""
    import signal
    import threading

    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        # Raised inside a finaliser or a callback of a library, the exception would be lost: the alarm says it again.
        asked[:] = [asked[0] if asked else number]
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        raise _Terminated(asked[0])

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {}
    unraisable, sys.unraisablehook = sys.unraisablehook, _lost_in_a_callback
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup's choice stays
            former[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = unraisable
        for number, handler in former.items():
            signal.signal(number, handler)


def _lost_in_a_callback(lost: sys.UnraisableHookArgs) -> None:
    """Keep quiet about a signal that struck inside a finaliser or a callback: it is raised again, and then tells."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        import _thread

        _thread.interrupt_main()
    elif not isinstance(lost.exc_value, _Terminated):
        sys.__unraisablehook__(lost)
