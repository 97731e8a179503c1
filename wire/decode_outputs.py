"""What `wirepool decode` writes: lines, JSON, pcapng or pcap. One write per batch, so that a live reader sees each."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from wire.batch import DIRECTION_IN, DIRECTION_MASK, DIRECTION_OUT, Columns, Header
from wire.body import FLAGS
from wire.flows import FlowRecord


class Stop(Exception):
    """The output asked for can't hold what comes; the text says why and what to do."""


class Output(Protocol):
    """A form of output."""

    def batch(self, header: Header, columns: Columns) -> None:
        """Write one batch's packets."""

    def flows(self, header: Header, records: Sequence[FlowRecord]) -> None:
        """Write one batch's flow records, where the form has a place for them."""

    def finish(self) -> None:
        """Write what comes last."""


class Lines:
    """A line per packet for a reader."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def batch(self, header: Header, columns: Columns) -> None:
        """One batch's lines in one write."""
        from wire.packet_summary import summarise

        lines = []
        interface = clean(header.interface)
        for time_ns, captured, original, _, data in packets_of(columns):
            length = str(original) if captured == original else f"{captured}/{original}"
            summary = summarise(header.link_type, data)
            lines.append(f"{_utc(time_ns)} {header.agent} {interface} {length} {summary}\n")
        self._write("".join(lines).encode())

    def flows(self, header: Header, records: Sequence[FlowRecord]) -> None:
        """A line per record: its last packet's time, its ends and what each has sent since the records before."""
        interface = clean(header.interface)
        self._write(
            "".join(
                f"{_utc(one.last_timestamp_ns)} {header.agent} {interface} flow {one.ends} "
                f"{one.packets_a} packets {one.bytes_a} bytes > < {one.packets_b} packets {one.bytes_b} bytes\n"
                for one in records
            ).encode()
        )

    def finish(self) -> None:
        """Nothing comes last."""


class JsonLines:
    """A JSON object per packet, or flow record, and line."""

    def __init__(self, write: Callable[[bytes], None], *, with_data: bool) -> None:
        self._write = write
        self._with_data = with_data

    def batch(self, header: Header, columns: Columns) -> None:
        """One batch's lines in one write."""
        import json
        from base64 import b64encode

        from wire.packet_summary import summarise

        lines = []
        for index, (time_ns, captured, original, flags, data) in enumerate(packets_of(columns)):
            summary = summarise(header.link_type, data)
            packet = {
                "time": _utc(time_ns),
                "time_ns": time_ns,
                "agent": header.agent,
                "session": header.session,
                "boot": header.boot.hex(),
                "lane": header.lane.value,
                "sequence": header.sequence,
                "index": index,
                "interface": header.interface,
                "link_type": header.link_type,
                "captured_bytes": captured,
                "original_bytes": original,
                "flags": flag_names(flags),
                "source": summary.source,
                "destination": summary.destination,
                "protocol": summary.protocol,
                "info": summary.info,
            }
            if self._with_data:
                packet["data"] = b64encode(data).decode()
            lines.append(json.dumps(packet, ensure_ascii=False) + "\n")
        self._write("".join(lines).encode())

    def flows(self, header: Header, records: Sequence[FlowRecord]) -> None:
        """One batch's flow records in one write; `flow` is true in each and in nothing else."""
        import json

        lines = []
        for index, one in enumerate(records):
            a, b = one.addresses
            record = {
                "flow": True,
                "agent": header.agent,
                "session": header.session,
                "boot": header.boot.hex(),
                "lane": header.lane.value,
                "sequence": header.sequence,
                "index": index,
                "interface": header.interface,
                **one._asdict(),
                "address_a": a,
                "address_b": b,
            }
            lines.append(json.dumps(record) + "\n")
        self._write("".join(lines).encode())

    def finish(self) -> None:
        """Nothing comes last."""


