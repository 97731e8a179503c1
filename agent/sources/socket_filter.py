"""The two ways to judge packets on a ring's socket, behind one face: classic BPF, or the eBPF programs of bpf/.

A `Prepared` filter is compiled and, with eBPF, accepted by the kernel's verifier, but not in force: so a filter that is
refused changes nothing. `put` makes it the one in force, atomically, on the socket or in the map of programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agent.bpf_filter import FilterError, check_snaplen, compile_filter
from agent.sources.live_socket import LiveSocket
from agent.sources.source import FlowRules
from agent.tag_filter import KEEP_AT_LEAST, LINKTYPE_ETHERNET, REJECT_ALL, for_socket

if TYPE_CHECKING:  # eBPF is Linux' alone, classic BPF isn't
    from agent.ebpf.programs import Filter, InnerFilter, ProgramSet

_ETHERNET_BYTES = 14
_LINKTYPE_RAW = 101


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Packets, cumulative, that reached the socket and not the ring; None: not counted."""

    filtered: int | None = None
    sampled_out: int | None = None
    cut_off: int | None = None


class Prepared(Protocol):
    """A filter that can be put in force. Closed by whoever prepared it, when another one is or none will be."""

    def close(self) -> None:
        """Idempotent."""
        ...


class SocketFilter(Protocol):
    """One capture's filter, through all sockets that it may come to have."""

    @property
    def remark(self) -> str | None:
        """What the user should know of this way; None: nothing."""
        ...

    def prepare(self, text: str, snaplen: int, flows: FlowRules, sock: LiveSocket) -> Prepared:
        """Compile. FilterError with the reason when libpcap refuses; NotAsEbpf when only classic BPF will do."""
        ...

    def put(self, prepared: Prepared, sockets: Sequence[LiveSocket]) -> None:
        """Put in force on all open sockets of one capture. OSError: the one before stays in force."""
        ...

    def left_out(self, *, final: bool) -> LeftOut:
        """What was not kept so far. final: the sockets are closed."""
        ...

    def close(self) -> None:
        """When the sockets are closed. `left_out` still answers."""
        ...


class ClassicProgram:
    """Classic BPF as the socket takes it."""

    def __init__(self, code: bytes) -> None:
        self.code = code

    def close(self) -> None:
        """Nothing is held."""


class ClassicSocketFilter:
    """SO_ATTACH_FILTER: works on every kernel, and counts only what passed."""

    def __init__(self, remark: str | None = None, *, why: str = "") -> None:
        """why: there is no eBPF, in words that also say what to do; "" where that isn't known."""
        self.remark = remark
        self._why = why

    def prepare(self, text: str, snaplen: int, flows: FlowRules, sock: LiveSocket) -> ClassicProgram:
        if flows.needed:
            raise FilterError(
                "flow cut-off, sampling and a filter on the packet inside a tunnel need eBPF, and this capture is "
                + (
                    f"judged by classic BPF ({self._why}). Otherwise take them out"
                    if self._why
                    else "judged by classic BPF. Install python3-bpfcc on the host, or take them out"
                )
            )
        return ClassicProgram(_compiled(text, snaplen, sock))

    def put(self, prepared: Prepared, sockets: Sequence[LiveSocket]) -> None:
        assert isinstance(prepared, ClassicProgram)
        for sock in sockets:
            sock.attach(prepared.code)

    def left_out(self, *, final: bool) -> LeftOut:
        return LeftOut()

    def close(self) -> None:
        """Nothing is held."""


class EbpfSocketFilter:
    """SO_ATTACH_BPF with `entry` of bpf/capture.c, which goes by way of the filter's slot: filtered is exact."""

    def __init__(self, programs: ProgramSet) -> None:
        """Takes the programs over."""
        self.remark: str | None = None
        self._programs = programs
        self._left_out = (0, 0, 0)
        self._newest: tuple[tuple[str, bool], Filter] | None = None

    def prepare(self, text: str, snaplen: int, flows: FlowRules, sock: LiveSocket) -> Filter:
        from agent.ebpf.programs import Settings

        settings = Settings(
            cutoff_bytes=flows.cutoff_bytes or 0,
            kept_bytes=max(snaplen, KEEP_AT_LEAST),
            once_outgoing=int(sock.loopback),
            network_at=_ETHERNET_BYTES if sock.link_type == LINKTYPE_ETHERNET else 0,
            one_flow_in=flows.one_in,
            look_inside=int(flows.look_inside),
        )
        check_snaplen(snaplen)
        written = text, flows.look_inside
        if self._newest is None or self._newest[0] != written:
            inner = _compiled_for_tunnels(text, snaplen) if flows.look_inside else None
            loaded = self._programs.filter_of(_compiled(text, snaplen, sock), settings, inner)
            self._forget_newest()
            self._newest = written, loaded
        return self._newest[1].again(settings)  # where only numbers change, nothing is compiled

    def _forget_newest(self) -> None:
        if self._newest is not None:
            self._newest[1].close()
            self._newest = None

    def put(self, prepared: Prepared, sockets: Sequence[LiveSocket]) -> None:
        from agent.ebpf.programs import Filter
        from agent.sources.ring_socket import RingSocket

        assert isinstance(prepared, Filter)
        self._programs.use(prepared)
        for sock in sockets:
            assert isinstance(sock, RingSocket)
            sock.attach_ebpf(self._programs.entry)

    def left_out(self, *, final: bool) -> LeftOut:
        """While packets come a processor may be between two counters: then no number goes back, and `filtered` may be
        one short or over for each processor. At the end it is exact."""
        if self._programs.open:
            seen = self._programs.counters().seen
            now = self._programs.counters()
            filtered, sampled_out, cut_off = self._left_out
            turned_away = seen - now.passed
            filtered = turned_away if final else max(filtered, turned_away)
            self._left_out = filtered, max(sampled_out, now.sampled_out), max(cut_off, now.cut_off)
        return LeftOut(*self._left_out)

    def close(self) -> None:
        self._forget_newest()
        self.left_out(final=True)
        self._programs.close()


def _compiled(text: str, snaplen: int, sock: LiveSocket) -> bytes:
    return for_socket(
        compile_filter(text, sock.link_type, snaplen), loopback=sock.loopback, tags_beside=sock.tags_beside
    )


def _compiled_for_tunnels(text: str, snaplen: int) -> InnerFilter:
    """For packets inside tunnels, whose tags stand where they belong. A filter that asks for what only an Ethernet
    header has turns away an IP packet without one."""
    from agent.ebpf.programs import InnerFilter

    ethernet = compile_filter(text, LINKTYPE_ETHERNET, snaplen)
    try:
        ip = compile_filter(text, _LINKTYPE_RAW, snaplen).code
    except FilterError:
        ip = REJECT_ALL
    return InnerFilter(for_socket(ethernet, loopback=False, tags_beside=False), ip)
