# ruff: noqa: RUF009 - _setting makes a dataclass field, as field() does
"""Every setting of the agent in one table: the fields of `Config` with key, type, default, unit and help.

`agent.config` reads a file by this table, `agent.settings_page` makes docs/agent-configuration.md of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any


class Kind(Enum):
    """What a value looks like in the file."""

    TEXT = "text"
    PATH = "path"
    SWITCH = "true or false"
    COUNT = "whole number"
    SIZE = "size"
    NUMBER = "number"
    CHOICE = "one of"
    SERVERS = "list of server URLs"
    ADDRESSES = "list of addresses"
    PORTS = "list of ports and ranges"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the file."""

    key: str
    kind: Kind
    help: str
    default_text: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    example: str = ""


def _setting(
    default: Any,
    key: str,
    kind: Kind,
    help_: str,
    *,
    default_text: str = "",
    unit: str = "",
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    example: str = "",
) -> Any:
    low, high = bounds if bounds is not None else (None, None)
    text = default_text or _shown(default, kind)
    setting = Setting(key, kind, help_, text, unit, low, high, choices, example)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"setting": setting})
    return field(default=default, metadata={"setting": setting})


def _shown(value: Any, kind: Kind) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if kind is Kind.SIZE and isinstance(value, int):
        return size_text(value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def size_text(size_bytes: int) -> str:
    """A size as the file may write it: the largest binary unit that divides it."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor} {unit}"
    return f"{size_bytes} B"


KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


@dataclass(slots=True)
class Config:
    """The agent's settings with their defaults. `path` is the file they came from, None without one."""

    path: Path | None = None
    lines: dict[str, int] = field(default_factory=dict)
    """Key → line of the file, for what can only be judged later (an interface, a name that isn't the enrolled one)."""

    name: str | None = _setting(
        None,
        "name",
        Kind.TEXT,
        "The agent's name. Only a check: it must be the one this agent was enrolled under.",
        default_text="as enrolled",
        example="web1",
    )
    state_dir: Path = _setting(
        Path("/var/lib/wirepool-agent"),
        "state_dir",
        Kind.PATH,
        "Keys, enrolment, the last orders of the hub and the spool. `--state` on the command line wins.",
    )
    servers: list[str] = _setting(
        [],
        "servers",
        Kind.SERVERS,
        "NATS servers to use instead of those of the enrolment. Their certificates must come from the same authority.",
        default_text="as enrolled",
        example="[tls://hub.example:4222]",
    )
    hub_addresses: list[tuple[str, int]] = _setting(
        [],
        "hub_addresses",
        Kind.ADDRESSES,
        "Addresses of the hub's pages, so that watching a capture doesn't show up in it (own traffic). "
        "The hub tells its own; name proxies in front of it here.",
        default_text="[]",
        example="[192.0.2.10:8443]",
    )
    spool_directory: Path | None = _setting(
        None,
        "spool.directory",
        Kind.PATH,
        "Where batches wait until the server has stored them. Give it a disk of its own on a busy host.",
        default_text="<state_dir>/spool",
    )
    spool_max_bytes: int = _setting(
        1 * GIB,
        "spool.max_bytes",
        Kind.SIZE,
        "Bound of the whole spool, all sessions together. When it is reached the session's overflow policy decides.",
        unit="bytes",
        bounds=(1 * MIB, 64 * TIB),
    )
    spool_memory_bytes: int = _setting(
        16 * MIB,
        "spool.memory_bytes",
        Kind.SIZE,
        "How much may wait in memory while the disk is full or broken.",
        unit="bytes",
        bounds=(2 * MIB, 4 * GIB),
    )
    spool_sync_after_ms: int = _setting(
        1000,
        "spool.sync_after_ms",
        Kind.COUNT,
        "A batch that the server hasn't stored by then is forced to the disk: a power cut loses at most this much.",
        unit="milliseconds",
        bounds=(10, 60_000),
    )
    spool_sync_bytes: int = _setting(
        4 * MIB,
        "spool.sync_bytes",
        Kind.SIZE,
        "The same once this many bytes wait, however young they are.",
        unit="bytes",
        bounds=(64 * KIB, 1 * GIB),
    )
    capture_path: str = _setting(
        "auto",
        "capture.path",
        Kind.CHOICE,
        "How packets are taken and filtered. On an AF_PACKET ring: with eBPF programs compiled by BCC (`bcc`), the "
        "same out of an object compiled ahead of time (`object`), or classic BPF, which can't count what it turns away "
        "(`classic`). Through libpcap: `pcap`. `auto` takes the first that works (libpcap only where there is no "
        "AF_PACKET); any other allows only that one.",
        choices=("auto", "bcc", "object", "classic", "pcap"),
    )
    capture_timestamps: str = _setting(
        "software",
        "capture.timestamps",
        Kind.CHOICE,
        "Who says when a packet arrived. `software`: the kernel, as the packet enters the host, the same for all "
        "captures there; every packet of the host is stamped for it. `late`: the kernel, as it puts the packet into "
        "the ring: cheaper where a filter turns most packets away, and behind by what the packet waited for a "
        "processor. `hardware`: the network card, where it stamps all packets and its clock is within 1 ms of the "
        "host's (phc2sys); no capture otherwise. `auto`: the card, or `software` with the reason where it can't. "
        "Asking changes a setting of the card; the link of some cards restarts by it.",
        choices=("software", "late", "hardware", "auto"),
    )
    capture_rings: int = _setting(
        1,
        "capture.rings",
        Kind.COUNT,
        "Threads that take packets from one interface, each with a ring of its own; a flow stays in one ring. Several "
        "pay where one core can't keep up with compressing and signing. Each costs a thread, 1 MiB of buffers and, "
        "together, a little time per packet; `ring.bytes` is divided among them. Not with libpcap.",
        unit="rings",
        bounds=(1, 32),
    )
    ring_bytes: int = _setting(
        32 * MIB,
        "ring.bytes",
        Kind.SIZE,
        "The kernel's rings (or libpcap's buffer) per session, together: what may arrive while the agent has no CPU. "
        "Counts as resident memory.",
        unit="bytes",
        bounds=(1 * MIB, 1 * GIB),
    )
    ring_block_bytes: int = _setting(
        256 * KIB,
        "ring.block_bytes",
        Kind.SIZE,
        "A block of the ring, handed over as a whole. A power of two from 4 KiB on.",
        unit="bytes",
        bounds=(4 * KIB, 16 * MIB),
    )
    ring_retire_ms: int = _setting(
        4,
        "ring.retire_ms",
        Kind.COUNT,
        "The kernel hands a block over after this time even when it isn't full.",
        unit="milliseconds",
        bounds=(1, 50),
    )
    batch_target_bytes: int = _setting(
        512 * KIB,
        "batch.target_bytes",
        Kind.SIZE,
        "A batch is closed when it holds this much packet data (or one packet). Smaller ones cost more CPU per packet.",
        unit="bytes",
        bounds=(256 * KIB, 512 * KIB),
    )
    batch_linger_ms: int = _setting(
        60,
        "batch.linger_ms",
        Kind.COUNT,
        "A batch is closed at the latest this long after its first packet arrived at the interface.",
        unit="milliseconds",
        bounds=(10, 10_000),
    )
    batch_watched_linger_ms: int = _setting(
        10,
        "batch.watched_linger_ms",
        Kind.COUNT,
        "The same while somebody watches the session live.",
        unit="milliseconds",
        bounds=(2, 1000),
    )
    batch_compression: str = _setting(
        "zstd",
        "batch.compression",
        Kind.CHOICE,
        "How batches are compressed, where it pays. `none` saves more than half of the agent's CPU.",
        choices=("zstd", "gzip", "none"),
    )
    publish_window: int = _setting(
        8,
        "publish.window",
        Kind.COUNT,
        "Batches on their way to the server without an acknowledgement.",
        unit="batches",
        bounds=(1, 32),
    )
    publish_timeout_s: float = _setting(
        10.0,
        "publish.timeout_s",
        Kind.NUMBER,
        "A batch without an acknowledgement by then is sent again (the server drops what it already has).",
        unit="seconds",
        bounds=(0.5, 120),
    )
    publish_max_backoff_s: float = _setting(
        15.0,
        "publish.max_backoff_s",
        Kind.NUMBER,
        "The longest pause between attempts to connect or to publish; pauses grow with jitter up to it.",
        unit="seconds",
        bounds=(0.5, 15),
    )
    shutdown_wait_s: float = _setting(
        5.0,
        "shutdown.wait_s",
        Kind.NUMBER,
        "How long a stop waits for acknowledgements. What isn't acknowledged stays in the spool for the next start.",
        unit="seconds",
        bounds=(0, 600),
    )
    log_level: str = _setting(
        "info",
        "log.level",
        Kind.CHOICE,
        "What is logged: one line per event, never one per packet.",
        choices=("debug", "info", "warning", "error"),
    )
    log_file: Path | None = _setting(
        None,
        "log.file",
        Kind.PATH,
        "Log here as well as to stderr.",
        default_text="none",
    )
    own_traffic_exclude: bool = _setting(
        True,
        "own_traffic.exclude",
        Kind.SWITCH,
        "Leave wirepool's own connections (servers, hub, pages) out of every capture. They are counted. "
        "A session can switch it off for itself; `false` here switches it off for all.",
    )
    own_traffic_extra: list[tuple[str, int]] = _setting(
        [],
        "own_traffic.extra",
        Kind.ADDRESSES,
        "More addresses to leave out, such as a proxy between this host and the server.",
        default_text="[]",
        example="[192.0.2.7:3128]",
    )
    payload_policy: str = _setting(
        "full",
        "payload.policy",
        Kind.CHOICE,
        "What may leave this host of each packet's payload, whatever a session asks for: all of it, none (`headers`), "
        "or the part that the next two keys say (`masked`). The stricter of this and the session's policy wins.",
        choices=("full", "headers", "masked"),
    )
    payload_keep_bytes: int | None = _setting(
        None,
        "payload.keep_bytes",
        Kind.COUNT,
        "With `masked`: how many bytes of the payload may leave.",
        default_text="all",
        unit="bytes",
        bounds=(0, 262144),
    )
    payload_ports_without: list[tuple[int, int]] = _setting(
        [],
        "payload.ports_without",
        Kind.PORTS,
        "With `masked`: TCP and UDP ports whose packets give away no payload. Packets whose ports can't be seen (later "
        "fragments, tunnels, other protocols) give away none either.",
        default_text="[]",
        example="[443, 8000-8100]",
    )
    limits_cpu_percent: float | None = _setting(
        None,
        "limits.cpu_percent",
        Kind.NUMBER,
        "The agent's share of one core. Above it for 3 s it sheds, a step at a time: packets cut to `limits.snaplen`, "
        "flows sampled, all turned away and counted. It says so on the page and comes back by itself.",
        default_text="no limit",
        unit="percent",
        bounds=(1, 100_000),
    )
    limits_memory_bytes: int | None = _setting(
        None,
        "limits.memory_bytes",
        Kind.SIZE,
        "The same for resident memory; 32 MiB of it are each session's ring.",
        default_text="no limit",
        unit="bytes",
        bounds=(16 * MIB, 64 * TIB),
    )
    limits_uplink_bytes_per_s: int | None = _setting(
        None,
        "limits.uplink_bytes_per_s",
        Kind.SIZE,
        "The same for what is sent to the server in a second.",
        default_text="no limit",
        unit="bytes/s",
        bounds=(1 * KIB, 1 * TIB),
    )
    limits_disk_free_bytes: int = _setting(
        64 * MIB,
        "limits.disk_free_bytes",
        Kind.SIZE,
        "The same when less than this is free on the spool's disk; 0: no limit.",
        unit="bytes",
        bounds=(0, 64 * TIB),
    )
    limits_recover_percent: float = _setting(
        80.0,
        "limits.recover_percent",
        Kind.NUMBER,
        "A step of shedding is taken back when all are below this share of their limit for ten seconds (free disk: "
        "the limit divided by it).",
        unit="percent",
        bounds=(1, 99),
    )
    limits_snaplen: int = _setting(
        96,
        "limits.snaplen",
        Kind.COUNT,
        "What the first step leaves of each packet.",
        unit="bytes",
        bounds=(1, 262144),
    )
    limits_sampling: int = _setting(
        10,
        "limits.sampling",
        Kind.COUNT,
        "With eBPF the second step keeps one flow in so many, of those the session keeps.",
        unit="flows",
        bounds=(2, 65536),
    )
    replay_file: Path | None = _setting(
        None,
        "replay.file",
        Kind.PATH,
        "A pcap or pcapng file to feed in instead of capturing; for `run --until-done` and `replay`.",
        default_text="none",
    )
    replay_directory: Path | None = _setting(
        None,
        "replay.directory",
        Kind.PATH,
        "Capture files in and below this folder may be read when the hub declares a replay of them. Without it the "
        "hub can't make this agent read any file.",
        default_text="none",
    )
    replay_session: str | None = _setting(
        None,
        "replay.session",
        Kind.TEXT,
        "The session id it goes under, as `wirepool import` makes it.",
        default_text="a new one",
    )
    replay_rate_pps: float | None = _setting(
        None,
        "replay.rate_pps",
        Kind.NUMBER,
        "Packets per second; 0: at the pace of the file's own times.",
        default_text="as fast as it goes",
        unit="packets/s",
        bounds=(0, 1e9),
    )
    replay_filter: str = _setting(
        "",
        "replay.filter",
        Kind.TEXT,
        "tcpdump filter for the file; empty takes everything.",
        default_text="empty",
        example="tcp port 80",
    )
    replay_snaplen: int = _setting(
        262144,
        "replay.snaplen",
        Kind.COUNT,
        "Bytes kept of each packet of the file.",
        unit="bytes",
        bounds=(1, 262144),
    )

    @property
    def spool_path(self) -> Path:
        return self.spool_directory if self.spool_directory is not None else self.state_dir / "spool"


SETTINGS: dict[str, tuple[str, Setting]] = {
    member.metadata["setting"].key: (member.name, member.metadata["setting"])
    for member in fields(Config)
    if "setting" in member.metadata
}
"""Key in the file → (field of Config, its description), in the order of the documentation."""

SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(key.split(".")[0] for key in SETTINGS if "." in key))


def type_text(setting: Setting) -> str:
    """What a value of it must be, in words: also the "expected" of an error."""
    text = setting.kind.value
    if setting.kind is Kind.CHOICE:
        return f"{text} {', '.join(setting.choices)}"
    if setting.low is None or setting.high is None:
        return text
    if setting.kind is Kind.SIZE:
        return f"{text}, {size_text(int(setting.low))} to {size_text(int(setting.high))}"
    unit = f" {setting.unit}" if setting.unit else ""
    return f"{text}, {setting.low:g} to {setting.high:g}{unit}"
