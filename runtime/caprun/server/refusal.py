"""A request that is not served: the status, and one sentence that says what was wrong and what to do."""

from collections.abc import Mapping

from caprun.errors import DeviceError, FormatError, ImageError, TooLargeError, UsageError
from caprun.server.metrics import Reason
from caprun.server.queueing import Busy

_BUSY: Mapping[Reason, tuple[int, str]] = {
    "queue": (429, "Too many photos are waiting; try again later."),
    "deadline": (503, "The photo waited too long to be captioned; try again later."),
    "draining": (503, "The service is shutting down; try again soon."),
}


class Refusal(Exception):  # noqa: N818  (it may be nobody's error)
    """An answer that says why there is no caption.

    Args:
        status: of HTTP.
        sentence: for a person.
        retry_after: seconds, where trying again will do.
        closes: the connection is of no more use, for the rest of the request is still to come, and long.
    """

    reason: Reason | None = None
    """Of one that is nobody's fault."""

    def __init__(self, status: int, sentence: str, *, retry_after: int | None = None, closes: bool = False) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after, self.closes = status, sentence, retry_after, closes

    @property
    def headers(self) -> dict[str, str]:
        """Those that belong to it."""
        retry = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return retry | ({"Connection": "close"} if self.closes else {})


def refusal_for(error: Exception) -> Refusal:
    """What to answer where an error came up; 500 for one that nobody foresaw."""
    match error:
        case Refusal():
            return error
        case Busy():
            status, text = _BUSY[error.reason]
            refusal = Refusal(status, text, retry_after=error.retry_after, closes=error.reason == "draining")
            refusal.reason = error.reason
            return refusal
        case DeviceError():
            return Refusal(503, "The model failed, and the log says how; try again.", retry_after=1)
        case UsageError():
            return Refusal(422, str(error))
        case FormatError():
            return Refusal(415, as_sentence(error))
        case TooLargeError():
            return Refusal(413, as_sentence(error))
        case ImageError():
            return Refusal(422, as_sentence(error))
        case _:
            return Refusal(500, "The service failed, and the log says how; please report it.")


def as_sentence(error: Exception) -> str:
    """What an error says, from its capital letter to its full stop."""
    text = str(error)
    return text[:1].upper() + text[1:].rstrip(".") + "."
