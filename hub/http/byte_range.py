"""Parts of a file that is made while it is sent (RFC 9110, section 14): what is asked for, and cutting it out."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


class RangeNotSatisfiable(Exception):
    """The part asked for lies behind the end; `length` is the whole file's."""

    def __init__(self, length: int) -> None:
        super().__init__(f"the file has {length} bytes")
        self.length = length


@dataclass(frozen=True, slots=True)
class WantedRange:
    """A Range header of one part; None: from the beginning of the last `last` bytes, or to the end."""

    first: int | None
    last: int | None

    def within(self, length: int) -> tuple[int, int]:
        """(first, last byte, both included) in a file of this length. RangeNotSatisfiable."""
        if self.first is None:
            first, last = max(0, length - (self.last or 0)), length - 1
        else:
            first, last = self.first, length - 1 if self.last is None else min(self.last, length - 1)
        if first > last:
            raise RangeNotSatisfiable(length)
        return first, last


def wanted_range(header: str, if_range: str, etag: str) -> WantedRange | None:
    """What part of the file named `etag` is asked for; None: all of it.

    None also where the part was meant of another version of the file (If-Range), and for several parts or what makes
    no sense, as the RFC allows.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or (if_range and if_range.strip() != etag):
        return None
    first, last = (int(text) if text else None for text in match.groups())
    if first is None and not last:
        return None
    if first is not None and last is not None and last < first:
        return None
    return WantedRange(first, last)


async def cut_out(chunks: AsyncIterator[bytes], first: int, last: int) -> AsyncGenerator[bytes, None]:
    """The bytes first … last of what `chunks` make; it is closed at the end, or when this is."""
    at = 0
    source: Any = chunks
    async with aclosing(source):
        async for chunk in chunks:
            start, at = at, at + len(chunk)
            if at <= first:
                continue
            part = chunk[max(0, first - start) : last + 1 - start]
            if part:
                yield part
            if at > last:
                return
