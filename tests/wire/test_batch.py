"""Batches: what is sealed comes back, and whatever else arrives is a WireError within stated memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
import zstandard

from tests.wire import make
from wire import batch, compression, cose
from wire.batch import (
    MAX_MESSAGE_BYTES,
    NO_HASH,
    Body,
    Columns,
    Kind,
    OpenBatch,
    Replaced,
    WireError,
    decode_columns,
    decode_tombstone,
    encode_body,
    open_batch,
    seal_batch,
)
from wire.strict_cbor import encode_head

PUBLIC = make.AGENT_KEY.public


def decode(message: bytes, public: bytes | None = PUBLIC) -> OpenBatch:
    """Everything a receiver does with a message."""
    opened = open_batch(message, public=public)
    if opened.header.kind is Kind.PACKETS:
        decode_columns(opened)
    elif opened.header.kind is Kind.TOMBSTONE:
        decode_tombstone(opened)
    return opened


DAMAGED_PEAK_BYTES = 256 * 1024
"""What refusing a damaged batch of two packets may allocate; zstd's reader asks for 128 KiB of it."""


def peak_bytes(work: Callable[..., Any], *arguments: Any) -> int:
    """The most that Python allocated at once while `work(*arguments)` was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            work(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compressor", ["none", "zstd", "gzip"])
@pytest.mark.parametrize("count", [1, 2, 255, 256, 3000])
def test_a_batch_comes_back_as_it_was_sealed(compressor: str, count: int) -> None:
    packets = make.packets(count)
    message, header_hash = make.packets_batch(count, compressor=compressor)
    opened = open_batch(message, public=PUBLIC)
    columns = decode_columns(opened)
    wanted = make.columns_of(packets)
    for name in ("timestamp_ns", "captured_bytes", "original_bytes", "flags", "data"):
        assert bytes(getattr(columns, name)) == getattr(wanted, name), name
    assert opened.header_hash == header_hash == hashlib.sha256(opened.header_bytes).digest()
    assert opened.header.packets == count == len(columns)


def test_the_body_is_plain_cbor_with_typed_arrays_for_any_reader() -> None:
    columns = make.columns_of(make.packets(3))
    body = cbor2.loads(encode_body(columns))
    assert list(body) == ["timestamp_ns", "captured_bytes", "original_bytes", "flags", "data"]
    tags = [body[name].tag for name in ("timestamp_ns", "captured_bytes", "original_bytes", "flags")]
    assert tags == [71, 70, 70, 69]  # RFC 8746: u64, u32, u32, u16, little endian
    assert struct.unpack("<3Q", body["timestamp_ns"].value)[1] == make.packets(3)[1][0]


def test_a_body_of_unaligned_columns_in_foreign_buffers() -> None:
    wanted = make.columns_of(make.packets(10))
    shifted = Columns(
        *(memoryview(bytearray(b"x" + getattr(wanted, name)))[1:] for name in batch.Columns.__slots__)
    )
    assert encode_body(shifted) == encode_body(wanted)
    assert batch.sums_of(shifted) == batch.sums_of(wanted)


def test_every_truncation_is_refused() -> None:
    for message in (make.packets_batch(2)[0], make.chain(1)[1]):
        decode(message)
        for length in range(len(message)):
            assert peak_bytes(decode, message[:length]) < DAMAGED_PEAK_BYTES
        with pytest.raises(WireError):
            decode(message + b"\0")


def test_every_flipped_bit_is_refused() -> None:
    message = make.packets_batch(2)[0]
    decode(message)
    for position in range(len(message) * 8):
        altered = bytearray(message)
        altered[position // 8] ^= 1 << position % 8
        assert peak_bytes(decode, bytes(altered)) < DAMAGED_PEAK_BYTES


@pytest.mark.slow
def test_without_the_key_flipped_bits_still_raise_nothing_else() -> None:
    for compressor in ("none", "zstd", "gzip"):
        message = make.packets_batch(2, compressor=compressor)[0]
        decode(message)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for position in range(len(message) * 8):
            altered = bytearray(message)
            altered[position // 8] ^= 1 << position % 8
            tracemalloc.reset_peak()
            with contextlib.suppress(WireError):
                decode(bytes(altered), public=None)
            assert tracemalloc.get_traced_memory()[1] - before < DAMAGED_PEAK_BYTES, (compressor, position)
        tracemalloc.stop()


def test_another_key_and_another_domain_are_refused() -> None:
    message = make.packets_batch(2)[0]
    with pytest.raises(WireError, match="signature"):
        decode(message, make.OTHER_KEY.public)
    opened = open_batch(message, public=None)
    signed = cose.sign1(opened.header_bytes, domain="wirepool/1/heartbeat", key=make.AGENT_KEY)
    body = bytes(opened.body_compressed)
    with pytest.raises(WireError, match="signature"):
        decode(b"\x82" + signed + encode_head(2, len(body)) + body)
    assert len(PUBLIC) == 32
    with pytest.raises(WireError, match="signature"):
        decode(message, bytes(32))  # a point of small order


@pytest.mark.parametrize("compressor", ["zstd", "gzip"])
def test_a_bomb_is_cut_off_at_what_the_header_promises(compressor: str) -> None:
    plain = bytes(64 << 20)
    bombs = []
    if compressor == "zstd":
        bombs.append(zstandard.ZstdCompressor(level=1).compress(plain))  # declares its size
        undeclared = zstandard.ZstdCompressor(level=1).compressobj()
        bombs.append(undeclared.compress(plain) + undeclared.flush())
        assert zstandard.get_frame_parameters(bombs[1]).content_size == zstandard.CONTENTSIZE_UNKNOWN
    else:
        import gzip

        bombs.append(gzip.compress(plain, 9))
    for bomb in bombs:
        for promised in (1000, 1 << 20):
            message = make.forge(bomb, compression=compressor, body_bytes=promised)
            assert peak_bytes(decode, message) < 3 << 20
    # The same stream is read when it is what it says.
    assert compression.decompress_body(bombs[-1], compressor, len(plain)) == plain


def test_a_bomb_that_promises_more_than_any_body_may_hold() -> None:
    for promised in ((1 << 20) + 1, 2**60, 2**63, -1):
        message = make.forge(b"x", compression="zstd", body_bytes=promised)
        assert peak_bytes(decode, message) < 1 << 20


def test_zstd_frames_that_are_not_exactly_one() -> None:
    plain = encode_body(make.columns_of(make.packets(50)))
    frame = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(plain)
    assert compression.decompress_body(frame, "zstd", len(plain)) == plain
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"abcd"
    half = len(plain) // 2
    two = zstandard.ZstdCompressor().compress(plain[:half]) + zstandard.ZstdCompressor().compress(
        plain[half:]
    )
    dictionary = zstandard.ZstdCompressionDict(plain)
    foreign = zstandard.ZstdCompressor(dict_data=dictionary).compress(plain)
    for broken in (
        frame + b"\0",
        frame + skippable,
        skippable + frame,
        frame + frame,
        two,
        frame[:-1],
        foreign,
        b"",
    ):
        with pytest.raises(WireError):
            compression.decompress_body(broken, "zstd", len(plain))
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    ).compressobj()
    packed = wide.compress(plain) + wide.flush()
    with pytest.raises(WireError, match="window"):
        compression.decompress_body(packed, "zstd", len(plain))


def test_gzip_members_that_are_not_exactly_one() -> None:
    import gzip

    plain = b"abc" * 1000
    member = gzip.compress(plain)
    for broken in (member + b"\0", member + member, member[:-1], member[:-9], b"", b"\x1f\x8b"):
        with pytest.raises(WireError):
            compression.decompress_body(broken, "gzip", len(plain))


def test_compression_is_left_out_where_it_does_not_pay() -> None:
    import random

    noise = random.Random(5).randbytes(512 * 1024)
    assert compression.compress_body(noise)[0] == "none"
    assert compression.compress_body(noise[:100])[0] == "none"
    kept, packed = compression.compress_body(b"abcd" * 100_000)
    assert kept == "zstd"
    assert len(packed) < 10_000
    assert compression.compress_body(b"abcd" * 100_000, "none")[0] == "none"


HUGE = b"\x1b" + struct.pack(">Q", 2**60)


@pytest.mark.parametrize("major", [2, 3, 4, 5, 6])
def test_declared_lengths_of_2_to_the_60(major: int) -> None:
    head = bytes([major << 5 | 27]) + struct.pack(">Q", 2**60)
    sound = open_batch(make.packets_batch(2)[0], public=None)
    prefix = b"\x82" + cose.PREFIX
    for message in (
        prefix + head,
        prefix + encode_head(2, 100) + bytes(100) + b"\x58\x40" + bytes(64) + head,
        make.forge_raw(head),
        make.forge_raw(b"\xa1\x61x" + head),
        make.forge_raw(sound.header_bytes[:-1] + head),
    ):
        assert peak_bytes(decode, message, None) < 1 << 20


def test_a_depth_of_a_hundred_thousand() -> None:
    for nesting in (b"\x81" * 100_000, b"\xa1\x61a" * 100_000, b"\xc1" * 100_000, b"\x9f" * 100_000):
        assert peak_bytes(decode, make.forge_raw(b"\xa1\x61x" + nesting)) < 1 << 20
        assert (
            peak_bytes(lambda nesting=nesting: decode(make.forge_raw(b"\xa1\x61x" + nesting[:16000])))
            < 1 << 20
        )
    short = b"\xa1\x61x" + b"\x81" * 12 + b"\x00"
    with pytest.raises(WireError, match="deeper"):
        decode(make.forge_raw(short))


def test_a_bignum_of_a_megabyte() -> None:
    for tag in (b"\xc2", b"\xc3"):
        body = b"\xa1\x61x" + tag + encode_head(2, 1 << 20) + bytes(1 << 20)
        message = b"\x82" + cose.PREFIX + encode_head(2, len(body)) + body + b"\x58\x40" + bytes(64) + b"\x40"
        assert peak_bytes(decode, message, None) < 1 << 20
        small = make.forge_raw(b"\xa1\x67version" + tag + encode_head(2, 9) + b"\xff" * 9)
        with pytest.raises(WireError, match="tag"):
            decode(small)


def raw_header(*pairs: tuple[bytes, bytes]) -> bytes:
    """A sound header's map with raw pairs in front of the others."""
    header = open_batch(make.packets_batch(4)[0], public=None).header.to_map()
    count = len(header) + len(pairs)
    rest = b"".join(cbor2.dumps(name) + cbor2.dumps(value) for name, value in header.items())
    return encode_head(5, count) + b"".join(name + value for name, value in pairs) + rest


