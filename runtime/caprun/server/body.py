"""A request's body: what may be sent, read within its limits, and the photos in it."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple, TypeAlias

from caprun.errors import ImageError
from caprun.server.queueing import Place
from caprun.server.refusal import Refusal
from caprun.server.settings import Settings

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

_WANTED = 'send {"photos": ["<base64>", ...]}'
_MOST_BRACKETS = 16
_MOST_DIGITS = 18


class ClientGone(Exception):  # noqa: N818  (as clients do)
    """The client closed the connection: nobody waits for an answer."""


class Announced(NamedTuple):
    """What a request's head says of its body."""

    json: bool
    """It is a list of photos; else it is a photo."""
    size: int | None
    """Bytes; None: it will be seen."""


def announced(headers: Mapping[str, str], settings: Settings) -> Announced:
    """Read a request's head.

    Raises:
        Refusal: such a body is not taken.
    """
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media.startswith("multipart/"):
        raise Refusal(415, "Forms are not taken; send the bytes of one photo as the body, or JSON with a list.")
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise Refusal(415, "A Content-Encoding is not taken; send the photo as it is, for it is compressed already.")
    length = headers.get("content-length")
    if length is None:
        return Announced(media == "application/json", None)
    if not (length.isascii() and length.isdigit()):
        raise Refusal(400, "Content-Length is no number; say how many bytes the body has.", closes=True)
    if len(length) > _MOST_DIGITS or int(length) > settings.max_bytes:
        raise _too_large(settings)
    return Announced(media == "application/json", int(length))


async def read(receive: Receive, size: int | None, place: Place, settings: Settings) -> bytes:
    """Receive a body.

    Args:
        receive: gives it in parts.
        size: that it was said to have.
        place: the request's; told how much there is where that was not said.
        settings: limits.

    Raises:
        Refusal: it is too large, takes too long, or is empty.
        QueueFull: there is no room for more bytes.
        ClientGone: it did not come.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout) as timeout:

            def give_way() -> None:
                if not timeout.expired():  # else its own time is over, at the same moment
                    timeout.reschedule(place.loop.time())

            place.on_eviction = give_way
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > settings.max_bytes:
                    raise _too_large(settings)
                if size is None:
                    place.holds(len(body))
        place.received()
    except TimeoutError:
        place.received()
    if place.left:
        raise Refusal(408, "The body came too slowly while others waited; send it faster, or later.", closes=True)
    if more:
        text = f"The body took longer than {settings.body_timeout:g} seconds; send a smaller photo."
        raise Refusal(408, text, closes=True)
    if not body:
        raise Refusal(400, "The body is empty; send the bytes of a photo.")
    return bytes(body)


def photos_of(body: bytes, settings: Settings) -> list[bytes | ImageError]:
    """The photos in a JSON body, each as bytes or with what is wrong with it.

    Raises:
        Refusal: it is no such list.
    """
    # What is small as text may be large as objects: what cannot be a list of photos is not even read,
    # and nothing is nested deeply.
    if body.count(b"[") + body.count(b"{") > _MOST_BRACKETS:
        raise Refusal(422, f"The body is no list of photos; {_WANTED}.")
    if body.count(b",") > 2 * settings.max_photos + _MOST_BRACKETS:
        raise _too_many(settings)
    try:
        data = json.loads(body)
    except ValueError:
        raise Refusal(400, f"The body is not JSON; {_WANTED}.") from None
    if not isinstance(data, dict) or data.keys() != {"photos"} or not isinstance(data["photos"], list):
        raise Refusal(422, f"The body is no list of photos; {_WANTED}.")
    photos = data["photos"]
    if not photos:
        raise Refusal(422, f"The list of photos is empty; {_WANTED}.")
    if not all(isinstance(photo, str) for photo in photos):
        raise Refusal(422, f"The list holds something else than text; {_WANTED}.")
    if len(photos) > settings.max_photos:
        raise _too_many(settings)
    return [_decoded(photo) for photo in photos]


def _decoded(text: str) -> bytes | ImageError:
    try:
        photo = base64.b64decode(text, validate=True)
    except ValueError:
        return ImageError("the photo is not base64; encode its bytes, with nothing before or after")
    return photo or ImageError("the photo is empty; get another copy of it")


def _too_large(settings: Settings) -> Refusal:
    return Refusal(413, f"The body has more than {settings.max_bytes:,} bytes; scale the photo down.", closes=True)


def _too_many(settings: Settings) -> Refusal:
    return Refusal(413, f"The list has more than {settings.max_photos} photos; send fewer at a time.")
