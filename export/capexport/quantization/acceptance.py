"""Decides whether a precision other than fp32 is good and fast enough to be kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from capexport.examples import drawn_from_each_dataset, from_each_dataset, prepared
from capexport.near_ties import is_near_tie, log_probs_in
from capexport.onnx_export import ReducedPrecision
from caprun.bundle.manifest import FULL_PRECISION, Measurement, Precision
from caprun.bundle.reading import Bundle
from caprun.engine import Captioner
from caprun.inference.precisions import measured_on
from caprun.inference.session import OnnxBackend
from caprun.photos.preprocessing import ImageSpec
from captioner.datasets import Example
from captioner.errors import CaptionerError
from captioner.evaluation.metrics import score

CIDER_TOLERANCE = 0.01
"""Largest amount by which a precision's CIDEr can be below that of fp32."""
SCORED_PHOTOS, CALIBRATION_PHOTOS, TIMED_PHOTOS = 1000, 128, 40
BATCH_TOLERANCE: Mapping[ReducedPrecision, float] = {"int8": 1e-4, "fp16": 2e-2}
"""Largest difference in a log-probability between batches, whose size affects how sums are rounded."""
_BATCH, _ROUNDS = 16, 3


class PrecisionError(CaptionerError):
    """A precision is worse or slower than fp32, or its captions depend on the batch."""


@dataclass(frozen=True)
class Evidence:
    """The photos that a precision is judged by, each array uint8 (photos, height, width, 3)."""

    calibration: npt.NDArray[np.uint8]
    """Training photos for the ranges of activations."""
    scored: npt.NDArray[np.uint8]
    """Dev photos to caption."""
    references: Sequence[Sequence[str]]
    """Human captions of the scored photos."""


def evidence_of(
    image: ImageSpec, names: Sequence[ReducedPrecision], train: Sequence[Example], dev: Sequence[Example]
) -> Evidence:
    """Reads the photos that precisions need: the first dev photos, and for int8 a fixed sample of training photos.

    Args:
        image: the model's preprocessing.
        names: the precisions; without any, no photo is read.
        train: the training photos of all datasets.
        dev: the dev photos of all datasets.

    Raises:
        CaptionerError: there are no such photos.
        ImageError: a photo cannot be read.
    """
    drawn = drawn_from_each_dataset(train, CALIBRATION_PHOTOS) if "int8" in names else []
    scored = from_each_dataset(dev, SCORED_PHOTOS) if names else []
    if (names and not scored) or ("int8" in names and not drawn):
        raise CaptionerError(
            "int8 and fp16 need dev photos for comparison with fp32, and int8 also training photos for calibration. "
            "Give --data a dataset that has them."
        )
    return Evidence(
        prepared([example.image for example in drawn], image),
        prepared([example.image for example in scored], image),
        [example.references for example in scored],
    )


def judge(
    bundle: Bundle,
    name: ReducedPrecision,
    evidence: Evidence,
    say: Callable[[str], None],
    device: Literal["cpu", "cuda"] | None,
) -> Mapping[str, Precision]:
    """Compares a precision with fp32 on the same photos.

    Without a device to measure speed on, only captions are compared, on the CPU.

    Returns:
        fp32 and the precision, with their measurements if there are any.

    Raises:
        PrecisionError: its captions depend on the batch or are worse than those of fp32, or it is no faster.
    """
    where, manifest = device or "cpu", bundle.manifest

    def captioner(precision: str, threads: int | None) -> Captioner:
        return Captioner(manifest, bundle.vocabulary, OnnxBackend(bundle, where, threads, precision))

    names, photos = (FULL_PRECISION, name), len(evidence.scored)
    check_batches(captioner(name, 1), evidence.scored[:_BATCH], BATCH_TOLERANCE[name])
    captions = [captions_of(captioner(precision, None), evidence.scored) for precision in names]
    ciders = [score(found, evidence.references)["cider"] for found in captions]
    same = sum(one == other for one, other in zip(*captions, strict=True))
    say(
        f"{name}: CIDEr {100 * ciders[1]:.1f} on {photos} photos (fp32 {100 * ciders[0]:.1f}); {same} captions are "
        "the same"
    )
    check_quality(name, ciders[0], ciders[1], photos)
    found = {precision: manifest.precisions[precision] for precision in names}
    found[name] = replace(found[name], parity={"photos": photos, "captions_as_fp32": same, "batch_invariant": True})
    if device is None:
        say(f"{name}: not timed, because CUDA is not available; select it with --precision {name}")
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


