"""What is installed, whether it works, and what captioning a photo costs here: `caprun doctor`."""

import importlib.metadata
import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from caprun.arrays import Float32Array, Ids
from caprun.bundle.reading import Bundle, read_bundle
from caprun.engine import Backend, Captioner, packaged_bundle
from caprun.errors import CaprunError, DeviceError
from caprun.inference import hardware
from caprun.inference.devices import choose_device, installed_packages, onnxruntime
from caprun.photos.preprocessing import prepare
from caprun.photos.reading import open_photo
from caprun.search.steps import StepOutput, Steps

T = TypeVar("T")
BEAMS = (1, 3)
PHOTO = (640, 480)
"""Width and height of the photo that is timed."""
SECONDS = 0.8
"""How long each search is timed, at most one caption more; the whole examination stays below ten seconds."""
MOST_TIMES = 20


@dataclass(frozen=True)
class Section:
    """Some of what was found."""

    name: str
    found: Mapping[str, Any]
    """As JSON will have it."""
    lines: tuple[tuple[str, str], ...]
    """As a person will read it: what, and how it is."""


def examine(model: str | None = None, threads: int | None = None) -> Iterator[Section]:
    """Look into everything that captioning needs, one section after the other.

    Args:
        model: a bundle; None for the packaged one.
        threads: of the timed captions; None for what `caprun` takes.

    Raises:
        CaprunError: what does not work; the sections before it have been given.
    """
    packages = installed_packages()
    try:
        runtime = onnxruntime()
    except DeviceError:
        yield _versions(packages)
        raise
    yield _versions(packages | _other_versions())
    yield _machine(runtime.get_available_providers())
    opened = read_bundle(packaged_bundle() if model is None else model)
    for file in opened.manifest.files:
        opened.read(file)  # refuses what is not as the manifest says
    captioner, device, seconds = _load(opened.path, threads)
    yield _costs(captioner, seconds, device)
    yield _bundle(opened, captioner, packaged=model is None)


def report(model: str | None, threads: int | None, say: Callable[[str], object], *, as_json: bool) -> None:
    """Examine, and say what is found: as text while it is found, or as one JSON object in the end.

    Raises:
        CaprunError: what does not work, after it was said what does; the object then has it as `error`.
    """
    if not as_json:
        for lines in text(examine(model, threads)):
            say(lines)
        return
    found: dict[str, Any] = {}
    try:
        for section in examine(model, threads):
            found[section.name] = section.found
    except CaprunError as error:
        found["error"] = str(error)
        raise
    finally:
        say(json.dumps(found, ensure_ascii=False, indent=2))


def text(sections: Iterator[Section]) -> Iterator[str]:
    """Each section as lines of its own, with its values below each other."""
    for number, section in enumerate(sections):
        width = max((len(key) for key, _ in section.lines), default=0) + 1
        lines = (f"{key + ':':{width}} {value}" for key, value in section.lines)
        yield "\n" * (number > 0) + "\n".join(lines)


def _versions(packages: Mapping[str, str]) -> Section:
    lines = list(packages.items())
    runtimes = installed_packages()
    if len(runtimes) > 1:
        warning = (
            "two packages of ONNX Runtime share one folder and the one installed last hides the other; "
            "uninstall both, then install one of them"
        )
        lines.append(("warning", warning))
    return Section("versions", dict(packages) | {"conflict": len(runtimes) > 1}, tuple(lines))


def _other_versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "captioner": importlib.metadata.version("captioner")}
    for name in ("numpy", "pillow"):
        versions[name] = importlib.metadata.version(name)
    versions["libjpeg"] = str(features.version("libjpeg_turbo") or features.version("jpg"))
    return versions


