"""Requests that are not served: the status, and one sentence that says what was wrong and what to do."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from fastapi.responses import JSONResponse

from caprun.errors import DeviceError, FormatError, ImageError, TooLargeError, UsageError

Reason = Literal["queue", "deadline", "draining"]
"""Why a request is refused that could be served at another time."""

STATUSES = {
    400: "The body is empty, or it is not the JSON or the form that its header announces.",
    401: "The API key is missing or wrong.",
    404: "There is nothing at this path.",
    408: "The body took too long to arrive.",
    413: "The body or a photo is too large, or the list is too long.",
    415: "The body is not a photo of a known format, or has a `Content-Encoding`.",
    422: "The photo is damaged, or an option has a value that it cannot have.",
    429: "Too many photos are waiting.",
    500: "The service failed.",
    503: "The request waited too long, the model failed, or the service is shutting down.",
}
"""What each status of an error means."""


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818  (the fault may be nobody's)
    """An answer that says why there is no caption."""

    status: int
    """The HTTP status."""
    sentence: str
    """Reason and remedy, in one sentence."""
    _: KW_ONLY
    retry_after: int | None = None
    """Seconds after which it is worth trying again, in whole seconds."""
    reason: Reason | None = None
    """Label that `/metrics` counts it under."""
    closes: bool = False
    """The connection is closed after the answer."""


def queue_full(retry_after: int) -> Refusal:
    """Returns the refusal of a request for which there is no room."""
    return Refusal(429, "Too many photos are waiting; try again later.", retry_after=retry_after, reason="queue")


def too_late(retry_after: int) -> Refusal:
    """Returns the refusal of a request that has waited too long."""
    sentence = "The photo waited too long to be captioned; try again later."
    return Refusal(503, sentence, retry_after=retry_after, reason="deadline")


def shutting_down() -> Refusal:
    """Returns the refusal of a request that comes, or is not answered, before the service ends."""
    return Refusal(503, "The service is shutting down; try again soon.", retry_after=1, reason="draining", closes=True)


def client_left() -> Refusal:
    """Returns what a request is counted under whose client closed the connection, as nginx does; nobody reads it."""
    return Refusal(499, "The client left.")


def refusal_for(error: Exception) -> Refusal:
    """Returns what is answered when an error is raised; 500 for one that nobody foresaw."""
    match error:
        case Refusal():
            return error
        case DeviceError():
            return Refusal(503, "The model failed, and the log says how; try again.", retry_after=1)
        case FormatError():
            return Refusal(415, as_sentence(error))
        case TooLargeError():
            return Refusal(413, as_sentence(error))
        case ImageError() | UsageError():
            return Refusal(422, as_sentence(error))
        case _:
            return Refusal(500, "The service failed, and the log says how; please report it.")


def error_response(refusal: Refusal) -> JSONResponse:
    """Returns an error as every path answers it: `{"error": "one sentence"}`."""
    headers: dict[str, Any] = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.closes:
        headers["Connection"] = "close"
    return JSONResponse({"error": refusal.sentence}, refusal.status, headers)


def as_sentence(error: Exception | str) -> str:
    """Returns what an error says, from its capital letter to its full stop."""
    text = str(error)
    return text[:1].upper() + text[1:].rstrip(".") + "."
