"""A session's books add up and never go below zero, whatever the source does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from agent.books import SessionBooks
from agent.sources.replay import ReplaySource
from agent.sources.source import BatchBuffer
from tests.agent.test_replay import write_pcap
from wire.books import Books


def read_all(source: ReplaySource, books: SessionBooks) -> int:
    buffer = BatchBuffer(1000, 1 << 20)
    packets = 0
    while not source.finished:
        packets += source.read_batch(buffer, linger_ns=0, wait_ms=0)
        Books.from_map(
            books.read([]).to_map()
        )  # what a heartbeat would say now: the hub refuses a negative counter
    return packets


def test_what_an_earlier_boot_delivered_is_in_nobodys_books_twice(tmp_path: Path) -> None:
    write_pcap(tmp_path / "in.pcap", 9_000)
    books = SessionBooks()
    for earlier, ours in ((4_000, 5_000), (8_000, 1_000)):  # the same session may open its file again
        source = ReplaySource(tmp_path / "in.pcap", "", 262144, None)
        books.open_source(source)
        books.delivered_earlier(source, earlier)
        before = books.read([])
        assert read_all(source, books) == 9_000
        source.close()
        books.close_source(source)
        after = books.read([])
        assert after.captured - before.captured == after.received - before.received == ours


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    write_pcap(tmp_path / "in.pcap", 100)
    books = SessionBooks()
    source = ReplaySource(tmp_path / "in.pcap", "", 262144, None)
    books.open_source(source)
    books.delivered_earlier(source, 150)
    read_all(source, books)
    source.close()
    books.close_source(source)
    assert books.read([]) == dataclasses.replace(Books(), filtered=0)
