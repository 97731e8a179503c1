"""The agent's command line: `wirepool agent …`, or `python -m agent.cli …`.

An import is this program too: `python -m agent.cli replay FILE --state DIR --session ID` feeds a capture file under the
agent enrolled in DIR, closes the session, waits until everything is acknowledged, prints the books and exits 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from agent.identity import Identity
    from agent.pipeline import Outcome
    from agent.session import CaptureSession
    from agent.settings import Config
    from wire.session import SessionSpec

_RUN_HELP = """\
Captures what the hub declares for this agent, keeps every batch in its spool until the
server has stored it, and goes on by itself whatever dies in between. It needs
CAP_NET_RAW (root, or a unit with AmbientCapabilities=CAP_NET_RAW).

Stop it with Ctrl-C or SIGTERM: it delivers what was captured and waits a few seconds for
acknowledgements; what is left is sent at the next start. A second signal ends at once.
"""
_REQUEST_HELP = """\
Makes this host's keys, which never leave it, and prints a request with their public
halves. The three steps:

  here:    wirepool agent request web1 > web1.request.json
  hub:     wirepool enroll web1.request.json > web1.enrolment.json
  here:    wirepool agent enrol web1.enrolment.json && wirepool agent run
"""
_ENROL_HELP = """\
Takes over the hub's answer to this host's request: who it is, where the server is, whom
to believe. From then on `wirepool agent run` connects by itself. The three steps:

  here:    wirepool agent request web1 > web1.request.json
  hub:     wirepool enroll web1.request.json > web1.enrolment.json
  here:    wirepool agent enrol web1.enrolment.json && wirepool agent run
"""
_REPLAY_HELP = """\
Feeds a pcap or pcapng file as if it were captured now under this agent's name (times
stay those of the file), waits until all of it is stored, and prints the books.

  wirepool agent replay night.pcapng --state /var/lib/wirepool-import
  wirepool agent replay night.pcapng --filter 'tcp port 443' --rate pace

Interrupted, it goes on where it was when called again with the same --session.
"""
EXIT_OK, EXIT_FAILED, EXIT_INCOMPLETE = 0, 1, 3


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="wirepool agent",
        description="Captures packets on this host and hands them to the hub's server.",
        epilog="Settings: docs/agent-configuration.md. Every command has its own --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = _command(commands, "run", "capture what the hub declares, until stopped", _RUN_HELP)
    run.add_argument(
        "--until-done", action="store_true", help="end when every session has ended and is stored"
    )

    request = _command(commands, "request", "make keys and print a request for the hub", _REQUEST_HELP)
    request.add_argument("name", help="the agent's name: 1 to 48 of a-z, 0-9 and -")

    enrol = _command(commands, "enrol", "take over the hub's answer to a request", _ENROL_HELP)
    enrol.add_argument("file", help="the file that `wirepool enroll` wrote; - for standard input")

    check = _command(commands, "check-config", "say what is wrong with a configuration file, or nothing", "")
    check.add_argument("file", nargs="?", help="the file (or --config)")

    _command(commands, "interfaces", "list what can be captured on, best first marked", "")

    replay = _command(commands, "replay", "feed a capture file under this agent's name", _REPLAY_HELP)
    replay.add_argument("file", nargs="?", help="pcap or pcapng (default: replay.file of the configuration)")
    replay.add_argument("--session", help="session id (default: a new one, printed)")
    replay.add_argument("--filter", help="tcpdump filter; default: everything")
    replay.add_argument("--snaplen", type=int, help="bytes kept of each packet; default: 262144")
    replay.add_argument(
        "--rate", help="packets per second, or `pace` for the pace of the file; default: as fast as it goes"
    )
    replay.add_argument("--quiet", action="store_true", help="no progress, no books")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help_: str, description: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help_,
        description=description or help_[:1].upper() + help_[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (YAML); default: none needed")
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="keys, orders, spool; default: /var/lib/wirepool-agent"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        return _COMMANDS[arguments.command](arguments)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except _Complaint as error:
        print(f"wirepool agent: {error}", file=sys.stderr)
        return EXIT_FAILED


class _Complaint(Exception):
    """A message for the user that ends the command."""


def _config(arguments: argparse.Namespace) -> Config:
    from agent.config import ConfigError, load_config
    from agent.settings import Config

    try:
        config = load_config(arguments.config) if arguments.config is not None else Config()
    except ConfigError as error:
        raise _Complaint(str(error)) from None
    if arguments.state is not None:
        config.state_dir = arguments.state
    return config


def _log_to(config: Config) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if config.log_file is not None:
        try:
            handlers.append(logging.FileHandler(config.log_file))
        except OSError as error:
            raise _Complaint(f"log.file: {error}. Name a file that can be written") from None
    logging.basicConfig(
        level=config.log_level.upper(),
        handlers=handlers,
        format="%(asctime)s %(levelname)-7s %(message)s",
    )
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # agent.link says it once, with the remedy
    logging.getLogger("asyncio").addFilter(
        lambda record: "eof_received" not in record.getMessage()
    )  # of each TLS end


def _run(arguments: argparse.Namespace) -> int:
    from agent.pipeline import Agent
    from agent.privileges import drop_privileges

    config = _config(arguments)
    _log_to(config)
    drop_privileges(config)
    identity = _identity(config)
    local = _local_sessions(config)

    async def work() -> Outcome:
        agent = Agent(identity, config, local=local, until_done=arguments.until_done)
        return await agent.run()

    with _alone(config):
        outcome = _complete(work())
    if arguments.until_done:
        _show_books(outcome)
    return _status(outcome) if arguments.until_done else EXIT_OK


def _replay(arguments: argparse.Namespace) -> int:
    from agent.pipeline import Agent
    from wire.errors import WireError
    from wire.names import check_session_id

    config = _config(arguments)
    _log_to(config)
    if arguments.file is not None:
        config.replay_file = Path(arguments.file)
    if config.replay_file is None:
        raise _Complaint("no file to replay. Name one, or set replay.file in the configuration")
    config.replay_filter = arguments.filter if arguments.filter is not None else config.replay_filter
    config.replay_snaplen = arguments.snaplen or config.replay_snaplen
    if arguments.rate is not None:
        config.replay_rate_pps = _rate(arguments.rate)
    if arguments.session is not None:
        try:
            config.replay_session = check_session_id(arguments.session)
        except WireError as error:
            raise _Complaint(f"--session: {error}") from None
    identity = _identity(config)
    local = _local_sessions(config)
    if not arguments.quiet:
        print(f"session {local[0].id} of agent {identity.name}: {config.replay_file}", file=sys.stderr)
    progress = _Progress() if not arguments.quiet else None

    async def work() -> Outcome:
        show = progress.show if progress is not None else None
        agent = Agent(identity, config, local=local, until_done=True, obey_hub=False, progress=show)
        return await agent.run()

    with _alone(config):
        outcome = _complete(work())
    if not arguments.quiet:
        _show_books(outcome)
    return _status(outcome)


@contextlib.contextmanager
def _alone(config: Config) -> Iterator[None]:
    """Hold the state directory: two agents on one spool would send and delete each other's batches."""
    import fcntl

    path = config.state_dir / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _Complaint(f"{error}. Run it as the user whose state directory it is") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise _Complaint(
            f"an agent is running on {config.state_dir} already. Stop it first, or name another --state"
        ) from None
    finally:
        os.close(descriptor)


