"""Names on the bus: their grammar, and the subjects, streams and message ids made of them.

A name is checked before it becomes part of a subject: NATS gives `.`, `*`, `>` and blanks a meaning, so none of
them can be in an agent id or a session id.
"""

import re
import secrets
from enum import StrEnum

from wire.errors import WireError

AGENT_ID = r"[a-z0-9-]{1,48}"
SESSION_ID = r"[a-z2-7]{26}"

_agent_id = re.compile(AGENT_ID, re.ASCII)
_session_id = re.compile(SESSION_ID, re.ASCII)

STREAM_CAPTURE = "CAPTURE"
STREAM_CAPTURE_SUBJECTS = "cap.*.*.bulk"
STREAM_PRIORITY = "PRIORITY"
STREAM_PRIORITY_SUBJECTS = "cap.*.*.prio"
DESIRED_BUCKET = "desired"


class Lane(StrEnum):
    """The way a batch goes; sequence and chain are counted per lane."""

    BULK = "bulk"
    PRIO = "prio"


def check_agent_id(text: object) -> str:
    """Return `text` if it is an agent id: 1 to 48 of lower-case letters, digits and hyphen. Else WireError."""
    if not isinstance(text, str) or _agent_id.fullmatch(text) is None:
        raise WireError(f"not an agent id (1 to 48 of a-z, 0-9, -): {_shown(text)}")
    return text


def check_session_id(text: object) -> str:
    """Return `text` if it is a session id: 26 characters of lower-case RFC 4648 base32. Else WireError."""
    if not isinstance(text, str) or _session_id.fullmatch(text) is None:
        raise WireError(f"not a session id (26 of a-z, 2-7): {_shown(text)}")
    return text


def check_lane(text: object) -> Lane:
    """Return the lane named `text`. Else WireError."""
    if text == "bulk":
        return Lane.BULK
    if text == "prio":
        return Lane.PRIO
    raise WireError(f"not a lane (bulk or prio): {_shown(text)}")


def new_session_id() -> str:
    """A fresh session id: 130 random bits as 26 characters of base32."""
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(26))


def batch_subject(agent: str, session: str, lane: Lane | str) -> str:
    """The subject a batch is published on: `cap.<agent>.<session>.<lane>`."""
    return f"cap.{check_agent_id(agent)}.{check_session_id(session)}.{check_lane(lane)}"


def parse_batch_subject(subject: str) -> tuple[str, str, Lane]:
    """Take `cap.<agent>.<session>.<lane>` apart. WireError when it is anything else."""
    if len(subject) > 128:
        raise WireError("not a batch subject: longer than 128 characters")
    parts = subject.split(".")
    if len(parts) != 4 or parts[0] != "cap":
        raise WireError(f"not a batch subject (cap.<agent>.<session>.<lane>): {_shown(subject)}")
    return check_agent_id(parts[1]), check_session_id(parts[2]), check_lane(parts[3])


def heartbeat_subject(agent: str) -> str:
    """`hb.<agent>`: the agent's signed heartbeat."""
    return f"hb.{check_agent_id(agent)}"


def report_subject(agent: str) -> str:
    """`rep.<agent>`: the agent's signed report of its state."""
    return f"rep.{check_agent_id(agent)}"


_verb = re.compile(r"[a-z-]{1,32}", re.ASCII)


def control_subject(agent: str, verb: str) -> str:
    """`ctl.<agent>.<verb>`: a signed request to the agent."""
    if _verb.fullmatch(verb) is None:
        raise WireError(f"not a control verb (1 to 32 of a-z, -): {_shown(verb)}")
    return f"ctl.{check_agent_id(agent)}.{verb}"


def desired_get_subject(agent: str) -> str:
    """The direct-get subject of the agent's own key in the `desired` bucket: the only one it may read."""
    return f"$JS.API.DIRECT.GET.KV_{DESIRED_BUCKET}.$KV.{DESIRED_BUCKET}.{check_agent_id(agent)}"


def inbox_prefix(user: str) -> str:
    """The inbox of one user alone: `_INBOX_<agent>`, `_INBOX_v-<viewer>` or `_INBOX_hub`."""
    return f"_INBOX_{check_agent_id(user)}"


def message_id(boot: bytes, session: str, lane: Lane | str, sequence: int, attempt: int = 0) -> str:
    """The Nats-Msg-Id of a batch.

    It begins with the boot's 128 random bits, so that nobody else can use it first and have the server drop the
    real one as a duplicate. `attempt` > 0 makes a new id for a batch whose first publish was called a duplicate.
    """
    if len(boot) != 16:
        raise ValueError("a boot id has 16 bytes")
    plain = f"{boot.hex()}.{session}.{lane}.{sequence}"
    return f"{plain}.r{attempt}" if attempt > 0 else plain


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."
