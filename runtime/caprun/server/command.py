"""`caprun serve`: its options, and what is loaded and started for them."""

import importlib.util
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caprun.commands.click_types import Integer
from caprun.commands.options import collected, device_option, min_confidence_option, model_option, precision_option
from caprun.errors import CaprunError, UsageError
from caprun.server.settings import MOST_DECODERS, Settings

if TYPE_CHECKING:
    from socket import socket

    from caprun.engine import Captioner
    from caprun.server.placement import Placement

_PACKAGES = ("fastapi", "jinja2", "prometheus_client", "python_multipart", "uvicorn")

log = logging.getLogger("caprun.server")


_SETTINGS = [one for one in fields(Settings) if one.metadata]
_settings_options = collected(
    "settings",
    [*(one.name for one in _SETTINGS), "min_confidence"],
    Settings,
    [
        *(
            click.option(
                f"--{one.name.replace('_', '-')}".replace("origins", "origin"),
                one.name,
                default=one.default,
                show_default=bool(one.default),
                **one.metadata,
            )
            for one in _SETTINGS
        ),
        min_confidence_option,
    ],
)


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; 0.0.0.0 listens on every interface.")
@click.option("--port", type=Integer(0, 65535), default=8000, show_default=True, help="Port; 0 for any that is free.")
@click.option("--uds", metavar="PATH", help="Unix socket to listen at, in place of --host and --port.")
@click.option("--api-key", metavar="FILE", help="File with the key that requests must send, else $CAPRUN_API_KEY.")
@model_option
@device_option
@precision_option
@click.option(
    "--workers",
    type=Integer(1, 1024),
    default=1,
    show_default=True,
    help="Processes, each with a GPU or a set of cores of its own.",
)
@click.option("--threads", type=Integer(1), help="CPU threads of a worker.  [default: its share of all cores]")
@_settings_options
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
    settings: Settings,
) -> int:
    """Serve captions over HTTP, and a page to try them on.

    POST a photo to /v1/caption: curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/caption. The API is described
    at /docs. Everyone who reaches the address may use it unless there is a key (--api-key); the address is that of this
    machine alone unless --host is given.

    SIGTERM or Ctrl-C ends it when what was asked is answered; a second one ends it at once.
    """
    _check_installed()
    _open_streams()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    from caprun.bundle.manifest import refuse_uncalibrated
    from caprun.server import listening
    from caprun.server.placement import divide
    from caprun.server.workers import METRICS_FOLDER, Supervisor

    settings = replace(settings, api_key=_key(api_key))
    placements = divide(workers, threads, device)
    listener = listening.bind(host, port) if uds is None else listening.bind_unix(uds)

    def work(placement: "Placement", ready: Callable[[str], object]) -> int:
        captioner = _load(model, device, precision, placement)
        refuse_uncalibrated(captioner.spec, settings.min_confidence)
        return _serve(captioner, settings, placement, listener, ready, worker=workers > 1)

    def announce(served: str) -> None:
        shared = "" if workers == 1 else f", {workers} workers"
        log.info("%s serves at %s%s; Ctrl-C ends it.", served, listening.url(listener), shared)

    try:
        if workers > 1:
            return Supervisor(listener, placements, work, settings).run(announce)
        # the first process of a container ignores a signal that it has no handler for; uvicorn sets its own later
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
        os.environ.pop(METRICS_FOLDER, None)  # another service's
        return work(placements[0], announce)
    finally:
        if uds is not None:
            Path(uds).unlink(missing_ok=True)


def _key(file: str | None) -> str | None:
    """Reads the API key from a file, else from the environment."""
    if file is None:
        return os.environ.get("CAPRUN_API_KEY") or None
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The API key cannot be read from {file}: {error}.") from error
    if not key:
        raise UsageError(f"The file {file} of `--api-key` is empty; write the key into it.")
    return key


def _check_installed() -> None:
    """Checks that what a service needs is installed."""
    if os.name == "nt":
        raise CaprunError("caprun serve needs Linux or macOS.")
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CaprunError(f'{" and ".join(missing)} must be installed to serve: pip install "captioner[serve]".')


def _open_streams() -> None:
    """Opens the standard streams that are closed to nowhere, or a connection would be taken for one of them."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)


def _load(model: str | None, device: Any, precision: str | None, placement: "Placement") -> "Captioner":
    """Loads the model, for many photos."""
    from caprun.commands.startup import starting

    with starting():
        from caprun.engine import Captioner

        return Captioner.load(model, device=device, threads=placement.threads, precision=precision, many=True)


def _serve(
    captioner: "Captioner",
    settings: Settings,
    placement: "Placement",
    listener: "socket",
    ready: Callable[[str], object],
    *,
    worker: bool,
) -> int:
    """Serves in this process, which then says what it serves."""
    from caprun.server import process
    from caprun.server.app import Service

    decoders = settings.decoders or min(MOST_DECODERS, placement.threads)
    service = Service(captioner, replace(settings, decoders=decoders))
    service.warm_up()  # nobody can connect to a model that does not run
    precision, on = getattr(captioner.backend, "precision", "fp32"), getattr(captioner.backend, "device", "cpu")
    served = f"{captioner.spec.name} ({precision} on {on})"
    return process.serve(service, listener, lambda: ready(served), worker=worker)
