"""What leaves the host under each payload policy, packet by packet: made ones, and every recorded one."""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from agent import _payload
from agent.batcher import HEADER_ROOM_BYTES
from agent.config import ConfigError, parse_config
from agent.payload import enforce, owners_policy
from agent.session import CaptureSession
from agent.session_memory import SessionMemory
from tests.agent import payload_reading
from tests.agent.batches import KEY, SESSION, drain, new_spool
from tests.agent.test_session import around, run, spec
from tests.support.captures import read_capture
from tests.support.netns import wait_for
from tests.wire import make
from wire.batch import (
    TRUNCATED,
    Body,
    Columns,
    Kind,
    decode_columns,
    encode_body,
    open_batch,
    seal_batch,
    sums_of,
)
from wire.payload import FULL, HEADERS, MAX_PORT_RANGES, PayloadPolicy
from wire.session import Replay

SECRET = b"the secret that must not leave"
ETHERNET = bytes.fromhex("020000000002020000000001")
V6 = ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("2001:db8::2").packed


def columns_of(frames: list[bytes], original: int | None = None) -> Columns:
    sizes = [len(frame) for frame in frames]
    return Columns(
        timestamp_ns=bytearray(8 * len(frames)),
        captured_bytes=bytearray(struct.pack(f"<{len(sizes)}I", *sizes)),
        original_bytes=bytearray(struct.pack(f"<{len(sizes)}I", *[original or size for size in sizes])),
        flags=bytearray(2 * len(frames)),
        data=bytearray(b"".join(frames)),
    )


def kept(frame: bytes, policy: PayloadPolicy = HEADERS, link_type: int = 1) -> bytes:
    """What remains of a frame between two others that are untouched by what happens to it."""
    arp = ETHERNET + bytes.fromhex("0806 0001 0800 06 04 0001") + bytes(20)
    after = enforce(
        columns_of([arp, frame, arp]) if link_type == 1 else columns_of([frame]), link_type, policy
    )
    sizes = memoryview(after.captured_bytes).cast("I")
    data = bytes(after.data)
    assert sum(sizes) == len(data)
    if link_type != 1:
        return data
    assert data.startswith(arp)
    assert data.endswith(arp)
    return data[len(arp) : -len(arp)]


