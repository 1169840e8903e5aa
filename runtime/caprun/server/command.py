"""The command `caprun serve`: its options, and the model and processes that it starts."""

import importlib.util
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caprun.commands.click_types import Integer
from caprun.commands.options import device_option, min_confidence_option, model_option, precision_option
from caprun.commands.startup import starting
from caprun.errors import CaprunError, UsageError
from caprun.server.settings import MOST_DECODERS, Settings

if TYPE_CHECKING:
    from caprun.server.placement import Placement

_PACKAGES = ("fastapi", "jinja2", "prometheus_client", "python_multipart", "uvicorn")

log = logging.getLogger("caprun.server")


def _limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds an option for each setting that has one."""
    for one in reversed(fields(Settings)):
        if one.metadata:
            option = click.option(f"--{one.name.replace('_', '-')}", default=one.default, **one.metadata)
            command = option(command)
    return command


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; 0.0.0.0 listens on every interface.")
@click.option("--port", type=Integer(0, 65535), default=8000, show_default=True, help="Port; 0 for any free port.")
@click.option("--uds", metavar="PATH", help="Unix socket to listen on, instead of --host and --port.")
@click.option("--root-path", metavar="PREFIX", default="", help="URL prefix of a proxy, such as /captions.")
@click.option(
    "--cors-origin",
    "cors_origins",
    metavar="ORIGIN",
    multiple=True,
    help="Origin whose pages can use the API, such as https://example.org; * for all. Can be repeated.",
)
@click.option("--api-key", metavar="FILE", help="File with the key that requests must send, else $CAPRUN_API_KEY.")
@model_option
@device_option
@precision_option
@min_confidence_option
@click.option(
    "--workers",
    type=Integer(1, 1024),
    default=1,
    show_default=True,
    help="Processes, each with its own GPU or set of cores.",
)
@click.option("--threads", type=Integer(1), help="CPU threads per worker.  [default: its share of all cores]")
@_limit_options
def serve(
    host: str,
    port: int,
    uds: str | None,
    api_key: str | None,
    model: str | None,
    device: Any,
    precision: str | None,
    workers: int,
    threads: int | None,
    **limits: Any,
) -> int:
    """Serve captions over HTTP, and a web page to try it.

    POST a photo to /v1/caption: curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/caption. The API is described
    at /docs. Only this machine can connect unless --host is given. Everyone who can connect can use the API unless
    --api-key is given.

    SIGTERM or Ctrl-C ends the service once accepted requests are answered; a second signal ends it at once.
    """
    _check_installed()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    from caprun.server import listening
    from caprun.server.placement import divide
    from caprun.server.workers import METRICS_FOLDER, Supervisor

    placements = divide(workers, threads, device)
    decoders = min(MOST_DECODERS, placements[0].threads)  # all placements have the same number
    settings = Settings(api_key=_key(api_key), decoders=decoders, **limits)
    listener = listening.bind(host, port) if uds is None else listening.bind_unix(uds)

    def work(placement: "Placement", ready: Callable[[str], object]) -> int:
        """Serves in this process; calls `ready` with the model and device once it serves."""
        with starting():
            from caprun.engine import Captioner

            captioner = Captioner.load(model, device=device, threads=placement.threads, precision=precision, many=True)
        from caprun.bundle.manifest import refuse_uncalibrated
        from caprun.server import process
        from caprun.server.app import Service

        refuse_uncalibrated(captioner.spec, settings.min_confidence)
        service = Service(captioner, settings)
        service.warm_up()  # a model that does not run fails before anyone can connect
        exact, on = getattr(captioner.backend, "precision", "fp32"), getattr(captioner.backend, "device", "cpu")
        served = f"{captioner.spec.name} ({exact} on {on})"
        return process.serve(service, listener, lambda: ready(served), worker=workers > 1)

    def announce(served: str) -> None:
        shared = "" if workers == 1 else f", {workers} workers"
        log.info("Serving %s at %s%s; press Ctrl-C to stop.", served, listening.url(listener), shared)

    try:
        if workers > 1:
            return Supervisor(listener, placements, work, settings).run(announce)
        # the first process in a container ignores signals without a handler; uvicorn sets its own later
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
        os.environ.pop(METRICS_FOLDER, None)  # it would be another service's
        return work(placements[0], announce)
    finally:
        if uds is not None and listener.fileno() >= 0:  # otherwise a successor may listen there by now
            Path(uds).unlink(missing_ok=True)


def _key(file: str | None) -> str | None:
    """Reads the API key from a file, or else from the environment."""
    if file is None:
        source, key = "$CAPRUN_API_KEY", os.environ.get("CAPRUN_API_KEY")
        if not key:
            return None
        if not (key := key.strip()):
            raise UsageError(f"{source} contains only white space; set it to the key, or unset it.")
    else:
        source = file
        try:
            key = Path(file).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"The API key cannot be read from {file} ({error}); check `--api-key`.") from error
        if not key:
            raise UsageError(f"The `--api-key` file {file} is empty; write the key into it.")
    if not key.isascii():  # browsers encode headers in Latin-1, and most other clients in UTF-8
        raise UsageError(f"The API key in {source} is not ASCII, so some clients cannot send it; choose another key.")
    return key


def _check_installed() -> None:
    """Checks that the packages that the service needs are installed."""
    if os.name == "nt":
        raise CaprunError("caprun serve needs Linux or macOS.")
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CaprunError(f'{" and ".join(missing)} must be installed to serve: pip install "captioner[serve]".')
