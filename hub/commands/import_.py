"""Feed a pcap or pcapng file as if the host NAME had captured it.

The packets take the way of all others: signed batches, the archive, the ledger, the page. Times stay those of the file.
An agent is run for it with an identity of its own, which stays in the state directory for the next file of that host.
It ends once everything is acknowledged, and shows the books.

examples:
  wirepool import night.pcapng --as web1-night
  wirepool import night.pcapng --as web1-night --filter 'tcp port 443'
  wirepool import lab.pcap --as lab --pace               as slowly as it was captured
  wirepool import lab.pcap --as lab --rate 20000         packets per second
  wirepool import night.pcapng --as web1-night --session abc…    go on after an interruption
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hub.agents.sessions import SessionControl
from hub.agents.status import IMPORTED
from hub.backbone import nats_server, pki
from hub.backbone.state import FILE_MODE, StateDir, StateError, write_private
from hub.registry import Registry
from hub.terminal import add_state, complain, opened_state, with_clear_errors
from hub.up import own_agent, stack
from hub.up.supervisor import tied_to
from wire.names import check_agent_id, check_session_id
from wire.session import MAX_SNAPLEN, Replay

PCAP_MAGICS = {bytes.fromhex(text) for text in ("a1b2c3d4", "d4c3b2a1", "a1b23c4d", "4d3cb2a1", "0a0d0d0a")}
"""pcap in µs and ns of both byte orders (libpcap, pcap-savefile(5)), and pcapng's section header."""
REFUSAL_CHECK_S = 0.1
REFUSAL_CHECKS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_state(parser)
    parser.add_argument("file", metavar="FILE", type=Path, help="a pcap or pcapng file")
    parser.add_argument(
        "--as",
        dest="name",
        required=True,
        metavar="NAME",
        help="the host whose capture it is, 1 to 48 of a-z, 0-9, -",
    )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--rate", type=_rate, metavar="PPS", help="packets per second (default: as fast as it goes)"
    )
    pace.add_argument("--pace", action="store_true", help="at the pace of the file's own times")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only packets of this tcpdump filter")
    parser.add_argument(
        "--snaplen", type=int, default=MAX_SNAPLEN, metavar="BYTES", help="bytes kept of each packet"
    )
    parser.add_argument("--session", metavar="ID", help="go on with an import that was interrupted")


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a rate: packets per second, more than 0")
    return rate


@with_clear_errors
def run(args: argparse.Namespace) -> int:
    """Import one file. 0: all of it is stored."""
    state = opened_state(args.state)
    check_agent_id(args.name)
    file = check_file(args.file)
    _check_server(state)
    with _one_import(state, args.name):
        own_agent.ensure_enrolled(state, args.name, label=IMPORTED)
        rate = 0.0 if args.pace else args.rate
        session = declare(state, args, Replay(str(file), rate))
        status = _feed(state, args, file, session)
    page = f"{stack.page_urls(state, state.settings())[0]}/sessions/{session}"
    if status == 0:
        print(f"stored as session {session} of {args.name}: {page}")
        return 0
    if (refused := end_refused(state, session)) is not None:
        complain(f"nothing was imported: {refused}")
        return 1
    complain(
        f"not everything is stored yet (session {session}, {page}). To go on:\n"
        f"  wirepool import {file} --as {args.name} --session {session}"
    )
    return 1


def check_file(path: Path) -> Path:
    """The absolute path of a file that looks like a capture. Raises StateError, OSError."""
    if path.is_dir():
        raise StateError(f"{path} is a directory: name a pcap or pcapng file")
    with path.open("rb") as file:
        begin = file.read(4)
    if begin[:2] == b"\x1f\x8b" or begin == b"\x28\xb5\x2f\xfd":
        raise StateError(f"{path} is compressed: unpack it first (gunzip, zstd -d)")
    if begin not in PCAP_MAGICS:
        raise StateError(f"{path} is neither a pcap nor a pcapng file" + ("" if begin else ": it is empty"))
    return path.absolute()


def declare(state: StateDir, args: argparse.Namespace, replay: Replay) -> str:
    """Enter the session into the registry and return its id; of one that goes on, check that it is NAME's."""
    registry = Registry(state.database)
    try:
        if args.session is None:
            return SessionControl(registry).start(
                args.name,
                "",
                source="replay",
                filter=args.filter,
                snaplen=args.snaplen,
                overflow="drop_newest",
                replay=replay,
                user="import",
            )
        record = registry.sessions.require(check_session_id(args.session))
        if record.agent != args.name or record.spec is None or record.spec.replay is None:
            raise StateError(f"session {args.session} isn't an import of {args.name}")
        if record.spec.replay.file != replay.file:
            raise StateError(f"session {args.session} was an import of {record.spec.replay.file}")
        return record.id
    finally:
        registry.close()


def end_refused(state: StateDir, session: str) -> str | None:
    """Why the agent refused this session, which is over then: nobody is left to begin it again. None if it didn't.

    The hub enters what the agent says, a moment after it was said.
    """
    registry = Registry(state.database)
    try:
        for _ in range(REFUSAL_CHECKS):
            record = registry.sessions.require(session)
            if record.reported_state == "refused":
                if record.ended_ns is None:
                    SessionControl(registry).stop(session)
                return record.reported_reason or "the agent gives no reason"
            if record.reported_state is not None:
                return None
            time.sleep(REFUSAL_CHECK_S)
    finally:
        registry.close()
    return None


def _feed(state: StateDir, args: argparse.Namespace, file: Path, session: str) -> int:
    argv = [
        *own_agent.AGENT,
        "replay",
        str(file),
        "--state",
        str(state.agent(args.name)),
        "--session",
        session,
    ]
    argv += ["--filter", args.filter, "--snaplen", str(args.snaplen)]
    if args.pace or args.rate:
        argv += ["--rate", "pace" if args.pace else str(args.rate)]
    # In a process group of its own, so that a Ctrl-C reaches it once, by us: the first lets it deliver what it has
    # read, a second one ends it at once.
    process = subprocess.Popen(
        argv, env={**os.environ, **own_agent.MODULES}, process_group=0, preexec_fn=tied_to(os.getpid())
    )
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)


def _check_server(state: StateDir) -> None:
    settings = state.settings()
    if settings.external_url is not None:
        return
    context = pki.client_context(state.ca_certificate)
    if not asyncio.run(nats_server.is_ready(settings.nats_bind, settings.nats_port, context)):
        url = nats_server.server_url(settings.nats_bind, settings.nats_port)
        raise StateError(
            f"no NATS server answers at {url}. Start `wirepool up` in another terminal, then import"
        )


@contextmanager
def _one_import(state: StateDir, name: str) -> Iterator[None]:
    """Hold the identity NAME for this process. Raises StateError when it is a live host's or in use."""
    directory = state.agent(name)
    registry = Registry(state.database)
    try:
        enrolled = registry.agents.get(name) is not None
    finally:
        registry.close()
    if enrolled and not (directory / own_agent.IMPORT_MARKER).exists():
        raise StateError(
            f"{name!r} is an enrolled host that captures by itself: an import under its name would mix with that. "
            f"Take another name, such as {name[:41]}-import"
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (directory / own_agent.IMPORT_MARKER).exists():
        write_private(directory / own_agent.IMPORT_MARKER, b"made by wirepool import\n")
    descriptor = os.open(directory / own_agent.IMPORT_MARKER, os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StateError(f"an import as {name!r} is running: wait for it, or take another name") from None
    finally:
        os.close(descriptor)
