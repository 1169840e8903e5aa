"""The body of a request: what may be sent, read within its limits, and the photos in it."""

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import NamedTuple

from starlette.types import Receive

from caprun.errors import ImageError
from caprun.server.refusal import Refusal
from caprun.server.settings import Settings

_WANTED = 'send {"photos": ["<base64>", ...]}'
_MOST_BRACKETS = 16  # of JSON: what is small as text may be large as objects


class ClientLeft(Exception):  # noqa: N818  (as clients do)
    """The client closed the connection: nobody waits for an answer."""


class BodyHead(NamedTuple):
    """What a request's head says of its body."""

    is_json: bool
    size: int | None
    """Bytes; None where they are not announced."""


def body_head(headers: Mapping[str, str], settings: Settings) -> BodyHead:
    """Reads what a request's head says of its body.

    Raises:
        Refusal: Such a body is not taken.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type.startswith("multipart/"):
        raise Refusal(415, "Forms are not taken; send the bytes of one photo as the body, or JSON with a list.")
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise Refusal(415, "A Content-Encoding is not taken; send the photo as it is, for it is compressed already.")
    length = headers.get("content-length")
    if length is not None and int(length) > settings.max_bytes:
        raise _too_large(settings)
    return BodyHead(media_type == "application/json", None if length is None else int(length))


async def read_body(receive: Receive, settings: Settings) -> bytes:
    """Receives a body.

    Raises:
        Refusal: It is too large, takes too long or is empty.
        ClientLeft: It did not come.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > settings.max_bytes:
                    raise _too_large(settings)
    except TimeoutError:
        sentence = f"The body took longer than {settings.body_timeout:g} seconds; send a smaller photo."
        raise Refusal(408, sentence, closes=True) from None
    if not body:
        raise Refusal(400, "The body is empty; send the bytes of a photo.")
    return bytes(body)


def listed_photos(body: bytes, settings: Settings) -> list[bytes | ImageError]:
    """Reads the photos of a JSON body.

    Returns:
        The bytes of each, or what is wrong with it.

    Raises:
        Refusal: The body is no list of photos.
    """
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
        raise Refusal(422, f"The list has an item that is not text; {_WANTED}.")
    if len(photos) > settings.max_photos:
        raise _too_many(settings)
    return [_from_base64(photo) for photo in photos]


async def wait_until_gone(receive: Receive) -> None:
    """Returns when the client closes the connection; its body was received."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _from_base64(text: str) -> bytes | ImageError:
    try:
        photo = base64.b64decode(text, validate=True)
    except ValueError:
        return ImageError("The photo is not base64; encode its bytes, with nothing before or after.")
    return photo or ImageError("The photo is empty; get another copy of it.")


def _too_large(settings: Settings) -> Refusal:
    return Refusal(413, f"The body has more than {settings.max_bytes:,} bytes; scale the photo down.")


def _too_many(settings: Settings) -> Refusal:
    return Refusal(413, f"The list has more than {settings.max_photos} photos; send fewer at a time.")
