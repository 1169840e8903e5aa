"""Opens checkpoints and bundles of any format as the runtime's `Captioner`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from caprun.bundle.plain_data import from_dict
from caprun.bundle.reading import read_bundle
from caprun.bundle.writing import describe_file
from caprun.engine import Captioner
from caprun.errors import BundleError, UsageError
from caprun.inference.devices import Device
from captioner.backends.pytorch import ModelBackend, model_spec, torch_device
from captioner.backends.torchscript import ScriptBackend
from captioner.config import DataConfig
from captioner.models.checkpoint import build_model, checkpoint_file, load_checkpoint


def load_captioner(path: Path, device: str = "auto", precision: str | None = None, *, many: bool = False) -> Captioner:
    """Opens a checkpoint, a TorchScript bundle or an ONNX bundle.

    Args:
        path: the checkpoint, the folder of a run, or the folder of a bundle.
        device: `auto`, `cpu` or `cuda`.
        precision, many: see `Captioner.load`; only ONNX bundles use them.

    Raises:
        CaprunError: the path is none of these, the files are damaged, or the bundle does not have the precision.
    """
    path = checkpoint_file(path)
    bundle = read_bundle(path) if path.is_dir() else None
    if bundle is not None and bundle.manifest.format == "onnx":
        return Captioner.load(path, device=cast("Device", device), precision=precision, many=many)
    if precision is not None:
        raise UsageError(f"{path} is not an ONNX bundle, so it has only one precision; leave out --precision.")
    if bundle is not None:
        return Captioner(bundle.manifest, bundle.vocabulary, ScriptBackend(bundle, torch_device(device)))
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint).to(torch_device(device))
    digest = describe_file(path).sha256
    spec = model_spec(checkpoint, model, path.stem)
    return Captioner(spec, checkpoint.vocabulary, ModelBackend(model), digest=digest)


def splits_of(bundle: Path) -> DataConfig:
    """Returns the settings with which a bundle's training drew its splits; other settings have their defaults.

    Raises:
        BundleError: there is no bundle, or its record of the splits is invalid.
    """
    training = read_bundle(bundle).manifest.provenance.get("training", {})
    if not isinstance(training, Mapping) or "splits" not in training:
        return DataConfig()  # written by version 0.1, which had only one way to draw splits
    try:
        return from_dict(DataConfig, {name: training[name] for name in ("splits", "split_seed") if name in training})
    except ValueError as error:
        why = str(error).rstrip(".")
        raise BundleError(f"{bundle} has an invalid record of its training splits: {why}; export it again.") from None
