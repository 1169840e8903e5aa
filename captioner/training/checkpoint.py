"""Checkpoints: what training knows, on disk, written whole or not at all, and read without running code."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caprun.image import ImageSpec
from caprun.vocabulary import Special, Vocabulary
from captioner.config import Config, config_from_dict
from captioner.errors import CaptionerError
from captioner.models.build import build_caption_model
from captioner.models.caption_model import CaptionModel

FORMAT_VERSION = 1
_KIND = "captioner checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and where it is from."""

    config: Config
    vocabulary: Vocabulary
    special: Special
    model: Mapping[str, Tensor]
    """The state dict of a CaptionModel, encoder included."""
    samples: Tensor
    """uint8 (photos, height, width, 3): prepared validation photos, on which an export proves itself."""
    metrics: Mapping[str, Any]
    """Validation scores with their split and protocol, and the epoch."""
    provenance: Mapping[str, Any]
    """Command, data and versions of the training."""
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    """What its tokenizer needs besides the configuration and the vocabulary."""
    training: Mapping[str, Any] | None = None
    """What a resumed training needs besides; None in a checkpoint that is only to be used."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write to a temporary file beside, flush it to the disk, and rename: the file is the old or the new one, whole.

    Raises:
        CaptionerError: it cannot be written.
    """
    content = {
        "kind": _KIND,
        "format_version": FORMAT_VERSION,
        "config": dataclasses.asdict(checkpoint.config),
        "vocabulary": checkpoint.vocabulary.as_dict(),
        "special": dataclasses.asdict(checkpoint.special),
        "model": dict(checkpoint.model),
        "samples": checkpoint.samples,
        "metrics": dict(checkpoint.metrics),
        "provenance": dict(checkpoint.provenance),
        "tokenizer": dict(checkpoint.tokenizer),
        "training": None if checkpoint.training is None else dict(checkpoint.training),
    }
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            temporary = Path(file.name)
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise CaptionerError(f"The checkpoint {path} cannot be written: {reason}; the one before is intact.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CaptionerError: no such file, damaged, no checkpoint of captioner's, or of a newer version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if _altered(path):
            raise ValueError("a checksum is wrong")
    except FileNotFoundError:
        raise CaptionerError(f"There is no checkpoint {path}; `captioner train` says where it writes them.") from None
    except IsADirectoryError:
        raise CaptionerError(f"{path} is a directory; a checkpoint is a file such as {path}/best.pt.") from None
    except Exception as error:  # an unpickler raises whatever a wrong byte led to
        raise CaptionerError(
            f"{path} is no checkpoint, or is damaged ({type(error).__name__}); copy it again."
        ) from error
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise CaptionerError(f"{path} is a PyTorch file, but no checkpoint of captioner's.")
    try:
        if content["format_version"] > FORMAT_VERSION:
            raise CaptionerError(f"{path} was written by a newer captioner; upgrade this one.")
        return Checkpoint(
            config=config_from_dict(content["config"], str(path)),
            vocabulary=Vocabulary.from_dict(content["vocabulary"]),
            special=Special(**content["special"]),
            tokenizer=content.get("tokenizer", {}),  # checkpoints of version 0.1 have none
            **{key: content[key] for key in ("model", "samples", "metrics", "provenance", "training")},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CaptionerError(f"{path} is no whole checkpoint ({error}); copy it again.") from None


def _altered(path: Path) -> bool:
    """Whether a flipped bit is in it: torch.load does not look at the checksums that torch.save writes."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is not None


def build_model(checkpoint: Checkpoint) -> CaptionModel:
    """The checkpoint's model, in eval mode."""
    model = build_caption_model(checkpoint.config, len(checkpoint.vocabulary), checkpoint.special)
    try:
        model.load_state_dict(dict(checkpoint.model))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]  # it names every parameter
        raise CaptionerError(f"The checkpoint's weights do not fit its configuration ({reason}).") from error
    return model.eval()


def image_spec(config: Config, model: CaptionModel) -> ImageSpec:
    """How the model's photos are prepared."""
    height, width = model.encoder.size
    return ImageSpec(height, width, config.data.fit, config.data.resample, model.encoder.mean, model.encoder.std)
