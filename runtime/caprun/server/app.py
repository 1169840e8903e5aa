"""The HTTP API: `create_app(Service(captioner, settings))`."""

import asyncio
import contextlib
import functools
import io
import time
from collections.abc import AsyncIterator, Sequence

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.routing import Route

import caprun
from caprun.caption import as_row
from caprun.engine import Captioner
from caprun.errors import ImageError
from caprun.photos.reading import MAX_PIXELS
from caprun.server import schema
from caprun.server.batching import Batcher, CaptionedPhoto, encode
from caprun.server.body import body_head, read_body, read_upload, wait_until_gone
from caprun.server.metrics import CONTENT_TYPE, Metrics
from caprun.server.middleware import ServiceMiddleware
from caprun.server.options import ask_of, openapi_parameters, query_pairs, request_options
from caprun.server.refusal import Refusal, as_sentence, client_left, error_response, shutting_down
from caprun.server.settings import Settings

_SENTENCES = {
    404: "This path does not exist; POST photos to /v1/caption, and see /docs for the other paths.",
    405: "This path does not allow that method; POST photos to /v1/caption, and see /docs for the other paths.",
}


class Service:
    """The state of one serving process: a model, its queue and its metrics.

    A model loaded with `many=True` captions several batches at the same time.

    Attributes:
        draining: True if the process is shutting down and not ready for more requests.
        unanswered: Number of requests left unanswered when the grace period ended.
    """

    def __init__(self, captioner: Captioner, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.metrics = Metrics()
        self.batcher = Batcher(captioner, self.settings, self.metrics)
        self.captioner = captioner
        self.options = request_options(self.settings)
        self.draining = False
        self.unanswered = 0

    def warm_up(self) -> None:
        """Captions a photo, so that the first client does not wait for one-time initialisation.

        Raises:
            DeviceError: The model cannot run.
        """
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, "JPEG")
        self.captioner.caption(file.getvalue())


def create_app(service: Service) -> FastAPI:
    """Creates the ASGI application of a service, and closes the service when the application ends."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        service.batcher.close()

    app = FastAPI(
        title="caprun",
        summary=schema.SUMMARY,
        description=schema.DESCRIPTION,
        version=caprun.__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(ServiceMiddleware, service=service)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.settings.cors_origins,
            allow_methods=["GET", "POST", "PUT"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.add_exception_handler(HTTPException, _http_error)
    _add_api(app, service)
    _add_pages(app)
    return app


def _add_api(app: FastAPI, service: Service) -> None:
    parameters = openapi_parameters(service.options, service.captioner.spec)

    async def caption(request: Request) -> Response:
        return Response(await _caption(service, request), media_type="application/json")

    for method in ("post", "put"):  # PUT for curl -T
        described = schema.caption_route(parameters, service.settings)
        app.add_api_route("/v1/caption", caption, methods=[method], operation_id=f"{method}_caption", **described)

    model = _model(service)

    @app.get("/v1/model", tags=["captions"], summary="Describe the model and the limits of requests.")
    async def about() -> schema.ServedModel:
        return model

    @app.get("/healthz", tags=["operation"], summary="Report that the process is alive.")
    async def health() -> schema.ServiceStatus:
        return {"status": "alive"}

    @app.get(
        "/readyz",
        tags=["operation"],
        summary="Report whether requests are accepted.",
        response_model=schema.ServiceStatus,
        responses=schema.error_responses(503),
    )
    async def ready() -> Response:
        if service.draining:
            return error_response(shutting_down())
        return Response(encode(schema.ServiceStatus(status="ready")), media_type="application/json")

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Return metrics for Prometheus, summed over the workers.",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _add_pages(app: FastAPI) -> None:
    """Adds `/`, a page to try the service, and `/docs`, the API reference; neither loads anything from other hosts.

    Swagger UI would add 1.9 MB to the package, and inline styles, which the pages' Content-Security-Policy forbids.
    """
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


async def _caption(service: Service, request: Request) -> bytes:
    began = time.perf_counter()
    settings, batcher = service.settings, service.batcher
    head = body_head(request.headers, settings)
    pairs = query_pairs(request.scope["query_string"])
    asked = functools.partial(ask_of, options=service.options, spec=service.captioner.spec, settings=settings)
    ask = asked(pairs)
    with batcher.admit(ask, head.size) as admission:
        body = await read_body(request.receive, settings)
        batcher.received(admission, len(body))
        received = time.perf_counter() - began
        read = functools.partial(read_upload, head, body, settings)
        upload = await asyncio.to_thread(read) if head.is_structured(body) else read()
        if upload.options:
            ask = asked([*pairs, *upload.options])
        is_list = upload.is_list
        work = asyncio.create_task(batcher.caption(admission, ask, upload.photos))
        gone = asyncio.create_task(wait_until_gone(request.receive))
        del body, read, upload  # photos can be large, and each is needed only until it is decoded
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise client_left()
            results = work.result()
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.wait({work})
    total = time.perf_counter() - began
    timing = encode(_timing(received, results, total))
    if is_list:
        rows = b", ".join(_row(result) for result in results)
        answer = b'{"results": [%s], "timing_ms": %s}' % (rows, timing)
    elif isinstance(result := results[0], ImageError):
        raise result
    else:
        answer = b'%s, "timing_ms": %s}' % (result.row[:-1], timing)
    service.metrics.stages.labels("receive").observe(received)
    service.metrics.stages.labels("total").observe(total)
    return answer


def _row(result: CaptionedPhoto | ImageError) -> bytes:
    if isinstance(result, CaptionedPhoto):
        return result.row
    return encode({name: as_sentence(text) for name, text in as_row(result).items()})


def _timing(received: float, results: Sequence[CaptionedPhoto | ImageError], total: float) -> schema.Timing:
    times = [result[2:] for result in results if isinstance(result, CaptionedPhoto)] or [(0.0, 0.0, 0.0)]
    receive, decode, queue, caption, total = (
        round(1000 * seconds, 3) for seconds in (received, *map(max, zip(*times, strict=True)), total)
    )
    return {"receive": receive, "decode": decode, "queue": queue, "caption": caption, "total": total}


def _model(service: Service) -> schema.ServedModel:
    spec, settings, backend = service.captioner.spec, service.settings, service.captioner.backend
    return {
        "name": spec.name,
        "licence": str(getattr(spec, "licence", "")),
        "language": spec.language,
        "precision": str(getattr(backend, "precision", "fp32")),
        "device": str(getattr(backend, "device", "cpu")),
        "attention": spec.attention_grid is not None,
        "neutral": spec.neutral is not None,
        "confidence": spec.confidence.event if spec.confidence else None,
        "min_confidence": settings.min_confidence or 0.0,
        "search": spec.search.as_dict(),
        "limits": {
            "max_bytes": settings.max_bytes,
            "max_photos": settings.max_photos,
            "max_beam": settings.max_beam,
            "max_length": settings.max_length,
            "max_pixels": MAX_PIXELS,
            "queue": settings.queue,
            "deadline": settings.deadline,
        },
    }


def _http_error(request: Request, error: Exception) -> Response:
    """Answers OPTIONS, and reports FastAPI's errors in the service's format."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        here = [route.methods or () for route in request.app.routes if isinstance(route, Route) and route.path == path]
        methods = {method for methods in here for method in methods} or {"GET"}  # the page's files are not routes
        headers["Allow"] = ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    response = error_response(Refusal(error.status_code, _SENTENCES.get(error.status_code, as_sentence(error.detail))))
    response.headers.update(headers)
    return response