NAN, INFINITY, HALF_NAN = b"\xfb\x7f\xf8" + bytes(6), b"\xfa\x7f\x80\0\0", b"\xf9\x7e\x00"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        (b"\x65agent", b"\x64web1", "duplicate"),
        (b"\x01", b"\x01", "isn't text"),
        (b"\x41x", b"\x01", "isn't text"),
        (b"\x61x", b"\x9f\xff", "indefinite"),
        (b"\x61x", b"\xbf\xff", "indefinite"),
        (b"\x61x", b"\x5f\x41a\xff", "indefinite"),
        (b"\x61x", b"\x7f\x61a\xff", "indefinite"),
        (b"\x7f\x61x\xff", b"\x01", "indefinite"),
        (b"\x61x", b"\x18\x17", "shortest"),
        (b"\x61x", b"\x19\x00\xff", "shortest"),
        (b"\x61x", b"\x1a\x00\x00\xff\xff", "shortest"),
        (b"\x61x", b"\x1b\x00\x00\x00\x00\xff\xff\xff\xff", "shortest"),
        (b"\x61x", b"\x38\x17", "shortest"),
        (b"\x61x", b"\x58\x01a", "shortest"),
        (b"\x78\x01x", b"\x01", "shortest"),
        (b"\x61x", b"\xf8\x20", "simple"),
        (b"\x61x", b"\xf7", "simple"),
        (b"\x61x", b"\xff", "indefinite"),
        (b"\x61x", NAN, "finite"),
        (b"\x61x", INFINITY, "finite"),
        (b"\x61x", HALF_NAN, "finite"),
        (b"\x61x", b"\x62\xc3\x28", "UTF-8"),
        (b"\x62\xc3\x28", b"\x01", "UTF-8"),
        (b"\x61x", b"\x63\xed\xa0\x80", "UTF-8"),
        (b"\x61x", b"\xd8\x1e\x01", "tag"),
        (b"\x61x", b"\xa2\x61a\x01\x61a\x02", "duplicate"),
    ],
)
def test_cbor_that_two_readers_could_read_differently(name: bytes, value: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        decode(make.forge_raw(raw_header((name, value))))


def test_unknown_keys_are_ignored() -> None:
    sound = open_batch(make.packets_batch(4)[0], public=None)
    body = bytes(sound.body_compressed)
    extra = raw_header((b"\x61x", b"\x82\x01\xa1\x61y\xfb" + struct.pack(">d", 1.5)), (b"\x60", b"\xf6"))
    opened = decode(make.forge_raw(extra, body))
    assert opened.header == sound.header
    # A body with a column of tomorrow in front of today's.
    columns = make.columns_of(make.packets(4))
    plain = encode_body(columns)
    tomorrow = b"\xa6\x66cutoff\xd8\x46\x44abcd" + plain[1:]
    message = make.forge(tomorrow, compression="none", body_bytes=len(tomorrow))
    assert bytes(decode_columns(open_batch(message, public=PUBLIC)).data) == columns.data


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": 2}, "version 2"),
        ({"version": 0}, "version"),
        ({"version": True}, "integer"),
        ({"kind": "else"}, "kind"),
        ({"kind": ["packets"]}, "kind"),
        ({"agent": "Web1"}, "agent id"),
        ({"agent": "a" * 49}, "agent id"),
        ({"agent": "a.b"}, "agent id"),
        ({"agent": "a\n"}, "agent id"),
        ({"agent": b"web1"}, "agent id"),
        ({"session": "a" * 25}, "session id"),
        ({"session": "A" * 26}, "session id"),
        ({"lane": "fast"}, "lane"),
        ({"boot": bytes(15)}, "boot"),
        ({"boot": "0" * 16}, "boot"),
        ({"sequence": -1}, "sequence"),
        ({"sequence": 2**63}, "sequence"),
        ({"sequence": 1.0}, "sequence"),
        ({"previous": bytes(31)}, "previous"),
        ({"previous": bytes([1]) * 32}, "previous"),
        ({"previous_boot": bytes(16)}, "previous"),
        ({"sequence": 1, "previous_boot": bytes(16)}, "previous_boot"),
        ({"packets": 0}, "packets"),
        ({"packets": 3}, "packets"),
        ({"packets": 65537}, "packets"),
        ({"captured_bytes": 1}, "captured_bytes"),
        ({"original_bytes": 1}, "original_bytes"),
        ({"original_bytes": 4 * (2**32 - 1) + 1}, r"original_bytes: 17179869181 in 4 packets"),
        ({"original_bytes": 2**63 - 1}, "original_bytes: .* in 4 packets"),
        ({"first_timestamp_ns": 1}, "first_timestamp_ns"),
        ({"last_timestamp_ns": 1}, "last_timestamp_ns"),
        ({"last_timestamp_ns": 2**63 - 1}, "last_timestamp_ns"),
        ({"link_type": 65536}, "link_type"),
        ({"interface": ""}, "interface"),
        ({"interface": "e" * 129}, "interface"),
        ({"interface": "eth0\x1b[2J"}, "control"),
        ({"interface": "eth0\x9b2J"}, "control"),
        ({"filter_revision": 0}, "filter_revision"),
        ({"snaplen": 0}, "snaplen"),
        ({"snaplen": 262145}, "snaplen"),
        ({"clock": None}, "clock"),
        ({"clock": {"source": "ntp"}}, "state"),
        ({"clock": {"source": "NTP!", "state": "unknown"}}, "source"),
        ({"books": {}}, "received"),
        ({"last_sequence": 3}, "last_sequence"),
        ({"reason": "x"}, "reason"),
        ({"compression": "lzma"}, "compression"),
        ({"body_bytes": 17}, "body"),
        ({"kind": "closing", "reason": "x"}, "closing"),
        ({"kind": "closing"}, "reason"),
        ({"kind": "tombstone", "reason": "x"}, "last_sequence"),
    ],
)
def test_headers_that_break_a_rule(changes: dict[str, Any], why: str) -> None:
    body = bytes(open_batch(make.packets_batch(4)[0], public=None).body_compressed)
    with pytest.raises(WireError, match=why):
        decode(make.forge(body, **changes))


