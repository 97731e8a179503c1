"""What chains prove, case by case, in every order of arrival."""

from __future__ import annotations

import dataclasses
import random
import tracemalloc

import pytest

from tests.wire import make
from wire.batch import Kind, Lane, decode_tombstone, open_batch
from wire.chain import ChainKey, ChainResult, ChainVerifier, Verdict, check_boot_changes


def judge(messages: list[bytes], *, first_sequence: int = 0, shuffled: int | None = None) -> ChainResult:
    """The judgement on these messages, in this order or a shuffled one."""
    messages = list(messages)
    if shuffled is not None:
        random.Random(shuffled).shuffle(messages)
    verifier = ChainVerifier(first_sequence=first_sequence)
    for message in messages:
        batch = open_batch(message, public=make.AGENT_KEY.public)
        verifier.add(batch, decode_tombstone(batch) if batch.header.kind is Kind.TOMBSTONE else None)
    return verifier.result()


def tombstone_over(messages: list[bytes], first: int, last: int) -> bytes:
    """A tombstone for batches `first` to `last` of a chain."""
    previous = open_batch(messages[first], public=None).header.previous
    return make.tombstone(make.replaced_of(messages[first : last + 1]), previous)[0]


@pytest.mark.parametrize("order", [None, 1, 2, 3])
def test_a_whole_chain_is_intact(order: int | None) -> None:
    result = judge(make.chain(10), shuffled=order)
    assert result.verdict is Verdict.INTACT
    assert (result.batches, result.packets, result.missing, result.dropped) == (11, 50, (), ())


@pytest.mark.parametrize("order", [None, 1, 2, 3])
def test_what_tombstones_list_is_a_declared_drop(order: int | None) -> None:
    messages = make.chain(10)
    kept = [*messages[:3], tombstone_over(messages, 3, 5), *messages[6:]]
    result = judge(kept, shuffled=order)
    assert result.verdict is Verdict.DECLARED_DROP
    assert [str(one) for one in result.dropped] == ["3–5"]
    assert (result.packets, result.dropped_packets) == (35, 15)


def test_a_tombstone_that_stands_for_itself_is_a_link() -> None:
    messages = make.chain(2, close=False)
    last = open_batch(messages[-1], public=None)
    from wire.batch import Body, seal_batch

    fields = make.fields(
        kind=Kind.TOMBSTONE,
        sequence=2,
        last_sequence=2,
        previous=last.header_hash,
        reason="drop_newest",
        packets=77,
    )
    itself, itself_hash = seal_batch(fields, Body.empty(), make.AGENT_KEY)
    result = judge([*messages, itself, make.closing(3, itself_hash)[0]])
    assert result.verdict is Verdict.DECLARED_DROP
    assert result.dropped_packets == 77


@pytest.mark.parametrize("order", [None, 1, 2, 3])
def test_a_batch_that_was_sent_before_its_tombstone_counts_as_present(order: int | None) -> None:
    messages = make.chain(6)
    result = judge([*messages, tombstone_over(messages, 2, 3)], shuffled=order)
    assert result.verdict is Verdict.INTACT
    assert (result.packets, result.dropped_packets) == (30, 0)


@pytest.mark.parametrize("missing", [0, 4, 9])
def test_a_batch_withheld_is_an_unexplained_gap(missing: int) -> None:
    messages = make.chain(10)
    result = judge(messages[:missing] + messages[missing + 1 :])
    assert result.verdict is Verdict.UNEXPLAINED_GAP
    assert [str(one) for one in result.missing] == [str(missing)]


def test_without_a_closing_batch_the_tail_is_open() -> None:
    assert judge(make.chain(3, close=False)).verdict is Verdict.OPEN_TAIL
    assert judge([]).verdict is Verdict.UNEXPLAINED_GAP


def test_a_reader_who_joined_in_the_middle() -> None:
    assert judge(make.chain(10)[4:], first_sequence=4).verdict is Verdict.INTACT
    assert judge(make.chain(10)[4:]).verdict is Verdict.UNEXPLAINED_GAP


def test_duplicates_are_ignored() -> None:
    messages = make.chain(4)
    result = judge(messages + messages)
    assert (result.verdict, result.packets, result.duplicates) == (Verdict.INTACT, 20, 5)


@pytest.mark.parametrize("order", [None, 1, 2, 3])
def test_a_forked_chain_is_evidence_of_tampering(order: int | None) -> None:
    messages = make.chain(4)
    third = open_batch(messages[2], public=None).header
    other = make.packets_batch(5, seed=99, sequence=2, previous=third.previous)[0]
    result = judge([*messages, other], shuffled=order)
    assert result.verdict is Verdict.INVALID
    assert "forked" in result.complaints[0]


def test_a_batch_exchanged_for_another_truly_signed_one_breaks_the_chain() -> None:
    messages = make.chain(4)
    third = open_batch(messages[2], public=None).header
    messages[2] = make.packets_batch(5, seed=99, sequence=2, previous=third.previous)[0]
    result = judge(messages)
    assert result.verdict is Verdict.INVALID
    assert "sequence 3 doesn't follow" in result.complaints[0]


def test_a_tombstone_that_lists_another_batch_than_the_one_here() -> None:
    messages = make.chain(4)
    other = make.replaced_of(make.chain(4, interface="eth1"))[1:2]
    previous = open_batch(messages[1], public=None).header.previous
    assert judge([*messages, make.tombstone(other, previous)[0]]).verdict is Verdict.INVALID


def test_batches_behind_the_closing_one() -> None:
    messages = make.chain(3)
    closing = open_batch(messages[-1], public=None)
    more = make.packets_batch(5, sequence=4, previous=closing.header_hash)[0]
    assert judge([*messages, more]).verdict is Verdict.INVALID


def test_a_boot_names_the_end_of_the_one_before() -> None:
    first = make.chain(3, close=False)
    head = open_batch(first[-1], public=None).header_hash
    boot = bytes(range(16))
    second = make.chain(2, previous=head, previous_boot=make.BOOT, boot=boot)

    def key(of: bytes) -> ChainKey:
        return ChainKey("web1", of, make.SESSION, Lane.BULK)

    assert check_boot_changes({key(make.BOOT): judge(first), key(boot): judge(second)}) == []
    said = check_boot_changes({key(make.BOOT): judge(first[:-1]), key(boot): judge(second)})
    assert len(said) == 1
    assert "its end is missing" in said[0]
    assert check_boot_changes({key(boot): judge(second)}) == []


def test_a_long_chain_takes_little_memory() -> None:
    """80 bytes a batch and no more, in any order of arrival."""
    sample = open_batch(make.packets_batch(1)[0], public=None)
    count = 50_000
    hashes = [index.to_bytes(32, "big") for index in range(1, count + 1)]
    order = list(range(1, count))
    random.Random(4).shuffle(order)
    tracemalloc.start()
    verifier = ChainVerifier(first_sequence=1)
    for sequence in order:
        header = dataclasses.replace(sample.header, sequence=sequence, previous=hashes[sequence - 1])
        verifier.add(dataclasses.replace(sample, header=header, header_hash=hashes[sequence]))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert verifier.result().verdict is Verdict.OPEN_TAIL
    assert used < 100 * count
