"""Exports. (Signatures first.)"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an export will hold, before it is made."""

    packets: int
    pcapng_bytes: int
    wpz_bytes: int
    agents: tuple[str, ...]
    purged_packets: int
    """Archived once, no longer there (retention)."""
    quarantined: int
    """Messages of these sessions that the ledger refused."""


@dataclass(slots=True)
class Progress:
    """Filled while an export runs."""

    messages: int = 0
    packets: int = 0
    bytes_out: int = 0
    duplicates_skipped: int = 0
    left_out: int = 0
    """Batches that failed verification."""
    finished: bool = False


class Export:
    """Reads the archive by subject; never leaves a consumer behind."""

    def estimate(self, sessions: Sequence[str]) -> Estimate:
        """From the ledger, at once; UnknownError for an unknown session."""
        raise NotImplementedError

    def pcapng(self, sessions: Sequence[str], progress: Progress | None = None) -> AsyncIterator[bytes]:
        """The sessions as one pcapng file, in chunks of at most about 1 MiB. Close the iterator to cancel."""
        raise NotImplementedError

    def wpz(self, sessions: Sequence[str], progress: Progress | None = None) -> AsyncIterator[bytes]:
        """The original messages with certificates and manifest (`.wpz`), for `wirepool verify`."""
        raise NotImplementedError
