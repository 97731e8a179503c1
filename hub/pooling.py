"""How much of a session goes into the pool."""

from enum import StrEnum


class Pooling(StrEnum):
    """A session's own setting; without one the hub's (`pooling` in hub.yaml)."""

    OFF = "off"
    """Nothing; the archive has it all the same, and it can be analysed later."""
    CONVERSATIONS = "conversations"
    """Read for the correlation; only conversations and clock offsets are stored."""
    HEADERS = "headers"
    """Conversations and every packet's fields (the default)."""
    PAYLOAD = "payload"
    """Those and every packet's payload, as far as it was captured."""


WORDS = {
    Pooling.OFF: "nothing: the archive only",
    Pooling.CONVERSATIONS: "conversations",
    Pooling.HEADERS: "conversations and packets' fields",
    Pooling.PAYLOAD: "conversations, packets' fields and payload",
}
"""For people."""