class Pcapng:
    """A pcapng file: an interface for each agent, boot, session, interface, link type, filter revision and snaplen."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        from wire import pcapng

        self._pcapng = pcapng
        self._write = write
        self._interfaces: dict[tuple[object, ...], int] = {}
        self._newest: dict[int, Header] = {}
        write(pcapng.section_header())  # at once: a reader at the end of a pipe waits for it

    def batch(self, header: Header, columns: Columns) -> None:
        """The interface block where it is new, and the packets, in one write."""
        out = b""
        key = (
            *(header.agent, header.boot, header.session, header.interface),
            *(header.link_type, header.filter_revision, header.snaplen, header.payload),
        )
        number = self._interfaces.get(key)
        if number is None:
            number = self._interfaces[key] = len(self._interfaces)
            out = self._pcapng.interface_block(
                name=f"{header.agent}:{header.interface}",
                description=f"agent {header.agent}, session {header.session}, boot {header.boot.hex()}, "
                f"filter revision {header.filter_revision}"
                + (f", cut on the host: {header.payload.words}" if header.payload is not None else ""),
                link_type=header.link_type,
                snaplen=header.snaplen,
            )
        self._newest[number] = header
        self._write(out + self._pcapng.packet_blocks(number, columns))

    def flows(self, header: Header, records: Sequence[FlowRecord]) -> None:
        """Left out: no packets."""

    def finish(self) -> None:
        """A statistics block for each interface."""
        for number, header in self._newest.items():
            counters = self._pcapng.statistics_of(header.books)
            self._write(self._pcapng.statistics_block(number, header.last_timestamp_ns, **counters))


class Pcap:
    """A classic pcap file with nanoseconds: one link type only."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._link_type: int | None = None

    def batch(self, header: Header, columns: Columns) -> None:
        """The packets in one write; Stop when their link type isn't the file's."""
        from wire import pcapng

        out = b""
        if self._link_type is None:
            self._link_type = header.link_type
            out = pcapng.pcap_header(link_type=header.link_type, snaplen=262144)
        elif self._link_type != header.link_type:
            raise Stop(
                f"a pcap file holds one link type: it began with {self._link_type}, and {header.agent} "
                f"{header.interface} has {header.link_type}; use --pcapng, which holds any mixture"
            )
        try:
            self._write(out + pcapng.pcap_records(columns))
        except ValueError as error:
            raise Stop(f"{error}; use --pcapng") from None

    def flows(self, header: Header, records: Sequence[FlowRecord]) -> None:
        """Left out: no packets."""

    def finish(self) -> None:
        """An empty input becomes an empty Ethernet file, which readers take."""
        if self._link_type is None:
            from wire import pcapng

            self._write(pcapng.pcap_header(link_type=1, snaplen=262144))


def packets_of(columns: Columns) -> Iterator[tuple[int, int, int, int, bytes]]:
    """(time in ns, captured bytes, original bytes, flags, bytes) of each packet. For people's eyes: a Python loop."""
    import struct

    n = len(columns)
    data = memoryview(columns.data)
    at = 0
    for time_ns, captured, original, flags in zip(
        struct.unpack(f"<{n}Q", columns.timestamp_ns),
        struct.unpack(f"<{n}I", columns.captured_bytes),
        struct.unpack(f"<{n}I", columns.original_bytes),
        struct.unpack(f"<{n}H", columns.flags),
        strict=True,
    ):
        yield time_ns, captured, original, flags, bytes(data[at : at + captured])
        at += captured


def flag_names(flags: int) -> list[str]:
    """The flags that are set, in words."""
    names = {DIRECTION_IN: ["inbound"], DIRECTION_OUT: ["outbound"]}.get(flags & DIRECTION_MASK, [])
    return names + [
        name.lower() for name, (bits, _) in FLAGS.items() if bits.isdigit() and flags >> int(bits) & 1
    ]


def _utc(time_ns: int) -> str:
    import time

    seconds, ns = divmod(time_ns, 10**9)
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ns:09d}Z"
    except (OverflowError, ValueError, OSError):
        return f"{seconds}.{ns:09d}"


def clean(text: str) -> str:
    """`text` for a terminal."""
    # Reasons and names come from elsewhere: nothing in them may steer the terminal.
    return "".join(character if character.isprintable() else "?" for character in text)