@pytest.mark.parametrize("name", list(open_batch(make.packets_batch(1)[0], public=None).header.to_map()))
def test_no_key_may_be_missing(name: str) -> None:
    body = bytes(open_batch(make.packets_batch(4)[0], public=None).body_compressed)
    with pytest.raises(WireError, match=r"missing|not an? "):
        decode(make.forge(body, drop=(name,)))


def columns_body(**changes: bytes) -> bytes:
    """A body of four packets whose columns are what `changes` says."""
    columns = make.columns_of(make.packets(4))
    for name, value in changes.items():
        setattr(columns, name, value)
    return encode_body(columns)


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"\xa0",
        b"\x80",
        b"\xbf\xff",
        encode_body(make.columns_of(make.packets(4)))[:-1],
        encode_body(make.columns_of(make.packets(4))) + b"\0",
        columns_body(timestamp_ns=bytes(33)),
        columns_body(captured_bytes=bytes(12)),
        columns_body(flags=bytes(6)),
        columns_body(data=b""),
        columns_body(captured_bytes=struct.pack("<4I", 2**32 - 1, 0, 0, 0)),
        columns_body(captured_bytes=struct.pack("<4I", 262145, 0, 0, 0), data=bytes(262145)),
        columns_body().replace(b"\xd8\x47", b"\xd8\x43", 1),  # big endian
        columns_body().replace(b"\x65flags", b"\x65flagz", 1),
        columns_body().replace(b"\x65flags", b"\x65\xc3flag", 1),
        b"\xa6\x65flags\xd8\x45\x40" + columns_body()[1:],
        b"\xa6\x61x\xd8\x46\xbb" + struct.pack(">Q", 2**60) + columns_body()[1:],
        b"\xbb" + struct.pack(">Q", 2**60),
    ],
)
def test_bodies_that_do_not_hold_together(plain: bytes) -> None:
    message = make.forge(plain, compression="none", body_bytes=len(plain))
    assert peak_bytes(lambda: decode(message)) < 3 << 20


