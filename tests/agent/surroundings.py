"""What the sessions of a test share: an agent's key and spool, and no server."""

from __future__ import annotations

from collections.abc import Sequence

from agent.ebpf.loading import CapturePath
from agent.settings import Config
from agent.sources.opening import open_source
from agent.spool import Spool
from agent.surroundings import Surroundings
from tests.agent.batches import AGENT, BOOT, KEY
from wire.clock import Clock


def surroundings(
    spool: Spool,
    *,
    way: str,
    config: Config | None = None,
    boot: bytes = BOOT,
    own_traffic: Sequence[tuple[str, int]] = (),
) -> Surroundings:
    """`way`: how packets are judged, as in `agent.ebpf.loading`."""
    settings, path = config or Config(), CapturePath(way)
    return Surroundings(
        agent=AGENT,
        boot=boot,
        key=KEY,
        config=settings,
        spool=spool,
        wake_publisher=lambda: None,
        clock=Clock,
        open_source=lambda spec, interface, order, own, sharers: open_source(
            spec, interface, order, own, settings, path, sharers=sharers
        ),
        changed=lambda: None,
        own_traffic=list(own_traffic),
    )
