"""From a checkpoint to a bundle that has proved itself, or to no bundle at all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from capexport import onnx_export, torchscript_export
from capexport.card import model_card
from capexport.graphs import describe
from capexport.verify import InspectableBackend, verify
from caprun.bundle import Manifest, ModelSpec, Precision, Replacement, read_bundle, write_manifest
from caprun.image import load
from caprun.session import OnnxBackend
from captioner.errors import CaptionerError
from captioner.inference import ModelBackend, ScriptBackend, model_spec
from captioner.models.attention import HardAttention
from captioner.training.checkpoint import build_model, load_checkpoint

Format = Literal["onnx", "torchscript"]


@dataclass(frozen=True)
class Request:
    """What `captioner export` was asked to do."""

    checkpoint: Path
    format: Format
    output: Path
    name: str
    licence: str = "unknown"
    card: Path | None = None
    """Text that the model card begins with."""
    photos: Sequence[Path] = ()
    """Photos to compare captions on, besides those in the checkpoint."""


def export(request: Request, say: Callable[[str], None]) -> Manifest:
    """Write a bundle and verify it.

    Raises:
        ParityError: the graphs say something else than PyTorch; a bundle that was there before is left as it was.
        CaprunError: the checkpoint cannot be read, or the output not be written.
    """
    checkpoint = load_checkpoint(request.checkpoint)
    model = build_model(checkpoint)
    spec = model_spec(checkpoint, model, request.name)
    photos = _photos(checkpoint.samples.numpy(), request.photos, spec)
    introduction = _read(request.card) if request.card else ""
    with Replacement(request.output) as directory:
        began = time.monotonic()
        write = onnx_export.write if request.format == "onnx" else torchscript_export.write
        encoder, decoder = write(model, directory)
        say(f"wrote {encoder} and {decoder} ({time.monotonic() - began:.0f} s)")
        manifest = Manifest(
            **{name: getattr(spec, name) for name in spec.__dataclass_fields__},
            format=request.format,
            licence=request.licence,
            files={},
            precisions={"fp32": Precision(encoder, decoder)},
            graphs=describe(model),
            metrics=dict(checkpoint.metrics),
            provenance=_provenance(request.checkpoint, checkpoint.provenance),
        )
        # the files are read back and run as a user will; only then does the manifest say that they were
        write_manifest(directory, manifest, checkpoint.vocabulary, "")
        parity = verify(
            ModelBackend(model),
            _backend(directory),
            spec,
            checkpoint.vocabulary,
            photos,
            one_region=isinstance(model.decoder.attention, HardAttention),
        )
        manifest = replace(manifest, parity=parity.as_dict())
        card = model_card(manifest, introduction)
        manifest = write_manifest(directory, manifest, checkpoint.vocabulary, card)
    size = sum(entry.bytes for entry in manifest.files.values())
    say(
        f"verified: {parity.captions} captions of {parity.photos} photos as PyTorch's ({parity.near_ties} near-ties); "
        f"largest differences: encoder {parity.encoder:.1e}, log-probability {parity.log_prob:.1e}"
    )
    say(f"bundle: {request.output} ({size / 1e6:.1f} MB)")
    return manifest


def _backend(directory: Path) -> InspectableBackend:
    bundle = read_bundle(directory)
    return OnnxBackend(bundle, "cpu") if bundle.manifest.format == "onnx" else ScriptBackend(bundle)


def _photos(samples: npt.NDArray[np.uint8], files: Sequence[Path], spec: ModelSpec) -> npt.NDArray[np.uint8]:
    return np.concatenate([samples, *(load(file, spec.image)[None] for file in files)])


def _provenance(path: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    versions = {name: version(name) for name in ("captioner", "torch", "onnx", "onnxruntime") if _installed(name)}
    return {
        "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "training": dict(training),
        "export_versions": versions,
    }


def _installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CaptionerError(f"The text {path} for the model card cannot be read ({error}).") from error
