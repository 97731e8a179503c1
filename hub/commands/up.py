"""Run everything on this host: NATS server, hub with its page, and an agent that captures here.

The first start makes what is needed (certificates, keys, the first login) in the state directory; later starts find it
there. It stays in the foreground. Ctrl-C stops the agent first, which sends what it still holds, then the hub, then the
server; a second Ctrl-C kills them.

examples:
  wirepool up                             the page on https://127.0.0.1:8443, for this host only
  wirepool up --bind 0.0.0.0 --reachable-as hub.example.org
                                          for agents and browsers elsewhere
  wirepool up --port 9443 --nats-port 4333 --state /srv/wirepool
  wirepool up --no-agent                  a hub that doesn't capture itself
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from hub.backbone import first_start, nats_server, pki
from hub.backbone.accounts import JwtError
from hub.backbone.enrolment import hub_key
from hub.backbone.state import Settings, StateDir, StateError
from hub.commands import init
from hub.registry import Registry
from hub.terminal import add_state, complain, port, printable, shown_size, with_clear_errors
from hub.up import own_agent, stack
from hub.up.supervisor import ChildFailed, Supervisor
from hub.web import auth
from wire.errors import WireError

LAST_LOG_LINES = 5
ONE_INTERRUPT_S = 0.5
"""Signals this close together are one Ctrl-C: a terminal and a wrapper (timeout, sudo) may both deliver it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_state(parser)
    parser.add_argument(
        "--bind", metavar="ADDRESS", help="listen there; 0.0.0.0 for all (default: 127.0.0.1, or as before)"
    )
    parser.add_argument("--port", type=port, help="port of the page (default: 8443, or as before)")
    parser.add_argument(
        "--nats-port", type=port, metavar="PORT", help="port of the NATS server (default: 4222)"
    )
    parser.add_argument("--no-agent", action="store_true", help="start no agent on this host")
    parser.add_argument(
        "--name", metavar="NAME", help="this host's name as an agent (default: its host name)"
    )
    parser.add_argument("--verbose", action="store_true", help="show every line that the programs write")
    init.add_setting_arguments(parser)


@with_clear_errors
def run(args: argparse.Namespace) -> int:
    """Everything until Ctrl-C. 0: stopped as asked; 1: something couldn't be started."""
    state = StateDir.from_option(args.state)
    state.make_directories()
    with state.locked("`wirepool up`"):
        first = init.apply_settings(state, args)
        settings = settle_addresses(state, args)
        password = init.first_password(state)
        with password_not_lost(password) as shown:
            return asyncio.run(Up(state, settings, args, first=first, password=password, shown=shown).serve())


@contextmanager
def password_not_lost(password: str | None) -> Iterator[list[bool]]:
    """Print the one-time password at the end unless it was (append to what is given): it is kept nowhere."""
    shown: list[bool] = []
    try:
        yield shown
    finally:
        if password and not shown:
            complain(f"the page's login is {auth.FIRST_USER}, one-time password {password} (shown only now)")


def settle_addresses(state: StateDir, args: argparse.Namespace) -> Settings:
    """Choose addresses and ports, and remember them. Raises StateError."""
    settings = state.settings()
    changes: dict[str, str | int] = {}
    if args.bind is not None:
        changes["nats_bind"] = changes["page_bind"] = stack.check_address(args.bind)
    page_bind = str(changes.get("page_bind", settings.page_bind))
    number, notice = stack.choose_port(page_bind, settings.page_port, args.port, "--port")
    changes["page_port"] = number
    if notice:
        complain(f"page: {notice}")
    if settings.external_url is None:
        bind = str(changes.get("nats_bind", settings.nats_bind))
        elsewhere = hosts_elsewhere(state)
        number, notice = stack.choose_port(
            bind, settings.nats_port, args.nats_port, "--nats-port", may_move=not elsewhere
        )
        if number == changes["page_port"]:
            raise StateError(
                f"port {number} can't be both the page's and the NATS server's: choose another --nats-port"
            )
        changes["nats_port"] = number
        if notice:
            complain(f"NATS server: {notice}")
        elif number != settings.nats_port and elsewhere:
            complain(
                f"NATS server: enrolled hosts ({', '.join(elsewhere[:5])}) look for port {settings.nats_port}: "
                "enrol them again to tell them the new one"
            )
    settings = state.change_settings(**changes)
    pki.ensure_server_certificate(state, first_start.certificate_names(settings), datetime.now(UTC))
    return settings


def hosts_elsewhere(state: StateDir) -> list[str]:
    """Enrolled agents whose keys aren't in this state directory."""
    if not state.database.exists():
        return []
    registry = Registry(state.database)
    try:
        return [a.id for a in registry.agents.all() if a.enabled and not state.agent(a.id).exists()]
    finally:
        registry.close()