def tcp(options: bytes = b"", port: int = 443, payload: bytes = SECRET) -> bytes:
    return (
        struct.pack(">HHIIBBHHH", 50000, port, 1, 1, (5 + len(options) // 4) << 4, 0x18, 512, 0, 0)
        + options
        + payload
    )


def udp(port: int = 53, payload: bytes = SECRET) -> bytes:
    return struct.pack(">HHHH", 50000, port, 8 + len(payload), 0) + payload


def ip4(
    protocol: int, rest: bytes, options: bytes = b"", fragment: int = 0, total: int | None = None
) -> bytes:
    header = 20 + len(options)
    total = header + len(rest) if total is None else total
    return (
        struct.pack(">BBHHHBBH", 0x40 | header // 4, 0, total, 7, fragment, 64, protocol, 0)
        + bytes([10, 0, 0, 1, 10, 0, 0, 2])
        + options
        + rest
    )


def ip6(protocol: int, rest: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(rest), protocol, 64) + V6 + rest


def ether(rest: bytes, kind: int = 0x0800, tags: bytes = b"") -> bytes:
    return ETHERNET + tags + struct.pack(">H", kind) + rest


CASES = {
    "tcp": (ether(ip4(6, tcp())), 54),
    "tcp options": (ether(ip4(6, tcp(bytes(12)))), 66),
    "ipv4 options": (ether(ip4(6, tcp(), options=bytes(8))), 62),
    "udp": (ether(ip4(17, udp())), 42),
    "udp-lite": (ether(ip4(136, udp())), 42),
    "icmp": (ether(ip4(1, b"\x08\0\0\0\0\1\0\1" + SECRET)), 42),
    "first fragment": (ether(ip4(17, udp(), fragment=0x2000)), 42),
    "later fragment": (ether(ip4(17, SECRET, fragment=0x0003)), 34),
    "a fragment of the greatest offset's highest bit": (ether(ip4(17, SECRET, fragment=0x1000)), 34),
    "sctp": (ether(ip4(132, bytes(12) + SECRET)), 34),
    "gre": (ether(ip4(47, bytes(4) + ip4(6, tcp()))), 34),
    "ip in ip": (ether(ip4(4, ip4(6, tcp()))), 34),
    "vxlan": (ether(ip4(17, udp(4789, bytes(8) + ether(ip4(6, tcp()))))), 42),
    "authentication": (ether(ip4(51, bytes([6, 4, 0, 0]) + bytes(20) + tcp())), 14 + 20 + 24 + 20),
    "big tcp without a length": (ether(ip4(6, tcp(), total=0)), 54),
    "padding is not kept": (ether(ip4(17, udp(payload=b"")) + SECRET), 42),
    "a tcp header behind the packet's end": (ether(ip4(6, tcp(bytes(40)), total=20 + 20)), 54),
    "ihl below five": (ether(b"\x44" + ip4(6, tcp())[1:]), 14),
    "total below the header": (ether(ip4(6, tcp(), total=19)), 14),
    "version isn't the ethertype's": (ether(ip6(6, tcp())), 14),
    "tcp offset below five": (ether(ip4(6, tcp()[:12] + b"\x40" + tcp()[13:])), 54),
    "vlan": (ether(ip4(6, tcp()), tags=bytes.fromhex("81000007")), 58),
    "qinq": (ether(ip4(6, tcp()), tags=bytes.fromhex("88a8000781000009")), 62),
    "nine tags": (ether(ip4(6, tcp()), tags=bytes.fromhex("81000007") * 9), 14 + 8 * 4),
    "ipv6 tcp": (ether(ip6(6, tcp()), 0x86DD), 74),
    "ipv6 udp": (ether(ip6(17, udp()), 0x86DD), 62),
    "icmpv6": (ether(ip6(58, b"\x80\0\0\0\0\1\0\1" + SECRET), 0x86DD), 62),
    "hop by hop, destination": (
        ether(ip6(0, b"\x3c\1" + bytes(14) + b"\x06\0" + bytes(6) + tcp()), 0x86DD),
        54 + 16 + 8 + 20,
    ),
    "ipv6 first fragment": (ether(ip6(44, b"\x06\0\0\1\0\0\0\7" + tcp()), 0x86DD), 54 + 8 + 20),
    "ipv6 later fragment": (ether(ip6(44, b"\x06\0\0\x40\0\0\0\7" + SECRET), 0x86DD), 62),
    "an extension longer than the packet": (ether(ip6(60, b"\x06\xff" + SECRET), 0x86DD), 54),
    "nine extensions": (ether(ip6(60, b"\x3c\0\0\0\0\0\0\0" * 9 + tcp()), 0x86DD), 54 + 8 * 8),
    "esp": (ether(ip6(50, SECRET), 0x86DD), 54),
    "no next header": (ether(ip6(59, SECRET), 0x86DD), 54),
    "mpls": (ether(bytes(4) + ip4(6, tcp()), 0x8847), 14),
    "pppoe": (ether(bytes(8) + ip4(6, tcp()), 0x8864), 14),
    "802.3 length": (ether(SECRET, len(SECRET)), 14),
    "arp with a secret behind it": (
        ether(bytes.fromhex("0001080006040001") + bytes(20) + SECRET, 0x0806),
        42,
    ),
    "arp of another kind": (ether(bytes.fromhex("00060800ffff0001") + SECRET, 0x0806), 22),
}


@pytest.mark.parametrize("name", CASES)
def test_headers_only(name: str) -> None:
    frame, header = CASES[name]
    assert SECRET[:4] in frame or name == "no next header"
    assert kept(frame) == frame[:header]
    assert kept(frame, PayloadPolicy("masked", 5)) == frame[: header + 5]
    assert kept(frame, PayloadPolicy("masked", 262144)) == frame


@pytest.mark.parametrize("name", CASES)
def test_a_frame_cut_anywhere_keeps_no_more(name: str) -> None:
    """The snaplen may have cut it in the middle of any header: never more than of the whole one."""
    frame, header = CASES[name]
    for size in range(len(frame)):
        result = kept(frame[:size])
        assert frame.startswith(result)
        assert min(size, header) - 4 < len(result) <= min(size, header)


def test_lldp_is_kept_whole() -> None:
    frame = ether(b"\x02\x07\x04" + bytes(40), 0x88CC)
    assert kept(frame) == frame


@pytest.mark.parametrize(
    ("link_type", "before"),
    [
        (101, b""),
        (12, b""),
        (228, b""),
        (0, b"\2\0\0\0"),
        (0, b"\0\0\0\2"),
        (108, b"\0\0\0\2"),
        (113, bytes(14) + b"\x08\0"),
        (276, b"\x08\0" + bytes(18)),
    ],
)
def test_other_link_types(link_type: int, before: bytes) -> None:
    assert kept(before + ip4(6, tcp()), HEADERS, link_type) == before + ip4(6, tcp())[:40]


def test_a_link_type_that_isnt_known_keeps_nothing() -> None:
    assert kept(bytes(30) + ip4(6, tcp()), HEADERS, 105) == b""
    assert kept(ip4(6, tcp()), HEADERS, 229) == b""


WITHOUT_TLS = PayloadPolicy("masked", None, ((443, 443), (8000, 8100)))


@pytest.mark.parametrize(
    ("frame", "whole"),
    [
        (ether(ip4(6, tcp(port=443))), False),
        (ether(ip4(17, udp(port=8050))), False),
        (ether(ip6(17, udp(port=8100)), 0x86DD), False),
        (ether(ip4(6, b"\x01\xbb" + tcp(port=80)[2:])), False),  # the answer of port 443
        (ether(ip4(6, tcp(port=80))), True),
        (ether(ip4(17, udp(port=8101))), True),
        (ether(ip4(1, b"\x08\0\0\0\0\1\0\1" + SECRET)), True),
        (ether(ip4(1, b"\x03\3\0\0\0\0\0\0" + ip4(6, tcp()))), False),  # an error quotes what it is about
        (ether(ip6(58, b"\x01\4\0\0\0\0\0\0" + ip6(6, tcp())), 0x86DD), False),
        (ether(ip4(6, SECRET, fragment=3)), False),
        (ether(ip4(47, bytes(4) + ip4(6, tcp()))), False),
        (ether(ip4(132, bytes(12) + SECRET)), False),
        (ether(SECRET, 0x8847), False),
    ],
)
def test_ports_without_payload(frame: bytes, whole: bool) -> None:
    assert (SECRET in kept(frame, WITHOUT_TLS)) == whole
    if whole:
        assert kept(frame, WITHOUT_TLS) == frame


def test_the_columns_say_what_was_cut() -> None:
    frames = [ether(ip4(6, tcp())), ether(ip4(6, tcp(payload=b"")))]
    after = enforce(columns_of(frames), 1, HEADERS)
    assert list(memoryview(after.captured_bytes).cast("I")) == [54, 54]
    assert list(memoryview(after.original_bytes).cast("I")) == [54 + len(SECRET), 54]
    assert list(memoryview(after.flags).cast("H")) == [TRUNCATED, 0]


def test_columns_that_contradict_each_other_are_refused() -> None:
    good = columns_of([ether(ip4(6, tcp()))])
    for bad in (
        replace(good, data=good.data[:-1]),
        replace(good, data=bytearray(bytes(good.data) + b"x")),
        replace(good, flags=bytearray(4)),
        replace(good, captured_bytes=bytearray(b"\xff\xff\xff\xff")),
        replace(good, captured_bytes=bytearray(3)),
    ):
        with pytest.raises(ValueError, match=r"columns|lengths"):
            enforce(bad, 1, HEADERS)
    with pytest.raises(ValueError, match="port map"):
        _payload.cut(1, 0, b"123", bytearray(), b"", bytearray(), bytearray())
    with pytest.raises(TypeError, match="read-write"):
        enforce(replace(good, data=bytes(good.data)), 1, HEADERS)


def test_every_recorded_packet_as_an_independent_reader_says(captures: Path) -> None:
    """dpkt's reading of where each header ends, for all recorded packets; none keeps a byte more."""
    seen: Counter[str] = Counter()
    for file in sorted(captures.rglob("*.pcap*")):
        for packet in read_capture(file).packets:
            expected = payload_reading.header_bytes(packet.data, packet.link_type)
            after = enforce(columns_of([packet.data]), packet.link_type, HEADERS)
            header = len(after.data)
            assert bytes(after.data) == packet.data[:header]
            if packet.original_bytes != len(packet.data):
                seen["cut before"] += 1
            elif expected is None:
                seen["not judged"] += 1
            else:
                assert header == expected, f"{file.name}: {packet.describe()}"
                seen["judged"] += 1
    assert seen["judged"] > 10 * seen["not judged"] > 0, seen


# -- policies --------------------------------------------------------------------------------------------------------


def test_the_stricter_of_two_policies_wins() -> None:
    ten, five = PayloadPolicy("masked", 10), PayloadPolicy("masked", 5)
    ports = PayloadPolicy("masked", None, ((1, 3), (10, 20)))
    assert FULL.and_also(FULL) == FULL
    for policy in (ten, ports, HEADERS):
        assert FULL.and_also(policy) == policy.and_also(FULL) == policy
        assert HEADERS.and_also(policy) == policy.and_also(HEADERS) == HEADERS
    assert ten.and_also(five) == five.and_also(ten) == five
    assert ports.and_also(PayloadPolicy("masked", 5, ((4, 9),))) == PayloadPolicy("masked", 5, ((1, 20),))


def test_the_longest_policy_fits_into_a_header() -> None:
    """Two lists of the greatest length, of which none touch."""
    ours = tuple((first, first + 1) for first in range(40000, 40000 + 6 * MAX_PORT_RANGES, 6))
    theirs = tuple((first + 3, first + 4) for first, _ in ours)
    both = PayloadPolicy("masked", 262144, ours).and_also(PayloadPolicy("masked", 262144, theirs))
    assert len(both.ports_without) == 2 * MAX_PORT_RANGES
    columns = make.columns_of(make.packets(3))
    header = make.fields(
        agent="a" * 48,
        interface="i" * 128,
        payload=both,
        **{
            name: getattr(sums_of(columns), name)
            for name in (
                "packets",
                "captured_bytes",
                "original_bytes",
                "first_timestamp_ns",
                "last_timestamp_ns",
            )
        },
    )
    message, _ = seal_batch(header, Body.of(encode_body(columns)), make.AGENT_KEY)
    opened = open_batch(message, public=make.AGENT_KEY.public)
    assert opened.header.payload == both
    assert len(message) - len(opened.body_compressed) < HEADER_ROOM_BYTES


# -- the host's owner ------------------------------------------------------------------------------------------------


def test_the_owners_policy_in_the_file() -> None:
    text = b"payload:\n  policy: masked\n  keep_bytes: 12\n  ports_without: [443, 8000-8100]\n"
    config = parse_config(text, Path("agent.yaml"))
    assert owners_policy(config) == PayloadPolicy("masked", 12, ((443, 443), (8000, 8100)))
    assert owners_policy(parse_config(b"payload: {policy: headers}", Path("a"))) == HEADERS
    assert owners_policy(parse_config(b"", Path("a"))) == FULL


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"payload: {policy: masked}", "masked needs payload.keep_bytes or payload.ports_without"),
        (b"payload: {keep_bytes: 10}", "has no effect with payload.policy full"),
        (b"payload: {policy: headers, ports_without: [443]}", "has no effect with payload.policy headers"),
        (b"payload: {policy: none}", "one of full, headers, masked"),
        (b"payload: {policy: masked, ports_without: [70000]}", "ports go from 0 to 65535"),
        (b"payload: {policy: masked, ports_without: [9-1]}", "the lower one first"),
        (b"payload: {policy: masked, ports_without: 443}", "a list goes in brackets"),
    ],
)
def test_half_a_mask_is_refused(text: bytes, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_config(text, Path("agent.yaml"))


# -- a session -------------------------------------------------------------------------------------------------------


def write_frames(path: Path, frames: list[bytes]) -> None:
    """A classic pcap in ns."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
        for number, frame in enumerate(frames):
            file.write(struct.pack("<IIII", number // 1000, number % 1000, len(frame), len(frame)) + frame)


def delivered(messages: list[bytes]) -> list[tuple[PayloadPolicy | None, Columns]]:
    opened = [open_batch(message, public=KEY.public) for message in messages]
    return [(one.header.payload, decode_columns(one)) for one in opened if one.header.kind is Kind.PACKETS]


@pytest.mark.parametrize("owner", ["full", "headers"])
def test_a_session_ships_what_is_allowed_and_signs_it(tmp_path: Path, owner: str) -> None:
    file = tmp_path / "in.pcap"
    made = list(CASES.values()) * 100
    write_frames(file, [frame for frame, _ in made])
    spool = new_spool(tmp_path / "spool")
    surroundings = around(spool)
    surroundings.config.payload_policy = owner
    declared = PayloadPolicy("masked", 3)
    session = CaptureSession(
        spec(file, payload=declared), SessionMemory.open(tmp_path / "s", SESSION), surroundings
    )
    run(session)
    in_force = declared if owner == "full" else HEADERS
    assert session.report().payload == in_force
    batches = delivered([message for _, message in drain(spool, acknowledge=False)])
    at = 0
    for payload, columns in batches:
        assert payload == in_force
        sizes = memoryview(columns.captured_bytes).cast("I")
        data = bytes(columns.data)
        for size in sizes:
            frame, header = made[at]
            assert data[:size] == frame[: header + (3 if owner == "full" else 0)]
            data, at = data[size:], at + 1
    assert at == len(made)
    assert session.read_books().captured == len(made)


@pytest.mark.parametrize("first", [FULL, HEADERS])
def test_a_change_on_a_running_session_never_shows_what_either_order_forbids(
    tmp_path: Path, first: PayloadPolicy
) -> None:
    """Batches of the old filter revision that are shipped after the change obey both; those of the new one, the new."""
    file = tmp_path / "in.pcap"
    frame, header = CASES["tcp"]
    write_frames(file, [frame] * 4000)
    spool = new_spool(tmp_path / "spool")
    paced = replace(spec(file, payload=first), replay=Replay(str(file), 4000.0))
    session = CaptureSession(paced, SessionMemory.open(tmp_path / "s", SESSION), around(spool))
    session.start()
    wait_for(lambda: session.captured_totals[0] > 500, "the first packets")
    second = HEADERS if first.full else FULL
    session.declare(replace(paced, payload=second, filter_revision=2))
    assert session.join(30)
    assert session.state == "stopped"
    opened = [open_batch(message, public=KEY.public) for _, message in drain(spool, acknowledge=False)]
    revisions = set()
    for batch in opened:
        if batch.header.kind is not Kind.PACKETS:
            continue
        revisions.add(batch.header.filter_revision)
        in_force = first if batch.header.filter_revision == 1 else second
        whole = batch.header.payload is None
        assert batch.header.captured_bytes == batch.header.packets * (len(frame) if whole else header)
        assert not (whole and in_force == HEADERS)
        assert whole or HEADERS in (in_force, second)
    assert revisions == {1, 2}
    assert sum(batch.header.packets for batch in opened) == 4000


# -- hostile frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_mutated_frames_keep_the_invariant(seed: int) -> None:
    """The fuzzer's, bounded and seeded, as part of every run (and of the sanitizers')."""
    from tests.agent import fuzz_payload
    from tests.support import fuzzing

    fuzzing.plain(fuzz_payload.TARGETS, 2000, seed)