def test_a_tombstone_comes_back_and_its_sums_are_checked() -> None:
    replaced = make.replaced_of(make.chain(5, close=False))
    message, _ = make.tombstone(replaced, NO_HASH)
    assert decode_tombstone(open_batch(message, public=PUBLIC)) == replaced
    for name, value in (("packets", 1), ("captured_bytes", 1), ("original_bytes", 1), ("last_sequence", 3)):
        changes: dict[str, Any] = {name: value}
        with pytest.raises(WireError):
            decode(make.tombstone(replaced, NO_HASH, **changes)[0])
    with pytest.raises(ValueError, match="follow each other"):
        make.tombstone([replaced[0], replaced[2]], NO_HASH)


@pytest.mark.parametrize(
    ("sums", "why"),
    [
        ((65537, 0, 0), "packets: 65537"),
        ((1, 2**20 + 1, 0), "captured_bytes: 1048577"),
        ((2, 0, 2 * (2**32 - 1) + 1), "original_bytes: 8589934591 in 2 packets"),
        ((0, 0, 1), "original_bytes: 1 in 0 packets"),
    ],
)
def test_a_tombstone_lists_no_batch_that_cannot_be(sums: tuple[int, int, int], why: str) -> None:
    one, other = make.replaced_of(make.chain(2, close=False))
    most = Replaced(0, one.header_hash, 65536, 2**20, 65536 * (2**32 - 1))
    message, _ = make.tombstone([most, other], NO_HASH)
    assert decode_tombstone(open_batch(message, public=PUBLIC)) == [most, other]
    with pytest.raises(WireError, match=why):  # alone the header's sums show it,
        make.tombstone([Replaced(0, one.header_hash, *sums)], NO_HASH)
    message, _ = make.tombstone([Replaced(0, one.header_hash, *sums), other], NO_HASH)
    with pytest.raises(WireError, match=why):  # among others the entry itself
        decode_tombstone(open_batch(message, public=PUBLIC))


