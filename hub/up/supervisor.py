"""A small supervisor: starts programs in order, restarts what dies, stops them in the opposite order.

Children can't outlive it: the kernel kills each one when its parent dies, however that happens
(PR_SET_PDEATHSIG, prctl(2); a program with file capabilities loses that, see docs/security.md). Each has a
process group of its own, so that a Ctrl-C in the terminal reaches only the supervisor, which then stops them
one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import logging.handlers
import os
import random
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

PR_SET_PDEATHSIG = 1  # linux/prctl.h
FIRST_DELAY_S = 0.25
LAST_DELAY_S = 15.0
STEADY_S = 30.0
"""A child that ran this long starts its delays afresh."""
READY_POLL_S = 0.05
LAST_WORDS_S = 1.0
"""How long output is read after the end of a child."""
LINE_BYTES = 4096
"""Longer lines of a child are cut."""
LOG_BYTES = 8 << 20
LOG_FILES = 3
LAST_LINES = 20

_libc = ctypes.CDLL(None, use_errno=True)


class ChildFailed(Exception):
    """A child ended before it was ready for the first time; the message holds its last words."""

    def __init__(self, name: str, reason: str, last_lines: Sequence[str]) -> None:
        said = "\n".join(f"    {line}" for line in last_lines)
        super().__init__(f"{name} {reason}" + (f". It said:\n{said}" if said else " and said nothing"))
        self.name = name


@dataclass(frozen=True, slots=True)
class Child:
    """A program to keep running."""

    name: str
    argv: Sequence[str]
    ready: Callable[[], Awaitable[bool]] | None = None
    """Asked every 50 ms until it says yes; None: ready once started."""
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_deadline_s: float = 60.0
    """A start that takes longer is killed and counts as failed."""
    stop_deadline_s: float = 10.0
    """How long after SIGTERM before SIGKILL."""
    essential: bool = True
    """Whether `Supervisor.start` raises when its first start fails. Others are tried again for ever."""


@dataclass(slots=True, eq=False)
class Running:
    """A child under supervision."""

    child: Child
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is stopped for good."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the first start has succeeded or failed."""
    failure: ChildFailed | None = None
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.returncode is None else None


