"""How far downloads have come, for the pages that began them."""

from typing import Any

from litestar import Request, Response, get
from litestar.params import FromPath

from hub.registry import UnknownError
from hub.web.downloads import TOKEN
from hub.web.running import hub_of

AnyRequest = Request[Any, Any, Any]


@get("/downloads/{watch:str}")
async def download_progress(request: AnyRequest, watch: FromPath[str]) -> Response[str]:
    """How far a download has come; asks again by itself while it goes on."""
    if not TOKEN.fullmatch(watch):
        raise UnknownError("there is no such download")
    progress = hub_of(request).downloads.progress(watch)
    return hub_of(request).pages.fragment(
        "fragments/download_progress.html", watch=watch, progress=progress, asked=True
    )


handlers = [download_progress]
