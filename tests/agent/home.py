"""An enrolled agent for tests: its state directory as the two commands make it, and the real program on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from agent.identity import Identity, take_enrolment
from agent.segment import write_whole
from tests.support.nats_backbone import AgentKeys, Backbone
from wire.batch import OpenBatch, open_batch
from wire.control import Domain, seal
from wire.keys import SigningKey
from wire.names import DESIRED_BUCKET
from wire.session import Desired, SessionSpec

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Home:
    """One agent's host."""

    bus: Backbone
    keys: AgentKeys
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def new(cls, bus: Backbone, directory: Path, name: str = "web1") -> Home:
        """Enrolled with this server."""
        keys = bus.agent(name)
        directory.mkdir(mode=0o700)
        keys.signing.save(directory / "signing.key")
        write_whole(directory / "user.nk", keys.user_seed.encode())
        take_enrolment(directory, keys.enrolment.to_json().encode())
        return cls(bus, keys, directory)

    @property
    def identity(self) -> Identity:
        return Identity(self.directory, self.keys.name, self.keys.signing, self.keys.enrolment)

    def command(self, *arguments: str) -> list[str]:
        """argv of the agent's program with this state directory."""
        return [sys.executable, "-W", "error", "-m", "agent.cli", *arguments, "--state", str(self.directory)]

    def start(self, *arguments: str, prefix: Iterable[str] = ()) -> subprocess.Popen[bytes]:
        """Start the program; its log goes to `agent.log` in the state directory, a new one each time."""
        log = (self.directory / "agent.log").open("wb")
        self.process = subprocess.Popen(
            [*prefix, *self.command(*(arguments or ("run",)))],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        log.close()
        return self.process

    def log(self) -> str:
        path = self.directory / "agent.log"
        return path.read_text() if path.exists() else ""

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 20) -> int:
        """SIGTERM, and its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout_s)

    async def declare(self, hub: Client, revision: int, *specs: SessionSpec, **more: Any) -> None:
        """Put signed orders into the bucket, as the hub's declarer does."""
        desired = Desired(revision=revision, sessions=specs, **more)
        message = seal(
            Domain.DESIRED,
            agent=self.keys.name,
            body=desired.to_map(),
            key=self.hub_key(),
            issued_ns=1,
        )
        await hub.jetstream().publish(f"$KV.{DESIRED_BUCKET}.{self.keys.name}", message)

    def hub_key(self) -> SigningKey:
        return SigningKey.load(self.bus.state.control_key)

    async def stored(self, hub: Client, stream: str = "CAPTURE") -> list[OpenBatch]:
        """All batches of the archive that this agent signed, in the order of the archive."""
        jetstream = hub.jetstream()
        state = (await jetstream.stream_info(stream)).state
        found = []
        for sequence in range(max(1, state.first_seq), state.last_seq + 1):
            message = await jetstream.get_msg(stream, sequence)
            if message.subject is not None and message.subject.startswith(f"cap.{self.keys.name}."):
                found.append(open_batch(message.data or b"", public=self.keys.signing.public))
        return found
