"""The two commands that need no hub and no agent: `wirepool decode` and `wirepool verify`.

`nats sub --translate 'wirepool decode'` starts a process per message, so imports are few and late.
"""

import argparse
import sys

_DECODE = """examples:
  nats sub 'cap.web1.>' --raw | wirepool decode
  nats sub 'cap.web1.>' --raw | wirepool decode --pcapng - | wireshark -k -i -
  nats sub 'cap.*.*.bulk' --translate 'wirepool decode'
  wirepool decode --json < messages.wp | jq .protocol

A line shows: time (UTC), agent, interface, length on the wire (captured/wire when cut), addresses, protocol.
The stream may begin anywhere. Gaps, declared drops, duplicates and damage are said on standard error; decoding
goes on behind damage. Hashes and sums are checked, signatures are not: that needs keys, see `wirepool verify`.

exit status: 0 all well; 1 gaps or damage; 2 couldn't go on (no message in the input, mixed link types with --pcap)
"""

_VERIFY = """examples:
  wirepool verify incident.wpz
  wirepool verify incident.wpz --hub-key hub.pub

Checks the certificates against the hub's key, every signature, hash and sum, and the chains. Verdicts:
  intact           complete from the first batch to the closing one
  declared drop    what is missing was declared dropped by the agent, signed
  open tail        complete, but not to the session's end: still going on, or the agent died
  unexplained gap  batches are missing and nobody says why
  invalid          a signature, hash, sum or link doesn't hold, or two batches claim one place

Without --hub-key the file's own hub key is taken: compare the fingerprint shown with
the hub's, which `wirepool up` and `wirepool init` print.
exit status: 0 intact or declared drop; 1 open tail or unexplained gap; 2 invalid or unreadable
"""


def parser() -> argparse.ArgumentParser:
    """The grammar of both commands."""
    top = argparse.ArgumentParser(prog="wirepool", description="Read what agents send, without a hub.")
    commands = top.add_subparsers(dest="command", required=True, metavar="{decode,verify}")
    decode = commands.add_parser(
        "decode",
        help="messages on standard input to lines, JSON, pcapng or pcap",
        description="Decode wirepool messages, one behind the other on standard input.",
        epilog=_DECODE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form = decode.add_mutually_exclusive_group()
    form.add_argument("--pcapng", metavar="FILE", help="write a pcapng file; - for standard output")
    form.add_argument(
        "--pcap", metavar="FILE", help="write a classic pcap file (one link type); - for standard output"
    )
    form.add_argument("--json", action="store_true", help="a JSON object per packet and line")
    decode.add_argument("--data", action="store_true", help="with --json: the packet's bytes too, as base64")
    decode.add_argument(
        "--strict", action="store_true", help="stop at the first damage instead of going on behind it"
    )
    verify = commands.add_parser(
        "verify",
        help="judge an evidence file",
        description="Say of an evidence file (.wpz): intact, declared drop, unexplained gap, open tail or invalid.",
        epilog=_VERIFY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("file", metavar="FILE.wpz")
    verify.add_argument(
        "--hub-key", metavar="KEY", help="the hub's public key: base64, or a file that holds it"
    )
    verify.add_argument("--json", action="store_true", help="the report as JSON")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    grammar = parser()
    chosen = grammar.parse_args(arguments)
    if chosen.command == "decode":
        if chosen.data and not chosen.json:
            grammar.error("--data goes with --json")
        from wire import decode_command

        return decode_command.run(chosen)
    from wire import verify_command

    return verify_command.run(chosen)


if __name__ == "__main__":
    sys.exit(main())
