"""Saved objects for Kibana 7.17 and 8.x: data views, packets by capture source as a search and over time, a dashboard.

Made from the table of fields, so that they fit the indices. Kibana takes them as lines of JSON (its import).
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
import uuid
from typing import Any

import orjson

from hub.pool.elastic.connection import Access
from hub.pool.elastic.indices import Indices
from hub.pool.store import StoreAway, StoreRefused

COLUMNS = (
    "agent_id", "observer.ingress.interface.name", "source.ip", "source.port", "destination.ip", "destination.port",
    "network.transport", "network.bytes", "network.community_id",
)  # fmt: skip
_VERSIONS = {"index-pattern": "7.11.0", "search": "7.9.3", "visualization": "7.14.0", "dashboard": "7.14.0"}
"""Of the objects' form: what both Kibanas read, migrating it themselves."""


def saved_objects(indices: Indices) -> bytes:
    """Lines of JSON, one object each; the same ids each time, so that loading them again replaces them."""
    prefix = indices.prefix
    packets, conversations = f"{prefix}-packets", f"{prefix}-conversations"
    view = {"type": "index-pattern", "id": packets}
    search, chart = f"{prefix}-by-capture-source", f"{prefix}-sources-over-time"
    found = [
        _object("index-pattern", packets, {"title": indices.all_packets, "timeFieldName": "@timestamp"}),
        _object(
            "index-pattern",
            conversations,
            {"title": indices.all_conversations, "timeFieldName": "@timestamp"},
        ),
        _object(
            "search",
            search,
            {
                "title": "wirepool: packets by capture source",
                "columns": list(COLUMNS),
                "sort": [["@timestamp", "desc"]],
                "kibanaSavedObjectMeta": {"searchSourceJSON": _source(index=True)},
            },
            [view | {"name": "kibanaSavedObjectMeta.searchSourceJSON.index"}],
        ),
        _object(
            "visualization",
            chart,
            {
                "title": "wirepool: packets over time by capture source",
                "uiStateJSON": "{}",
                "visState": orjson.dumps(_over_time()).decode(),
                "kibanaSavedObjectMeta": {"searchSourceJSON": _source(index=True)},
            },
            [view | {"name": "kibanaSavedObjectMeta.searchSourceJSON.index"}],
        ),
        _object(
            "dashboard",
            f"{prefix}-overview",
            {
                "title": "wirepool: what was captured where",
                "optionsJSON": orjson.dumps({"useMargins": True, "hidePanelTitles": False}).decode(),
                "panelsJSON": orjson.dumps([_panel(0, "visualization"), _panel(1, "search")]).decode(),
                "timeRestore": False,
                "kibanaSavedObjectMeta": {"searchSourceJSON": _source(index=False)},
            },
            [
                {"type": "visualization", "id": chart, "name": "panel_0"},
                {"type": "search", "id": search, "name": "panel_1"},
            ],
        ),
    ]
    return b"".join(orjson.dumps(one) + b"\n" for one in found)


def _object(
    kind: str, id_: str, attributes: dict[str, Any], references: list[dict[str, str]] | None = None
) -> dict[str, Any]:
    return {
        "type": kind,
        "id": id_,
        "attributes": attributes,
        "references": references or [],
        "migrationVersion": {kind: _VERSIONS[kind]},
    }


def _source(*, index: bool) -> str:
    named = {"indexRefName": "kibanaSavedObjectMeta.searchSourceJSON.index"} if index else {}
    return orjson.dumps({"query": {"query": "", "language": "kuery"}, "filter": [], **named}).decode()


def _over_time() -> dict[str, Any]:
    return {
        "title": "wirepool: packets over time by capture source",
        "type": "histogram",
        "aggs": [
            {"id": "1", "enabled": True, "type": "count", "schema": "metric", "params": {}},
            {"id": "2", "enabled": True, "type": "date_histogram", "schema": "segment",
             "params": {"field": "@timestamp", "interval": "auto", "min_doc_count": 1}},
            {"id": "3", "enabled": True, "type": "terms", "schema": "group",
             "params": {"field": "agent_id", "orderBy": "1", "order": "desc", "size": 20}},
        ],
        "params": {"type": "histogram", "addLegend": True, "addTooltip": True, "legendPosition": "right"},
    }  # fmt: skip


def _panel(number: int, kind: str) -> dict[str, Any]:
    place = {"x": 0, "y": 15 * number, "w": 48, "h": 15 + 10 * number, "i": str(number)}
    return {
        "version": "7.17.0",
        "type": kind,
        "gridData": place,
        "panelIndex": str(number),
        "embeddableConfig": {"enhancements": {}},
        "panelRefName": f"panel_{number}",
    }


def load(url: str, access: Access, indices: Indices) -> int:
    """Have Kibana at `url` take them, in place of earlier ones; how many it took. StoreAway, StoreRefused."""
    mark = uuid.uuid4().hex
    body = (
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="wirepool.ndjson"\r\n'
        "Content-Type: application/ndjson\r\n\r\n"
    ).encode() + saved_objects(indices)
    if not url.startswith(("http://", "https://")):
        raise StoreRefused(f"{url!r} isn't Kibana's address: write https://host:5601")
    request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
        f"{url.rstrip('/')}/api/saved_objects/_import?overwrite=true", body + f"\r\n--{mark}--\r\n".encode()
    )
    request.add_header("kbn-xsrf", "wirepool")
    request.add_header("content-type", f"multipart/form-data; boundary={mark}")
    if access.authorization:
        request.add_header("authorization", access.authorization)
    context = ssl.create_default_context(cafile=access.ca or None) if url.startswith("https:") else None
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:  # noqa: S310
            told = orjson.loads(answer.read(1 << 20))
    except urllib.error.HTTPError as error:
        raise StoreRefused(
            f"Kibana answers {error.code}: {error.read(500).decode(errors='replace')}"
        ) from None
    except (OSError, ValueError) as error:
        raise StoreAway(f"Kibana at {url} can't be reached or isn't one: {error}") from None
    if not told.get("success"):
        raise StoreRefused(
            f"Kibana took {told.get('successCount', 0)} objects: {str(told.get('errors'))[:500]}"
        )
    return int(told["successCount"])
