"""One connection for Elasticsearch 7.17 and 8.x: plain JSON over the official client's transport.

The client above that transport (`elasticsearch`) has a media type of version 8 in each request and parses every answer
by its own rules; plain `application/json` is what both versions speak alike
(docs/decisions/0015-elasticsearch-by-its-transport.md).
"""

from __future__ import annotations

import base64
import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import elastic_transport
import orjson
from elastic_transport import NodeConfig, OrjsonSerializer, TextSerializer, Transport

from hub.pool.store import StoreAway, StoreRefused

logging.getLogger("elastic_transport.node_pool").setLevel(
    logging.ERROR
)  # we say ourselves that nobody answers

REQUEST_S = 60.0
"""A request that takes longer is taken for lost; what it wrote is recognised when it is sent again."""
CONNECTIONS = 8
JSON = "application/json"
LINES = "application/x-ndjson"
OLDEST = (7, 17)
NEXT_MAJOR = 9


@dataclass(frozen=True, slots=True)
class Access:
    """Where Elasticsearch is and who we are there."""

    urls: Sequence[str]
    """`https://es1:9200`, several of one cluster."""
    user: str = ""
    password: str = ""
    api_key: str = ""
    """Base64 of `id:key`, as Elasticsearch gives it (`encoded`). Instead of user and password."""
    ca: str = ""
    """File with the certificates that are trusted; "": those of this host."""

    @property
    def authorization(self) -> str:
        """The header; "" without any."""
        if self.api_key:
            return f"ApiKey {self.api_key}"
        if self.user:
            return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return ""


class Answered(StoreRefused):
    """Elasticsearch answered with an error."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        """kind: its word for it (`index_not_found_exception`)."""
        super().__init__(f"Elasticsearch answers {status}: {kind}: {reason}"[:500])
        self.status = status
        self.kind = kind
        self.reason = reason

    @property
    def passes(self) -> bool:
        """Asked again later it may go well: overload, blocks that are lifted, shards that come back, rights given."""
        return self.status in (401, 403, 408, 429) or self.status >= 500


@dataclass(frozen=True, slots=True)
class Cluster:
    """What answered."""

    version: str
    name: str
    status: str
    """green, yellow or red."""


class Connection:
    """Requests to one cluster. Thread-safe; each call blocks until it is answered."""

    def __init__(self, access: Access) -> None:
        """Connect to nothing yet. StoreRefused for addresses and files that can't be right."""
        self._access = access
        headers = {"authorization": access.authorization} if access.authorization else {}
        self._transport = Transport(
            [_node(url, access, headers) for url in access.urls],
            max_retries=0,
            serializers={JSON: OrjsonSerializer(), LINES: TextSerializer(), "text/plain": TextSerializer()},
        )

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        content: str = JSON,
        timeout_s: float = REQUEST_S,
    ) -> Any:
        """The decoded answer. StoreAway when nobody answers; Answered (a StoreRefused) for an error."""
        target = f"{path}?{urlencode({k: _word(v) for k, v in query.items()})}" if query else path
        headers = {"accept": JSON} | ({"content-type": content} if body is not None else {})
        try:
            meta, answer = self._transport.perform_request(
                method, target, headers=headers, body=body, request_timeout=timeout_s
            )
        except elastic_transport.TlsError as error:
            raise StoreAway(_untrusted(self._access, str(error.message))) from None
        except elastic_transport.ConnectionTimeout:
            raise StoreAway(f"{self._where} doesn't answer within {timeout_s:.0f} s") from None
        except elastic_transport.ConnectionError as error:
            raise StoreAway(_unreachable(self._where, str(error.message))) from None
        except elastic_transport.TransportError as error:
            raise StoreAway(f"{self._where} doesn't answer like Elasticsearch: {error.message}") from None
        if 200 <= meta.status < 300:
            return answer
        raise _answered(meta.status, answer, self._access)

    @property
    def _where(self) -> str:
        return f"Elasticsearch at {', '.join(self._access.urls)}"

    def cluster(self) -> Cluster:
        """Who answers, and whether it is one that we know. StoreAway with what to do about it otherwise."""
        try:
            version = _version(self)
            health = self.ask("GET", "/_cluster/health", timeout_s=15)
        except Answered as error:
            raise StoreAway(str(error)) from None
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < OLDEST:
            raise StoreAway(f"Elasticsearch is {version}: too old; upgrade it to 7.17 or 8.x")
        if numbers >= (NEXT_MAJOR,):
            raise StoreAway(f"Elasticsearch is {version}: newer than what this wirepool knows (7.17 and 8.x)")
        return Cluster(version, str(health.get("cluster_name", "")), str(health.get("status", "red")))

    def close(self) -> None:
        """End all connections."""
        self._transport.close()


