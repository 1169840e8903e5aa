"""Other precisions than fp32: their graphs, and whether they are as good and as fast as to be offered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from capexport.quantization.int8 import quantize
from capexport.quantization.ranges import Calibration, Feed
from capexport.verify import is_near_tie, log_probs_in
from caprun.arrays import Float32Array, Ids
from caprun.bundle.manifest import FULL_PRECISION, Measurement, Precision
from caprun.bundle.reading import Bundle
from caprun.engine import Captioner
from caprun.inference.devices import onnxruntime
from caprun.inference.precisions import measured_on
from caprun.inference.session import OnnxBackend, OnnxSteps
from caprun.search.options import SearchOptions
from caprun.search.steps import StepOutput, Steps
from captioner.errors import CaptionerError
from captioner.evaluation.metrics import score

Name = Literal["int8", "fp16"]
CIDER_TOLERANCE = 0.01
"""How much worse than fp32 a precision may caption."""
SCORED_PHOTOS, CALIBRATION_PHOTOS, TIMED_PHOTOS = 1000, 128, 40
BATCH_TOLERANCE: Mapping[Name, float] = {"int8": 1e-4, "fp16": 2e-2}
"""How much a log-probability may depend on the batch: rounding, for a sum's order depends on how many there are."""
_BATCH, _ROUNDS = 16, 3


class PrecisionError(CaptionerError):
    """A precision that is not worth offering, or whose captions depend on their batch."""


@dataclass(frozen=True)
class Evidence:
    """Photos that decide on a precision, uint8 (photos, height, width, 3)."""

    calibration: npt.NDArray[np.uint8]
    """Of the training split: activations get the ranges they have here."""
    scored: npt.NDArray[np.uint8]
    """Of dev."""
    references: Sequence[Sequence[str]]
    """Of the scored ones."""


def write_int8(bundle: Bundle, photos: npt.NDArray[np.uint8], calibration: Calibration) -> Precision:
    """Write int8 copies of a bundle's graphs beside them.

    Args:
        bundle: with its fp32 graphs in place.
        photos: to calibrate on, uint8 (photos, height, width, 3).
        calibration: how ranges are chosen.
    """
    fp32 = bundle.manifest.precisions[FULL_PRECISION]
    inputs = [tensor.name for tensor in bundle.manifest.graphs.decoder.inputs]
    recorder = _Recorder(OnnxBackend(bundle, "cpu", None, FULL_PRECISION), inputs)
    captions_of(Captioner(bundle.manifest, bundle.vocabulary, recorder), photos)
    precision = _beside(fp32, "int8")
    image = bundle.manifest.graphs.encoder.inputs[0].name
    # one at a time: what a CNN computes of a photo on the way takes some 100 MB
    alone = [{image: photo[None]} for photo in photos]
    quantize(bundle.path / fp32.encoder, bundle.path / precision.encoder, alone, calibration)
    quantize(bundle.path / fp32.decoder, bundle.path / precision.decoder, recorder.feeds, calibration)
    return precision


def _beside(fp32: Precision, name: Name) -> Precision:
    encoder, decoder = (Path(file).with_suffix(f".{name}.onnx").name for file in (fp32.encoder, fp32.decoder))
    return Precision(encoder, decoder)


class _Recorder:
    """A backend that keeps what its decoder is given at every step."""

    def __init__(self, backend: OnnxBackend, names: Sequence[str]) -> None:
        self.backend, self.names = backend, names
        self.feeds: list[Feed] = []

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> Steps:
        return _RecordedSteps(self, self.backend.encode(images, alpha=alpha))


class _RecordedSteps:
    def __init__(self, recorder: _Recorder, steps: OnnxSteps) -> None:
        self._recorder, self._steps = recorder, steps

    @property
    def photo(self) -> Float32Array:
        return self._steps.photo

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        given = {"row": row, "parent": parent, "token": token, "k": np.array([k])} | self._steps.tensors()
        self._recorder.feeds.append({name: np.ascontiguousarray(given[name]) for name in self._recorder.names})
        return self._steps(row, parent, token, k)


def write_fp16(bundle: Bundle) -> Precision:
    """Write fp16 copies of a bundle's graphs beside them, for GPUs; what goes in and out of them stays fp32.

    The softmax that scores are made of stays fp32 as well.
    """
    import onnx

    onnxruntime()
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    fp32 = bundle.manifest.precisions[FULL_PRECISION]
    precision = _beside(fp32, "fp16")
    for source, target in ((fp32.encoder, precision.encoder), (fp32.decoder, precision.decoder)):
        model = onnx.load(bundle.path / source)
        blocked = [*DEFAULT_OP_BLOCK_LIST, "LogSoftmax", "TopK"]
        onnx.save(convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked), bundle.path / target)
    return precision


