"""The agent on the hub's own host: its name, its enrolment, and whether it will be able to capture."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from hub.agents.admission import admit
from hub.backbone import enrolment, nats_server
from hub.backbone.state import StateDir, StateError, write_private
from hub.registry import Registry
from wire.enrolment import Enrolment, EnrolmentRequest
from wire.errors import WireError
from wire.names import check_agent_id

AGENT = (sys.executable, "-P", "-m", "agent.cli")
ANSWER_TIMEOUT_S = 30.0
IMPORT_MARKER = "import"
"""File in an agent's state directory that says: made for imports, no live agent runs on it."""
CAP_NET_RAW = 1 << 13  # linux/capability.h
MODULES = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
"""Environment of the programs we start: they find the same modules as we do, and (-P) never the working directory's."""


def host_agent_name() -> str:
    """This host's name as an agent id: what isn't in [a-z0-9-] becomes a hyphen."""
    return agent_name_of(socket.gethostname())


def agent_name_of(host: str) -> str:
    """The agent id of a host name, without its domain."""
    short = host.lower() if re.fullmatch(r"[\d.:]+", host) else host.lower().partition(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", short).strip("-")[:48].strip("-") or "host"


def can_capture() -> bool:
    """Whether a program started now may open AF_PACKET sockets (CAP_NET_RAW, by root or otherwise)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) & CAP_NET_RAW)


def agent_argv(state: StateDir, name: str) -> list[str]:
    """The command that runs this agent."""
    return [*AGENT, "run", "--state", str(state.agent(name))]


def ensure_enrolled(state: StateDir, name: str, label: str | None = None) -> None:
    """Make this host's keys and enrol them, unless that was done for the present server and CA.

    Raises StateError: the name is revoked or another host's, or the agent's command failed.
    """
    check_agent_id(name)
    directory = state.agent(name)
    registry = Registry(state.database)
    try:
        record = registry.agents.get(name)
    finally:
        registry.close()
    if record is not None and not record.enabled:
        raise StateError(f"host {name!r} is revoked ({record.disabled_reason}): take another name")
    servers = _servers(state)
    answer = directory / "enrolment.json"
    if record is not None and answer.is_file() and _is_current(state, answer, servers, record.signing_public):
        return
    # The registry knows the name but this directory has no keys for it: it is another host, unless they were lost.
    if record is not None and not (directory / "signing.key").exists():
        raise StateError(
            f"a host {name!r} is enrolled already; --name starts this host's agent under another one"
        )
    request = EnrolmentRequest.from_json(_agent("request", name, "--state", str(directory)))
    admitted = admit(state, request, servers=servers, label=label)
    scratch = state.agents / f".{name}.enrolment.json"
    write_private(scratch, admitted.to_json().encode())
    try:
        _agent("enrol", str(scratch), "--state", str(directory))
    finally:
        scratch.unlink(missing_ok=True)


def _servers(state: StateDir) -> list[str]:
    settings = state.settings()
    if settings.external_url is not None:
        return [settings.external_url]
    return [nats_server.server_url(nats_server.local_address(settings.nats_bind), settings.nats_port)]


def _is_current(state: StateDir, answer: Path, servers: list[str], signing_public: bytes) -> bool:
    try:
        known = Enrolment.from_json(answer.read_bytes())
        certified = known.open_certificate().signing_public
    except (OSError, WireError):
        return False
    authority = enrolment.ca_path(state)
    ca_pem = authority.read_text("ascii") if authority else ""
    return list(known.servers) == servers and known.ca_pem == ca_pem and certified == signing_public


def _agent(*arguments: str) -> str:
    """Standard output of one of the agent's commands. Raises StateError with its own words."""
    try:
        done = subprocess.run(
            [*AGENT, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **MODULES},
            timeout=ANSWER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StateError(f"the agent's command `agent {arguments[0]}` failed: {error}") from error
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()[-3:] or [f"status {done.returncode}"]
        raise StateError(f"the agent's command `agent {arguments[0]}` failed: {' '.join(words)}")
    return done.stdout
