"""The two ways to judge packets on a ring's socket, behind one face: classic BPF, or the eBPF programs of bpf/.

A `Prepared` filter is compiled and, with eBPF, accepted by the kernel's verifier, but not in force: so a filter that is
refused changes nothing. `put` makes it the one in force, atomically, on the socket or in the map of programs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agent.bpf_filter import FilterError, check_snaplen, compile_filter
from agent.sources.live_socket import LiveSocket
from agent.sources.source import FlowRules
from agent.tag_filter import KEEP_AT_LEAST, LINKTYPE_ETHERNET, REJECT_ALL, for_socket

if TYPE_CHECKING:  # eBPF is Linux' alone, classic BPF isn't
    from agent.ebpf.flow_counters import FlowReading
    from agent.ebpf.programs import Filter, InnerFilter, ProgramSet

_ETHERNET_BYTES = 14
_LINKTYPE_RAW = 101
_FLOWS_NOT_COUNTED = "flows are not counted: that needs eBPF, and this capture is judged by classic BPF"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Packets, cumulative, that reached the socket and not the ring; None: not counted."""

    filtered: int | None = None
    sampled_out: int | None = None
    cut_off: int | None = None
    flows_counted: int | None = None
    flows_unattributed: int | None = None


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

    def read_flows(self) -> list[FlowReading]:
        """See `PacketSource.read_flows`."""
        ...

    def close(self) -> None:
        """When the sockets are closed. `left_out` still answers, and `read_flows` once."""
        ...


class ClassicProgram:
    """Classic BPF as the socket takes it."""

    def __init__(self, code: bytes, *, should_count: bool = False) -> None:
        """should_count: flows were to be counted."""
        self.code = code
        self.should_count = should_count

    def close(self) -> None:
        """Nothing is held."""


class ClassicSocketFilter:
    """SO_ATTACH_FILTER: works on every kernel, and counts only what passed."""

    def __init__(self, remark: str | None = None, *, why: str = "") -> None:
        """why: there is no eBPF, in words that also say what to do; "" where that isn't known."""
        self._remark = remark
        self._why = why
        self._should_count = False

    @property
    def remark(self) -> str | None:
        said = [self._remark] if self._remark else []
        if self._should_count:
            what_to_do = self._why or "install python3-bpfcc on the host"
            said.append(f"{_FLOWS_NOT_COUNTED} ({what_to_do})")
        return "; ".join(said) or None

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
        return ClassicProgram(_compiled(text, snaplen, sock), should_count=flows.counted)

    def put(self, prepared: Prepared, sockets: Sequence[LiveSocket]) -> None:
        assert isinstance(prepared, ClassicProgram)
        for sock in sockets:
            sock.attach(prepared.code)
        self._should_count = prepared.should_count

    def left_out(self, *, final: bool) -> LeftOut:
        return LeftOut()

    def read_flows(self) -> list[FlowReading]:
        return []

    def close(self) -> None:
        """Nothing is held."""


class EbpfSocketFilter:
    """SO_ATTACH_BPF with the filter itself, or with `entry` of bpf/capture.c, which does more and goes by way of the
    filter's slot. Both count in the same place what they see, so filtered is exact whichever a packet met."""

    def __init__(self, programs: ProgramSet) -> None:
        """Takes the programs over."""
        from agent.ebpf.flow_counters import FlowCounters

        self.remark: str | None = None
        self._programs = programs
        self._left_out = LeftOut(0, 0, 0)
        self._flows = FlowCounters(programs)
        self._last_flows: list[FlowReading] = []
        self._ever_counted = False
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
            count_flows=int(flows.counted),
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

        assert isinstance(prepared, Filter)
        before = self._programs.attached

        def attach(program: int) -> None:
            for place, sock in enumerate(sockets):
                try:
                    _attach(sock, program)
                except OSError:
                    if before is not None:
                        for changed in sockets[:place]:
                            _attach(changed, before)
                    raise

        self._ever_counted = self._ever_counted or bool(prepared.settings.count_flows)
        self._programs.use(prepared, attach)

    def left_out(self, *, final: bool) -> LeftOut:
        """While packets come a processor may be between two counters: then no number goes back, and `filtered` may be
        one short or over for each processor. At the end it is exact."""
        if self._programs.open:
            seen = self._programs.counters().seen
            now = self._programs.counters()
            before, turned_away = self._left_out, seen - now.passed
            self._left_out = LeftOut(
                filtered=turned_away if final else max(before.filtered or 0, turned_away),
                sampled_out=max(before.sampled_out or 0, now.sampled_out),
                cut_off=max(before.cut_off or 0, now.cut_off),
                flows_counted=now.counted if self._ever_counted else None,
                flows_unattributed=now.unattributed if self._ever_counted else None,
            )
        return self._left_out

    def read_flows(self) -> list[FlowReading]:
        if self._programs.open:
            return [self._flows.read()] if self._ever_counted else []
        last, self._last_flows = self._last_flows, []
        return last

    def close(self) -> None:
        self._forget_newest()
        self.left_out(final=True)
        if self._programs.open:
            with contextlib.suppress(OSError):
                self._last_flows = self.read_flows()
        self._programs.close()


def _attach(sock: LiveSocket, program: int) -> None:
    from agent.sources.ring_socket import RingSocket

    assert isinstance(sock, RingSocket)
    sock.attach_ebpf(program)


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
