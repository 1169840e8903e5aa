"""`caprun doctor`: reports what is installed, whether it works, and what captioning a photo costs on this machine."""

import io
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from caprun.errors import CaprunError

if TYPE_CHECKING:
    from caprun.bundle.reading import Bundle
    from caprun.engine import Captioner

PHOTO = (640, 480)
"""Width and height in pixels of the photo used for timing."""
BEAMS = (1, 3)
MOST_TIMES, SECONDS = 20, 0.8
"""Limits on the repetitions of a stage and on their total seconds."""
Section = dict[str, Any]


@click.command()
@click.option(
    "--model", metavar="DIR|NAME", help="Bundle to examine: a directory or a name.  [default: the packaged bundle]"
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads for timing.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(model: str | None, threads: int | None, as_json: bool) -> None:
    """Report what is installed, whether it works, and what captioning a photo costs on this machine."""
    import json

    found: Section = {}
    try:
        for name, section in examine(model, threads):
            found[name] = section
            if not as_json:
                click.echo(f"{name}\n{_as_text(section)}\n")
    except CaprunError as error:
        found["error"] = str(error)
        raise
    finally:
        if as_json:
            click.echo(json.dumps(found, ensure_ascii=False, indent=2))


def examine(model: str | None, threads: int | None) -> Iterator[tuple[str, Section]]:
    """Examines everything that captioning needs; yields the name of each section and its findings as plain data.

    Raises:
        CaprunError: Something does not work; earlier sections have been yielded.
    """
    from caprun.bundle.reading import read_bundle
    from caprun.engine import Captioner, find_bundle

    yield "versions", _versions()
    yield "machine", _machine()
    opened = read_bundle(find_bundle(model))
    for file in opened.manifest.files:
        opened.read(file)  # refuses a file that differs from the manifest
    began = time.perf_counter()
    captioner = Captioner.load(opened.path, threads=threads)
    loaded = {"load_ms": round(1000 * (time.perf_counter() - began), 3)}
    problem = getattr(captioner.backend, "problem", None)
    device = {"device": getattr(captioner.backend, "device", "cpu")} | ({"problem": problem} if problem else {})
    yield "costs", device | loaded | _costs(captioner)
    yield "bundle", _bundle(opened, captioner, packaged=model is None)


def _as_text(section: Section, indent: str = "  ") -> str:
    lines = []
    for key, value in section.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", _as_text(value, indent + "  ")]
        elif value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {shown}")
    return "\n".join(lines)


def _versions() -> Section:
    import importlib.metadata
    import platform

    from PIL import features

    from caprun.inference.devices import installed_packages

    runtimes = installed_packages()
    versions: Section = {"python": platform.python_version()} | runtimes
    versions |= {name: importlib.metadata.version(name) for name in ("captioner", "numpy", "pillow")}
    versions["libjpeg"] = features.version("libjpeg_turbo") or features.version("jpg")
    if len(runtimes) > 1:
        versions["warning"] = (
            "Two ONNX Runtime packages share one folder, and the one installed last hides the other; "
            "uninstall both, then install one of them."
        )
    return versions


def _machine() -> Section:
    import platform

    from caprun.inference import cuda, hardware
    from caprun.inference.devices import PROVIDERS, onnxruntime

    cpu, cores = hardware.cpu(), hardware.cores()
    machine: Section = {"system": platform.platform(), "cpu": cpu.name, "instructions": cpu.features}
    machine["cores"] = {"present": cores.present, "allowed": cores.allowed, "quota": cores.quota}
    if cores.quota is not None and cores.quota < cores.allowed:
        machine["cores"]["advice"] = f"use --threads {max(1, round(cores.quota))}"
    machine["providers"] = onnxruntime().get_available_providers()
    if PROVIDERS["cuda"] in machine["providers"]:
        machine["cuda"] = cuda.problem() or "the driver is new enough"
    return machine


def _costs(captioner: "Captioner") -> Section:
    """Times each stage with a generated photo, since the content of a photo hardly affects the times."""
    from caprun.inference.hardware import peak_memory
    from caprun.photos.preprocessing import prepare
    from caprun.photos.reading import open_photo

    photo, spec = _photo(), captioner.spec
    image = open_photo(photo, at_least=spec.image.at_least)
    pixels = prepare(image, spec.image)[None]
    stages = {
        "decode_jpeg_ms": _milliseconds(lambda: open_photo(photo, at_least=spec.image.at_least)),
        "resize_ms": _milliseconds(lambda: prepare(image, spec.image)),
        "encoder_ms": _milliseconds(lambda: captioner.backend.encode(pixels)),
    }
    costs: Section = {"photo": f"{PHOTO[0]} x {PHOTO[1]} JPEG"} | stages
    for beam in BEAMS:
        options = spec.search.plain(beam)
        (caption,) = captioner.hypotheses(pixels, options)
        whole = _milliseconds(partial(captioner.caption, photo, options))
        costs["greedy" if beam == 1 else f"beam_{beam}"] = {
            "caption_ms": whole,
            "decoder_and_search_ms": round(max(0.0, whole - sum(stages.values())), 3),
            "pieces": len(caption.ids),
            "photos_per_second": round(1000 / whole, 1),
        }
    memory = peak_memory()
    return costs if memory is None else costs | {"peak_memory_mb": round(memory / 1e6)}


def _milliseconds(work: Callable[[], object]) -> float:
    from statistics import median

    work()  # the first run allocates
    seconds: list[float] = []
    while not seconds or (len(seconds) < MOST_TIMES and sum(seconds) < SECONDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return round(1000 * median(seconds), 3)


def _photo() -> bytes:
    """Draws a JPEG of soft patches of colour and some grain, which takes as long to decode as a photo."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    patches = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8)).resize(PHOTO, Image.Resampling.BICUBIC)
    grain = rng.integers(-12, 13, (PHOTO[1], PHOTO[0], 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(patches) + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _bundle(opened: "Bundle", captioner: "Captioner", *, packaged: bool) -> Section:
    manifest = opened.manifest
    found: Section = {"name": manifest.name, "path": str(opened.path), "state": "intact, checksums match"}
    other = os.environ.get("CAPRUN_MODEL")
    if packaged and other:
        found["note"] = f"$CAPRUN_MODEL is set, so caprun uses {other}; examine it with `caprun doctor --model {other}`"
    found |= {"format": manifest.format, "format_version": manifest.format_version}
    found["mb"] = round(sum(entry.bytes for entry in manifest.files.values()) / 1e6, 1)
    found["precision"] = getattr(captioner.backend, "precision", "fp32")
    found["precisions"] = {}
    for name, precision in manifest.precisions.items():
        size = sum(manifest.files[file].bytes for file in {precision.encoder, precision.decoder})
        measured = () if precision.measured == "unmeasured" else precision.measured
        found["precisions"][name] = {"mb": round(size / 1e6, 1)} | {
            f"on {one.device}": f"{one.photos_per_second:.0f} photos/s, CIDEr {one.cider:.3f}" for one in measured
        }
    confidence = manifest.confidence
    found["confidence"] = "not calibrated" if confidence is None else f"calibrated: {confidence.event}"
    return found
