"""/healthz: is the hub alive, and which of its parts work. Open to anybody, so it says nothing else."""

from typing import Any

from litestar import Request, get
from litestar.response import Response

from hub.registry import RegistryError
from hub.web.running import hub_of


@get("/healthz", opt={"public": True})
async def healthz(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """200 while the hub can do its work, 503 while a part it needs is away. Parts: "ok" or "away"."""
    hub = hub_of(request)
    parts = {"nats": "ok" if hub.bus.connected else "away"}
    if hub.system_bus is not None:
        parts["nats_events"] = "ok" if hub.system_bus.connected else "away"
    try:
        hub.registry.data_version()
        parts["registry"] = "ok"
    except (RegistryError, OSError):
        parts["registry"] = "away"
    if hub.pool is not None:
        parts["pool"] = "away" if hub.pool.ingest.status.waiting_for else "ok"
    parts["shutdown"] = "begun" if hub.stopping.is_set() else "no"
    healthy = parts["nats"] == "ok" and parts["registry"] == "ok" and not hub.stopping.is_set()
    return Response(
        {"status": "ok" if healthy else "degraded", "parts": parts}, status_code=200 if healthy else 503
    )


handlers = [healthz]
