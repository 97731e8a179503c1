"""From a session's order to an open source: which class, with which of the agent's settings."""

from __future__ import annotations

from pathlib import Path

from agent.bpf_filter import FilterError
from agent.ebpf.loading import CannotLoad, CapturePath
from agent.intake import Order
from agent.settings import Config
from agent.sources.choice import NO_PATH, THROUGH_LIBPCAP
from agent.sources.source import PacketSource, SourceError
from agent.surroundings import OwnTraffic
from wire.session import SessionSpec

MIN_RING_BYTES = 2 * 1024 * 1024
"""Of one interface of several: eight blocks of the usual size."""


def open_source(
    spec: SessionSpec,
    interface: str,
    order: Order,
    own_traffic: OwnTraffic,
    config: Config,
    path: CapturePath,
    *,
    sharers: int = 1,
) -> PacketSource:
    """The source that a session asks for on one interface ("" with a file).

    sharers: among how many interfaces `ring.bytes` is divided.

    Raises:
        FilterError, SourceError: with a message for the user.
    """
    if spec.replay is not None:
        from agent.sources.replay import ReplaySource

        if order.declared_flows.needed:
            raise FilterError(
                "flow cut-off, sampling and a filter inside tunnels are for live captures: a file is replayed whole"
            )
        rate = spec.replay.rate_pps
        file = _permitted(Path(spec.replay.file), config)
        return ReplaySource(file, order.filter, order.snaplen, "pace" if rate == 0 else rate)
    if path.name == NO_PATH:
        raise SourceError("this host has no way to capture", path.reason)
    ring_bytes = max(config.ring_bytes // max(1, sharers), min(MIN_RING_BYTES, config.ring_bytes))
    if path.name == THROUGH_LIBPCAP:
        from agent.sources.pcap import PcapSource

        if config.capture_timestamps == "hardware":
            raise SourceError(
                "packets can't carry the card's time stamps: they come through libpcap",
                "Set capture.timestamps to auto, software or late in the agent's configuration",
            )
        return PcapSource(
            interface,
            order.filter,
            order.snaplen,
            spec.promiscuous,
            own_traffic,
            buffer_bytes=ring_bytes,
            timeout_ms=config.ring_retire_ms,
            flows=order.declared_flows,
            late_stamps=config.capture_timestamps == "late",
        )
    from agent.sources.ring import RingSource

    try:
        programs = path.open()
    except CannotLoad as reason:
        raise SourceError(str(reason), "Set capture.path to auto in the agent's configuration") from None
    try:
        return RingSource(
            interface,
            order.filter,
            order.snaplen,
            spec.promiscuous,
            own_traffic,
            ring_bytes=ring_bytes,
            block_bytes=config.ring_block_bytes,
            retire_ms=config.ring_retire_ms,
            programs=programs,
            flows=order.declared_flows,
            timestamps=config.capture_timestamps,
            why_classic=path.reason,
            rings=config.capture_rings,
        )
    except BaseException:
        if programs is not None:
            programs.close()
        raise


def _permitted(file: Path, config: Config) -> Path:
    """The file with its links resolved, if whoever runs this agent allows it to be read.

    A hub that was taken over must not turn its agents into readers of their hosts' files.
    """
    file = file.resolve()
    if config.replay_file is not None and file == config.replay_file.resolve():
        return file
    if config.replay_directory is not None and file.is_relative_to(config.replay_directory.resolve()):
        return file
    raise SourceError(
        f"{file}: this agent reads no such file for the hub. Set replay.directory in the agent's configuration to a "
        "folder it may read from, or use `wirepool import`"
    )
