"""What has left the archive of one session, and why."""

from dataclasses import dataclass

from hub.registry import Registry
from wire.names import Lane, batch_subject

MAX_ENTRIES = 5


@dataclass(frozen=True, slots=True)
class Freed:
    """One time that messages of a session went."""

    at_ns: int
    messages: int
    bytes: int
    """Estimated."""
    reason: str


def freed_of(registry: Registry, agent: str, session: str) -> list[Freed]:
    """The newest first, at most MAX_ENTRIES; what went with others because the archive was full isn't among them."""
    subjects = [batch_subject(agent, session, lane) for lane in Lane]
    rows = registry.connection.execute(
        """SELECT at_ns, messages, bytes, reason FROM purges WHERE subject IN (?, ?) AND messages > 0
           ORDER BY id DESC LIMIT ?""",
        (*subjects, MAX_ENTRIES),
    )
    return [Freed(**dict(row)) for row in rows]
