"""The hub's registry: one SQLite file that says who may do what and what became of it.

WAL mode, so that the page reads while the ledger writes and CLI commands work beside a running hub.
`synchronous=FULL`, since the ledger acknowledges a batch only after its commit: a commit that a power cut
undoes would leave the books short for ever.
"""

from hub.registry.agents import AgentKey, AgentRecord, Agents, ViewerRecord, Viewers
from hub.registry.connection import Database
from hub.registry.errors import ConflictError, RegistryError, UnknownError
from hub.registry.quarantine import Quarantine, QuarantineEntry
from hub.registry.sessions import FilterRevision, SessionEvent, SessionRecord, Sessions
from hub.registry.users import UserRecord, Users, WebSession

__all__ = [
    "AgentKey",
    "AgentRecord",
    "ConflictError",
    "FilterRevision",
    "Quarantine",
    "QuarantineEntry",
    "Registry",
    "RegistryError",
    "SessionEvent",
    "SessionRecord",
    "UnknownError",
    "UserRecord",
    "ViewerRecord",
    "WebSession",
]


class Registry(Database):
    """The tables by subject. Opening creates the file (mode 0600) or migrates it.

    Every method is synchronous and short (one indexed query or one small transaction). Any thread may call
    any method: each thread gets its own connection. Close it once, at the end.
    """

    @property
    def users(self) -> Users:
        """Page users, their web sessions and login attempts."""
        return Users(self)

    @property
    def agents(self) -> Agents:
        """Enrolled agents, their keys past and present, their last report and heartbeat."""
        return Agents(self)

    @property
    def viewers(self) -> Viewers:
        """Read-only bus users and the agents granted to each."""
        return Viewers(self)

    @property
    def sessions(self) -> Sessions:
        """Capture session records. To change one, use hub.agents.sessions.SessionControl, which checks."""
        return Sessions(self)

    @property
    def quarantine(self) -> Quarantine:
        """Messages that were refused, with the reason."""
        return Quarantine(self)
