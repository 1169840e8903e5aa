"""The pages: `/`, to try the service, and `/docs`, the OpenAPI description for people.

Both need nothing from elsewhere. Swagger UI would add 1.9 MB to the package, and inline styles, which the
policy of the pages forbids.
"""

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of answers that do not set their own."""
PAGE_HEADERS = HEADERS | {
    # Nothing but this service's own files, and photos that the page itself holds; no inline script or style.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    # An update is seen at once, and what has not changed is not sent again.
    "Cache-Control": "no-cache",
}
"""Headers of every answer of the pages."""


def add_pages(app: FastAPI) -> None:
    """Adds the pages to an application."""
    files = StaticFiles(packages=[("caprun.server", "page")])
    app.mount("/page", files)
    templates = Environment(loader=PackageLoader("caprun.server", "."), autoescape=True, trim_blocks=True)
    described = templates.get_template("docs.html.jinja")

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(described.render(api=app.openapi()))
