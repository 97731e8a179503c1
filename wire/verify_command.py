"""`wirepool verify`: what an evidence file proves, as a table with a verdict per chain."""

import argparse
import base64
import sys
from pathlib import Path

from wire.chain import ChainKey, ChainResult, SequenceRange, Verdict
from wire.errors import WireError
from wire.evidence import EvidenceReport, read_hub_key, verify_wpz
from wire.keys import fingerprint

_EXIT = {Verdict.INTACT: 0, Verdict.DECLARED_DROP: 0, Verdict.OPEN_TAIL: 1, Verdict.UNEXPLAINED_GAP: 1}
_EXPLAINED = {
    Verdict.INTACT: "complete from the first batch to the closing one; every signature and hash holds",
    Verdict.DECLARED_DROP: "what is missing was declared dropped by the agent, signed; all else is complete",
    Verdict.OPEN_TAIL: "complete so far, but not to the end: exported while it went on, or the agent died",
    Verdict.UNEXPLAINED_GAP: "batches are missing and nobody says why",
    Verdict.INVALID: "something doesn't hold: see the complaints",
}
_SHOWN_RANGES = 8


def run(arguments: argparse.Namespace) -> int:
    """Verify one file. 0: intact or declared drops; 1: open tail or unexplained gap; 2: invalid or unreadable."""
    try:
        trust = None if arguments.hub_key is None else _key(arguments.hub_key)
        report = verify_wpz(arguments.file, trust)
    except OSError as error:
        print(f"wirepool verify: {error.filename or arguments.file}: {error.strerror}", file=sys.stderr)
        return 2
    except WireError as error:
        print(f"wirepool verify: {arguments.file}: {_clean(str(error))}", file=sys.stderr)
        return 2
    if arguments.json:
        import json

        print(json.dumps(as_map(report), indent=2))
    else:
        print(as_text(report), end="")
    return _EXIT.get(report.verdict(), 2)


def _key(text: str) -> bytes:
    """A hub key given as base64, or as the path of a file that holds it."""
    path = Path(text)
    if path.is_file():
        with path.open("rb") as file:
            return read_hub_key(file.read(256))
    try:
        return read_hub_key(text.encode())
    except WireError:
        raise WireError(f"--hub-key {text}: neither a file nor a key of 32 bytes as base64") from None


def as_text(report: EvidenceReport) -> str:
    """The report for a reader."""
    head = (
        "agent",
        "session",
        "lane",
        "boot",
        "batches",
        "packets",
        "bytes",
        "dropped",
        "ring drops",
        "verdict",
    )
    rows = [head]
    notes: list[str] = []
    for key, chain in sorted(
        report.chains.items(), key=lambda item: (item[0].agent, item[0].session, item[0].boot)
    ):
        books = report.books.get(key)
        rows.append(
            (
                key.agent,
                key.session,
                key.lane.value,
                key.boot.hex()[:8],
                f"{chain.batches:,}",
                f"{chain.packets:,}",
                f"{chain.captured_bytes:,}",
                f"{chain.dropped_packets:,}",
                "?" if books is None else f"{books.dropped_ring:,}",
                chain.verdict.value,
            )
        )
        notes += _notes(key, chain)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    out = []
    for row in rows:
        cells = [
            cell.rjust(width) if 4 <= column <= 8 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        out.append("  ".join(cells).rstrip())
    chains = report.chains.values()
    out.append("")
    out.append(
        f"{report.messages:,} messages, {sum(chain.packets for chain in chains):,} packets, "
        f"{sum(chain.captured_bytes for chain in chains):,} bytes; "
        f"{sum(chain.dropped_packets for chain in chains):,} packets declared dropped; "
        f"{sum(chain.duplicates for chain in chains):,} duplicates ignored"
    )
    source = "as given" if report.trusted else "the file's own: compare it with the hub's, or give --hub-key"
    out.append(f"hub key {fingerprint(report.hub_public)} ({source})")
    for label, sentences in (("note", notes + report.boot_changes), ("complaint", report.complaints)):
        out += [f"{label}: {_clean(sentence)}" for sentence in sentences]
    verdict = report.verdict()
    out.append(f"{verdict.value.upper()}: {_EXPLAINED[verdict]}")
    return "\n".join(out) + "\n"


def _notes(key: ChainKey, chain: ChainResult) -> list[str]:
    who = f"{key.agent} {key.session[:8]}… {key.lane} boot {key.boot.hex()[:8]}"
    notes = []
    if chain.missing:
        notes.append(f"{who}: missing without explanation: batches {_ranges(chain.missing)}")
    if chain.dropped:
        notes.append(f"{who}: declared dropped: batches {_ranges(chain.dropped)}")
    if not chain.closed:
        notes.append(f"{who}: no closing batch behind {chain.last_sequence}")
    elif chain.goes_on and chain.verdict is Verdict.OPEN_TAIL:
        notes.append(f"{who}: the agent was stopped, and the boot in which the session goes on isn't here")
    if chain.previous_boot is not None:
        notes.append(f"{who}: continues boot {chain.previous_boot.hex()[:8]}")
    return notes + [f"{who}: {complaint}" for complaint in chain.complaints]


def _ranges(ranges: tuple[SequenceRange, ...]) -> str:
    shown = ", ".join(str(one) for one in ranges[:_SHOWN_RANGES])
    return shown if len(ranges) <= _SHOWN_RANGES else f"{shown} and {len(ranges) - _SHOWN_RANGES} more ranges"


def as_map(report: EvidenceReport) -> dict[str, object]:
    """The report for a program."""
    return {
        "verdict": report.verdict().value,
        "hub_public": base64.b64encode(report.hub_public).decode(),
        "hub_key_given": report.trusted,
        "messages": report.messages,
        "refused": report.refused,
        "complaints": report.complaints,
        "boot_changes": report.boot_changes,
        "chains": [
            {
                "agent": key.agent,
                "session": key.session,
                "lane": key.lane.value,
                "boot": key.boot.hex(),
                "verdict": chain.verdict.value,
                "batches": chain.batches,
                "packets": chain.packets,
                "captured_bytes": chain.captured_bytes,
                "duplicates": chain.duplicates,
                "dropped": [[one.first, one.last] for one in chain.dropped],
                "dropped_packets": chain.dropped_packets,
                "missing": [[one.first, one.last] for one in chain.missing],
                "closed": chain.closed,
                "last_sequence": chain.last_sequence,
                "head_hash": chain.head_hash.hex(),
                "previous_boot": None if chain.previous_boot is None else chain.previous_boot.hex(),
                "complaints": list(chain.complaints),
                "books": report.books[key].to_map(),
            }
            for key, chain in report.chains.items()
        ],
    }


def _clean(text: str) -> str:
    # Names and reasons come from the file: nothing in them may steer the terminal.
    return "".join(character if character.isprintable() else "?" for character in text)
