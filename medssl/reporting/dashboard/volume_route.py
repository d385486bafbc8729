"""The route of the server that sends offered volumes to the viewer; see `volumes.py`.

    st.App(app(), routes=[volume_route()], middleware=[...])

It stands behind the same guard as every page, knows digests alone, and lets no browser keep a scan on its disk.
"""

from __future__ import annotations

from typing import Any

from medssl.reporting.dashboard.volumes import NONE, OFFERED, ROUTE, STRONG, Volume, gzipped, nifti

HEADERS = {
    "cache-control": "no-store",  # a scan stays in the memory of the page
    "content-encoding": "gzip",
    "cross-origin-resource-policy": "same-origin",
}
THIS_MACHINE = ("127.0.0.1", "::1")


def volume_route() -> Any:
    """Return the route `/volumes/DIGEST`."""
    from starlette.routing import Route

    return Route(f"/{ROUTE}/{{digest}}", _answer, methods=["GET"])


def level(volume: Volume, client: str) -> int:
    """Return how strongly a volume is packed: masks always, scans where they travel; client: the address of the browser."""
    return NONE if client in THIS_MACHINE and not volume.labels else STRONG


async def _answer(request: Any) -> Any:
    from starlette.responses import PlainTextResponse, StreamingResponse

    volume = OFFERED.get(request.path_params["digest"])
    if volume is None:
        return PlainTextResponse("This volume is not offered any more: load the page again.\n", 404)
    client = request.client.host if request.client else ""
    size = {"x-volume-bytes": str(volume.size)}
    return StreamingResponse(
        gzipped(nifti(volume), level(volume, client)),
        media_type="application/octet-stream",
        headers=HEADERS | size,
    )
