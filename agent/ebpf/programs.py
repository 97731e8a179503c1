"""One capture's programs and maps, as descriptors: what the session's thread does with them.

A filter change exchanges one slot of the map of programs, and the program that the sockets run where that is the filter
itself; a number that changes is written into the map of settings. None of it compiles or loads bpf/capture.c again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple

from agent.ebpf import kernel
from agent.ebpf.contract import (
    BY_NETWORK,
    BY_PORT,
    COUNTERS,
    HASH,
    MAPS,
    NETWORK_KEY,
    PLAIN_BEFORE_4_10,
    PORTS_BYTES,
    PROGRAMS,
    SETTINGS,
    SLOT_FILTER,
    SLOT_INNER_ETHERNET,
    SLOT_INNER_IP,
    SLOT_KEEP,
    STEERING,
)
from agent.ebpf.translate import NotAsEbpf, translate
from wire.payload import Ranges
from wire.priority import Network, PriorityRules

DIRECT = -1
"""In place of a slot: the filter as sockets run it themselves, without `entry`."""
_DIRECT_INSTRUCTIONS = 256
"""At most, so that a socket has room for two of them while one gives way to the other: sysctl net.core.optmem_max was
20 KiB before Linux 6.7, and the kernel makes up to four instructions of one of ours. In its slot a filter takes none of
that room, and a longer one gains little."""
_INSTRUCTION_BYTES = 8


class WrongPrograms(Exception):
    """What was handed over isn't what bpf/contract.h says, in a sentence."""


class Settings(NamedTuple):
    """struct settings of bpf/contract.h."""

    cutoff_bytes: int = 0
    kept_bytes: int = 0
    once_outgoing: int = 0
    network_at: int = 14
    one_flow_in: int = 1
    look_inside: int = 0
    count_flows: int = 0


class InnerFilter(NamedTuple):
    """The same filter for what a tunnel carries, as classic BPF: behind an Ethernet header, and without one."""

    ethernet: bytes
    ip: bytes


class Counters(NamedTuple):
    """struct counters of bpf/contract.h, over all processors."""

    seen: int
    passed: int
    sampled_out: int
    cut_off: int
    counted: int
    unattributed: int


class Steering(NamedTuple):
    """struct steering of bpf/contract.h."""

    rings: int = 1
    rules: int = 0
    network_at: int = 14
    unused: int = 0


