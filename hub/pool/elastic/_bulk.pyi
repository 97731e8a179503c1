"""Writes bulk lines, in C without the interpreter's lock. It never reads or writes outside its buffers."""

from typing_extensions import Buffer

Column = tuple[int, bytes, Buffer, int, Buffer | None, Buffer | None, Buffer | None]
"""(kind, name, values, width, present, words, ends).

kind: a hub.pool.elastic.lines.Kind. name: as it stands in the line, with comma, quotes and colon. values: an entry of
`width` bytes per packet in the machine's byte order. present: a byte per packet, 0 where it has no value. words, ends:
JSON strings end to end and where each ends (u32), of WORD; the data that entries point into, of BYTES.
"""

def lines(
    packets: int,
    first: int,
    last: int,
    action: Buffer,
    constant: Buffer,
    columns: tuple[Column, ...],
    ends: Buffer,
    /,
) -> bytes:
    """Two lines for each packet from `first` to before `last`: action, its number and `"}}`, then the document.

    packets: entries of each column. action: begins each first line, up to where the packet's number goes. constant:
    begins each document, `"agent_id":"web1"`, without a comma at its ends, not empty. ends: out, u64 per packet: where
    its lines end. ValueError for columns that contradict each other, MemoryError beyond 1 GiB.
    """