def check_quality(name: ReducedPrecision, fp32: float, cider: float, photos: int) -> None:
    """Raises PrecisionError if the CIDEr of a precision on a number of photos is below that of fp32."""
    if fp32 <= 0:
        raise PrecisionError(
            f"{name} cannot be judged: the CIDEr of fp32 is {fp32:g} on {photos} photos. Add dev photos to --data."
        )
    if not cider >= fp32 - CIDER_TOLERANCE:
        raise PrecisionError(
            f"{name} captions worse than fp32: CIDEr {cider:.3f} against {fp32:.3f} on {photos} photos. Choose "
            f"another --calibration, or leave out --precision {name}."
        )


def check_speed(name: ReducedPrecision, fp32: float, rate: float) -> None:
    """Raises PrecisionError if the rate of a precision, in photos/s, is not above that of fp32."""
    if rate <= fp32:
        raise PrecisionError(
            f"{name} is no faster than fp32 here ({rate:.0f} photos/s against {fp32:.0f}). Leave out --precision "
            f"{name}."
        )


def check_batches(captioner: Captioner, photos: npt.NDArray[np.uint8], tolerance: float) -> None:
    """Checks that photos, uint8 (photos, height, width, 3), get the same captions alone and in a batch.

    Rounding depends on the batch, so log-probabilities of one caption, and scores of captions that tie, may differ by
    `tolerance`.

    Raises:
        PrecisionError: a caption differs.
    """
    for beam_size in (1, 5):
        options = captioner.spec.search.plain(beam_size)
        together = captioner.hypotheses(photos, options)
        for photo, among in zip(photos, together, strict=True):
            (alone,) = captioner.hypotheses(photo[None], options)
            pair = (alone, among)
            if alone.ids == among.ids:
                same = abs(alone.log_prob - among.log_prob) <= tolerance
            else:
                first, second = (log_probs_in(captioner, photo, one) for one in pair)
                same = is_near_tie(first, second, pair, options, tolerance)
            if not same:
                said = [f"{captioner.vocabulary.text(one.ids)!r} ({one.log_prob:.5f})" for one in pair]
                raise PrecisionError(
                    f"A caption depends on its batch: it is {said[0]} for the photo alone and {said[1]} in a batch "
                    f"of {len(photos)} photos."
                )


def captions_of(captioner: Captioner, photos: npt.NDArray[np.uint8]) -> list[str]:
    """Captions prepared photos in batches with the model's search options."""
    batches = (photos[first : first + _BATCH] for first in range(0, len(photos), _BATCH))
    return [caption.text for batch in batches for caption in captioner.caption_arrays(batch)]


def photos_per_second(captioners: Sequence[Captioner], photos: npt.NDArray[np.uint8]) -> list[float]:
    """Measures each captioner's photos per second, one at a time, in turns; the best of several rounds counts."""
    for captioner in captioners:
        captioner.caption_arrays(photos[:1])  # the first photo takes longer
    seconds = [float("inf")] * len(captioners)
    for _ in range(_ROUNDS):
        for index, captioner in enumerate(captioners):
            began = time.perf_counter()
            for photo in photos:
                captioner.caption_arrays(photo[None])
            seconds[index] = min(seconds[index], time.perf_counter() - began)
    return [len(photos) / taken for taken in seconds]