class Supervisor:
    """`async with Supervisor(logs, say) as s: await s.start(a); await s.start(b); …; await s.stop()`.

    say(name, text) gets what a person should read. Leaving the context stops everything.
    """

    def __init__(
        self,
        log_directory: Path,
        say: Callable[[str, str], None],
        echo: Callable[[str, str], None] | None = None,
    ) -> None:
        """echo(name, line) gets every line a child writes; its log file gets it in any case."""
        self._logs = log_directory
        self._say = say
        self._echo = echo
        self._group = asyncio.TaskGroup()
        self.running: list[Running] = []

    async def __aenter__(self) -> Supervisor:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Children stop first: the group's cancellation would otherwise cut their orderly end short.
        await self.stop()
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise

    async def start(self, child: Child) -> Running:
        """Start a child and wait until it is ready. Raises ChildFailed for an essential one that doesn't get
        there.
        """
        running = Running(child)
        self.running.append(running)
        self._group.create_task(self._keep(running), name=f"keep {child.name}")
        await running.settled.wait()
        if running.failure is not None and child.essential:
            raise running.failure
        return running

    async def stop(self) -> None:
        """Stop every child, the last started first, each within its deadline."""
        for running in reversed(self.running):
            await self._stop_one(running)

    def kill(self) -> None:
        """SIGKILL to every child now (a second Ctrl-C)."""
        for running in self.running:
            running.stopping.set()
            if running.pid is not None:
                _signal_group(running.pid, signal.SIGKILL)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the child of this name, where it runs."""
        for running in self.running:
            if running.child.name == name and running.pid is not None:
                os.kill(running.pid, number)

    async def _stop_one(self, running: Running) -> None:
        running.stopping.set()
        if running.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(running.child.stop_deadline_s):
                await running.ended.wait()
        except TimeoutError:
            self._say(running.child.name, f"didn't stop within {running.child.stop_deadline_s:.0f} s: killed")
            if running.pid is not None:
                _signal_group(running.pid, signal.SIGKILL)
            await running.ended.wait()

    async def _keep(self, running: Running) -> None:
        child = running.child
        log = _child_log(self._logs / f"{child.name}.log")
        failures = 0
        try:
            while not running.stopping.is_set():
                started = time.monotonic()
                reason = await self._run_once(running, log)
                if running.stopping.is_set():
                    break
                failures = 1 if time.monotonic() - started > STEADY_S else failures + 1
                first = not running.settled.is_set()
                if first:
                    running.failure = ChildFailed(child.name, reason, list(running.last_lines))
                    running.settled.set()
                    if child.essential:
                        break
                delay_s = min(LAST_DELAY_S, FIRST_DELAY_S * 2 ** (failures - 1))
                delay_s *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads restarts, guards nothing
                last = running.last_lines[-1] if running.last_lines else ""
                self._say(child.name, f"{reason}; again in {delay_s:.1f} s{': ' + last if last else ''}")
                log.info("wirepool: %s; again in %.1f s", reason, delay_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await running.stopping.wait()
                running.restarts += 1
        finally:
            running.settled.set()
            running.ended.set()
            for handler in log.handlers[:]:
                log.removeHandler(handler)
                handler.close()

    async def _run_once(self, running: Running, log: logging.Logger) -> str:
        """Start the program, wait for its end and say how it ended."""
        child = running.child
        running.last_lines.clear()
        try:
            process = await asyncio.create_subprocess_exec(
                *child.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **child.environment},
                process_group=0,
                preexec_fn=tied_to(os.getpid()),
            )
        except OSError as error:
            return f"can't be started: {error}"
        running.process = process
        try:
            async with asyncio.TaskGroup() as group:
                output = group.create_task(self._pump(running, log))
                readiness = group.create_task(self._await_ready(running))
                status = await process.wait()
                readiness.cancel()
                # What it started itself goes with it, and lets go of the pipe.
                _signal_group(process.pid, signal.SIGKILL)
                await asyncio.wait([output], timeout=LAST_WORDS_S)
                output.cancel()
        finally:
            running.is_ready.clear()
            if process.returncode is None:  # cancelled or broken: what was started doesn't stay
                _signal_group(process.pid, signal.SIGKILL)
                await process.wait()
        return _ending(status)

    async def _await_ready(self, running: Running) -> None:
        child = running.child
        if child.ready is not None:
            deadline = time.monotonic() + child.ready_deadline_s
            while not await child.ready():
                if time.monotonic() > deadline:
                    running.last_lines.append(f"(not ready within {child.ready_deadline_s:.0f} s: killed)")
                    if running.pid is not None:
                        _signal_group(running.pid, signal.SIGKILL)
                    return
                await asyncio.sleep(READY_POLL_S)
        if running.pid is not None:
            running.is_ready.set()
            running.settled.set()
            if running.restarts:
                self._say(child.name, "runs again")

    async def _pump(self, running: Running, log: logging.Logger) -> None:
        assert running.process is not None
        stream = running.process.stdout
        assert stream is not None
        rest = b""
        while chunk := await stream.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_BYTES:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._line(running, line, log)
        if rest:
            self._line(running, rest, log)

    def _line(self, running: Running, raw: bytes, log: logging.Logger) -> None:
        text = raw[:LINE_BYTES].decode(errors="replace").rstrip()
        # What a child repeats may come from a packet or a file name: no control sequences to the terminal.
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.expandtabs())
        running.last_lines.append(text)
        log.info("%s", text)
        if self._echo is not None:
            self._echo(running.child.name, text)


def tied_to(parent: int) -> Callable[[], None]:
    """For preexec_fn: the kernel kills the child when parent (the process that starts it) dies."""
    # Looked up before the fork: the child must not import or allocate much between fork and exec.
    prctl, getppid, leave = _libc.prctl, os.getppid, os._exit

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if getppid() != parent:  # it died before we asked to be told
            leave(1)

    return prepare


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _child_log(path: Path) -> logging.Logger:
    """A logger of its own, outside the tree, with one file bounded in size."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1)
    path.chmod(0o600)
    formatter = logging.Formatter("%(asctime)s %(message)s")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    log = logging.Logger(path.stem, logging.INFO)
    log.addHandler(handler)
    return log