def _machine(providers: list[str]) -> Section:
    cpu, cores = hardware.cpu(), hardware.cores()
    found = {
        "system": platform.platform(),
        "cpu": asdict(cpu),
        "cores": asdict(cores) | {"usable": cores.usable},
        "providers": providers,
    }
    lines = [("system", platform.platform()), ("cpu", cpu.name)]
    if cpu.features is None:
        lines.append(("instructions", "unknown on this system"))
    else:
        has = ", ".join(name for name, there in cpu.features.items() if there) or "none that matter"
        not_there = ", ".join(name for name, there in cpu.features.items() if not there)
        lines.append(("instructions", has + (f"; not {not_there}" if not_there else "")))
    said = f"{cores.allowed} of {cores.present}"
    if cores.quota is not None:
        said += f", with time for {cores.quota:g}"
        if cores.quota < cores.allowed:
            said += f": use --threads {max(1, round(cores.quota))}"
    return Section("machine", found, (*lines, ("cores", said), ("devices", ", ".join(providers))))


@dataclass
class _Device:
    used: str
    problem: str | None = None
    """Why it is not CUDA although ONNX Runtime was built with it."""


def _load(bundle: Path, threads: int | None) -> tuple[Captioner, _Device, float]:
    """The captioner, what it runs on, and the seconds that loading took."""
    device = choose_device("auto")
    problem = None
    began = time.perf_counter()
    try:
        captioner = Captioner.load(bundle, device=device, threads=threads)
    except DeviceError as error:
        if device == "cpu":
            raise
        # as `auto` does, which says nothing of it
        device, problem, began = "cpu", str(error), time.perf_counter()
        captioner = Captioner.load(bundle, device=device, threads=threads)
    return captioner, _Device(device, problem), time.perf_counter() - began


