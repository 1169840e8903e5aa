"""`caprun serve`: its options, and what is loaded and started for them."""

import importlib.util
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from caprun.commands.click_types import Number
from caprun.commands.options import min_confidence_option
from caprun.errors import CaprunError

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from caprun.engine import Captioner
    from caprun.server.places import Place
    from caprun.server.settings import Settings
    from caprun.server.supervisor import Parent

_PACKAGES = ("fastapi", "uvicorn", "httptools", "prometheus_client")


_SOME, _ANY = Number("seconds", 0.001, 86_400), Number("seconds", 0, 86_400)


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 is all there are.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 for any that is free."
)
@click.option("--model", envvar="CAPRUN_MODEL", help="Bundle to use, else $CAPRUN_MODEL, else the packaged one.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", help="One of the bundle's, such as fp32.  [default: the fastest measured here]")
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Processes, each with a GPU or a set of cores of its own.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a worker.  [default: its share of all cores]")
@click.option(
    "--queue", type=click.IntRange(1), help="Photos a worker lets wait, before it answers 429.  [default: 64]"
)
@click.option("--deadline", type=_SOME, help="Seconds a photo may wait, before the answer is 503.  [default: 10]")
@click.option("--batch-size", type=click.IntRange(1, 1024), help="Photos computed together.  [default: 8; on CUDA 64]")
@click.option(
    "--batch-delay",
    type=Number("seconds", 0, 10),
    help="Seconds a photo may wait for others on their way.  [default: 0.005]",
)
@min_confidence_option
@click.option("--max-bytes", type=click.IntRange(1), help="Most bytes of a request.  [default: 20000000]")
@click.option(
    "--max-photos", type=click.IntRange(1, 1024), help="Most photos of a request; --queue at most.  [default: 32]"
)
@click.option("--max-connections", type=click.IntRange(1), help="Most connections of a worker.  [default: 1024]")
@click.option("--body-timeout", type=_SOME, help="Seconds a request may take to arrive.  [default: 20]")
@click.option("--idle-timeout", type=_SOME, help="Seconds a connection may be idle.  [default: 15]")
@click.option("--grace", type=_SOME, help="Seconds to answer what was asked, after SIGTERM.  [default: 20]")
@click.option(
    "--drain",
    type=_ANY,
    help="Seconds of these in which clients can still connect, for load balancers to notice.  [default: 1]",
)
def serve(
    host: str,
    port: int,
    model: str | None,
    device: Any,
    precision: str | None,
    workers: int,
    threads: int | None,
    **limits: Any,
) -> int:
    """Serve captions over HTTP, and a page to try them on.

    POST a photo to /v1/caption: curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/caption. Its description is at
    /docs. Whoever reaches the address may use it: there are no passwords, and it listens to this machine alone unless
    --host says otherwise.

    SIGTERM or Ctrl-C ends it when what was asked is answered; a second one ends it now.
    """
    _check_installed()
    _open_streams()
    from caprun.bundle.manifest import refuse_uncalibrated
    from caprun.server import listening
    from caprun.server.places import divide
    from caprun.server.settings import Settings
    from caprun.server.supervisor import METRICS_FOLDER

    settings = Settings(**{name: value for name, value in limits.items() if value is not None})
    places = divide(workers, threads, device)
    listener = listening.bind(host, port)

    def load(place: "Place") -> "Captioner":
        captioner = _load(model, device, precision, place)
        refuse_uncalibrated(captioner.spec, settings.min_confidence)
        return captioner

    if workers == 1:
        # the first process of a container is told nothing that it has no handler for; the service has its own
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
        os.environ.pop(METRICS_FOLDER, None)  # another service's
        captioner = load(places[0])
        return _serve(captioner, settings, places[0], listener, lambda: _announce(_said(captioner), listener, 1))
    return _serve_together(load, settings, places, listener)


def _check_installed() -> None:
    """Raise a CaprunError where what a service needs is not installed."""
    if os.name == "nt":
        raise CaprunError("caprun serve needs Linux or macOS.")
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CaprunError(f'{" and ".join(missing)} must be installed to serve: pip install "captioner[serve]".')


def _open_streams() -> None:
    """Where standard input, output or error is closed, open it to nowhere, or a connection would be taken for it."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)


def _load(model: str | None, device: Any, precision: str | None, place: "Place") -> "Captioner":
    """The model, for many photos."""
    from caprun.commands.startup import starting

    with starting():
        from caprun.engine import Captioner

        return Captioner.load(model, device=device, threads=place.threads, precision=precision, many=True)


def _serve(
    captioner: "Captioner",
    settings: "Settings",
    place: "Place",
    listener: "socket",
    ready: "Callable[[], object]",
    **how: Any,
) -> int:
    """Serve in this process; see `caprun.server.process.serve`."""
    from dataclasses import replace

    from caprun.server import process
    from caprun.server.app import Service, create_app
    from caprun.server.settings import MOST_DECODERS

    service = Service(captioner, replace(settings, decoders=settings.decoders or min(MOST_DECODERS, place.threads)))
    service.warm_up()  # nobody is let in to a model that does not run

    def count(status: int) -> None:
        service.metrics.answered("", status)

    return process.serve(create_app(service), service, settings, listener, ready, count, **how)


def _serve_together(
    load: "Callable[[Place], Captioner]", settings: "Settings", places: "list[Place]", listener: "socket"
) -> int:
    from caprun.server import supervisor

    def work(place: "Place", parent: "Parent") -> int:
        captioner = load(place)
        said = _said(captioner)
        ready = partial(parent.ready, said)
        return _serve(captioner, settings, place, listener, ready, crowd=True, told=parent.told)

    def forget(pid: int) -> None:
        from caprun.server.metrics import forget

        forget(pid)

    serving = supervisor.Supervisor(listener, places, work, settings, forget)
    return serving.run(lambda said: _announce(said, listener, len(places)))


def _said(captioner: "Captioner") -> str:
    precision = getattr(captioner.backend, "precision", "fp32")
    return f"{captioner.spec.name} ({precision} on {getattr(captioner.backend, 'device', 'cpu')})"


def _announce(model: str, listener: "socket", workers: int) -> None:
    from caprun.server import listening
    from caprun.server.log import say

    shared = "" if workers == 1 else f", {workers} workers"
    say(f"{model} serves at {listening.url(listener)}{shared}; Ctrl-C ends it.")