class Filter:
    """Loaded filter programs, by slot or DIRECT, and the settings that belong to them. Close it when it is replaced."""

    def __init__(self, descriptors: Mapping[int, int], settings: Settings) -> None:
        """Takes the descriptors over."""
        self.descriptors = dict(descriptors)
        self.settings = settings

    @property
    def direct(self) -> int | None:
        """Descriptor of the program for the sockets, where nothing asks for what only `entry` does."""
        if self.settings.look_inside or self.settings.count_flows:
            return None
        return self.descriptors.get(DIRECT)

    def again(self, settings: Settings) -> Filter:
        """The same programs with other settings, to be closed by themselves."""
        return Filter({slot: os.dup(one) for slot, one in self.descriptors.items()}, settings)

    def close(self) -> None:
        """Idempotent. The kernel keeps a program that is in its slot."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors = {}


class ProgramSet:
    """One of its programs is to be attached to the sockets of one capture: `use` says which. Not thread-safe but for
    `counters`."""

    def __init__(self, descriptors: Mapping[str, int], loaded_by: str) -> None:
        """Takes the descriptors over. WrongPrograms when a map isn't as agreed."""
        self.loaded_by = loaded_by
        self._descriptors = dict(descriptors)
        self._settings = Settings()
        self._steering = Steering()
        self._networks: frozenset[bytes] = frozenset()
        self.attached: int | None = None
        """Descriptor of the program that sockets run since the last `use`."""
        try:
            if self._descriptors.keys() != {*PROGRAMS, *MAPS}:
                raise WrongPrograms(f"programs and maps are {sorted(self._descriptors)}")
            for name, wanted in MAPS.items():
                found = kernel.shape_of(self._descriptors[name])
                if name in PLAIN_BEFORE_4_10 and found.kind == HASH:
                    wanted = replace(wanted, kind=HASH)
                if found != wanted:
                    raise WrongPrograms(
                        f"the map {name} is {found} instead of {wanted}: compiled from another version?"
                    )
            self._values = kernel.possible_cpus()
            kernel.write(self._map("jumps"), SLOT_KEEP, _packed(self._descriptors["keep"]))
        except BaseException:
            self.close()
            raise

    @property
    def open(self) -> bool:
        return bool(self._descriptors)

    @property
    def entry(self) -> int:
        """Descriptor of the program that reaches every filter by its slot, and does all that settings ask for."""
        return self._descriptors["entry"]

    @property
    def flow_counters(self) -> int:
        """Descriptor of the map of flow counters."""
        return self._map("flow_counters")

    def filter_of(self, classic: bytes, settings: Settings, inner: InnerFilter | None = None) -> Filter:
        """Load a filter; not yet in force. NotAsEbpf when it doesn't translate or the kernel's verifier refuses it.

        inner: for settings that look inside tunnels.
        """
        wanted = {SLOT_FILTER: (classic, False)}
        if inner is not None:
            wanted |= {SLOT_INNER_ETHERNET: (inner.ethernet, True), SLOT_INNER_IP: (inner.ip, True)}
        loaded = Filter({}, settings)
        try:
            for slot, (code, within) in wanted.items():
                program = translate(code, self._map("jumps"), inner=within)
                loaded.descriptors[slot] = kernel.load_socket_filter(program)
            direct = translate(
                classic,
                self._map("jumps"),
                counters=self._map("counters"),
                once_outgoing=bool(settings.once_outgoing),
            )
            if len(direct) <= _DIRECT_INSTRUCTIONS * _INSTRUCTION_BYTES:
                loaded.descriptors[DIRECT] = kernel.load_socket_filter(direct)
        except kernel.KernelRefused as error:
            loaded.close()
            raise NotAsEbpf(f"the kernel refused the filter as an eBPF program: {error.strerror}") from None
        except BaseException:
            loaded.close()
            raise
        return loaded

    def use(self, chosen: Filter, attach: Callable[[int], None] = lambda program: None) -> None:
        """Put a filter in force. While one gives way to the other, packets are kept at the larger of the two sizes.

        attach: replaces the program of all sockets, or of none. OSError: the one before stays in force.
        """
        before = self._settings
        kept_bytes = max(chosen.settings.kept_bytes, before.kept_bytes)
        slots = dict(sorted(chosen.descriptors.items(), reverse=True))
        slots.pop(DIRECT, None)
        if not before.look_inside:  # in their places before anything jumps there
            for slot in [slot for slot in slots if slot != SLOT_FILTER]:
                kernel.write(self._map("jumps"), slot, _packed(slots.pop(slot)))
        self._set(chosen.settings._replace(kept_bytes=kept_bytes))
        direct = chosen.direct
        try:
            if direct is not None:  # the slots are for the next one that goes by way of them
                attach(direct)
            for slot, descriptor in slots.items():
                kernel.write(self._map("jumps"), slot, _packed(descriptor))
            if direct is None:
                attach(self.entry)
        except OSError:
            self._set(before)
            raise
        self.attached = self.entry if direct is None else direct
        self._set(chosen.settings)

    def counters(self) -> Counters:
        """Since the programs were loaded."""
        raw = kernel.read(self._map("counters"), 0, COUNTERS.size * self._values)
        return Counters(*map(sum, zip(*COUNTERS.iter_unpack(raw), strict=True)))

    @property
    def steer(self) -> int:
        """Descriptor of the program that chooses a packet's ring."""
        return self._descriptors["steer"]

    def spread(self, rings: int, network_at: int) -> None:
        """Over how many rings flows are spread, once they are all there."""
        self._steering = self._steering._replace(rings=rings, network_at=network_at)
        kernel.write(self._map("steering"), 0, STEERING.pack(*self._steering))

    def prioritise(self, rules: PriorityRules) -> None:
        """Other rules, while packets flow: meanwhile one may be judged by either. KernelRefused: some are in force, and
        a further call sets it right. Only once there is a ring for them."""
        wanted = frozenset(_network_key(network) for network in rules.networks)
        self._write_rules(self._networks | wanted, rules)  # of a map that is being filled both hold
        for key in self._networks - wanted:
            kernel.delete(self._map("priority_networks"), key)
            self._networks -= {key}
        for key in wanted - self._networks:
            kernel.write(self._map("priority_networks"), key, bytes(4))
            self._networks |= {key}
        kernel.write(self._map("priority_ports"), 0, _port_bits(rules.ports))
        self._write_rules(self._networks, rules)

    def _write_rules(self, networks: frozenset[bytes], rules: PriorityRules) -> None:
        flags = (BY_NETWORK if networks else 0) | (BY_PORT if rules.ports else 0)
        self._steering = self._steering._replace(rules=flags)
        kernel.write(self._map("steering"), 0, STEERING.pack(*self._steering))

    def close(self) -> None:
        """Let go of programs and maps. Idempotent. Only when the socket is closed: without the descriptor of the map
        of programs the kernel empties its slots."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}

    def _map(self, name: str) -> int:
        return self._descriptors[name]

    def _set(self, settings: Settings) -> None:
        kernel.write(self._map("settings"), 0, SETTINGS.pack(*settings))
        self._settings = settings

    def __enter__(self) -> ProgramSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _network_key(network: Network) -> bytes:
    """struct network_key: IPv4 as ::ffff:a.b.c.d, so that one trie has both."""
    packed = network.network_address.packed
    if network.version == 4:
        return NETWORK_KEY.pack(96 + network.prefixlen, bytes(10) + b"\xff\xff" + packed)
    return NETWORK_KEY.pack(network.prefixlen, packed)


def _port_bits(ports: Ranges) -> bytes:
    bits = 0
    for first, last in ports:
        bits |= ((1 << last - first + 1) - 1) << first
    return bits.to_bytes(PORTS_BYTES, "little")


def _packed(descriptor: int) -> bytes:
    return struct.pack("=I", descriptor)
