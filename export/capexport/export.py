"""Exports a checkpoint as a verified bundle, or leaves no bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from capexport import onnx_export, torchscript_export
from capexport.card import PICTURE, model_card, picture
from capexport.confidence.fit import fit_confidence
from capexport.examples import prepared
from capexport.graphs import describe
from capexport.onnx_export import ReducedPrecision
from capexport.quantization.acceptance import Evidence, evidence_of, judge
from capexport.quantization.fp16 import write_fp16
from capexport.quantization.int8 import write_int8
from capexport.verify import InspectableBackend, verify
from caprun.bundle.manifest import FULL_PRECISION, Manifest, Precision
from caprun.bundle.reading import read_bundle
from caprun.bundle.writing import describe_file, replaced_bundle, write_manifest
from caprun.engine import Captioner
from caprun.inference.devices import choose_device
from caprun.inference.precisions import choose_precision
from caprun.inference.session import OnnxBackend
from captioner.backends.pytorch import ModelBackend, model_spec
from captioner.backends.torchscript import ScriptBackend
from captioner.config.export import Calibration, ExportSettings
from captioner.datasets import Example
from captioner.errors import CaptionerError
from captioner.models.attention import HardAttention
from captioner.models.checkpoint import build_model, load_checkpoint

Format = Literal["onnx", "torchscript"]
Say = Callable[[str], None]
_VERSIONED = ("captioner", "torch", "onnx", "onnxruntime")


@dataclass(frozen=True)
class ExportRequest:
    """The arguments of an export."""

    checkpoint: Path
    format: Format
    output: Path
    settings: ExportSettings = field(default_factory=ExportSettings)
    photos: Sequence[Path] = ()
    """Photos for the comparison with PyTorch, in addition to those in the checkpoint."""
    train: Sequence[Example] = ()
    """Training photos, for the calibration of int8 and for the confidence."""
    dev: Sequence[Example] = ()
    """Dev photos, for the comparison of precisions and for the confidence."""


def export(request: ExportRequest, say: Say) -> Manifest:
    """Writes a bundle, verifies it, and replaces the previous one; a failed export leaves that one unchanged.

    Raises:
        ParityError: the graphs differ from PyTorch.
        PrecisionError: a precision is worse or no faster than fp32.
        CaprunError: the checkpoint or a photo cannot be read, there are no photos to judge a precision on, or the
            output cannot be written.
    """
    settings, checkpoint = request.settings, load_checkpoint(request.checkpoint)
    model = build_model(checkpoint)
    spec = model_spec(checkpoint, model, settings.name or request.output.resolve().name, settings.language)
    photos = np.concatenate([checkpoint.samples.numpy(), prepared(request.photos, spec.image)])
    reduced = tuple(dict.fromkeys(name for name in settings.precisions if name != "fp32"))
    evidence = evidence_of(spec.image, reduced, request.train, request.dev)
    introduction = read_introduction(Path(settings.card)) if settings.card else ""
    with replaced_bundle(request.output) as directory:
        began = time.monotonic()
        write = onnx_export.write if request.format == "onnx" else torchscript_export.write
        encoder, decoder = write(model, directory)
        say(f"wrote {encoder} and {decoder} ({time.monotonic() - began:.0f} s)")
        manifest = Manifest(
            **{name: getattr(spec, name) for name in spec.__dataclass_fields__},
            format=request.format,
            licence=settings.licence,
            files={},
            precisions={FULL_PRECISION: Precision(encoder, decoder)},
            graphs=describe(model),
            metrics=dict(checkpoint.metrics),
            provenance=_provenance(request.checkpoint, checkpoint.provenance),
        )
        # verification reads the files as the runtime does, so they need a manifest before its result is known
        write_manifest(directory, manifest, checkpoint.vocabulary, "")
        parity = verify(
            ModelBackend(model),
            _backend(directory),
            spec,
            checkpoint.vocabulary,
            photos,
            one_region=isinstance(model.decoder.attention, HardAttention),
        )
        manifest = replace(manifest, parity=asdict(parity))
        manifest = write_manifest(directory, manifest, checkpoint.vocabulary, "")
        for name in reduced:
            manifest = _add_precision(directory, name, evidence, settings.calibration, say)
        manifest = _add_confidence(directory, manifest, request, say)
        card = model_card(manifest, introduction)
        manifest = write_manifest(directory, manifest, checkpoint.vocabulary, card)
    size = sum(entry.bytes for entry in manifest.files.values())
    say(
        f"verified: {parity.captions} captions of {parity.photos} photos agree with PyTorch ({parity.near_ties} "
        f"near-ties); largest differences: encoder {parity.encoder:.1e}, log-probability {parity.log_prob:.1e}"
    )
    say(f"bundle: {request.output} ({size / 1e6:.1f} MB)")
    return manifest


def _add_precision(
    directory: Path, name: ReducedPrecision, evidence: Evidence, calibration: Calibration, say: Say
) -> Manifest:
    """Writes the graphs of a precision and judges them."""
    began = time.monotonic()
    bundle = read_bundle(directory)
    written = write_int8(bundle, evidence.calibration, calibration) if name == "int8" else write_fp16(bundle)
    say(f"wrote {written.encoder} and {written.decoder} ({time.monotonic() - began:.0f} s)")
    precisions = {**bundle.manifest.precisions, name: written}
    manifest = write_manifest(directory, replace(bundle.manifest, precisions=precisions), bundle.vocabulary, "")
    device: Literal["cpu", "cuda"] | None = "cpu"
    if name == "fp16":
        device = "cuda" if choose_device("auto") == "cuda" else None
    judged = judge(read_bundle(directory), name, evidence, say, device)
    return write_manifest(directory, replace(manifest, precisions={**precisions, **judged}), bundle.vocabulary, "")


def _add_confidence(directory: Path, manifest: Manifest, request: ExportRequest, say: Say) -> Manifest:
    """Fits the confidence on captions from every precision that runs on the CPU."""
    bundle = read_bundle(directory)
    own = choose_precision(manifest, "cpu")
    others = [name for name in manifest.precisions if name not in (own, "fp16")]
    captioners = {name: Captioner(manifest, bundle.vocabulary, _backend(directory, name)) for name in (own, *others)}
    confidence = fit_confidence(captioners, request.train, request.dev, say)
    if confidence is not None:
        (directory / PICTURE).write_text(picture(confidence), encoding="utf-8", newline="\n")
    return replace(manifest, confidence=confidence)


def _backend(directory: Path, precision: str = FULL_PRECISION) -> InspectableBackend:
    bundle = read_bundle(directory)
    if bundle.manifest.format == "torchscript":
        return ScriptBackend(bundle)
    return OnnxBackend(bundle, "cpu", precision=precision)


def _provenance(path: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    versions = {}
    for name in _VERSIONED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # onnxruntime is missing where onnxruntime-gpu is installed
            continue
    return {
        "checkpoint_sha256": describe_file(path).sha256,
        "training": dict(training),
        "export_versions": versions,
    }


def read_introduction(path: Path) -> str:
    """Reads the introductory text of a model card.

    Raises:
        CaptionerError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CaptionerError(f"The introduction {path} of the model card cannot be read ({error}).") from error
