"""The two ways to judge packets on a ring's socket, behind one face: classic BPF, or the eBPF programs of bpf/.

A `Prepared` filter is compiled and, with eBPF, accepted by the kernel's verifier, but not in force: so a filter that is
refused changes nothing. `put` makes it the one in force, atomically, on the socket or in the map of programs.
"""

from __future__ import annotations

from typing import Protocol

from agent.bpf_filter import compile_filter
from agent.ebpf.programs import Filter, ProgramSet
from agent.sources.ring_socket import RingSocket
from agent.tag_filter import KEEP_AT_LEAST, for_socket


class Prepared(Protocol):
    """A filter that can be put in force. Closed by whoever prepared it, when another one is or none will be."""

    def close(self) -> None:
        """Idempotent."""
        ...


class SocketFilter(Protocol):
    """One capture's filter, through all sockets that it may come to have."""

    def prepare(self, text: str, snaplen: int, sock: RingSocket) -> Prepared:
        """Compile. FilterError with the reason when libpcap refuses; NotAsEbpf when only classic BPF will do."""
        ...

    def put(self, prepared: Prepared, sock: RingSocket) -> None:
        """Put in force on an open socket. OSError: the one before stays in force."""
        ...

    def filtered(self, *, final: bool) -> int | None:
        """Packets that the filter turned away so far; None: not counted. final: the sockets are closed."""
        ...

    def close(self) -> None:
        """When the sockets are closed. `filtered` still answers."""
        ...


class ClassicProgram:
    """Classic BPF as the socket takes it."""

    def __init__(self, code: bytes) -> None:
        self.code = code

    def close(self) -> None:
        """Nothing is held."""


class ClassicSocketFilter:
    """SO_ATTACH_FILTER: works on every kernel, and counts only what passed."""

    def prepare(self, text: str, snaplen: int, sock: RingSocket) -> ClassicProgram:
        return ClassicProgram(_compiled(text, snaplen, sock))

    def put(self, prepared: Prepared, sock: RingSocket) -> None:
        assert isinstance(prepared, ClassicProgram)
        sock.attach(prepared.code)

    def filtered(self, *, final: bool) -> None:
        return None

    def close(self) -> None:
        """Nothing is held."""


class EbpfSocketFilter:
    """SO_ATTACH_BPF with `entry` of bpf/capture.c, which goes by way of the filter's slot: filtered is exact."""

    def __init__(self, programs: ProgramSet) -> None:
        """Takes the programs over."""
        self._programs = programs
        self._filtered = 0

    def prepare(self, text: str, snaplen: int, sock: RingSocket) -> Filter:
        classic = _compiled(text, snaplen, sock)
        return self._programs.filter_of(classic, max(snaplen, KEEP_AT_LEAST))

    def put(self, prepared: Prepared, sock: RingSocket) -> None:
        assert isinstance(prepared, Filter)
        self._programs.use(prepared, once_outgoing=sock.loopback)
        sock.attach_ebpf(self._programs.entry)

    def filtered(self, *, final: bool) -> int:
        """While packets come a processor may be between two counters: then the number never goes back, and may be one
        short or over for each processor. At the end it is exact."""
        if self._programs.open:
            seen, _ = self._programs.counters()
            _, passed = self._programs.counters()
            self._filtered = seen - passed if final else max(self._filtered, seen - passed)
        return self._filtered

    def close(self) -> None:
        self.filtered(final=True)
        self._programs.close()


def _compiled(text: str, snaplen: int, sock: RingSocket) -> bytes:
    return for_socket(compile_filter(text, sock.link_type, snaplen), loopback=sock.loopback)
