"""The schemas of the responses, for OpenAPI. Rows come from `caprun.caption.as_row`."""

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic cannot read the annotations of Python 3.11's own

from caprun.server.refusal import STATUSES
from caprun.server.settings import Settings


class Word(TypedDict):
    """A word of a caption."""

    word: str
    log_prob: Annotated[float, Field(description="Natural logarithm of its probability, given the words before it.")]
    alpha: NotRequired[
        Annotated[list[list[float]], Field(description="Attention weights by row and column; they sum to one.")]
    ]


class Timing(TypedDict):
    """Milliseconds of each stage; for several photos, the slowest one's."""

    receive: Annotated[float, Field(description="From the request's head to the end of its body.")]
    decode: Annotated[float, Field(description="Until the photo was decoded.")]
    queue: Annotated[float, Field(description="Until its batch began.")]
    caption: Annotated[float, Field(description="Until its batch was captioned.")]
    total: Annotated[float, Field(description="From the request's head to the answer.")]


class Alternative(TypedDict):
    """A caption."""

    caption: str
    log_prob: Annotated[float, Field(description="Natural logarithm of the caption's probability.")]
    finished: Annotated[bool, Field(description="False if the caption was cut at `max_length`.")]
    confidence: NotRequired[
        Annotated[float, Field(description="Calibrated probability that it is good; `/v1/model` defines the event.")]
    ]
    words: list[Word]


class PhotoCaption(Alternative):
    """The caption of a photo; in a list it has no `timing_ms`."""

    alternatives: NotRequired[
        Annotated[list[Alternative], Field(description="With `n_best` above 1: the other captions, best first.")]
    ]
    attention_box: NotRequired[
        Annotated[
            list[float],
            Field(
                min_length=4,
                max_length=4,
                description="With `attention`: left, top, right and bottom of the part of the upright photo that alpha "
                "covers, as fractions of its width and height.",
            ),
        ]
    ]
    timing_ms: NotRequired[Timing]


class AbstainedPhoto(TypedDict):
    """A photo whose caption has a confidence below `min_confidence`; in a list it has no `timing_ms`."""

    abstained: Annotated[str, Field(description="Why there is no caption, in one sentence.")]
    confidence: Annotated[float, Field(description="Confidence of the caption that is not returned.")]
    timing_ms: NotRequired[Timing]


class ErrorAnswer(TypedDict):
    """An error: its cause and remedy, in one sentence."""

    error: str


class ListAnswer(TypedDict):
    """The answer to a list of photos, in their order."""

    results: list[PhotoCaption | AbstainedPhoto | ErrorAnswer]
    timing_ms: Timing


class ServiceStatus(TypedDict):
    """The state of the service."""

    status: str


class Limits(TypedDict):
    """The limits of a request."""

    max_bytes: Annotated[int, Field(description="Maximum bytes of the body.")]
    max_photos: Annotated[int, Field(description="Maximum photos in a list.")]
    max_beam: Annotated[int, Field(description="Maximum of `beam_size`, `n_best` and `groups`.")]
    max_length: Annotated[int, Field(description="Maximum pieces of a caption.")]
    max_pixels: Annotated[int, Field(description="Maximum pixels of a photo.")]
    queue: Annotated[int, Field(description="Photos that can wait; further requests are refused.")]
    deadline: Annotated[float, Field(description="Seconds that a photo can wait.")]


class ServedModel(TypedDict):
    """The served model."""

    name: str
    licence: str
    language: Annotated[str | None, Field(description="Language code of the captions (BCP 47); null if unknown.")]
    precision: str
    device: str
    attention: Annotated[bool, Field(description="Whether it can return attention weights.")]
    neutral: Annotated[bool, Field(description="Whether it has neutral words for `neutral`.")]
    confidence: Annotated[
        str | None,
        Field(description="The event whose probability is a caption's confidence; null without confidence."),
    ]
    min_confidence: Annotated[float, Field(description="The default of `min_confidence`; 0 returns every caption.")]
    search: Annotated[dict[str, object], Field(description="The default search options.")]
    limits: Limits


SUMMARY = "Captions photos, and reports how sure the model is of each word and where it looked."
DESCRIPTION = """\
If the confidence of a caption is below `min_confidence`, the response is 200 with `abstained`, a sentence, in place of
the caption. `/v1/model` returns the service's default.

Every error is an object with one member, `error`: one sentence that states what was wrong and what to do.

A request that arrives while too many photos are waiting is refused at once with 429; one that has waited too long is
answered with 503. In both, `Retry-After` is the number of seconds after which to try again.
"""
_PHOTO_TYPES = tuple(f"image/{kind}" for kind in ("jpeg", "png", "webp", "gif", "bmp", "heic", "avif"))
_PHOTO_TYPES += ("application/octet-stream",)
_RETRY_AFTER = {
    "description": "Seconds after which to try again.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describes the errors that a path can return, as FastAPI's `responses`."""
    return {
        status: {"model": ErrorAnswer, "description": STATUSES[status]}
        | ({"headers": {"Retry-After": _RETRY_AFTER}} if status in (429, 503) else {})
        for status in statuses
    }


def caption_route(parameters: list[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """Describes `POST /v1/caption`, as arguments of FastAPI's route."""
    photo = {"type": "string", "format": "binary", "minLength": 1}
    options = {one["name"]: one["schema"] | {"description": one["description"]} for one in parameters}
    listed = {"type": "string", "contentEncoding": "base64"}
    photos = {"type": "array", "minItems": 1, "maxItems": settings.max_photos, "items": listed}
    content: dict[str, Any] = {media_type: {"schema": photo} for media_type in _PHOTO_TYPES}
    content["application/json"] = _object("PhotoList", "A list of photos, and options.", photos=photos, **options)
    content["multipart/form-data"] = _object("PhotoForm", "One or more photos, and options.", photo=photo, **options)
    return {
        "summary": "Caption a photo, or a list of photos.",
        "tags": ["captions"],
        "description": (
            "The body is a photo file, whose format is detected from its content, a form with photo files, or JSON "
            "with a list of photos in base64. Each photo of a list has its own caption or error, in order. Options "
            "are in the query string, or next to the photos in a form or in JSON.\n\n"
            f"A body has at most {settings.max_bytes:,} bytes, and a list at most {settings.max_photos} photos."
        ),
        "responses": {
            200: {
                "model": PhotoCaption | AbstainedPhoto | ListAnswer,
                "description": "A caption or an abstention; for a list, one of these or an error for each photo.",
            }
        }
        | error_responses(400, 401, 408, 413, 415, 422, 429, 500, 503),
        "openapi_extra": {"parameters": parameters, "requestBody": {"required": True, "content": content}},
    }


def _object(title: str, description: str, **properties: Any) -> dict[str, Any]:
    required = next(iter(properties))
    return {
        "schema": {
            "type": "object",
            "title": title,
            "description": description,
            "required": [required],
            "additionalProperties": False,
            "properties": properties,
        }
    }
