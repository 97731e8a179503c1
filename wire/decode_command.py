"""`wirepool decode`: concatenated messages from standard input to lines, JSON, pcapng or pcap.

Starts anywhere in a chain; reports gaps, declared drops and damage on standard error; goes on at the next message
behind damage. Signatures aren't checked here (that needs keys: `wirepool verify`), body hashes and sums are.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from wire.batch import Header, Kind, decode_columns, decode_flows, decode_tombstone, open_batch
from wire.decode_outputs import JsonLines, Lines, Output, Pcap, Pcapng, Stop, clean
from wire.errors import WireError
from wire.flows import records_of
from wire.framing import split_messages

_CHUNK_BYTES = 1024 * 1024
_MAX_CHAINS = 65536
_MAX_MISSING = 4096


@dataclass(slots=True)
class _Passed:
    """What is known of one chain."""

    expected: int
    """The sequence that comes next."""
    previous: bytes
    """The hash it must name."""
    missing: set[int] = field(default_factory=set)
    """Passed over so far: they may come late. At most 4,096."""


class GapWatch:
    """Says on standard error what is missing between the batches that pass by."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._broken = False
        self._chains: dict[tuple[str, bytes, str, str], _Passed] = {}

    def found(self) -> bool:
        """Whether something is still missing or doesn't fit."""
        return self._broken or any(chain.missing for chain in self._chains.values())

    def see(self, header: Header, last: int, last_hash: bytes) -> bool:
        """A batch that stands for its sequence to `last`. False when it came before: a duplicate."""
        key = (header.agent, header.boot, header.session, header.lane)
        who = f"{header.agent} {header.session} {header.lane}"
        first = header.sequence
        chain = self._chains.get(key)
        if chain is None:
            if len(self._chains) >= _MAX_CHAINS:
                raise WireError(f"more than {_MAX_CHAINS} chains in one stream")
            self._chains[key] = _Passed(last + 1, last_hash)
            return True
        if last < chain.expected:
            late = chain.missing.intersection(range(first, last + 1))
            chain.missing -= late
            if late:
                self._say(f"late: {who}: batch {first} came after all")
            return bool(late)
        if first > chain.expected:
            missing = (
                str(chain.expected) if first == chain.expected + 1 else f"{chain.expected} to {first - 1}"
            )
            self._say(f"gap: {who}: missing: batch {missing}")
            chain.missing.update(range(chain.expected, min(first, chain.expected + _MAX_MISSING)))
            if len(chain.missing) > _MAX_MISSING:
                chain.missing = set(sorted(chain.missing)[-_MAX_MISSING:])
        elif first == chain.expected and header.previous != chain.previous:
            self._broken = True
            self._say(f"broken chain: {who}: batch {first} doesn't follow the one before it")
        chain.expected, chain.previous = last + 1, last_hash
        return True


def run(arguments: argparse.Namespace) -> int:
    """Decode standard input. 0: all well; 1: gaps or damage, said on standard error; 2: couldn't go on."""
    try:
        return _run(arguments, sys.stdin.buffer)
    except BrokenPipeError:
        # The reader has enough (`| head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        _say(f"{error.filename or 'output'}: {error.strerror}")
        return 2


def _run(arguments: argparse.Namespace, source: BinaryIO) -> int:
    path = arguments.pcapng or arguments.pcap
    sink = sys.stdout.buffer if path in (None, "-") else open(path, "wb")  # noqa: SIM115 (closed below)
    try:
        if path == "-" and sys.stdout.isatty():
            raise Stop("a capture file on a terminal helps nobody: pipe it, or name a file")

        def write(data: bytes) -> None:
            sink.write(data)
            sink.flush()  # whoever watches a live stream sees each batch as it comes

        if arguments.pcapng:
            output: Output = Pcapng(write)
        elif arguments.pcap:
            output = Pcap(write)
        elif arguments.json:
            output = JsonLines(write, with_data=arguments.data)
        else:
            output = Lines(write)
        return _decode(source, output, strict=arguments.strict)
    except Stop as error:
        _say(str(error))
        return 2
    finally:
        if sink is not sys.stdout.buffer:
            sink.close()


def _decode(source: BinaryIO, output: Output, *, strict: bool) -> int:
    watch = GapWatch(_say)
    damage = 0

    def damaged(offset: int, skipped: int, reason: str) -> None:
        nonlocal damage
        damage += 1
        _say(f"damaged input: {skipped} bytes from byte {offset} skipped ({reason})")

    def chunks() -> Iterator[bytes]:
        read: Callable[[int], bytes] = getattr(source, "read1", source.read)
        while chunk := read(_CHUNK_BYTES):
            yield chunk

    number = 0
    interrupted = False
    try:
        for message in split_messages(chunks(), resynchronise=None if strict else damaged):
            number += 1
            try:
                _message(message, output, watch)
            except WireError as error:
                if strict:
                    raise
                damage += 1
                _say(f"message {number}: {error}; left out")
    except WireError as error:
        _say(f"{error}; stopped there (--strict)")
        damage += 1
    except KeyboardInterrupt:
        interrupted = True  # the usual end of a live stream: the file still gets its statistics
    output.finish()
    if interrupted:
        return 130
    if number == 0 and damage:
        _say(
            "no wirepool message in the input: it must be what `nats sub --raw` or a subscriber gives, unchanged"
        )
        return 2
    return 1 if damage or watch.found() else 0


def _message(message: bytes, output: Output, watch: GapWatch) -> None:
    batch = open_batch(message, public=None)
    header = batch.header
    who = f"{header.agent} {header.session} {header.lane}"
    if header.kind is Kind.TOMBSTONE:
        replaced = decode_tombstone(batch)
        last_hash = replaced[-1].header_hash if replaced else batch.header_hash
        last = header.sequence if header.last_sequence is None else header.last_sequence
        if watch.see(header, last, last_hash):
            _say(f"declared drop: {who}: {header.packets} packets ({header.reason})")
        return
    columns = decode_columns(batch) if header.kind is Kind.PACKETS else None
    flows = list(records_of(decode_flows(batch))) if header.kind is Kind.FLOWS else None
    fresh = watch.see(header, header.sequence, batch.header_hash)
    if not fresh:
        _say(f"duplicate: {who}: batch {header.sequence} came before; left out")
    elif flows is not None:
        output.flows(header, flows)
    elif columns is None:
        _say(f"end of session: {who} ({header.reason})")
    else:
        output.batch(header, columns)


def _say(text: str) -> None:
    print(f"wirepool decode: {clean(text)}", file=sys.stderr, flush=True)
