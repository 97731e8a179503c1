"""The hub's settings: one table, and hub.yaml in the state directory, which may set any of them.

Every key is optional. A wrong key, type or bound is refused at the start with file, line and remedy, since a setting
that is silently ignored is worse than none.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hub.pooling import Pooling


class ConfigError(Exception):
    """hub.yaml is wrong; the text names file, line and remedy."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    default: Any
    unit: str
    help: str
    check: Callable[[Any], str | None]
    """The reason why a value is refused, or None."""


def _integer(low: int, high: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if type(value) is not int or not low <= value <= high:
            return f"want a whole number from {low} to {high}"
        return None

    return check


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and 0 < len(value) <= 255 else "want a text"


def _choice(*words: str) -> Callable[[Any], str | None]:
    return lambda value: None if value in words else f"want one of {', '.join(words)}"


def _optional(check: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    return lambda value: None if value is None else check(value)


DAY_S = 86_400

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "bind",
        None,
        "address",
        "Address the page listens on; by default the one chosen at the first start.",
        _optional(_text),
    ),
    Setting(
        "port",
        None,
        "TCP port",
        "Port of the page; by default the one chosen at the first start (8443). "
        "A port set here must be free; the default gives way to the next free one.",
        _optional(_integer(1, 65535)),
    ),
    Setting(
        "session_idle_s",
        12 * 3600,
        "s",
        "A login ends this long after its last request.",
        _integer(60, 90 * DAY_S),
    ),
    Setting(
        "session_lifetime_s",
        7 * DAY_S,
        "s",
        "A login ends this long after it began.",
        _integer(60, 365 * DAY_S),
    ),
    Setting(
        "archive_high_water_percent",
        85,
        "%",
        "Above this share of the archive's budget the keeper makes room.",
        _integer(10, 98),
    ),
    Setting(
        "archive_low_water_percent",
        75,
        "%",
        "The keeper purges the oldest confirmed batches down to this share.",
        _integer(5, 97),
    ),
    Setting(
        "retention_s",
        None,
        "s",
        "How long packets are kept when a session doesn't say; empty: until room is needed.",
        _optional(_integer(60, 3650 * DAY_S)),
    ),
    Setting(
        "pool_store",
        "embedded",
        "word",
        "Where packets can be searched: embedded (files of the hub's own), elasticsearch or off.",
        _choice("embedded", "elasticsearch", "off"),
    ),
    Setting(
        "pooling",
        "headers",
        "word",
        "How much of a session is pooled when it doesn't say: off, conversations, headers, payload.",
        _choice(*(level.value for level in Pooling)),
    ),
    Setting(
        "correlation",
        "on",
        "word",
        "Whether clocks and conversations are worked out of what several agents saw: on or off.",
        _choice("on", "off"),
    ),
    Setting(
        "pool_max_bytes",
        4 << 30,
        "bytes",
        "How much the embedded store may take; beyond it the oldest packets go from the pool (not the archive).",
        _optional(_integer(64 << 20, 1 << 50)),
    ),
    Setting(
        "pool_retention_s",
        None,
        "s",
        "How long the pool keeps packets and conversations; empty: until its size is reached.",
        _optional(_integer(60, 3650 * DAY_S)),
    ),
    Setting(
        "elasticsearch_url",
        None,
        "addresses",
        "Elasticsearch 7.17 or 8.x for the pool, as https://host:9200; several of one cluster with commas between.",
        _optional(_text),
    ),
    Setting(
        "elasticsearch_user",
        None,
        "name",
        "User there; its password stands alone in elasticsearch_password_file.",
        _optional(_text),
    ),
    Setting("elasticsearch_password_file", None, "file", "File with that user's password.", _optional(_text)),
    Setting(
        "elasticsearch_api_key_file",
        None,
        "file",
        "File with an API key as Elasticsearch gives it (`encoded`), instead of user and password.",
        _optional(_text),
    ),
    Setting(
        "elasticsearch_ca",
        None,
        "file",
        "Certificates (PEM) that are trusted for Elasticsearch; by default those of this host.",
        _optional(_text),
    ),
    Setting("elasticsearch_prefix", "wirepool", "word", "What the names of its indices begin with.", _text),
    Setting(
        "elasticsearch_indices",
        "shared",
        "word",
        "shared: one index of packets a day; session: one per session and day.",
        _choice("shared", "session"),
    ),
    Setting("elasticsearch_shards", 1, "shards", "Of each new index.", _integer(1, 64)),
    Setting(
        "elasticsearch_replicas",
        1,
        "copies",
        "Further copies of each new index; 0 where the cluster has one node.",
        _integer(0, 8),
    ),
    Setting(
        "elasticsearch_max_bytes",
        None,
        "bytes",
        "How much its indices may take, copies included; beyond it the oldest days go. Empty: no bound.",
        _optional(_integer(64 << 20, 1 << 60)),
    ),
    Setting(
        "traces_url",
        None,
        "address",
        "OpenTelemetry collector (OTLP over HTTP) that gets traces of batches, as http://host:4318; empty: none.",
        _optional(_text),
    ),
    Setting("traces_percent", 1, "%", "How many of a hundred batches are traced.", _integer(1, 100)),
    Setting(
        "log_level",
        "info",
        "word",
        "How much the hub writes: debug, info, warning, error.",
        _choice("debug", "info", "warning", "error"),
    ),
    Setting(
        "metrics_token_file",
        None,
        "file",
        "File with the token that a Prometheus server sends to read /metrics (`authorization: Bearer …`), at least "
        "16 characters; without one /metrics is for those who are logged in.",
        _optional(_text),
    ),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}
MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class HubSettings:
    """The settings in force. Fields as in SETTINGS."""

    bind: str | None = None
    port: int | None = None
    session_idle_s: int = 12 * 3600
    session_lifetime_s: int = 7 * DAY_S
    archive_high_water_percent: int = 85
    archive_low_water_percent: int = 75
    retention_s: int | None = None
    pool_store: str = "embedded"
    pooling: str = "headers"
    correlation: str = "on"
    pool_max_bytes: int | None = 4 << 30
    pool_retention_s: int | None = None
    elasticsearch_url: str | None = None
    elasticsearch_user: str | None = None
    elasticsearch_password_file: str | None = None
    elasticsearch_api_key_file: str | None = None
    elasticsearch_ca: str | None = None
    elasticsearch_prefix: str = "wirepool"
    elasticsearch_indices: str = "shared"
    elasticsearch_shards: int = 1
    elasticsearch_replicas: int = 1
    elasticsearch_max_bytes: int | None = None
    traces_url: str | None = None
    traces_percent: int = 1
    log_level: str = "info"
    metrics_token_file: str | None = None


def listing() -> str:
    """Every setting as lines of a hub.yaml, commented out: what --settings prints and docs show."""
    lines = ["# hub.yaml: every key is optional."]
    for setting in SETTINGS:
        default = "" if setting.default is None else f" {setting.default}"
        lines += ["", f"# {setting.help}", f"# {setting.name}:{default}    # {setting.unit}"]
    return "\n".join(lines)


def load(path: Path, *, required: bool = False) -> HubSettings:
    """Read hub.yaml; the defaults if there is none and it isn't `required`. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if required:
            raise ConfigError(
                f"{path}: there is no such file; leave --config out to use the defaults"
            ) from None
        return HubSettings()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes; that can't be a settings file")
    return parse(raw.decode("utf-8", "replace"), str(path))


def parse(text: str, name: str = "hub.yaml") -> HubSettings:
    """Settings out of YAML text. Raises ConfigError with `name:line`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}:1: not YAML: {error}") from None
    if root is None:
        return HubSettings()
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{name}:{root.start_mark.line + 1}: want lines of `name: value`")
    values: dict[str, Any] = {}
    for key_node, value_node in root.value:
        where = f"{name}:{key_node.start_mark.line + 1}"
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
        setting = BY_NAME.get(key)
        if setting is None:
            near = difflib.get_close_matches(key, BY_NAME, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else f"; the settings are {', '.join(BY_NAME)}"
            raise ConfigError(f"{where}: there is no setting `{key[:64]}`{hint}")
        if key in values:
            raise ConfigError(f"{where}: `{key}` is set twice")
        value = _value(value_node, where, key)
        refused = setting.check(value)
        if refused:
            raise ConfigError(
                f"{where}: {key}: {refused} ({setting.unit}), not {str(value)[:64]!r}. {setting.help}"
            )
        values[key] = tuple(value) if isinstance(value, list) else value
    settings = HubSettings(**values)
    if settings.archive_low_water_percent >= settings.archive_high_water_percent:
        raise ConfigError(f"{name}:1: archive_low_water_percent must be below archive_high_water_percent")
    return settings


def _value(node: yaml.Node, where: str, key: str) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {key}: not a value: {error}") from None
    finally:
        loader.dispose()
