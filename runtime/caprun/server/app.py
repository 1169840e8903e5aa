"""The HTTP API: `create_app(Service(captioner, settings))`."""

import contextlib
import io
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from PIL import Image
from starlette.exceptions import HTTPException

import caprun
from caprun.photos.reading import MAX_PIXELS
from caprun.server import answers, description, query
from caprun.server.batching import Batcher
from caprun.server.captioning import answer, error_response
from caprun.server.docs import docs_page
from caprun.server.metrics import CONTENT_TYPE, Metrics
from caprun.server.page import add_page
from caprun.server.queueing import Draining
from caprun.server.refusal import Refusal, refusal_for
from caprun.server.settings import Settings
from caprun.server.surroundings import Surroundings

if TYPE_CHECKING:
    from caprun.engine import Captioner

_SENTENCES = {
    404: "There is nothing at this path; /docs says what there is.",
    405: "This path does not take that method; /docs says what it takes.",
}


class Service:
    """What a process serves: a model, its queue and its counters. Its threads run from the beginning.

    Args:
        captioner: the model; loaded with `many=True` it is in memory once.
        settings: limits.

    Attributes:
        draining: it is about to end, and says so; requests are answered until `close`.
    """

    def __init__(self, captioner: "Captioner", settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.metrics = Metrics()
        self.batcher = Batcher(captioner, self.settings, self.metrics, answers.photo_caption)
        self.captioner = self.batcher.captioner
        self.parameters = query.parameters(self.settings)
        self.draining = False

    def warm_up(self) -> None:
        """Caption a photo, so that the first client does not wait for what the first photo of all needs.

        Raises:
            DeviceError: the model does not run.
        """
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, "JPEG")
        self.captioner.caption(file.getvalue())

    async def close(self) -> None:
        """Accept nothing more, and wait until everything accepted is done and the threads have ended."""
        self.draining = True
        await self.batcher.close()


def create_app(service: Service) -> FastAPI:
    """The application of a service; when it ends, the service is closed."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(
        title="caprun",
        summary=description.SUMMARY,
        description=description.TEXT,
        version=caprun.__version__,
        lifespan=lifespan,
        docs_url=None,  # which would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Surroundings, service=service)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _http_error)
    _add_api(app, service)
    add_page(app)
    return app


def _add_api(app: FastAPI, service: Service) -> None:
    spec, settings = service.captioner.spec, service.settings

    @app.post("/v1/caption", tags=["captions"], **description.caption_route(service.parameters, spec, settings))
    async def caption(request: Request) -> Response:
        return await answer(service, request)

    model = _model(service)

    @app.get("/v1/model", tags=["captions"], summary="What model it is, and what may be asked of it.")
    async def about() -> answers.Model:
        return model

    @app.get("/healthz", tags=["operation"], summary="Whether the process lives.")
    async def health() -> answers.State:
        return {"status": "alive"}

    @app.get(
        "/readyz",
        tags=["operation"],
        summary="Whether requests are accepted.",
        response_model=answers.State,
        responses=description.errors(503),
    )
    async def ready() -> Response:
        if service.draining:
            return error_response(refusal_for(Draining(1)))
        return Response(answers.encode(answers.State(status="ready")), media_type="application/json")

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Counters for Prometheus, of all processes together.",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return docs_page(app.openapi())


def _model(service: Service) -> answers.Model:
    spec, settings, backend = service.captioner.spec, service.settings, service.captioner.backend
    return {
        "name": spec.name,
        "licence": str(getattr(spec, "licence", "")),
        "precision": str(getattr(backend, "precision", "fp32")),
        "device": str(getattr(backend, "device", "cpu")),
        "attention": spec.attention_grid is not None,
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


def _http_error(_request: Request, error: Exception) -> Response:
    """What FastAPI refuses, in the words and the shape of our own refusals."""
    if not isinstance(error, HTTPException):
        return error_response(Refusal(422, "The request is not as /docs describes it; see there."))
    text = _SENTENCES.get(error.status_code, str(error.detail))
    return error_response(Refusal(error.status_code, text), error.headers)
