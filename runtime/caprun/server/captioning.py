"""`POST /v1/caption`, from its head to its answer."""

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request, Response

from caprun.errors import ImageError
from caprun.server import answers, body, query
from caprun.server.queueing import Place
from caprun.server.refusal import Refusal, refusal_for

if TYPE_CHECKING:
    from caprun.server.app import Service

_LEFT = 499  # what nginx counts a request under whose client did not wait for the answer

log = logging.getLogger(__name__)


async def answer(service: "Service", request: Request) -> Response:
    """Caption what a request brings, or say why not."""
    try:
        return Response(await _caption(service, request), media_type="application/json")
    except body.ClientGone:
        return Response(status_code=_LEFT)
    except Exception as error:
        refusal = refusal_for(error)
        if refusal.status == 500:
            log.exception("A request failed.")
        if refusal.reason:
            service.metrics.refused(refusal.reason)
        return error_response(refusal)


def error_response(refusal: Refusal, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal as every path answers it."""
    content = answers.encode(answers.Error(error=refusal.sentence))
    return Response(content, refusal.status, {**refusal.headers, **(headers or {})}, "application/json")


async def _caption(service: "Service", request: Request) -> bytes:
    began = time.perf_counter()
    said = body.announced(request.headers, service.settings)
    asked, least = request.scope["query_string"], service.settings.min_confidence
    ask = query.parse(asked, service.parameters, service.captioner.spec, least)
    with service.batcher.admit(ask, said.size or 0) as place:
        data = await body.read(request.receive, said.size, place, service.settings)
        receive_time = time.perf_counter() - began
        photos: list[bytes | ImageError] = [data]
        if said.json:
            photos = await service.batcher.run(place, partial(body.photos_of, data, service.settings))
            place.holds(sum(len(photo) for photo in photos if isinstance(photo, bytes)))
        work = service.batcher.caption(place, photos)
        del data, photos  # there may be many of them, and each is of use only until it is decoded
        watcher = asyncio.create_task(_withdraw_if_gone(request, place))
        try:
            results = await work
        finally:
            watcher.cancel()
    total_time = time.perf_counter() - began
    timing = answers.timing_of(receive_time, results, total_time)
    if said.json:
        content = answers.many(results, timing)
    elif isinstance(result := results[0], ImageError):
        raise result
    else:
        content = answers.one(result, timing)
    service.metrics.served(receive_time, total_time)
    return content


async def _withdraw_if_gone(request: Request, place: Place) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    place.withdraw(body.ClientGone())