def _complete(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    try:
        return asyncio.run(work)
    except OSError as error:
        raise _Complaint(f"{error}. Is the state directory on a disk that works, and ours?") from None
    except ExceptionGroup as group:
        logging.getLogger(__name__).error("ended by an internal error", exc_info=group)
        raise _Complaint("an internal error; the lines above say where. The spool is safe") from None


def _status(outcome: Outcome) -> int:
    if any(state in ("failed", "refused") for state, _ in outcome.states.values()):
        return EXIT_FAILED
    ended = all(state == "stopped" for state, _ in outcome.states.values())
    return EXIT_OK if outcome.complete and ended else EXIT_INCOMPLETE


def _identity(config: Config) -> Identity:
    from agent.identity import IdentityError, load_identity

    try:
        identity = load_identity(config.state_dir)
    except IdentityError as error:
        raise _Complaint(str(error)) from None
    if config.name is not None and config.name != identity.name:
        line = config.lines.get("name", 0)
        raise _Complaint(
            f"{config.path}:{line}: name: {config.name!r}, but this host is enrolled as {identity.name!r}. "
            "Correct the line, or leave it out"
        )
    return identity


def _local_sessions(config: Config) -> list[SessionSpec]:
    from wire.errors import WireError
    from wire.names import new_session_id
    from wire.session import Replay, SessionSpec

    if config.replay_file is None:
        return []
    try:
        spec = SessionSpec(
            id=config.replay_session or new_session_id(),
            source="replay",
            filter=config.replay_filter,
            snaplen=config.replay_snaplen,
            overflow="drop_newest",
            requested_by="import",
            created_ns=time.time_ns(),
            replay=Replay(str(config.replay_file.absolute()), config.replay_rate_pps),
        )
        return [SessionSpec.from_map(spec.to_map())]
    except WireError as error:
        raise _Complaint(f"the replay can't be: {error}") from None


def _rate(text: str) -> float:
    if text == "pace":
        return 0.0
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 < rate <= 1e9:
        raise _Complaint(f"--rate {text}: packets per second (more than 0), or `pace`")
    return rate


def _request(arguments: argparse.Namespace) -> int:
    from agent.identity import IdentityError, make_request

    config = _config(arguments)
    try:
        request = make_request(config.state_dir, arguments.name)
    except IdentityError as error:
        raise _Complaint(str(error)) from None
    print(request.to_json(), end="")
    print(
        f"keys are in {config.state_dir}; give this request to `wirepool enroll` on the hub", file=sys.stderr
    )
    return EXIT_OK


def _enrol(arguments: argparse.Namespace) -> int:
    from agent.identity import IdentityError, take_enrolment

    config = _config(arguments)
    try:
        content = (
            sys.stdin.buffer.read(1 << 20) if arguments.file == "-" else Path(arguments.file).read_bytes()
        )
        identity = take_enrolment(config.state_dir, content)
    except OSError as error:
        raise _Complaint(
            f"{arguments.file}: {error.strerror or error}. Name the file that `wirepool enroll` wrote"
        ) from None
    except IdentityError as error:
        raise _Complaint(str(error)) from None
    servers = ", ".join(identity.enrolment.servers)
    options = "".join(
        f" --{name} {shlex.quote(str(value))}"
        for name, value in (("config", arguments.config), ("state", arguments.state))
        if value is not None
    )
    print(
        f"enrolled as {identity.name}; servers: {servers}. Start with `wirepool agent run{options}`",
        file=sys.stderr,
    )
    return EXIT_OK


def _check_config(arguments: argparse.Namespace) -> int:
    if arguments.file is not None:
        arguments.config = Path(arguments.file)
    if arguments.config is None:
        raise _Complaint("name the file to check: wirepool agent check-config agent.yaml")
    config = _config(arguments)
    for warning in _warnings(config):
        print(f"{config.path}: warning: {warning}", file=sys.stderr)
    print(f"{config.path}: good ({len(config.lines)} settings)")
    return EXIT_OK


def _warnings(config: Config) -> list[str]:
    """What is allowed and still looks wrong on this host."""
    found = []
    place = config.spool_path
    while not place.exists() and place != place.parent:
        place = place.parent
    disk = shutil.disk_usage(place)
    if config.spool_max_bytes > disk.free:
        line = config.lines.get("spool.max_bytes", 0)
        found.append(
            f"line {line}: spool.max_bytes is more than the {disk.free >> 20} MiB free at {place}: "
            "the disk would be full before the policy acts"
        )
    if config.ring_block_bytes > config.ring_bytes // 4:
        found.append(
            "ring.block_bytes: fewer than four blocks in the ring; packets are lost while one is read"
        )
    if config.batch_watched_linger_ms >= config.batch_linger_ms:
        found.append(
            "batch.watched_linger_ms isn't below batch.linger_ms: watching doesn't make anything faster"
        )
    return found


def _interfaces(_arguments: argparse.Namespace) -> int:
    from agent.interface_choice import best_interface, why_not
    from agent.interfaces import InterfaceError, list_interfaces

    try:
        found = list_interfaces()
        best = best_interface(found)
    except InterfaceError as error:
        raise _Complaint(str(error)) from None
    width = max(len(one.name) for one in found)
    for one in found:
        mark = "*" if one.name == best.name else " "
        facts = [
            one.state,
            f"{one.speed_mbps} Mbit/s" if one.speed_mbps else "",
            f"mtu {one.mtu}",
            one.driver or one.kind,
            one.mac,
            " ".join(one.addresses),
            f"{one.packets} packets",
            f"({reason})" if (reason := why_not(one)) else "",
        ]
        print(f"{mark} {one.name:{width}}  " + "  ".join(fact for fact in facts if fact))
    print(f"* {best.name}: {best.why}")
    return EXIT_OK


class _Progress:
    """One line on a terminal that rewrites itself; a line every few seconds elsewhere."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._terminal = sys.stderr.isatty()

    def show(self, sessions: list[CaptureSession]) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (0.2 if self._terminal else 5.0)
        for session in sessions:
            books = session.read_books()
            share = f"{100 * session.progress:.0f} % read, " if session.progress is not None else ""
            text = f"{share}{books.captured} packets taken, {books.acknowledged} stored, {books.pending} on the way"
            print(
                f"\r\033[K{text}" if self._terminal else text,
                end="" if self._terminal else "\n",
                file=sys.stderr,
            )
        sys.stderr.flush()


def _show_books(outcome: Outcome) -> None:
    """To stdout: each session's counters and whether they balance."""
    if sys.stderr.isatty():
        print(file=sys.stderr)
    for name, books in outcome.books.items():
        state, reason = outcome.states[name]
        print(f"session {name}: {state}" + (f" ({reason})" if reason else ""))
        for counter, value in books.to_map().items():
            if value or counter in ("received", "captured", "acknowledged", "pending"):
                print(f"  {counter:16} {'not counted' if value is None else value}")
        print(f"  the books {'balance' if books.balanced() else 'do NOT balance'}")
    if not outcome.complete:
        print(f"{outcome.pending_batches} batches wait in the spool for the next start")


_COMMANDS = {
    "run": _run,
    "request": _request,
    "enrol": _enrol,
    "check-config": _check_config,
    "interfaces": _interfaces,
    "replay": _replay,
}

if __name__ == "__main__":
    sys.exit(main())
