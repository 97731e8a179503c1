"""Disabling an agent and enabling it again: whether this hub gives it any sessions.

Disabled isn't revoked. The agent stays trusted and connected: its spool drains, its heartbeats are heard, and its
sessions close their chains properly. It is refused new ones, with who disabled it and why.
"""

from hub.agents.sessions import SessionControl
from hub.registry import ConflictError, Registry


def disable(
    registry: Registry, sessions: SessionControl, agent: str, user: str, reason: str = ""
) -> list[str]:
    """Refuse the agent new sessions and stop those it has; the ids of those stopped now.

    ConflictError when it is disabled already, UnknownError without the agent. Wake the declarer afterwards.
    """
    with registry.transaction():  # nothing can be started in between
        record = registry.agents.require(agent)
        if record.off_ns is not None:
            raise ConflictError(f"agent {agent!r} is {record.off_words} already")
        registry.agents.switch_off(agent, user, " ".join(reason.split()))
        running = [
            one.id
            for one in registry.sessions.all(agent=agent, active_only=True)
            if one.spec is not None and one.spec.state != "stopped"
        ]
        for session in running:
            sessions.stop(session)
    return running


def enable(registry: Registry, agent: str) -> None:
    """Let the agent have sessions again; those that were stopped stay so. ConflictError when it is enabled."""
    with registry.transaction():
        if registry.agents.require(agent).off_ns is None:
            raise ConflictError(f"agent {agent!r} is enabled already")
        registry.agents.switch_on(agent)
