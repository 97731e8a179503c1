"""hub.yaml: defaults, every kind of mistake named with its line, and every setting documented."""

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.config import SETTINGS, ConfigError, HubSettings, listing, load, parse


def test_no_file_means_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "hub.yaml") == HubSettings()
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "hub.yaml", required=True)


def test_the_table_is_the_dataclass() -> None:
    defaults = HubSettings()
    assert [setting.name for setting in SETTINGS] == [field.name for field in fields(HubSettings)]
    for setting in SETTINGS:
        assert getattr(defaults, setting.name) == setting.default
        assert setting.check(setting.default) is None
        assert setting.help.endswith(".")
        assert f"# {setting.name}:" in listing()


def test_values_are_taken() -> None:
    settings = parse("bind: 0.0.0.0\nport: 443\nsession_idle_s: 600\nlog_level: debug\n")
    assert (settings.bind, settings.port, settings.session_idle_s) == ("0.0.0.0", 443, 600)
    assert parse("# nothing\n") == HubSettings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port: 443\nprot: 1\n", r"hub.yaml:2: there is no setting `prot`; did you mean `port`\?"),
        ("port: seven\n", r"hub.yaml:1: port: want a whole number from 1 to 65535"),
        ("port: true\n", r"hub.yaml:1: port"),
        ("port: 1\nport: 2\n", r"hub.yaml:2: `port` is set twice"),
        ("bind: [\n", r"hub.yaml:\d: not YAML"),
        ("- a\n", r"hub.yaml:1: want lines"),
        ("log_level: loud\n", r"want one of debug, info"),
        ("archive_high_water_percent: 50\narchive_low_water_percent: 60\n", r"must be below"),
        ("bind: !!python/object:os.system {}\n", r"hub.yaml:1"),
        ("? [a, b]\n: 1\n", r"hub.yaml:1: there is no setting"),
    ],
)
def test_mistakes_name_the_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(text)


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_clear_error(text: str) -> None:
    outcome = ""
    try:
        parse(text)
    except ConfigError as error:
        outcome = str(error)
    assert outcome == "" or outcome.startswith("hub.yaml:")
