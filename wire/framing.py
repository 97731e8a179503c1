"""Messages end to end in a stream: where one ends and the next begins.

A message says its own length, so concatenated messages need no frame. The stock NATS CLI writes a newline after each
(`nats sub --raw`), which is skipped between messages. What isn't a message is an error at its offset; `resynchronise`
instead looks for the next place where one begins.
"""

from collections.abc import Callable, Iterable, Iterator

from wire import cose
from wire.errors import WireError
from wire.strict_cbor import MAJOR_BYTES, read_head

MAGIC = b"\x82" + cose.PREFIX
"""How every message begins: array of two, then the COSE_Sign1 prefix."""
_NEXT = (MAGIC[0], 0x0A)
"""What may stand behind a message."""
MAX_MESSAGE_BYTES = 1024 * 1024
"""The server's max_payload."""
MAX_HEADER_BYTES = 16 * 1024
_HEAD_BYTES = len(MAGIC) + 9 + MAX_HEADER_BYTES + 66 + 9
"""From a message's beginning, its length is known within this many bytes."""


class _NeedMore(Exception):
    """The bytes so far don't say."""


def message_length(data: bytes | bytearray | memoryview, offset: int, end: int) -> int:
    """The length of the message that begins at `offset`, or WireError. Internal `_NeedMore` when it isn't known yet."""
    available = end - offset
    if bytes(data[offset : offset + min(available, len(MAGIC))]) != MAGIC[: min(available, len(MAGIC))]:
        raise WireError("no message begins here")
    major, header_bytes, at = _peek_head(data, offset + len(MAGIC), end)
    if major != MAJOR_BYTES or header_bytes > MAX_HEADER_BYTES:
        raise WireError(f"a header that isn't at most {MAX_HEADER_BYTES} bytes")
    at += header_bytes
    if at + 2 <= end and bytes(data[at : at + 2]) != b"\x58\x40":
        raise WireError("no signature behind the header")
    major, body_bytes, at = _peek_head(data, at + 66, end)
    length = at + body_bytes - offset
    if major != MAJOR_BYTES or length > MAX_MESSAGE_BYTES:
        raise WireError(f"the message at byte {offset}: larger than {MAX_MESSAGE_BYTES} bytes or not a batch")
    return length


def _peek_head(data: bytes | bytearray | memoryview, offset: int, end: int) -> tuple[int, int, int]:
    if offset >= end:
        raise _NeedMore
    low = data[offset] & 31
    if 24 <= low <= 27 and offset + 1 + (1 << low - 24) > end:
        raise _NeedMore
    try:
        return read_head(memoryview(data), offset, end)
    except WireError:
        raise WireError("a damaged length") from None


def split_messages(
    chunks: Iterable[bytes], *, resynchronise: Callable[[int, int, str], None] | None = None
) -> Iterator[bytes]:
    """Cut a stream of chunks into messages, byte for byte, skipping 0x0A between them.

    resynchronise: None stops at damage with a WireError that names the offset. Else it is called with
    (offset, skipped bytes, reason) and the search goes on at the next `MAGIC`. Memory: one message and one chunk.
    """
    buffer = bytearray()
    base = 0  # offset in the stream of buffer[0]
    skipped = 0
    reason = ""
    for chunk in chunks:
        buffer += chunk
        offset = 0
        end = len(buffer)
        while True:
            if not skipped:
                while offset < end and buffer[offset] == 0x0A:
                    offset += 1
            if offset == end:
                break
            try:
                length = message_length(buffer, offset, end)
            except _NeedMore:
                break
            except WireError as error:
                if resynchronise is None:
                    raise WireError(f"damaged at byte {base + offset}: {error}") from None
                reason = reason or str(error)
                found = buffer.find(MAGIC, offset + 1)
                # A magic may be cut at the buffer's end: keep as many bytes as could begin one.
                step = found if found >= 0 else max(offset + 1, end - len(MAGIC) + 1)
                skipped += step - offset
                offset = step
                continue
            behind = offset + length
            misplaced = resynchronise is not None and behind < end and buffer[behind] not in _NEXT
            if misplaced and buffer.find(MAGIC, offset + 1, behind) >= 0:
                # Its length leads nowhere and past another beginning: a damaged length must not swallow what follows.
                reason = reason or "a message that doesn't end where it says"
                skipped += 1
                offset += 1
                continue
            if skipped and resynchronise is not None:
                resynchronise(base + offset - skipped, skipped, reason)
                skipped, reason = 0, ""
            if behind > end:
                break
            yield bytes(buffer[offset : offset + length])
            offset += length
        del buffer[:offset]
        base += offset
    if skipped or buffer:
        if resynchronise is None:
            raise WireError(f"the stream ends within the message at byte {base}")
        resynchronise(base - skipped, skipped + len(buffer), reason or "the stream ends within a message")
