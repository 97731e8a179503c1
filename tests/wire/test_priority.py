"""Priority rules: as people write them, as the wire carries them, and every bound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wire.errors import WireError
from wire.priority import MAX_NETWORKS, NO_PRIORITY, PriorityRules, parse
from wire.session import SessionSpec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        ("10.0.0.1", "10.0.0.1"),
        (
            "2001:DB8::/32,10.1.2.3/8\nport 53 , port 8000-8100",
            "10.0.0.0/8, 2001:db8::/32, port 53, port 8000-8100",
        ),
        ("port 1, port 2, port 3-9, port53", "port 1-9, port 53"),
        ("10.0.0.1, 10.0.0.1/32", "10.0.0.1"),
        ("0.0.0.0/0, ::/0", "0.0.0.0/0, ::/0"),
    ],
)
def test_what_is_written_is_understood_and_carried(text: str, said: str) -> None:
    rules = parse(text)
    assert rules.text == said
    assert parse(rules.text) == rules
    assert PriorityRules.from_map(rules.to_map()) == rules
    spec = SessionSpec(id="a" * 26, interface="eth0", priority=rules)
    assert SessionSpec.from_map(spec.to_map()) == spec
    assert ("priority" in spec.to_map()) == bool(text)


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.256",
        "host.example",
        "port",
        "port 0",
        "port 65536",
        "port 9-8",
        "port 1-2-3",
        "10.0.0.0/33",
        "tcp 53",
    ],
)
def test_what_is_none_is_refused_with_the_part_that_is_none(text: str) -> None:
    with pytest.raises(WireError, match="priority: ") as refused:
        parse(f"10.0.0.1, {text}")
    assert repr(text)[1:-1] in str(refused.value)


def test_bounds() -> None:
    full = ", ".join(f"10.{n >> 8}.{n & 255}.0/24" for n in range(MAX_NETWORKS))
    rules = parse(full)
    assert PriorityRules.from_map(rules.to_map()) == rules
    assert rules.words == "10000 networks, 0 ports and port ranges"
    with pytest.raises(WireError, match="10001 networks"):
        parse(full + ", 192.0.2.1")
    with pytest.raises(WireError, match="1001 port ranges"):
        parse(", ".join(f"port {2 * n + 1}" for n in range(1001)))
    with pytest.raises(WireError, match="bytes of rules"):
        parse(" " * (192 * 1024 + 1))


@pytest.mark.parametrize(
    "map_",
    [
        {"networks4": b"\x0a\0\0\0"},
        {"networks4": b"\x0a\0\0\0\x21"},
        {"networks4": b"\x0a\0\0\1\x08"},
        {"networks4": "10.0.0.0"},
        {"networks4": bytes(5) * (MAX_NETWORKS + 1)},
        {"networks6": bytes(16)},
        {"ports": [[0, 1]]},
        {"ports": [[2, 1]]},
        {"ports": [[1]]},
        {"ports": [[1, 1]] * 1001},
        {"ports": 53},
    ],
)
def test_hostile_maps(map_: dict[str, object]) -> None:
    with pytest.raises(WireError):
        PriorityRules.from_map(map_)


def test_unknown_keys_are_ignored() -> None:
    assert PriorityRules.from_map({"later": 1}) == NO_PRIORITY
    spec = SessionSpec(id="a" * 26, interface="eth0")
    assert replace(spec, priority=NO_PRIORITY) == spec
