"""The API described, for OpenAPI: what each path takes and how it answers."""

from collections.abc import Mapping
from typing import Any

from caprun.bundle.manifest import ModelSpec
from caprun.server import answers
from caprun.server.query import Parameter
from caprun.server.settings import Settings

SUMMARY = "Captions of photos, with how sure the model is of each word and where it looked."
TEXT = """\
Where the model is less sure of a caption than `min_confidence` asks, the answer is 200 with `abstained`, a sentence,
in place of the caption. By default every photo has one; the service may say otherwise, see `/v1/model`.

Every error is an object with one member, `error`: a sentence that says what was wrong and what to do.

A request that comes while too many photos wait is refused at once, with 429; one that has waited too long is answered
503. Both say in `Retry-After` in how many seconds it is worth trying again.
"""

_PHOTO_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "application/octet-stream")
_RETRY = {
    "Retry-After": {
        "description": "Seconds to wait before trying again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_WHEN = {
    400: "The body is empty, or no JSON though it is said to be.",
    404: "There is nothing at this path.",
    408: "The body came too slowly.",
    413: "The body, or a photo in it, is too large; or there are too many.",
    415: "It is no photo of a format that is taken; or a form, or compressed once more.",
    422: "The photo is damaged, or an option has a value that it cannot have.",
    429: "Too many photos are waiting.",
    500: "A fault of the service.",
    503: "It waited too long, the model failed, or the service is shutting down.",
}


def caption_route(known: Mapping[str, Parameter], spec: ModelSpec, settings: Settings) -> dict[str, Any]:
    """What FastAPI is told of `POST /v1/caption`."""
    return {
        "summary": "Caption a photo, or a list of photos.",
        "description": (
            "The body is one photo, as the bytes of its file; what it is, its content tells and no header. Or it is "
            "JSON, a list of photos in base64: then each has its caption or its error, in their order.\n\n"
            f"A body has at most {settings.max_bytes:,} bytes, and a list {settings.max_photos} photos."
        ),
        "responses": {
            200: {
                "model": answers.OneAnswer | answers.OneAbstained | answers.ListAnswer,
                "description": "A caption, or that the model abstains; for a list, these and errors.",
            }
        }
        | errors(400, 408, 413, 415, 422, 429, 500, 503),
        "openapi_extra": {
            "parameters": [_parameter(name, parameter, spec, settings) for name, parameter in known.items()],
            "requestBody": _body(settings),
        },
    }


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a path says that something was wrong."""
    return {
        status: {"model": answers.Error, "description": _WHEN[status]}
        | ({"headers": _RETRY} if status in (429, 503) else {})
        for status in statuses
    }


def _parameter(name: str, parameter: Parameter, spec: ModelSpec, settings: Settings) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": parameter.kind}
    if parameter.kind != "boolean":
        schema |= {"minimum": parameter.low, "maximum": parameter.high}
    own = {"min_confidence": settings.min_confidence or 0, "attention": False}
    schema["default"] = own[name] if name in own else getattr(spec.search, name)
    return {"name": name, "in": "query", "description": parameter.meaning, "schema": schema}


def _body(settings: Settings) -> dict[str, Any]:
    photo: dict[str, Any] = {"schema": {"type": "string", "format": "binary", "minLength": 1}}
    photos = {
        "type": "object",
        "title": "PhotoList",
        "description": "A list of photos.",
        "required": ["photos"],
        "additionalProperties": False,
        "properties": {
            "photos": {
                "type": "array",
                "minItems": 1,
                "maxItems": settings.max_photos,
                "items": {"type": "string", "contentEncoding": "base64"},
            }
        },
    }
    return {
        "required": True,
        "content": dict.fromkeys(_PHOTO_TYPES, photo) | {"application/json": {"schema": photos}},
    }