class _Timed:
    """A backend that notes how long the encoder, each of the decoder's steps, and the search between them take."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._ended = 0.0
        self.encoder: list[float] = []
        self.steps: list[float] = []
        self.between: list[float] = []

    def clear(self) -> None:
        """Forget all."""
        self.encoder, self.steps, self.between = [], [], []

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> Steps:
        """See `caprun.engine.Backend`."""
        steps, seconds = _clock(lambda: self._backend.encode(images, alpha=alpha))
        self.encoder.append(seconds)
        self._ended = time.perf_counter()
        return _TimedSteps(self, steps)

    def step(self, step: Callable[[], StepOutput]) -> StepOutput:
        """Take a step and note how long it took, and how long it was since the one before."""
        self.between.append(time.perf_counter() - self._ended)
        output, seconds = _clock(step)
        self.steps.append(seconds)
        self._ended = time.perf_counter()
        return output


class _TimedSteps:
    def __init__(self, watch: _Timed, steps: Steps) -> None:
        self._watch, self._steps = watch, steps

    @property
    def photo(self) -> Float32Array:
        return self._steps.photo

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        return self._watch.step(lambda: self._steps(row, parent, token, k))


def _clock(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def _costs(captioner: Captioner, load_seconds: float, device: _Device) -> Section:
    """Median milliseconds of each stage; of a generated photo, for what is on it hardly changes them."""
    spec, photo = captioner.spec, _photo()
    decode, resize = [], []
    image = open_photo(photo)
    for _ in range(MOST_TIMES):
        decode.append(_clock(lambda: open_photo(photo))[1])
        resize.append(_clock(lambda: prepare(image, spec.image))[1])
    found: dict[str, Any] = {
        "device": device.used,
        "problem": device.problem,
        "load": _ms([load_seconds]),
        "jpeg": _ms(decode),
        "resize": _ms(resize),
    }
    encoder: list[float] = []
    for beam in BEAMS:
        found[_search_name(beam)], seen = _search_costs(captioner, photo, beam)
        encoder += seen
    found["encoder"] = _ms(encoder)
    found["peak_memory"] = hardware.peak_memory()
    width, height = PHOTO
    lines = [
        ("device", device.used if device.problem is None else f"{device.used}, for {device.problem}"),
        ("load the model", f"{found['load']:.0f} ms, once"),
        ("decode a JPEG", f"{found['jpeg']:.2f} ms, {width} x {height}"),
        ("resize it", f"{found['resize']:.2f} ms, to {spec.image.width} x {spec.image.height}"),
        ("encoder", f"{found['encoder']:.2f} ms"),
    ]
    for beam in BEAMS:
        name = _search_name(beam)
        costs = found[name]
        step = f"{costs['step']:.2f} ms a step, and {costs['search']:.2f} ms of search between two"
        lines.append((f"decoder, {name}", step))
    for beam in BEAMS:
        name = _search_name(beam)
        whole_ms = found[name]["caption"]
        rate = f"{1000 / whole_ms:.0f} photos/s one by one"
        lines.append((f"caption, {name}", f"{whole_ms:.1f} ms of {found[name]['steps']} steps, {rate}"))
    if found["peak_memory"] is not None:
        lines.append(("peak memory", f"{found['peak_memory'] / 1e6:.0f} MB"))
    return Section("costs", found, tuple(lines))


def _search_costs(captioner: Captioner, photo: bytes, beam: int) -> tuple[dict[str, Any], list[float]]:
    """Of whole captions; and how long the encoder took for each, in seconds."""
    timed = _Timed(captioner.backend)
    watched = Captioner(captioner.spec, captioner.vocabulary, timed)
    options = captioner.spec.search.plain(beam)

    def seconds() -> float:
        return _clock(lambda: watched.caption(photo, options))[1]

    seconds()  # the first allocates
    timed.clear()
    whole = [seconds()]
    while len(whole) < MOST_TIMES and sum(whole) < SECONDS:
        whole.append(seconds())
    steps = len(timed.steps) // len(whole)
    costs = {"step": _ms(timed.steps), "search": _ms(timed.between), "steps": steps, "caption": _ms(whole)}
    return costs, timed.encoder


def _search_name(beam: int) -> str:
    return "greedy" if beam == 1 else f"beam {beam}"


def _ms(seconds: list[float]) -> float:
    return round(1000 * statistics.median(seconds), 3)


def _photo() -> bytes:
    """A JPEG of soft patches of colour and some grain, as hard to decode as a photo."""
    rng = np.random.default_rng(0)
    patches = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8)).resize(PHOTO, Image.Resampling.BICUBIC)
    grain = rng.integers(-12, 13, (PHOTO[1], PHOTO[0], 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(patches) + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _bundle(opened: Bundle, captioner: Captioner, *, packaged: bool) -> Section:
    manifest = opened.manifest
    lines = [("format", f"{manifest.format}, version {manifest.format_version}")]
    precisions: dict[str, Any] = {}
    used = getattr(captioner.backend, "precision", "fp32")
    for name, precision in manifest.precisions.items():
        size = sum(manifest.files[file].bytes for file in {precision.encoder, precision.decoder})
        measured = () if precision.measured == "unmeasured" else precision.measured
        precisions[name] = {"bytes": size, "measured": [asdict(one) for one in measured]}
        said = [f"{size / 1e6:.1f} MB", "used here" if name == used else "not used here"]
        said += [f"{one.photos_per_second:.0f} photos/s and CIDEr {one.cider:.3f} on {one.device}" for one in measured]
        lines.append((name, ", ".join(said + ["unmeasured"] * (not measured))))
    confidence = manifest.confidence
    lines.append(("confidence", "none was calibrated" if confidence is None else f"calibrated: {confidence.event}"))
    size = sum(entry.bytes for entry in manifest.files.values())
    lines.append(("files", f"{len(manifest.files)}, {size / 1e6:.1f} MB, checksums right"))
    other = os.environ.get("CAPRUN_MODEL")
    if packaged and other:
        note = f"$CAPRUN_MODEL is set, so caprun uses {other}; `caprun doctor --model {other}` examines that"
        lines.append(("note", note))
    lines.append(("packaged model" if packaged else "model", f"{manifest.name}, {opened.path}: sound"))
    found = {
        "name": manifest.name,
        "path": str(opened.path),
        "packaged": packaged,
        "format": manifest.format,
        "format_version": manifest.format_version,
        "files": {name: asdict(entry) for name, entry in manifest.files.items()},
        "precisions": precisions,
        "precision": used,
        "confidence": confidence and {"event": confidence.event, "measured": confidence.measured},
    }
    return Section("bundle", found, tuple(lines))
