"""Which packets of a session go by the priority lane: those to or from these networks and ports.

People write it as one text: "10.0.0.0/8, 2001:db8::/32, port 53, port 8000-8100"; a list of indicators is such a text.
"""

import ipaddress
from dataclasses import dataclass
from typing import Any

from wire import fields
from wire.errors import WireError
from wire.payload import Ranges, merged

MAX_NETWORKS = 10_000
MAX_PORT_RANGES = 1_000
MAX_TEXT_BYTES = 192 * 1024
"""Of a text, before it is taken apart."""
_PACKED_BYTES = {4: 5, 6: 17}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class PriorityRules:
    """A packet has priority when one rule matches its source or its destination. Later fragments have no ports."""

    networks: tuple[Network, ...] = ()
    """Sorted, each once."""
    ports: Ranges = ()
    """(first, last) of TCP, UDP, SCTP, DCCP and UDP-Lite; sorted, apart from each other."""

    @property
    def none(self) -> bool:
        """Nothing has priority."""
        return not self.networks and not self.ports

    @property
    def text(self) -> str:
        """As people write it; `parse` reads it back."""
        ports = (f"port {first}" if first == last else f"port {first}-{last}" for first, last in self.ports)
        return ", ".join([*(_shown(network) for network in self.networks), *ports])

    @property
    def words(self) -> str:
        """For people, however many there are."""
        if len(self.networks) + len(self.ports) <= 5:
            return self.text
        return f"{len(self.networks)} networks, {len(self.ports)} ports and port ranges"

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR: networks packed (address, prefix length), IPv4 and IPv6 apart."""
        map_: dict[str, Any] = {}
        for version in (4, 6):
            packed = b"".join(
                network.network_address.packed + bytes([network.prefixlen])
                for network in self.networks
                if network.version == version
            )
            if packed:
                map_[f"networks{version}"] = packed
        if self.ports:
            map_["ports"] = [list(pair) for pair in self.ports]
        return map_

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "PriorityRules":
        """Checked; unknown keys ignored. WireError otherwise."""
        networks: list[Network] = []
        for version, size in _PACKED_BYTES.items():
            packed = map_.get(f"networks{version}") or b""
            if not isinstance(packed, bytes):
                raise WireError(f"networks{version}: bytes are needed")
            if len(packed) % size or len(networks) + len(packed) // size > MAX_NETWORKS:
                raise WireError(f"networks{version}: not {size} bytes each, or more than {MAX_NETWORKS}")
            try:
                networks += [
                    ipaddress.ip_network((packed[at : at + size - 1], packed[at + size - 1]))
                    for at in range(0, len(packed), size)
                ]
            except ValueError as error:
                raise WireError(f"networks{version}: {error}") from None
        ranges = []
        for pair in fields.optional(map_, "ports", fields.sequence, max_length=MAX_PORT_RANGES) or []:
            if not isinstance(pair, list) or len(pair) != 2:
                raise WireError("ports: pairs [first, last] are needed")
            entry = {"first": pair[0], "last": pair[1]}
            first = fields.integer(entry, "first", 1, 65535)
            ranges.append((first, fields.integer(entry, "last", first, 65535)))
        return cls(_sorted(networks), merged(tuple(ranges)))


NO_PRIORITY = PriorityRules()


def parse(text: str) -> PriorityRules:
    """Rules as people write them, with commas or line breaks between. WireError with the part that is none."""
    if len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        raise WireError(f"priority: at most {MAX_TEXT_BYTES} bytes of rules are read")
    networks: list[Network] = []
    ranges: list[tuple[int, int]] = []
    for part in text.replace("\n", ",").split(","):
        if not (part := part.strip()):
            continue
        if part.startswith("port"):
            ranges.append(_ports(part))
            continue
        try:
            networks.append(ipaddress.ip_network(part, strict=False))
        except ValueError:
            raise WireError(
                f"priority: {part[:60]!r} is no address, network or port: write 10.0.0.0/8, 2001:db8::1, port 53"
            ) from None
    rules = PriorityRules(_sorted(networks), merged(tuple(ranges)))
    if len(rules.networks) > MAX_NETWORKS or len(rules.ports) > MAX_PORT_RANGES:
        raise WireError(
            f"priority: {len(rules.networks)} networks and {len(rules.ports)} port ranges where {MAX_NETWORKS} and "
            f"{MAX_PORT_RANGES} are allowed"
        )
    return rules


def _ports(part: str) -> tuple[int, int]:
    first, _, last = part.removeprefix("port").replace(" ", "").partition("-")
    last = last or first
    if not (
        first.isascii() and first.isdigit() and last.isascii() and last.isdigit() and len(first + last) <= 10
    ):
        raise WireError(f"priority: {part[:60]!r}: write a port as port 53, several as port 8000-8100")
    low, high = int(first), int(last)
    if not 1 <= low <= high <= 65535:
        raise WireError(f"priority: {part[:60]!r}: ports go from 1 to 65535, the lower one first")
    return low, high


def _sorted(networks: list[Network]) -> tuple[Network, ...]:
    return tuple(
        sorted(
            set(networks),
            key=lambda network: (network.version, network.network_address.packed, network.prefixlen),
        )
    )


def _shown(network: Network) -> str:
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if whole else str(network)
