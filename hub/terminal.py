"""What the verbs share at the terminal: the --state option, sizes, and errors that end a verb with a
sentence.
"""

from __future__ import annotations

import argparse
import functools
import logging
import re
import sys
from collections.abc import Callable

from hub.backbone.accounts import JwtError
from hub.backbone.state import StateDir, StateError
from hub.backbone.streams import StreamError
from hub.backbone.system_account import ServerRefused
from hub.config import ConfigError
from hub.registry import RegistryError
from wire.errors import WireError

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_size = re.compile(r"(\d{1,15})\s*([KMGT]?)(i?B)?", re.IGNORECASE)


def add_state(parser: argparse.ArgumentParser) -> None:
    """The option every verb of the hub has."""
    parser.add_argument(
        "--state",
        metavar="DIR",
        help="the hub's state directory (default: WIREPOOL_STATE, else var/ in the checkout)",
    )


def opened_state(option: str | None) -> StateDir:
    """The state directory of a hub that has been set up; StateError otherwise."""
    state = StateDir.from_option(option)
    if not state.exists:
        raise StateError(
            f"{state.root} isn't a hub's state directory yet. `wirepool up` (or `wirepool init`) makes one; "
            "if it is elsewhere, say --state DIR or set WIREPOOL_STATE."
        )
    return state


def size(text: str) -> int:
    """Bytes of "20G", "512 MiB", "1000000". For argparse."""
    match = _size.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a size; write 20G or 512M")
    return int(match[1]) * UNITS[match[2].upper()]


def shown_size(count: int) -> str:
    """Bytes for people: 12.5 GiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def port(text: str) -> int:
    """A TCP port. For argparse."""
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} isn't a port (1 to 65535)")


def printable(text: str) -> str:
    """Text of others without control sequences for the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def complain(text: str) -> None:
    """One sentence on standard error."""
    print(f"wirepool: {text}", file=sys.stderr)


def with_clear_errors(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Turn what can be expected to go wrong into one sentence and status 1."""

    @functools.wraps(run)
    def guarded(args: argparse.Namespace) -> int:
        # Its remark on TLS connections that the other side closes is no news to anybody.
        logging.getLogger("asyncio").addFilter(lambda record: "eof_received()" not in record.getMessage())
        try:
            return run(args)
        except (
            ConfigError,
            StateError,
            ServerRefused,
            StreamError,
            RegistryError,
            JwtError,
            WireError,
        ) as error:
            complain(printable(str(error)))
        except OSError as error:
            complain(f"{error.filename or 'input or output'}: {error.strerror or error}")
        return 1

    return guarded
