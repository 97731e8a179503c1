"""The HTTP API: what the pages can do, for scripts. Described at /api/openapi.json, shown in docs/api.md.

The same session cookie and CSRF token as the pages; `POST /api/login` gives both. Every error below /api is
`{"error": {"status": …, "message": …}}`. Times are ns since 1970 as strings, since JSON's numbers lose them.
"""

from hub.web.routes.api import agents, explore, live, login, packets, pool, sessions

handlers = [
    *login.handlers,
    *agents.handlers,
    *sessions.handlers,
    *live.handlers,
    *packets.handlers,
    *pool.handlers,
    *explore.handlers,
]
