"""A value of a query: from the text to what a field's type compares with, and back."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime

from hub.pool.fields import Field, Type
from hub.pool.query.ast import Address, Network, Operand, QueryError
from hub.pool.query.vocabulary import CHOICES, suggestion

MAX_INTEGER = 2**63 - 1
_NUMBER = re.compile(r"-?(?:\d{1,20}|0x[0-9a-f]{1,16})", re.ASCII | re.IGNORECASE)
_MAC = re.compile(r"[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}", re.ASCII | re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{16}", re.ASCII | re.IGNORECASE)
_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(?:\.(\d{1,9}))?(Z|[+-]\d{2}:\d{2})?)?",
    re.ASCII | re.IGNORECASE,
)
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def address_of(text: str) -> Address | None:
    """An address, if the text is one (without a zone)."""
    if "%" in text or len(text) > 45:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def network_of(text: str) -> Network | None:
    """A network; bits behind its prefix are taken for 0."""
    if "/" not in text or "%" in text or len(text) > 90:
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def mac_of(text: str) -> int | None:
    """aa:bb:cc:dd:ee:ff or with dashes, as 48 bits."""
    return int(re.sub("[:-]", "", text), 16) if _MAC.fullmatch(text) else None


def integer_of(text: str) -> int | None:
    """Decimal, or hexadecimal with 0x."""
    if not _NUMBER.fullmatch(text):
        return None
    value = int(text, 16 if "x" in text.lower() else 10)
    return value if -MAX_INTEGER <= value <= MAX_INTEGER else None


def time_of(text: str) -> int | None:
    """Nanoseconds since 1970 of ISO 8601 (UTC where nothing else is said), or given as such."""
    if text.isascii() and text.isdigit():
        return int(text) if len(text) <= 19 and int(text) <= MAX_INTEGER else None
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(
            f"{day}T{clock or '00:00'}{(zone or 'Z').upper().replace('Z', '+00:00')}"
        )
    except ValueError:
        return None
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    value = (since.days * 86400 + since.seconds) * 10**9 + int((fraction or "0").ljust(9, "0"))
    return value if 0 <= value <= MAX_INTEGER else None


def time_text(time_ns: int) -> str:
    """ISO 8601 in UTC with as many digits as are needed."""
    seconds, rest = divmod(time_ns, 10**9)
    try:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(time_ns)
    if len(text) != 19:  # a year that isn't written with four digits
        return str(time_ns)
    return text + (f".{rest:09d}".rstrip("0") if rest else "") + "Z"


_EXPECTED = {
    Type.INTEGER: "a whole number",
    Type.TIME: "a time as 2026-11-23T12:00:00Z",
    Type.IP: "an address",
    Type.MAC: "an address as aa:bb:cc:dd:ee:ff",
    Type.BOOLEAN: "true or false",
    Type.HASH: "16 hexadecimal digits",
}


def operand_of(field: Field, text: str, start: int, end: int) -> Operand:
    """The value; QueryError when the text is none of the field's type."""
    value: Operand | None
    match field.type:
        case Type.KEYWORD:
            return _keyword(field, text, start, end)
        case Type.INTEGER:
            value = integer_of(text)
        case Type.TIME:
            value = time_of(text)
        case Type.IP:
            value = address_of(text)
        case Type.MAC:
            value = mac_of(text)
        case Type.BOOLEAN:
            value = _TRUTH.get(text.lower())
        case Type.HASH:
            value = int(text, 16) if _HASH.fullmatch(text) else None
        case Type.BYTES:
            raise QueryError(f"{field.name} is shown, but can't be asked for", start, end)
    if value is None:
        raise QueryError(f"{field.name} takes {_EXPECTED[field.type]}, not {_cut(text)}", start, end)
    return value


def _keyword(field: Field, text: str, start: int, end: int) -> str:
    choices = CHOICES.get(field.name)
    if choices is None:
        return text
    if text.lower() not in choices:
        raise QueryError(f"{field.name} is never {_cut(text)}{suggestion(text, choices)}", start, end)
    return text.lower()


def _cut(text: str) -> str:
    return f'"{text[:40]}…"' if len(text) > 40 else f'"{text}"'


def operand_text(type_: Type, value: Operand, quoted: str) -> str:
    """The value as it is written; quoted: the text of a KEYWORD in quotes."""
    match type_:
        case Type.TIME if isinstance(value, int):
            return time_text(value)
        case Type.MAC if isinstance(value, int):
            return value.to_bytes(6, "big").hex(":")
        case Type.HASH if isinstance(value, int):
            return f"{value:016x}"
        case Type.BOOLEAN:
            return "true" if value else "false"
        case Type.KEYWORD:
            return quoted
    return str(value)
