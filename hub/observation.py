"""The name of a packet as one agent saw it: in a row of the list, in an address, in a request."""

from __future__ import annotations

from dataclasses import dataclass

from wire.batch import Header
from wire.errors import WireError
from wire.names import Lane, check_agent_id, check_lane, check_session_id

_MAX_NUMBER = 2**63


@dataclass(frozen=True, slots=True)
class BatchName:
    """Names a batch for ever: the counter of a lane begins anew with each boot of the agent."""

    agent: str
    boot: bytes
    session: str
    lane: Lane
    sequence: int

    @classmethod
    def of(cls, header: Header) -> BatchName:
        """The name of the batch with this header."""
        return cls(header.agent, header.boot, header.session, header.lane, header.sequence)

    def __str__(self) -> str:
        return f"{self.agent}/{self.boot.hex()}/{self.session}/{self.lane}/{self.sequence}"


@dataclass(frozen=True, slots=True)
class Observation:
    """A packet as one agent saw it: `agent/boot/session/lane/sequence/index`, as rows carry it."""

    batch: BatchName
    index: int

    @classmethod
    def parse(cls, text: str) -> Observation:
        """Take an observation apart; WireError when it is none."""
        parts = text.split("/") if len(text) <= 200 else []
        if len(parts) != 6:
            raise WireError("not a packet's name (agent/boot/session/lane/sequence/index)")
        agent, boot, session, lane, sequence, index = parts
        try:
            name = BatchName(
                check_agent_id(agent),
                bytes.fromhex(boot),
                check_session_id(session),
                check_lane(lane),
                _number(sequence),
            )
        except ValueError as error:
            raise WireError("not a packet's name: its boot or its sequence is none") from error
        if len(name.boot) != 16:
            raise WireError("not a packet's name: a boot has 16 bytes")
        return cls(name, _number(index))

    def __str__(self) -> str:
        return f"{self.batch}/{self.index}"


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) >= _MAX_NUMBER:
        raise WireError("not a packet's name: a number is missing in it")
    return int(text)
