"""Listen at one device: an AF_PACKET socket with a kernel filter, proven alive before anything is sent.

The socket is made with protocol 0, gets its filter, and is bound last, so that nothing unfiltered is ever queued;
see packet(7). Proving it alive emits no frame: the kernel names the device it is bound to, reports no error, hands
out its statistics, and the very filter is shown, on a pair of Unix sockets, to take this run's packets and no others.
A socket belongs to the namespace it was made in, so all but opening it can be done from anywhere.
"""

from __future__ import annotations

import _thread
import array
import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence

from nettrace.errors import PrivilegeError
from nettrace.model.base import Model
from nettrace.model.observe import Blind, Frame, Open, Way
from nettrace.wire.filter import Instruction, pack
from probes.points import CaptureSpec

__all__ = ["Capture", "CaptureError", "Samples", "attach", "enlarge", "open_capture", "prove_filter"]

# <linux/if_packet.h>, <asm-generic/socket.h>, <linux/sockios.h>; Python's socket module lacks most of them.
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_AUXDATA = 263, 6, 8
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_SIOCGIFFLAGS = 0x8913
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_TP_STATUS_CSUMNOTREADY, _TP_STATUS_VLAN_VALID, _TP_STATUS_VLAN_TPID_VALID = 0x8, 0x10, 0x40
_AUXDATA = struct.Struct("=IIIHHHH")
_TIMESPEC = struct.Struct("ll")
_STATISTICS = struct.Struct("II")

_RECEIVE_BUFFER = 4 << 20
_FRAME_BUFFER = 1 << 17
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(_AUXDATA.size)
#: More frames than any run needs; a capture that gets more is listening to something else.
MAX_FRAMES = 5000


class CaptureError(Exception):
    """A capture cannot be opened or proven alive; the text says why."""


class Samples(Model):
    """Frames to show a filter: those it must take, and those it must not."""

    ours: tuple[bytes, ...]
    foreign: tuple[bytes, ...]


