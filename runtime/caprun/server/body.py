"""Reads the body of a request within its limits, and parses the photos and options in it."""

import asyncio
import base64
import codecs
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from python_multipart import create_form_parser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File
from starlette.types import Receive

from caprun.errors import ImageError
from caprun.photos.formats import kind_of
from caprun.server.refusal import Refusal, client_left
from caprun.server.settings import Settings

_WANTED = 'send {"photos": ["<base64>", ...]}'
_SEND_FORM = "send a photo with curl -F photo=@photo.jpg"
_NOT_D = "send it with curl --data-binary @photo.jpg, because curl -d removes bytes from photos"
_MOST_BRACKETS = 16  # of JSON, which can be small as text but large as objects
_MOST_OPTIONS = 64
_NOT_BASE64 = str.maketrans("-_", "+/", " \t\r\n")
_DATA_URL = re.compile(r"\s*data:[^,]*,", re.IGNORECASE)
_BOM_OR_SPACE = codecs.BOM_UTF8 + b" \t\r\n"
_FORM, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
_FIELD = re.compile(rb"[\w%.-]{1,64}=")  # start of a URL-encoded form
_PART = re.compile(rb'\s*--([^\r\n"\\]{1,200})\r\n(?:[^\r\n]{1,200}\r\n){0,4}?content-disposition:', re.IGNORECASE)

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it would log clients' errors


class BodyHead(NamedTuple):
    """The headers that describe a request's body."""

    content_type: str
    media_type: str
    size: int | None
    """Bytes; None if the size is not declared."""

    def is_json(self, body: bytes) -> bool:
        """Returns whether a body is JSON; many clients declare it as a form or text, or not at all."""
        return self.media_type.endswith("json") or (
            not self.media_type.startswith("multipart/") and body[:64].lstrip(_BOM_OR_SPACE)[:1] in (b"{", b"[")
        )

    def form_type(self, body: bytes) -> str:
        """Returns the content type of a form, which many clients declare wrongly; empty if it is not a form."""
        if found := _PART.match(body):
            return f'{_MULTIPART}; boundary="{found[1].decode("latin-1").rstrip()}"'
        is_encoded = self.media_type == _FORM and _FIELD.match(body) and not kind_of(body)
        is_form = self.media_type == _MULTIPART or is_encoded
        return self.content_type if is_form else ""

    def is_structured(self, body: bytes) -> bool:
        """Returns whether a body may be JSON, a form or base64, which take time to parse."""
        return body.isascii() or bool(self.form_type(body)) or self.is_json(body)


class Upload(NamedTuple):
    """The photos and options that a request sends."""

    photos: list[bytes | ImageError]
    """The bytes of each photo, or its error."""
    options: list[tuple[str, Any]]
    """Names and values; the values of a form are text."""
    is_list: bool
    """True if the answer is a list."""


def body_head(headers: Mapping[str, str], settings: Settings) -> BodyHead:
    """Reads the headers that describe a request's body.

    Raises:
        Refusal: Such a body is not accepted.
    """
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise Refusal(415, "Content-Encoding is not supported; send the photo as it is, since photos are compressed.")
    length = headers.get("content-length")
    if length is not None and int(length) > settings.max_bytes:
        raise _too_large(settings)
    content_type = headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    return BodyHead(content_type, media_type, None if length is None else int(length))


