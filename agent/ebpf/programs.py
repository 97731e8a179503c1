"""One capture's programs and maps, as descriptors: what the session's thread does with them.

A filter change exchanges one slot of the map of programs; a number that changes is written into the map of settings.
Neither compiles or loads the programs of bpf/capture.c again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from types import TracebackType

from agent.ebpf import kernel
from agent.ebpf.contract import COUNTERS, MAPS, PROGRAMS, SETTINGS, SLOT_FILTER, SLOT_KEEP
from agent.ebpf.translate import NotAsEbpf, translate


class WrongPrograms(Exception):
    """What was handed over isn't what bpf/contract.h says, in a sentence."""


class Filter:
    """A loaded filter program and how many bytes of a packet `keep` shall let through. Close it when it is replaced."""

    def __init__(self, descriptor: int, kept_bytes: int) -> None:
        self.descriptor = descriptor
        self.kept_bytes = kept_bytes

    def close(self) -> None:
        """Idempotent. The kernel keeps a program that is in its slot."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class ProgramSet:
    """`entry` is to be attached to one socket. Not thread-safe but for `counters`."""

    def __init__(self, descriptors: Mapping[str, int], loaded_by: str) -> None:
        """Takes the descriptors over. WrongPrograms when a map isn't as agreed."""
        self.loaded_by = loaded_by
        self._descriptors = dict(descriptors)
        self._kept_bytes = 0
        self._once_outgoing = 0
        try:
            if self._descriptors.keys() != {*PROGRAMS, *MAPS}:
                raise WrongPrograms(f"programs and maps are {sorted(self._descriptors)}")
            for name, wanted in MAPS.items():
                found = kernel.shape_of(self._descriptors[name])
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
        """Descriptor of the program to attach."""
        return self._descriptors["entry"]

    def filter_of(self, classic: bytes, kept_bytes: int) -> Filter:
        """Load a filter; not yet in force. NotAsEbpf when it doesn't translate or the kernel's verifier refuses it."""
        try:
            return Filter(kernel.load_socket_filter(translate(classic, self._map("jumps"))), kept_bytes)
        except kernel.KernelRefused as error:
            raise NotAsEbpf(f"the kernel refused the filter as an eBPF program: {error.strerror}") from None

    def use(self, chosen: Filter, *, once_outgoing: bool) -> None:
        """Put a filter in force. While one gives way to the other, packets are kept at the larger of the two sizes.

        KernelRefused (an OSError): the one before stays in force.
        """
        self._once_outgoing = int(once_outgoing)
        if chosen.kept_bytes >= self._kept_bytes:
            self._set(chosen.kept_bytes)
        kernel.write(self._map("jumps"), SLOT_FILTER, _packed(chosen.descriptor))
        self._set(chosen.kept_bytes)

    def counters(self) -> tuple[int, int]:
        """(seen, passed) since the programs were loaded, over all processors."""
        raw = kernel.read(self._map("counters"), 0, COUNTERS.size * self._values)
        pairs = list(COUNTERS.iter_unpack(raw))
        return sum(seen for seen, _ in pairs), sum(passed for _, passed in pairs)

    def close(self) -> None:
        """Let go of programs and maps. Idempotent. Only when the socket is closed: without the descriptor of the map
        of programs the kernel empties its slots."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}

    def _map(self, name: str) -> int:
        return self._descriptors[name]

    def _set(self, kept_bytes: int) -> None:
        kernel.write(self._map("settings"), 0, SETTINGS.pack(kept_bytes, self._once_outgoing))
        self._kept_bytes = kept_bytes

    def __enter__(self) -> ProgramSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _packed(descriptor: int) -> bytes:
    return struct.pack("=I", descriptor)
