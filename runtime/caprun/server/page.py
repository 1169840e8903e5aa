"""The page at `/`: hand-written files of this package, and the headers that keep everything else out of it."""

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import NamedTuple

from fastapi import FastAPI, Request, Response

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

PAGE_HEADERS = {
    # Nothing but this service's own files, and photos that the page itself holds; no inline script or style.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # An update is seen at once, and what has not changed is not sent again.
    "Cache-Control": "no-cache",
}
"""Headers of every answer of the page."""


class PageFile(NamedTuple):
    """One file of the page."""

    content: bytes
    media_type: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """Returns the files of the page by the path that each is served at: `/`, and `/page/NAME`."""
    found = {}
    for entry in files("caprun.server").joinpath("page").iterdir():
        media_type = _TYPES.get("." + entry.name.rpartition(".")[2])
        if media_type:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            path = "/" if entry.name == "index.html" else f"/page/{entry.name}"
            found[path] = PageFile(content, media_type, etag)
    return found


def add_page(app: FastAPI) -> None:
    """Adds the page to an application, each file at a path of its own: no path of a request is looked for on a disk."""
    for path, file in page_files().items():
        app.add_api_route(path, _serving(file), methods=["GET", "HEAD"], include_in_schema=False)


def _serving(file: PageFile) -> Callable[[Request], Awaitable[Response]]:
    headers = {**PAGE_HEADERS, "ETag": file.etag}

    async def serve(request: Request) -> Response:
        if _has(request, file.etag):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    return serve


def _has(request: Request, etag: str) -> bool:
    """Returns whether the client says that it holds the file already (RFC 9110, 13.1.2)."""
    known = [value.strip().removeprefix("W/") for value in request.headers.get("If-None-Match", "").split(",")]
    return etag in known or known == ["*"]
