"""Requests that are not served: the status, and one sentence that states what was wrong and what to do."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from fastapi.responses import JSONResponse

from caprun.errors import DeviceError, FormatError, ImageError, TooLargeError, UsageError

Reason = Literal["queue", "deadline", "draining"]
"""Why a request that could be served later is refused."""

STATUSES = {
    400: "The body is empty, or is not the JSON or form that its Content-Type declares.",
    401: "The API key is missing or wrong.",
    404: "The path does not exist.",
    408: "The body took too long to arrive.",
    413: "The body or a photo is too large, or the list is too long.",
    415: "The body is not a photo of a known format, or has a `Content-Encoding`.",
    422: "The photo is damaged, or an option is invalid.",
    429: "Too many photos are waiting.",
    500: "The service failed.",
    503: "The request waited too long, the model failed, or the service is shutting down.",
}
"""The meaning of each error status."""


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818  (not always an error)
    """An error response in place of a caption."""

    status: int
    """The HTTP status."""
    sentence: str
    """Reason and remedy, in one sentence."""
    _: KW_ONLY
    retry_after: int | None = None
    """Whole seconds after which the client should try again."""
    reason: Reason | None = None
    """Label under which `/metrics` counts it."""
    closes: bool = False
    """True to close the connection after the response."""


def queue_full(retry_after: int) -> Refusal:
    """Returns the refusal of a request that finds the queue full."""
    return Refusal(429, "Too many photos are waiting; try again later.", retry_after=retry_after, reason="queue")


def too_late(retry_after: int) -> Refusal:
    """Returns the refusal of a request that has waited too long."""
    sentence = "The photo waited too long to be captioned; try again later."
    return Refusal(503, sentence, retry_after=retry_after, reason="deadline")


def shutting_down() -> Refusal:
    """Returns the refusal of a request that arrives or is unanswered while the service shuts down."""
    return Refusal(503, "The service is shutting down; try again soon.", retry_after=1, reason="draining", closes=True)


def client_left() -> Refusal:
    """Returns the refusal, for the metrics only, of a request whose client disconnected; 499 is nginx's status."""
    return Refusal(499, "The client disconnected.")


def refusal_for(error: Exception) -> Refusal:
    """Returns the refusal for an error; status 500 if the error is unexpected."""
    match error:
        case Refusal():
            return error
        case DeviceError():
            return Refusal(503, "The model failed; see the log for the cause, and try again.", retry_after=1)
        case FormatError():
            return Refusal(415, as_sentence(error))
        case TooLargeError():
            return Refusal(413, as_sentence(error))
        case ImageError() | UsageError():
            return Refusal(422, as_sentence(error))
        case _:
            return Refusal(500, "The service failed; see the log for the cause, and please report it.")


def error_response(refusal: Refusal) -> JSONResponse:
    """Returns the response of an error, the same for every path: `{"error": "one sentence"}`."""
    headers: dict[str, Any] = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.closes:
        headers["Connection"] = "close"
    return JSONResponse({"error": refusal.sentence}, refusal.status, headers)


def as_sentence(error: Exception | str) -> str:
    """Returns an error's message with a capital letter and a full stop."""
    text = str(error)
    return text[:1].upper() + text[1:].rstrip(".") + "."