class Up:
    """One run of everything."""

    def __init__(
        self,
        state: StateDir,
        settings: Settings,
        args: argparse.Namespace,
        *,
        first: bool,
        password: str | None,
        shown: list[bool],
    ) -> None:
        self._state = state
        self._settings = settings
        self._args = args
        self._first = first
        self._password = password
        self._shown = shown
        self._stop = asyncio.Event()
        self._interrupts = 0
        self._interrupted_s = 0.0
        self._supervisor = Supervisor(state.logs, self._say, self._echo if args.verbose else None)

    async def serve(self) -> int:
        """Start, wait for the signal, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupted)
        try:
            async with self._supervisor as supervisor:
                try:
                    await self._until_stopped(self._start())
                    if not self._stop.is_set():
                        self._banner()
                        if self._settings.external_url is None:
                            await self._until_stopped(self._watch())
                        await self._stop.wait()
                except (ChildFailed, StateError, OSError) as error:
                    complain(printable(str(error)) if not isinstance(error, ChildFailed) else str(error))
                    if isinstance(error, ChildFailed):
                        self._show_log(error.name)
                    return 1
                stopping_since = time.monotonic()
                complain("stopping: agent, hub, NATS server (Ctrl-C again kills them)")
                await supervisor.stop()
                complain(f"stopped after {time.monotonic() - stopping_since:.1f} s; nothing is left running")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)
        return 0 if self._interrupts < 2 else 130

    async def _until_stopped(self, work: object) -> None:
        """Run work until it ends or a signal comes. Its errors come through."""
        assert asyncio.iscoroutine(work)
        async with asyncio.TaskGroup() as group:
            working = group.create_task(self._plain_errors(work))
            waiting = group.create_task(self._stop.wait())
            await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            waiting.cancel()
        if not working.cancelled():
            error = working.result()
            if error is not None:
                raise error

    @staticmethod
    async def _plain_errors(work: object) -> Exception | None:
        """A TaskGroup would wrap an error: hand it over as a result."""
        assert asyncio.iscoroutine(work)
        try:
            await work
        except Exception as error:
            return error
        return None

    async def _start(self) -> None:
        if self._settings.external_url is None:
            await self._supervisor.start(stack.nats_child(self._state, self._settings))
        await self._supervisor.start(stack.hub_child(self._state, self._settings))
        if not self._args.no_agent:
            await self._start_agent()

    async def _start_agent(self) -> None:
        name = self._args.name or own_agent.host_agent_name()
        if (self._state.agent(name) / own_agent.IMPORT_MARKER).exists():
            self._say("agent", f"isn't started: {name!r} is kept for imports; choose another --name")
            return
        try:
            await asyncio.to_thread(own_agent.ensure_enrolled, self._state, name)
        except (StateError, JwtError, WireError) as error:
            self._say("agent", f"isn't started: {error}")
            return
        await self._supervisor.start(stack.agent_child(self._state, name))

    async def _watch(self) -> None:
        await stack.watch_jetstream(
            self._state, self._restart_server, lambda text: self._say("nats-server:", text)
        )

    async def _restart_server(self, reason: str) -> None:
        self._say("nats-server", f"its storage is out of order ({reason}): restarting it")
        self._supervisor.signal("nats-server", signal.SIGTERM)

    def _interrupted(self) -> None:
        now_s = time.monotonic()
        if self._interrupts and now_s - self._interrupted_s < ONE_INTERRUPT_S:
            return
        self._interrupts += 1
        self._interrupted_s = now_s
        self._stop.set()
        if self._interrupts == 2:
            complain("killing what is left")
            self._supervisor.kill()

    def _say(self, name: str, text: str) -> None:
        complain(f"{name} {printable(text)}")

    def _echo(self, name: str, line: str) -> None:
        print(f"{name:<12}| {line}", file=sys.stderr)

    def _show_log(self, name: str) -> None:
        path = self._state.logs / f"{name}.log"
        with suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()[-LAST_LOG_LINES:]
            complain(f"the end of {path}:\n" + "\n".join(f"    {printable(line)}" for line in lines))

    def _banner(self) -> None:
        settings, state = self._settings, self._state
        urls = stack.page_urls(state, settings)
        lines = ["", "wirepool is up" + (f"; its state is new, in {state.root}" if self._first else ""), ""]
        lines += [f"  page       {urls[0]}", *(f"             {url}" for url in urls[1:])]
        if self._password:
            lines += [
                f"  login      user {auth.FIRST_USER}, one-time password {self._password}   (shown only now)"
            ]
        else:
            lines += ["  login      as before (`wirepool init --reset-password` makes a new one for admin)"]
        where = settings.external_url or nats_server.server_url(settings.nats_bind, settings.nats_port)
        lines += [f"  server     {where}, archive of up to {shown_size(settings.budget_bytes)}"]
        lines += self._agent_lines()
        lines += [
            "",
            "  The page's certificate is signed by wirepool's own authority. Once, import this file into the browser",
            "  (Settings → Certificates → Authorities), or compare the SHA-256 when the browser warns:",
            f"    {state.ca_certificate}",
            f"    authority    {pki.fingerprint(state.ca_certificate)}",
            f"    certificate  {pki.fingerprint(state.server_certificate)}",
            "",
            f"  exports are signed with the hub key {hub_key(state)} (`wirepool verify` shows it)",
            f"  logs in {state.logs}; Ctrl-C stops everything",
            "",
        ]
        print("\n".join(lines), flush=True)
        self._shown.append(True)

    def _agent_lines(self) -> list[str]:
        agents = [r.child for r in self._supervisor.running if r.child.name == "agent"]
        if not agents:
            return ["  agent      none on this host"]
        name = Path(agents[0].argv[-1]).name
        if own_agent.can_capture():
            return [f"  agent      {name}, on this host"]
        python = Path(sys.executable).resolve()
        return [
            f"  agent      {name}, on this host; it can't capture: that needs root or the right CAP_NET_RAW.",
            "             All else works. To capture: `sudo ./wirepool up`, or give Python that right:",
            f"             sudo setcap cap_net_raw+ep {python}",
        ]
