"""wirepool whole and real, in the laboratory: `wirepool up` in the hub's namespace, agents enrolled by their
own commands.

Everything is started as a user would start it, by its command line, and ends with the laboratory.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from pathlib import Path

from hub.backbone.state import StateDir
from hub.registry import Registry, SessionRecord
from tests.support.lab import HUB_ADDRESS, Host, Lab, stop_process
from tests.support.nats_backbone import need_nats_server
from tests.support.netns import wait_for
from tests.support.processes import find_below

ROOT = Path(__file__).resolve().parents[2]
HUB = (sys.executable, "-P", "-m", "hub.cli")
AGENT = (sys.executable, "-P", "-m", "agent.cli")
WIRE = (sys.executable, "-P", "-m", "wire.cli")
READY_S = 60.0


class Stand:
    """A running hub and its agents. `state` is the hub's state directory, `url` the page's address."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        need_nats_server()
        self.lab = lab
        self.directory = directory
        self.state = StateDir(directory / "state")
        self.url = ""
        self.first_password = ""
        self.up: subprocess.Popen[bytes] | None = None
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            "WIREPOOL_STATE": str(self.state.root),
            "XDG_CONFIG_HOME": str(directory / "config"),
        }

    def start(self, *options: str) -> None:
        """`wirepool up`, until the page answers."""
        argv = (*HUB, "up", "--bind", HUB_ADDRESS, "--budget", "4G", *options)
        self.up = self.lab.hub.start(*argv, log="up.log", env=self.environment)
        wait_for(self._page_is_up, "the page of `wirepool up`", timeout_s=READY_S)

    def _page_is_up(self) -> bool:
        assert self.up is not None
        text = self.lab.hub.log("up.log")
        assert self.up.poll() is None, f"`wirepool up` ended with {self.up.returncode}:\n{text}"
        address = re.search(r"https://\S+:\d+", text)
        password = re.search(r"password\W+([A-Za-z0-9]{5}(?:-[A-Za-z0-9]{5}){3})", text)
        if address is None:
            return False
        self.url = address.group(0).rstrip("/")
        if password is not None:
            self.first_password = password.group(1)
        return self.answers("/healthz")

    def answers(self, path: str) -> bool:
        """Whether the hub's web server answers with a page there."""
        argv = ("curl", "-ksSf", "-o", "/dev/null", "--noproxy", "*", self.url + path)
        return self.lab.hub.net.run(*argv, check=False).returncode == 0

    def run(self, host: Host, *argv: str, check: bool = True, timeout_s: float = 120.0) -> str:
        """A command on a host with this stand's environment; its standard output."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return host.run("env", *settings, *argv, check=check, timeout_s=timeout_s)

    def in_hub(self, *argv: str, check: bool = True, timeout_s: float = 120.0) -> str:
        """A command in the hub's namespace; its standard output."""
        return self.run(self.lab.hub, *argv, check=check, timeout_s=timeout_s)

    # -- agents --

    def enrol(self, host: Host, *, server: str = HUB_ADDRESS) -> None:
        """The three commands that admit a host: request, enroll, enrol."""
        request, answer = host.directory / "request.json", host.directory / "enrolment.json"
        state = ("--state", str(host.directory / "agent"))
        request.write_text(self.run(host, *AGENT, "request", host.name, *state))
        self.in_hub(*HUB, "enroll", str(request), "-o", str(answer), "--server", server)
        self.run(host, *AGENT, "enrol", str(answer), *state)

    def start_agent(self, host: Host, settings: str = "") -> subprocess.Popen[bytes]:
        """`wirepool agent run` on the host with these lines of configuration; it ends with the laboratory."""
        configuration = host.directory / "agent.yaml"
        configuration.write_text(settings)
        where = ("--config", str(configuration), "--state", str(host.directory / "agent"))
        process = host.start(*AGENT, "run", *where, log="agent.log", env=self.environment)
        self.agents[host.name] = process
        return process

    def stop_agent(self, host: Host) -> int:
        """SIGTERM, and the agent's exit status once it has stopped."""
        return stop_process(self.agents.pop(host.name), how=signal.SIGTERM, timeout_s=30)

    # -- the hub's children --

    def nats_pid(self) -> int | None:
        """The NATS server below `up`; None while there is none."""
        assert self.up is not None
        return find_below(self.up.pid, "nats-server")

    def hub_pid(self) -> int | None:
        """The hub below `up`; None while there is none."""
        assert self.up is not None
        return find_below(self.up.pid, "hub.cli", "hub")

    # -- what the hub knows --

    def registry(self) -> Registry:
        """The hub's registry, opened beside it; close it."""
        return Registry(self.state.database)

    def session(self, session_id: str) -> SessionRecord:
        """One session's record as it is now."""
        with contextlib.closing(self.registry()) as registry:
            return registry.sessions.require(session_id)

    def stop(self) -> int:
        """Ctrl-C, and the exit status of `up` once it has stopped."""
        assert self.up is not None
        return stop_process(self.up, how=signal.SIGINT, timeout_s=40)