@pytest.mark.parametrize(
    ("sums", "why"),
    [
        ((2**53, 0, 0), "packets: 9007199254740992 turned away"),
        ((3, 3 * 262144 + 1, 0), "captured_bytes: more than 262144"),
        ((3, 0, 3 * (2**32 - 1) + 1), "original_bytes: more than 4294967295"),
    ],
)
def test_a_tombstone_without_a_list_is_bounded_too(sums: tuple[int, int, int], why: str) -> None:
    def sealed(packets: int, captured_bytes: int, original_bytes: int) -> bytes:
        header = open_batch(make.closing(0, NO_HASH)[0], public=None).header
        made = {one.name: getattr(header, one.name) for one in dataclasses.fields(header)}
        for name in ("body_sha256", "body_bytes", "compression"):
            del made[name]
        made |= {"kind": Kind.TOMBSTONE, "last_sequence": 0, "packets": packets}
        made |= {"captured_bytes": captured_bytes, "original_bytes": original_bytes}
        return seal_batch(made, Body.empty(), make.AGENT_KEY)[0]

    # Far more than one batch holds: a spool may be full for hours.
    assert decode(sealed(2**40, 2**46, 2**50)).header.packets == 2**40
    with pytest.raises(WireError, match=why):
        sealed(*sums)


def test_messages_that_would_be_too_large_are_not_made() -> None:
    with pytest.raises(ValueError, match="at most"):
        encode_body(make.columns_of([(0, 262144, 0, bytes(262144))] * 4))
    noise = Body(bytes(MAX_MESSAGE_BYTES), "none", MAX_MESSAGE_BYTES)
    with pytest.raises(ValueError, match="at most"):
        seal_batch(make.fields(packets=1), noise, make.AGENT_KEY)
    oversized = bytes(MAX_MESSAGE_BYTES + 1)
    assert peak_bytes(decode, oversized) < 1 << 20
