"""What bpf/capture.c makes of flows, said once more in Python: the kernel's verdicts are compared with it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

WITH_PORTS = {6, 17, 33, 132, 136}
_MASK = (1 << 64) - 1

Key = tuple[bytes, bytes, int, int, int, int]


def key_of(frame: bytes, *, network_at: int = 14) -> Key | None:
    """(lower address, upper address, lower port, upper port, protocol, version); None: belongs to no flow."""
    found = flow_of(frame, network_at=network_at)
    return None if found is None else found[0]


def flow_of(frame: bytes, *, network_at: int = 14) -> tuple[Key, bool] | None:
    """(the key, whether the lower end sent it)."""
    try:
        return _key(frame, network_at)
    except (IndexError, struct.error):
        return None


def _take(frame: bytes, at: int, size: int) -> bytes:
    if at + size > len(frame):
        raise IndexError
    return frame[at : at + size]


def _key(frame: bytes, at: int) -> tuple[Key, bool] | None:
    if at:
        kind = _take(frame, at - 2, 2)
        for _ in range(2):
            if kind in (b"\x81\0", b"\x88\xa8"):
                kind = _take(frame, at + 2, 2)
                at += 4
        version = {b"\x08\0": 4, b"\x86\xdd": 6}.get(kind)
    else:
        version = frame[0] >> 4
    fragment = False
    if version == 4:
        head = _take(frame, at, 20)
        protocol, fragment = head[9], bool(int.from_bytes(head[6:8], "big") & 0x3FFF)
        source, target = head[12:16].ljust(16, b"\0"), head[16:20].ljust(16, b"\0")
        at += 4 * (head[0] & 15)
    elif version == 6:
        head = _take(frame, at, 40)
        protocol, source, target = head[6], head[8:24], head[24:40]
        at += 40
        for _ in range(4):
            if protocol not in (0, 43, 44, 60) or fragment:
                break
            extension = _take(frame, at, 4)
            if protocol == 44:
                fragment = bool(int.from_bytes(extension[2:4], "big") & 0xFFF9)
                at += 8
            else:
                at += 8 * (extension[1] + 1)
            protocol = extension[0]
    else:
        return None
    ports = (0, 0)
    if protocol in WITH_PORTS and not fragment:
        ports = struct.unpack("=HH", _take(frame, at, 4))
    order = struct.Struct("=QQ")
    ends = [(*order.unpack(source), ports[0], source), (*order.unpack(target), ports[1], target)]
    forward = ends[0][:3] <= ends[1][:3]
    lower, upper = ends if forward else reversed(ends)
    return (lower[3], upper[3], lower[2], upper[2], protocol, version), forward


def place_in_sample(key: Key) -> int:
    value = 0
    last = key[2] << 32 | key[3] << 16 | key[4] << 8 | key[5]
    for word in (*struct.unpack("=QQQQ", key[0] + key[1]), last):
        value = (value ^ word) * 0x9E3779B97F4A7C15 & _MASK
        value ^= value >> 32
    return value >> 32


@dataclass
class FlowModel:
    """Judges frames that the filter let through, one after the other."""

    cutoff_bytes: int = 0
    one_in: int = 1
    network_at: int = 14
    bytes_of: dict[Key, int] = field(default_factory=dict)
    sampled_out: int = 0
    cut_off: int = 0

    def keeps(self, frame: bytes) -> bool:
        key = key_of(frame, network_at=self.network_at)
        if key is None:
            return True
        if self.one_in > 1 and place_in_sample(key) % self.one_in:
            self.sampled_out += 1
            return False
        if self.cutoff_bytes:
            if self.bytes_of.get(key, 0) >= self.cutoff_bytes:
                self.cut_off += 1
                return False
            self.bytes_of[key] = self.bytes_of.get(key, 0) + len(frame)
        return True


@dataclass
class CountsModel:
    """Counts every frame that is seen: packets and bytes from the lower end, then those from the upper one."""

    network_at: int = 14
    tag_beside: bool = False
    """As on an interface: the kernel has taken the outer tag out, and drops a frame whose tag is cut off."""
    flows: dict[Key, list[int]] = field(default_factory=dict)
    unattributed: int = 0

    def see(self, *seen: bytes) -> None:
        for frame in seen:
            inner = frame
            if self.tag_beside and frame[12:14] in (b"\x81\0", b"\x88\xa8"):
                if len(frame) < 20:  # skb_vlan_untag pulls two bytes more than a tag has
                    continue
                inner = frame[:12] + frame[16:]
            found = flow_of(inner, network_at=self.network_at)
            if found is None:
                self.unattributed += 1
                continue
            key, from_lower = found
            counts = self.flows.setdefault(key, [0, 0, 0, 0])
            at = 0 if from_lower else 2
            counts[at] += 1
            counts[at + 1] += len(frame)

    @property
    def packets(self) -> int:
        return sum(counts[0] + counts[2] for counts in self.flows.values())