def _version(connection: Connection) -> str:
    try:
        return str(connection.ask("GET", "/", timeout_s=15)["version"]["number"])
    except (KeyError, TypeError):
        raise StoreAway("what answers there isn't Elasticsearch; is elasticsearch_url right?") from None
    except Answered as error:
        if error.status not in (400, 404, 405):  # distributions without that page
            raise
    nodes = connection.ask("GET", "/_nodes/http", query={"filter_path": "nodes.*.version"})["nodes"]
    return min((str(node["version"]) for node in nodes.values()), key=_numbered)


def _numbered(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _node(url: str, access: Access, headers: Mapping[str, str]) -> NodeConfig:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 9200, "https": 9200}[parts.scheme]
    except (ValueError, KeyError):
        parts, port = urlsplit(""), 0
    if not parts.hostname or parts.username:
        raise StoreRefused(
            f"{url!r} isn't Elasticsearch's address: write https://host:9200 (without user name)"
        )
    secure = parts.scheme == "https"
    context = None
    if secure:
        try:
            context = ssl.create_default_context(cafile=access.ca or None)
        except (OSError, ssl.SSLError) as error:
            raise StoreRefused(f"elasticsearch_ca: {access.ca} can't be used: {error}") from None
    return NodeConfig(
        parts.scheme,
        parts.hostname,
        port,
        path_prefix=parts.path.rstrip("/"),
        headers=dict(headers),
        connections_per_node=CONNECTIONS,
        http_compress=False,
        ssl_context=context,
    )


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def name_in_path(name: str) -> str:
    """A name of an index or a template as part of a path."""
    return quote(name, safe="*,-_.")


def _untrusted(access: Access, told: str) -> str:
    if "self-signed" in told or "self signed" in told or "unable to get local issuer" in told:
        remedy = "set elasticsearch_ca to the certificate of the CA that signed it"
        if access.ca:
            remedy = f"{access.ca} (elasticsearch_ca) isn't the CA that signed it"
    elif "WRONG_VERSION_NUMBER" in told:
        remedy = "it doesn't speak TLS on that port; write http:// if that is meant"
    else:
        remedy = "the name in elasticsearch_url must be one that the certificate has"
    return f"the certificate of {', '.join(access.urls)} can't be trusted: {remedy} ({told[:200]})"


def _unreachable(where: str, told: str) -> str:
    return f"{where} can't be reached ({told[:200]}); is it running, is elasticsearch_url right?"


def _answered(status: int, answer: object, access: Access) -> StoreAway | Answered:
    error = answer.get("error") if isinstance(answer, dict) else None
    kind, reason = "error", ""
    if isinstance(error, dict):
        cause = (error.get("root_cause") or [error])[0]
        kind, reason = (
            str(cause.get("type") or error.get("type")),
            str(cause.get("reason") or error.get("reason")),
        )
    elif error is not None:
        reason = str(error)
    elif answer is not None:
        reason = orjson.dumps(answer).decode() if not isinstance(answer, str) else answer
    if status == 401:
        who = "the API key (elasticsearch_api_key_file)"
        if not access.api_key:
            who = f"user {access.user!r} with the password in elasticsearch_password_file"
            if not access.user:
                who = "requests without a user; set elasticsearch_user or elasticsearch_api_key_file"
        return StoreAway(f"Elasticsearch refuses {who}: {reason[:200]}")
    if status == 403 and kind == "security_exception":
        return StoreAway(f"Elasticsearch's user lacks a right: {reason[:300]}")
    return Answered(status, kind[:100], reason[:300])
