"""From the hub's settings to a connection: secrets stand in files of their own, and what can't be right is said."""

from __future__ import annotations

from pathlib import Path

from hub.config import ConfigError, HubSettings
from hub.pool.elastic.connection import Access
from hub.pool.elastic.indices import Indices
from hub.pool.elastic.store import ElasticStore
from hub.pool.store import Retention, StoreRefused
from hub.pool.tracing import Tracing

MAX_SECRET_BYTES = 4096


def access_of(settings: HubSettings) -> Access:
    """Where Elasticsearch is. ConfigError when the settings don't say so, or contradict each other."""
    if not settings.elasticsearch_url:
        raise ConfigError(
            "elasticsearch_url isn't set: say where Elasticsearch is (https://host:9200) in hub.yaml"
        )
    urls = [url.strip() for url in settings.elasticsearch_url.split(",") if url.strip()]
    if settings.elasticsearch_api_key_file and settings.elasticsearch_user:
        raise ConfigError("elasticsearch_user and elasticsearch_api_key_file: set one of them")
    if bool(settings.elasticsearch_user) != bool(settings.elasticsearch_password_file):
        raise ConfigError("elasticsearch_user and elasticsearch_password_file go together: set both or none")
    if settings.elasticsearch_ca and not Path(settings.elasticsearch_ca).is_file():
        raise ConfigError(f"elasticsearch_ca: there is no file {settings.elasticsearch_ca}")
    return Access(
        urls=urls,
        user=settings.elasticsearch_user or "",
        password=_secret("elasticsearch_password_file", settings.elasticsearch_password_file),
        api_key=_secret("elasticsearch_api_key_file", settings.elasticsearch_api_key_file),
        ca=settings.elasticsearch_ca or "",
    )


def indices_of(settings: HubSettings) -> Indices:
    """How the indices are named and made. ConfigError for a prefix that no index may have."""
    try:
        return Indices(
            settings.elasticsearch_prefix,
            settings.elasticsearch_indices == "session",
            settings.elasticsearch_shards,
            settings.elasticsearch_replicas,
        )
    except ValueError as error:
        raise ConfigError(f"elasticsearch_prefix: {error}") from None


def elastic_store(settings: HubSettings) -> ElasticStore:
    """The store as the settings say. ConfigError where they can't be right."""
    retention = Retention(settings.pool_retention_s, settings.elasticsearch_max_bytes)
    access, indices, tracing = access_of(settings), indices_of(settings), tracing_of(settings)
    try:
        return ElasticStore(access, indices, retention=retention, tracing=tracing)
    except StoreRefused as error:
        raise ConfigError(str(error)) from None


def tracing_of(settings: HubSettings) -> Tracing | None:
    """Traces of batches, where a collector is set. ConfigError for an address that is none."""
    if not settings.traces_url:
        return None
    try:
        return Tracing(settings.traces_url, settings.traces_percent)
    except ValueError as error:
        raise ConfigError(f"traces_url: {error}") from None


def _secret(name: str, file: str | None) -> str:
    if not file:
        return ""
    try:
        with Path(file).open("rb") as opened:
            text = opened.read(MAX_SECRET_BYTES + 1).decode().strip()
    except OSError as error:
        raise ConfigError(f"{name}: {file} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: {file} isn't text") from None
    if not text or len(text) > MAX_SECRET_BYTES or not text.isprintable():
        raise ConfigError(f"{name}: want one line in {file}, the secret alone")
    return text
