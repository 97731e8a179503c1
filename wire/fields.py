"""Checked access to the members of a map that came from elsewhere.

Each function takes the map and a key and returns a value of the promised type within the promised bound, or raises a
WireError that names the key. Keys nobody asks for are ignored: that is how a newer writer talks to an older reader.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from wire.errors import WireError

T = TypeVar("T")

MAX_U63 = 2**63 - 1
"""The largest number used for counters and times: fits SQLite, JSON readers in C, and an int64 column."""


def integer(map_: Mapping[str, Any], key: str, low: int = 0, high: int = MAX_U63) -> int:
    """An integer from `low` to `high`."""
    value = _present(map_, key)
    if type(value) is not int:
        raise WireError(f"{key}: an integer is needed, not {_kind(value)}")
    if not low <= value <= high:
        raise WireError(
            f"{key}: {value if abs(value) < 2**70 else 'a huge number'} is outside {low} to {high}"
        )
    return value


def number(map_: Mapping[str, Any], key: str, low: float = 0.0, high: float = 1e18) -> float:
    """A finite number from `low` to `high`, integer or not."""
    value = _present(map_, key)
    if type(value) not in (int, float):
        raise WireError(f"{key}: a number is needed, not {_kind(value)}")
    if not low <= value <= high:  # also refuses NaN
        raise WireError(f"{key}: a number from {low} to {high} is needed")
    return float(value)


def boolean(map_: Mapping[str, Any], key: str) -> bool:
    """true or false."""
    value = _present(map_, key)
    if type(value) is not bool:
        raise WireError(f"{key}: true or false is needed, not {_kind(value)}")
    return value


def text(
    map_: Mapping[str, Any],
    key: str,
    *,
    max_bytes: int,
    min_bytes: int = 0,
    pattern: re.Pattern[str] | None = None,
) -> str:
    """Text of `min_bytes` to `max_bytes` in UTF-8, without control characters; matching all of `pattern`."""
    value = _present(map_, key)
    if not isinstance(value, str):
        raise WireError(f"{key}: text is needed, not {_kind(value)}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # lone surrogates, as JSON's \ud800 makes them
        raise WireError(f"{key}: text that can't be written as UTF-8") from None
    if not min_bytes <= size <= max_bytes:
        raise WireError(f"{key}: {size} bytes of text where {min_bytes} to {max_bytes} are allowed")
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in value):
        raise WireError(f"{key}: control characters")
    if pattern is not None and pattern.fullmatch(value) is None:
        raise WireError(f"{key}: {value[:60]!r} doesn't match {pattern.pattern}")
    return value


def choice(map_: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    """One of a few words."""
    value = _present(map_, key)
    if not isinstance(value, str) or value not in allowed:
        raise WireError(f"{key}: one of {', '.join(allowed)} is needed, not {_kind(value)}")
    return value


def octets(map_: Mapping[str, Any], key: str, *, length: int) -> bytes:
    """A byte string of exactly `length` bytes."""
    value = _present(map_, key)
    if not isinstance(value, bytes):
        raise WireError(f"{key}: bytes are needed, not {_kind(value)}")
    if len(value) != length:
        raise WireError(f"{key}: {len(value)} bytes where {length} are needed")
    return value


def submap(map_: Mapping[str, Any], key: str, *, max_entries: int = 1024) -> dict[str, Any]:
    """A map with text keys."""
    value = _present(map_, key)
    if not isinstance(value, dict):
        raise WireError(f"{key}: a map is needed, not {_kind(value)}")
    if len(value) > max_entries:
        raise WireError(f"{key}: {len(value)} entries where at most {max_entries} are allowed")
    if any(not isinstance(name, str) for name in value):
        raise WireError(f"{key}: a map key that isn't text")
    return value


def sequence(map_: Mapping[str, Any], key: str, *, max_length: int) -> list[Any]:
    """An array of at most `max_length` elements."""
    value = _present(map_, key)
    if not isinstance(value, list):
        raise WireError(f"{key}: an array is needed, not {_kind(value)}")
    if len(value) > max_length:
        raise WireError(f"{key}: {len(value)} elements where at most {max_length} are allowed")
    return value


def maps(map_: Mapping[str, Any], key: str, *, max_length: int) -> list[dict[str, Any]]:
    """An array of maps."""
    elements = sequence(map_, key, max_length=max_length)
    for element in elements:
        if not isinstance(element, dict):
            raise WireError(f"{key}: an array of maps is needed")
    return elements


def texts(map_: Mapping[str, Any], key: str, *, max_length: int, max_bytes: int) -> list[str]:
    """An array of texts."""
    return [
        text({key: element}, key, max_bytes=max_bytes)
        for element in sequence(map_, key, max_length=max_length)
    ]


def optional(
    map_: Mapping[str, Any], key: str, read: Callable[..., T], *arguments: Any, **options: Any
) -> T | None:
    """None when the key is absent or null, else what `read` says of it."""
    if map_.get(key) is None:
        return None
    return read(map_, key, *arguments, **options)


def _present(map_: Mapping[str, Any], key: str) -> Any:
    try:
        return map_[key]
    except KeyError:
        raise WireError(f"{key}: missing") from None


def _kind(value: object) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    return {"NoneType": "null", "dict": "a map", "list": "an array", "bytes": "bytes"}.get(
        type(value).__name__, type(value).__name__
    )
