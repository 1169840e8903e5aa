"""The pages: `/`, to try the service, and `/docs`, the OpenAPI description for people.

Both need nothing from elsewhere. Swagger UI would add 1.9 MB to the package, and inline styles, which the
policy of the pages forbids.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

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
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 56rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; } h2 code { font-size: 1.1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8886; }
pre { overflow-x: auto; padding: .8rem; background: #8882; }
.wide { overflow-x: auto; }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; frame-ancestors 'none'"
_EXAMPLES = """\
curl --data-binary @photo.jpg ADDRESS/v1/caption
curl --data-binary @photo.jpg 'ADDRESS/v1/caption?n_best=3&attention=true'
curl -F photo=@photo.jpg -F beam_size=5 ADDRESS/v1/caption
jq -nc '{photos: $ARGS.positional}' --args "$(base64 -w0 one.jpg)" "$(base64 -w0 two.jpg)" |
    curl --json @- ADDRESS/v1/caption"""


def add_pages(app: FastAPI) -> None:
    """Adds the pages to an application."""
    files = StaticFiles(packages=[("caprun.server", "page")])
    app.mount("/page", files)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _docs_page(app.openapi())


def _docs_page(api: Mapping[str, Any]) -> Response:
    """Renders the description of an API, as `FastAPI.openapi` returns it, as a page."""
    info = api["info"]
    title = escape(f"{info['title']} {info['version']}")
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}: API</title><style>{_STYLE}</style></head><body><main><h1>{title}</h1>",
        f"<p>{escape(info['summary'])}</p>",
        *_paragraphs(info["description"]),
        '<p><a href="openapi.json">The same as OpenAPI</a>; <a href="./">try it</a>.</p>',
        f"<h2>For example</h2><pre><code>{escape(_EXAMPLES)}</code></pre>",
    ]
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            parts += _operation(f"{method.upper()} {path}", operation)
    for name, schema in api["components"]["schemas"].items():
        parts += _schema(name, schema)
    html = "\n".join([*parts, "</main></body></html>"])
    return Response(html, media_type="text/html", headers={"Content-Security-Policy": _POLICY})


def _operation(name: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{escape(name)}</code></h2><p>{escape(operation['summary'])}</p>"
    yield from _paragraphs(operation.get("description", ""))
    if content := operation.get("requestBody", {}).get("content"):
        yield from _table("Body", ["Content-Type", "What"], [[_code(kind), _type(content[kind])] for kind in content])
    if parameters := operation.get("parameters"):
        rows = [[_code(p["name"]), _range(p["schema"]), escape(p["description"])] for p in parameters]
        yield from _table("Query", ["Parameter", "Value", "Meaning"], rows)
    rows = [
        [_code(status), escape(answer["description"]), ", ".join(map(_type, answer.get("content", {}).values()))]
        for status, answer in operation["responses"].items()
    ]
    yield from _table("Answers", ["Status", "When", "What"], rows)


def _schema(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{escape(name)}"><code>{escape(name)}</code></h2>'
    yield from _paragraphs(schema.get("description", ""))
    needed = schema.get("required", ())
    rows = [
        [
            _code(member) + ("" if member in needed else " (may be missing)"),
            _type({"schema": of}),
            escape(of.get("description", "")),
        ]
        for member, of in schema["properties"].items()
    ]
    yield from _table("Members", ["Member", "What", "Meaning"], rows)


def _table(caption: str, heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"<h3>{caption}</h3>"
    yield '<div class="wide"><table><thead><tr>'
    yield "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr></thead><tbody>"
    yield from ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    yield "</tbody></table></div>"


def _type(content: Mapping[str, Any]) -> str:
    """Renders a schema; one with a name is linked."""
    schema = content.get("schema", {})
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{escape(name)}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(_type({"schema": one}) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return "list of " + _type({"schema": schema["items"]})
    if schema.get("format") == "binary":
        return "a photo's bytes"
    if schema.get("contentEncoding"):
        return f"text in {escape(schema['contentEncoding'])}"
    if "properties" in schema and "title" in schema:
        members = (f"{_code(name)}: {_type({'schema': of})}" for name, of in schema["properties"].items())
        return "object with " + ", ".join(members)
    return escape(str(schema.get("type", "anything")))


def _range(schema: Mapping[str, Any]) -> str:
    default = str(schema["default"]).lower() if schema["type"] == "boolean" else schema["default"]
    limits = f" from {schema['minimum']} to {schema['maximum']}" if "minimum" in schema else ""
    return f"{schema['type']}{limits}; else {_code(default)}"


def _code(text: object) -> str:
    return f"<code>{escape(str(text))}</code>"


def _paragraphs(text: str) -> Iterator[str]:
    return (f"<p>{escape(' '.join(part.split()))}</p>" for part in text.split("\n\n") if part.strip())