async def read_body(receive: Receive, settings: Settings) -> bytes:
    """Receives a body.

    Raises:
        Refusal: The body is too large, takes too long or is empty, or the client disconnected.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise client_left()
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


async def wait_until_gone(receive: Receive) -> None:
    """Waits until a client closes the connection, once its body has been received."""
    while (await receive())["type"] != "http.disconnect":
        pass


def read_upload(head: BodyHead, body: bytes, settings: Settings) -> Upload:
    """Parses the photos and options in a body: the bytes of a photo, base64, JSON or a form.

    Raises:
        Refusal: The body is not what its Content-Type declares, or has too many photos.
    """
    if content_type := head.form_type(body):
        return _read_form(content_type, body, settings)
    if head.is_json(body):
        return _read_json(body, settings)
    if head.media_type.startswith("multipart/"):
        raise Refusal(415, f"The only multipart body that is accepted is {_MULTIPART}; {_SEND_FORM}.")
    decoded = _photo_in_base64(body)
    # every photo has zero bytes, which curl -d removes
    if decoded is None and b"\0" not in body and (head.media_type == _FORM or not body.isascii()):
        raise Refusal(415, f"The body is not a complete photo file; {_NOT_D}.")
    return Upload([decoded or body], [], is_list=False)


def _read_json(body: bytes, settings: Settings) -> Upload:
    if body.count(b"[") + body.count(b"{") > _MOST_BRACKETS:
        raise Refusal(422, f"The body is not a list of photos; {_WANTED}.")
    if body.count(b",") > 2 * settings.max_photos + _MOST_OPTIONS:
        raise _too_many(settings)
    try:
        data = json.loads(body)
    except ValueError:
        raise Refusal(400, f"The body is not JSON; {_WANTED}.") from None
    if not isinstance(data, dict) or not isinstance(photos := data.pop("photos", None), list):
        raise Refusal(422, f"The body is not a list of photos; {_WANTED}.")
    if not photos:
        raise Refusal(422, f"The list of photos is empty; {_WANTED}.")
    if not all(isinstance(photo, str) for photo in photos):
        raise Refusal(422, f"The list has an item that is not text; {_WANTED}.")
    if len(photos) > settings.max_photos:
        raise _too_many(settings)
    return Upload([_from_base64(photo) for photo in photos], list(data.items()), is_list=True)


def _read_form(content_type: str, body: bytes, settings: Settings) -> Upload:
    is_encoded = not content_type.startswith(_MULTIPART)
    photos: list[bytes | ImageError] = []
    options: list[tuple[str, Any]] = []

    def add_photo(photo: bytes) -> None:
        if len(photos) == settings.max_photos:
            raise _too_many(settings)
        photos.append(photo or ImageError("The photo is empty; get another copy of it."))

    def on_file(file: File) -> None:
        file.file_object.seek(0)
        add_photo(file.file_object.read())

    def on_field(field: Field) -> None:
        name, value = (field.field_name or b"").decode("utf-8", "replace"), field.value or b""
        if is_encoded:
            value = unquote_to_bytes(value.replace(b"+", b" "))
        photo = None
        if name in ("photo", "photos"):
            # a file without a name, or base64, whose plus signs many clients do not encode
            photo = value if kind_of(value) else _photo_in_base64(value.replace(b" ", b"+"))
        if photo:
            add_photo(photo)
        elif len(options) == _MOST_OPTIONS:
            raise Refusal(422, f"The form has more than {_MOST_OPTIONS} options; leave some out.")
        else:
            options.append((name, value.decode("utf-8", "replace")))

    headers = {"Content-Type": content_type.encode("latin-1")}
    try:
        parser = create_form_parser(headers, on_field, on_file, config={"MAX_MEMORY_FILE_SIZE": settings.max_bytes})
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise Refusal(400, f"The body is not the form that its Content-Type declares; {_SEND_FORM}.") from None
    if not photos:
        raise Refusal(422, f"The form has no photo; {_SEND_FORM}.")
    return Upload(photos, options, is_list=len(photos) > 1)


def _from_base64(text: str) -> bytes | ImageError:
    """Decodes base64 with or without line breaks and padding, and with either alphabet."""
    if found := _DATA_URL.match(text):
        text = text[found.end() :]
    text = text.translate(_NOT_BASE64).rstrip("=")
    try:
        photo = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return ImageError("The photo is not base64; encode its bytes, with nothing before or after.")
    return photo or ImageError("The photo is empty; get another copy of it.")


def _photo_in_base64(body: bytes) -> bytes | None:
    photo = _from_base64(body.decode("ascii")) if body.isascii() else None
    return photo if isinstance(photo, bytes) and kind_of(photo) else None


def _too_large(settings: Settings) -> Refusal:
    return Refusal(413, f"The body has more than {settings.max_bytes:,} bytes; scale the photo down.")


def _too_many(settings: Settings) -> Refusal:
    return Refusal(413, f"The request has more than {settings.max_photos} photos; send fewer at a time.")
