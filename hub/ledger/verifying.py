"""Is this message what its subject says, signed by the agent it names? Every durable reader asks so."""

from hub.registry import Registry
from wire.batch import OpenBatch, open_batch
from wire.errors import WireError
from wire.names import parse_batch_subject


class UnknownAgent(Exception):
    """No such agent in the registry (yet)."""


class Verifier:
    """Opens messages with the keys of their agents, past and present. For one thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._keys: dict[str, list[bytes]] = {}
        self._configuration = -1

    def refresh(self) -> bool:
        """Forget the keys when agents or sessions have changed since; whether they have. Ask once per round."""
        version = self._registry.configuration_version()
        if version == self._configuration:
            return False
        self._configuration = version
        self._keys.clear()
        return True

    def verify(self, subject: str, message: bytes) -> OpenBatch:
        """The batch, checked but for its body's inside. WireError, UnknownAgent. The expensive part of reading."""
        agent, session, lane = parse_batch_subject(subject)
        batch = self._opened(agent, message)
        header = batch.header
        if (header.agent, header.session, header.lane) != (agent, session, lane):
            raise WireError(
                f"signed as {header.agent}/{header.session}/{header.lane}, which isn't what its subject says"
            )
        return batch

    def _opened(self, agent: str, message: bytes) -> OpenBatch:
        # A disabled agent's batches were accepted by the server before it was revoked: they are its evidence.
        keys = self._keys.get(agent)
        if keys is None:
            if self._registry.agents.get(agent) is None:
                raise UnknownAgent(f"no agent {agent!r} is enrolled here")
            keys = [key.signing_public for key in self._registry.agents.keys(agent)]
            self._keys[agent] = keys
        first: WireError | None = None
        for key in keys:
            try:
                return open_batch(message, public=key)
            except WireError as error:
                first = first or error
        raise first or WireError(f"agent {agent!r} has no signing key")
