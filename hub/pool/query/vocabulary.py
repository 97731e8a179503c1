"""What can stand in a query: fields by their names, words that mean a comparison, values that are known beforehand."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from hub.pool.fields import (
    BY_ANY_NAME,
    CONVERSATION_BY_ANY_NAME,
    CONVERSATION_FIELDS,
    EITHER,
    PACKET_FIELDS,
    Field,
)
from hub.pool.query.ast import Compare, Exists, In, Or, Query
from hub.pool.values import DIRECTIONS, NETWORKS, PROBLEMS, TRANSPORTS, TUNNELS


class What(StrEnum):
    """What is looked for."""

    PACKETS = "packets"
    CONVERSATIONS = "conversations"


CHOICES: Mapping[str, tuple[str, ...]] = {
    "network.transport": tuple(TRANSPORTS.values()),
    "network.type": NETWORKS,
    "network.direction": DIRECTIONS,
    "tunnel.type": tuple(word for word in TUNNELS if word != "none"),
    "wirepool.problem": tuple(PROBLEMS.values()),
    "wirepool.lane": ("bulk", "prio"),
    "dns.type": ("query", "answer"),
}
"""Fields that have one of few values; any other is taken for a slip of the pen."""

_WORDS: dict[str, Query] = {
    **{name: Compare("network.transport", "=", name) for name in TRANSPORTS.values()},
    "icmp": In("network.transport", ("icmp", "ipv6-icmp")),
    "icmp6": Compare("network.transport", "=", "ipv6-icmp"),
    "icmpv6": Compare("network.transport", "=", "ipv6-icmp"),
    **{name: Compare("network.type", "=", name) for name in NETWORKS},
    "ip6": Compare("network.type", "=", "ipv6"),
    "ip4": Compare("network.type", "=", "ipv4"),
    **{name: Compare("tunnel.type", "=", name) for name in ("vxlan", "geneve", "erspan")},
    "tls": Or((Exists("tls.client.server_name"), Exists("tls.client.alpn"))),
    "http": Exists("http.request.method"),
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Of packets or of conversations."""

    what: What
    fields: tuple[Field, ...]
    names: Mapping[str, Field]
    """By full name and by shorter ones."""
    either: Mapping[str, tuple[Field, Field]]
    words: Mapping[str, Query]
    """Bare words that mean a comparison."""

    def find(self, name: str) -> tuple[Field, ...]:
        """The field, or the two that the name means either of; () for an unknown name."""
        lower = name.lower()
        if lower in self.either:
            return self.either[lower]
        field = self.names.get(lower)
        return (field,) if field else ()

    @property
    def all_names(self) -> list[str]:
        """Shorter names first."""
        return [*self.either, *sorted(self.names, key=lambda name: ("." in name, name))]


def _vocabulary(
    what: What, fields: Iterable[Field], names: Mapping[str, Field], words: dict[str, Query]
) -> Vocabulary:
    known = {field.name for field in fields}

    def is_known(query: Query) -> bool:
        if isinstance(query, Or):
            return all(map(is_known, query.parts))
        return isinstance(query, Compare | In | Exists) and query.field in known

    either = {name: (names[a], names[b]) for name, (a, b) in EITHER.items() if a in known and b in known}
    usable = {word: query for word, query in words.items() if is_known(query)}
    return Vocabulary(what, tuple(fields), names, either, usable)


VOCABULARIES: Mapping[What, Vocabulary] = {
    What.PACKETS: _vocabulary(What.PACKETS, PACKET_FIELDS, BY_ANY_NAME, _WORDS),
    What.CONVERSATIONS: _vocabulary(
        What.CONVERSATIONS, CONVERSATION_FIELDS, CONVERSATION_BY_ANY_NAME, _WORDS
    ),
}


WIRESHARK: Mapping[str, str] = {
    **{
        f"{ip}.{there}": here
        for ip in ("ip", "ipv6")
        for there, here in (("addr", "ip"), ("src", "src"), ("dst", "dst"))
    },
    **{
        f"{transport}.{there}": here
        for transport in ("tcp", "udp")
        for there, here in (("port", "port"), ("srcport", "sport"), ("dstport", "dport"))
    },
    "eth.addr": "mac",
    "frame.len": "bytes",
    "frame.time": "time",
    "tcp.flags.syn": "tcp.syn",
    "tcp.flags.reset": "tcp.rst",
    "tcp.flags.fin": "tcp.fin",
    "vlan.id": "vlan",
    "dns.qry.name": "dns",
    "http.host": "url.domain",
    "http.request.uri": "url",
    "tls.handshake.extensions_server_name": "sni",
}
"""What display filters of Wireshark call a field, and what it is called here."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing."""
    near = difflib.get_close_matches(word.lower()[:64], list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