def attach(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Attach a classic BPF program to a socket; OSError comes through (see socket(7), SO_ATTACH_FILTER)."""
    code = array.array("B", pack(program))
    address, _length = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), address))


def prove_filter(program: Sequence[Instruction], samples: Samples) -> None:
    """Let the kernel itself run the filter over sample frames, on a pair of Unix sockets.

    Raises CaptureError when it refuses one of ours, takes one of the others, or cannot be attached.
    """
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        far.setblocking(False)
        try:
            attach(far, program)
        except OSError as error:
            raise CaptureError(f"the kernel refuses the capture filter: {error.strerror}") from error
        for frame in (*samples.ours, *samples.foreign):
            near.send(frame)
            try:
                taken = bool(far.recv(len(frame)))
            except BlockingIOError:
                taken = False
            if taken is not (frame in samples.ours):
                raise CaptureError("the kernel runs the capture filter differently from what it was written for")


class Capture:
    """One open ear. Use `frames` to take what was heard, `settle` at the end, `close` always."""

    def __init__(self, spec: CaptureSpec, sock: socket.socket) -> None:
        self.spec = spec
        self._sock = sock
        self._buffer = bytearray(_FRAME_BUFFER)
        self._view = memoryview(self._buffer)
        self.taken = 0
        #: Whether the checksum of the frame that came last was left to a device (CHECKSUM_PARTIAL): no receiver on
        #: this machine looks at it.
        self.unfinished = False
        self._failure: str | None = None

    def fileno(self) -> int:
        """Return the descriptor, for selectors."""
        return self._sock.fileno()

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that are waiting, oldest first; never blocks.

        A device that goes down is no error here: nothing passes it, which is what silence then says.
        """
        while self._failure is None:
            try:
                size, ancillary, _flags, address = self._sock.recvmsg_into([self._view], _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno == errno.ENETDOWN:  # reported once; the next call says what is waiting
                    continue
                self._failure = f"reading stopped: {error.strerror}"
                return
            if self.taken >= MAX_FRAMES:
                self._failure = f"more than {MAX_FRAMES} frames passed the filter"
                return
            self.taken += 1
            yield self._frame(size, ancillary, address)

    def _frame(self, size: int, ancillary: list[tuple[int, int, bytes]], address: tuple[object, ...]) -> Frame:
        data, length, at_ns = bytes(self._view[:size]), size, 0
        self.unfinished = False
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(value) >= _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack_from(value)
                at_ns = seconds * 1_000_000_000 + nanoseconds
            elif level == _SOL_PACKET and kind == _PACKET_AUXDATA and len(value) >= _AUXDATA.size:
                status, length, _kept, _mac, _net, tag, ethertype = _AUXDATA.unpack_from(value)
                self.unfinished = bool(status & _TP_STATUS_CSUMNOTREADY)
                if status & _TP_STATUS_VLAN_VALID and size >= 12:
                    # The kernel takes the tag out of the frame, and hands it over beside it.
                    outer = ethertype if status & _TP_STATUS_VLAN_TPID_VALID else 0x8100
                    data, length = data[:12] + struct.pack("!HH", outer, tag) + data[12:], length + 4
        way = Way.OUT if address[2] == _PACKET_OUTGOING else Way.IN
        return Frame(point=self.spec.point, way=way, at_ns=at_ns or time.time_ns(), data=data, length=length)

    def settle(self) -> Open | Blind:
        """Say, after the run, what this capture's silence is worth."""
        point = self.spec.point
        reason = self._failure or self._trouble()
        return Blind(point=point, reason=reason) if reason is not None else Open(point=point, frames=self.taken)

    def _trouble(self) -> str | None:
        """Why silence means nothing; None when it does. A device that is down, but there, lets nothing pass."""
        try:
            lost = self._statistics()
            name = str(self._sock.getsockname()[0])
            if not name:
                return f"{self.spec.device} vanished while it was listened to"
            fcntl.ioctl(self._sock, _SIOCGIFFLAGS, struct.pack("16sH14x", os.fsencode(name), 0))
        except OSError as error:
            return f"{self.spec.device} could not be checked after the run: {error.strerror}"
        return f"the kernel dropped {lost} frames before they could be read" if lost else None

    def _statistics(self) -> int:
        """Frames lost since the last call, for want of room in the receive buffer."""
        _packets, drops = _STATISTICS.unpack(self._sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))
        return int(drops)

    def prove(self, ifindex_of: int) -> None:
        """Raise CaptureError unless the socket is bound to the device of the plan, sound, and counting."""
        if ifindex_of != self.spec.ifindex:
            raise CaptureError(f"the capture is bound to device {ifindex_of} instead of {self.spec.ifindex}")
        trouble = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if trouble not in (0, errno.ENETDOWN):
            raise CaptureError(f"the capture reports: {os.strerror(trouble)}")
        self._statistics()

    def close(self) -> None:
        """Stop listening, without waiting until the kernel has let go; closing twice is harmless.

        close(2) of a packet socket waits for an RCU grace period (packet_release, synchronize_net): ten milliseconds
        and more for each, which the answer need not wait for. So a bare thread does the waiting; the descriptor is
        given up as soon as that runs.
        """
        self._view.release()
        descriptor = self._sock.detach()
        if descriptor >= 0:
            _thread.start_new_thread(os.close, (descriptor,))


def open_capture(spec: CaptureSpec, program: Sequence[Instruction]) -> Capture:
    """Open a capture in the calling thread's namespace, and prove it bound and sound.

    The device is found by its index, whatever its name is by now. Raises CaptureError when it is gone or cannot be
    listened to, PrivilegeError without CAP_NET_RAW.
    """
    try:
        name = socket.if_indextoname(spec.ifindex)
    except OSError as error:
        raise CaptureError(f"there is no device {spec.device} (index {spec.ifindex}) any more") from error
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    except PermissionError as error:
        raise PrivilegeError(
            f"not allowed to listen in {spec.netns_name}: run nettrace as root, or with CAP_NET_RAW"
        ) from error
    capture = Capture(spec, sock)
    try:
        enlarge(sock)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        attach(sock, program)
        sock.bind((name, _ETH_P_ALL))
        capture.prove(socket.if_nametoindex(str(sock.getsockname()[0])))
    except OSError as error:
        capture.close()
        raise CaptureError(f"{name} cannot be listened to: {error.strerror}") from error
    except CaptureError:
        capture.close()
        raise
    return capture


def enlarge(sock: socket.socket) -> None:
    """Give a socket a receive buffer that a burst does not fill, as far as that is allowed."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:  # without CAP_NET_ADMIN the system's limit holds; losses are counted either way
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
