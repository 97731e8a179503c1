"""The agent's settings: every complaint names file, line, key and remedy; the documentation is the table's."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import ConfigError, load_config, parse_config
from agent.settings import SETTINGS, Config, size_text
from agent.settings_page import EXAMPLE, documentation

FILE = Path("/etc/wirepool/agent.yaml")
ROOT = Path(__file__).resolve().parents[2]


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text.encode(), FILE)
    return [str(problem) for problem in caught.value.problems]


def test_the_documentation_is_generated_from_the_table() -> None:
    written = (ROOT / "docs" / "agent-configuration.md").read_text()
    assert written == documentation(), "run: python -m agent.settings_page > docs/agent-configuration.md"


def test_every_setting_has_help_and_is_documented() -> None:
    text = documentation()
    for key, (field, setting) in SETTINGS.items():
        assert hasattr(Config(), field)
        assert setting.help.endswith("."), key
        assert f"`{key}`" in text


def test_the_example_is_good() -> None:
    config = parse_config(EXAMPLE.encode(), FILE)
    assert config.name == "web1"
    assert config.spool_max_bytes == 20 << 30


def test_an_empty_file_gives_the_defaults() -> None:
    for text in ("", "# nothing\n", "spool:\n"):
        config = parse_config(text.encode(), FILE)
        config.path = None
        assert config == Config()


def test_values_of_every_kind() -> None:
    config = parse_config(
        b"""
name: web-1
state_dir: state
servers: [tls://hub.example:4222, "tls://[2001:db8::1]"]
hub_addresses: ["192.0.2.1:8443", "[2001:db8::1]:443"]
spool: {max_bytes: 1.5 GiB, sync_after_ms: 250}
ring: {bytes: 16MB}
batch: {compression: none}
publish: {timeout_s: 2.5}
own_traffic: {exclude: false}
log: {level: debug, file: agent.log}
replay: {file: a.pcap, rate_pps: 0, filter: 'udp port 53'}
""",
        FILE,
    )
    assert config.name == "web-1"
    assert config.state_dir == FILE.parent / "state"
    assert config.servers == ["tls://hub.example:4222", "tls://[2001:db8::1]"]
    assert config.hub_addresses == [("192.0.2.1", 8443), ("2001:db8::1", 443)]
    assert config.spool_max_bytes == 3 << 29
    assert config.ring_bytes == 16_000_000
    assert config.publish_timeout_s == 2.5
    assert config.own_traffic_exclude is False
    assert config.log_file == FILE.parent / "agent.log"
    assert (config.replay_rate_pps, config.replay_filter) == (0.0, "udp port 53")
    assert config.lines["spool.max_bytes"] == 6


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("nam: web1\n", 1, ["nam: unknown key", "Did you mean `name`?"]),
        ("spool:\n  max_byte: 3\n", 2, ["spool.max_byte", "`spool.max_bytes`"]),
        (
            "spool:\n  size: 3\n",
            2,
            ["spool.size: unknown key", "Known here: spool.directory, spool.max_bytes"],
        ),
        ("max_bytes: 3\n", 1, ["Did you mean `spool.max_bytes`?"]),
        (
            "wholly_else: 3\n",
            1,
            ["unknown key", "Known here: name, state_dir", "docs/agent-configuration.md"],
        ),
        ("spool: {max_bytes: lots}\n", 1, ["1 MiB to 64 TiB", "`lots`", "64 MiB", "default (1 GiB)"]),
        ("spool: {max_bytes: 1 KiB}\n", 1, ["too small"]),
        ("spool: {max_bytes: -5}\n", 1, ["spool.max_bytes", "`-5`"]),
        ("spool: {max_bytes: [1]}\n", 1, ["found a list"]),
        ("spool: {max_bytes: {a: 1}}\n", 1, ["found keys"]),
        ("spool: {max_bytes: ~}\n", 1, ["a single value"]),
        ("\n\nring: 4\n", 3, ["section ring", "keys with values"]),
        ("publish: {window: 99}\n", 1, ["1 to 32 batches", "too large"]),
        ("publish: {window: 2.5}\n", 1, ["whole number", "`2.5`"]),
        ("publish: {timeout_s: nan}\n", 1, ["0.5 to 120 seconds"]),
        ("publish: {timeout_s: 1e3}\n", 1, ["number"]),
        ("log: {level: inof}\n", 1, ["debug, info, warning, error", "did you mean info?"]),
        ("own_traffic: {exclude: maybe}\n", 1, ["true or false"]),
        ("own_traffic: {extra: 192.0.2.1:1}\n", 1, ["a list goes in brackets"]),
        ('own_traffic: {extra: ["192.0.2.1"]}\n', 1, ["write IP address:port"]),
        ('own_traffic: {extra: ["192.0.2.1:70000"]}\n', 1, ["ports go from 1 to 65535"]),
        ("servers: [hub:4222]\n", 1, ["write tls://host:4222"]),
        ('servers: ["tls://:1"]\n', 1, ["no host name"]),
        ('servers: ["tls://h:99999"]\n', 1, ["Port out of range"]),
        ("name: Web1\n", 1, ["agent id", "a-z"]),
        ("replay: {session: abc}\n", 1, ["session id"]),
        ("name: a\nname: b\n", 2, ["given twice, first in line 1"]),
        ("- a\n- b\n", 1, ["must be keys with values"]),
        ("? [a]\n: b\n", 1, ["a plain word"]),
        ("a: b: c\n", 1, ["not YAML"]),
        ("spool:\n\tmax_bytes: 1\n", 2, ["not YAML"]),
        ("a: 1\n---\nb: 2\n", 2, ["not YAML", "one document"]),
        ("name: &x web1\nlog: *y\n", 2, ["not YAML"]),
    ],
)
def test_complaints(text: str, line: int, words: list[str]) -> None:
    (found,) = problems(text)
    assert found.startswith(f"{FILE}:{line}: "), found
    for word in words:
        assert word in found


def test_all_complaints_at_once() -> None:
    found = problems("nam: a\nspool: {max_bytes: x, sync_byte: 1}\nlog: {level: loud}\n")
    assert [one.split(": ")[0] for one in found] == [f"{FILE}:1", f"{FILE}:2", f"{FILE}:2", f"{FILE}:3"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"a: \x00", "not YAML"),
        (b"[" * 100_000, "nested too deeply"),
        (b"# " + b"x" * (1 << 20), "larger than"),
        (b"a: &a [*a]", "unknown key"),
    ],
)
def test_hostile_files(content: bytes, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        parse_config(content, FILE)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_file_is_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse_config(content, FILE)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as caught:
        load_config(tmp_path / "agent.yaml")
    assert "without --config" in str(caught.value)


@pytest.mark.parametrize("size", [2 << 20, 2 << 20 | 1, 3_000_000, 1 << 30, 4 << 30])
def test_sizes_are_read_as_they_are_written(size: int) -> None:
    text = f"spool: {{memory_bytes: {size_text(size)}}}"
    assert parse_config(text.encode(), FILE).spool_memory_bytes == size