def judge(
    bundle: Bundle,
    name: Name,
    evidence: Evidence,
    say: Callable[[str], None],
    device: Literal["cpu", "cuda"] | None,
) -> Mapping[str, Precision]:
    """Compare fp32 and another precision on the same photos.

    Args:
        bundle: with both.
        name: the other one.
        evidence: the photos.
        say: what was found.
        device: where to measure speed; None to look at the captions alone, on the CPU.

    Returns:
        fp32 and the other one, with their measurements if there are any.

    Raises:
        PrecisionError: its captions depend on the batch, it captions worse than fp32, or is no faster.
    """
    where, manifest = device or "cpu", bundle.manifest

    def captioner(precision: str, threads: int | None) -> Captioner:
        return Captioner(manifest, bundle.vocabulary, OnnxBackend(bundle, where, threads, precision))

    names, photos = (FULL_PRECISION, name), len(evidence.scored)
    check_batches(captioner(name, 1), evidence.scored[:_BATCH], BATCH_TOLERANCE[name])
    captions = [captions_of(captioner(precision, None), evidence.scored) for precision in names]
    ciders = [score(found, evidence.references).cider for found in captions]
    same = sum(one == other for one, other in zip(*captions, strict=True))
    say(
        f"{name}: CIDEr {100 * ciders[1]:.1f} on {photos} photos (fp32 {100 * ciders[0]:.1f}), {same} captions the same"
    )
    check_quality(name, ciders[0], ciders[1], photos)
    found = {precision: manifest.precisions[precision] for precision in names}
    found[name] = replace(found[name], parity={"photos": photos, "captions_as_fp32": same, "batch_invariant": True})
    if device is None:
        say(f"{name} was not timed, for there is no CUDA here: it is used where --precision {name} asks for it")
        return found
    rates = photos_per_second([captioner(precision, 1) for precision in names], evidence.scored[:TIMED_PHOTOS])
    say(f"{name}: {rates[1]:.0f} photos/s (fp32 {rates[0]:.0f}), one thread, {measured_on(device)}")
    check_speed(name, rates[0], rates[1])
    for precision, rate, cider in zip(names, rates, ciders, strict=True):
        measurement = Measurement(measured_on(device), round(rate, 1), round(cider, 4), photos)
        before = found[precision].measured
        kept = () if before == "unmeasured" else tuple(old for old in before if old.device != measurement.device)
        found[precision] = replace(found[precision], measured=(*kept, measurement))
    return found


def check_quality(name: Name, fp32: float, cider: float, photos: int) -> None:
    """Whether a precision captions as well as fp32, by CIDEr.

    Raises:
        PrecisionError: it does not.
    """
    if fp32 <= 0:
        raise PrecisionError(
            f"Nothing can be said of {name}: the CIDEr of fp32 is {fp32:g} on {photos} photos; give --data more photos."
        )
    if not cider >= fp32 - CIDER_TOLERANCE:
        raise PrecisionError(
            f"{name} captions worse than fp32: CIDEr {cider:.3f} against {fp32:.3f} on {photos} photos; calibrate it "
            "otherwise (--calibration), or do without it."
        )


def check_speed(name: Name, fp32: float, rate: float) -> None:
    """Whether a precision is faster than fp32, in photos/s.

    Raises:
        PrecisionError: it is not.
    """
    if rate <= fp32:
        raise PrecisionError(
            f"{name} is no faster than fp32 here ({rate:.0f} photos/s against {fp32:.0f}); do without it."
        )


def check_batches(captioner: Captioner, photos: npt.NDArray[np.uint8], tolerance: float) -> None:
    """Whether a photo's caption is the same alone and among others, but for the rounding of sums.

    Args:
        captioner: of the precision.
        photos: uint8 (photos, height, width, 3).
        tolerance: largest difference of a caption's log-probability, and of the scores of two captions that are a tie.

    Raises:
        PrecisionError: it is not.
    """
    backend, special, pieces = captioner.backend, captioner.spec.special, len(captioner.vocabulary)
    for beam_size in (1, 5):
        options = captioner.spec.search.plain(beam_size)
        together = captioner.hypotheses(photos, options)
        for photo, among in zip(photos, together, strict=True):
            (alone,) = captioner.hypotheses(photo[None], options)
            pair = (alone, among)
            if alone.ids == among.ids:
                same = abs(alone.log_prob - among.log_prob) <= tolerance
            else:
                first, second = (log_probs_in(backend, photo, one, special, pieces) for one in pair)
                same = is_near_tie(first, second, pair, options, tolerance)
            if not same:
                said = [f"{captioner.vocabulary.text(one.ids)!r} ({one.log_prob:.5f})" for one in pair]
                raise PrecisionError(
                    f"A caption depends on what else is in its batch: {said[0]} alone and {said[1]} among "
                    f"{len(photos)} photos."
                )


def captions_of(captioner: Captioner, photos: npt.NDArray[np.uint8], options: SearchOptions | None = None) -> list[str]:
    """The captions of prepared photos, batch by batch; `options` None for the model's own."""
    batches = (photos[first : first + _BATCH] for first in range(0, len(photos), _BATCH))
    return [caption.text for batch in batches for caption in captioner.caption_arrays(batch, options)]


def photos_per_second(captioners: Sequence[Captioner], photos: npt.NDArray[np.uint8]) -> list[float]:
    """How many photos each captions in a second, one at a time; in turns, and the best of some rounds."""
    for captioner in captioners:
        captioner.caption_arrays(photos[:1])  # the first takes longer
    seconds = [float("inf")] * len(captioners)
    for _ in range(_ROUNDS):
        for index, captioner in enumerate(captioners):
            began = time.perf_counter()
            for photo in photos:
                captioner.caption_arrays(photo[None])
            seconds[index] = min(seconds[index], time.perf_counter() - began)
    return [len(photos) / taken for taken in seconds]
