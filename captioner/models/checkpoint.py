"""Checkpoints: trained models on disk, written atomically and read without running code."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import caprun_weights
from caprun.atomic_write import atomic_write
from caprun.bundle.plain_data import from_dict
from caprun.bundle.vocabulary import Special, Vocabulary
from caprun.photos.preprocessing import ImageSpec
from captioner.config import Config, config_from_dict
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel, build_caption_model
from captioner.pytorch_file import DamagedError, load_unpickled

FORMAT_VERSION = 1
BEST, LAST = "best.pt", "last.pt"
"""Names of the checkpoints in a run's folder."""
PACKAGED = "packaged"
"""Name that stands for the packaged model's checkpoint."""
_KIND = "captioner checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and its origin."""

    config: Config
    vocabulary: Vocabulary
    special: Special
    model: Mapping[str, Tensor]
    """The state dict of a CaptionModel, encoder included."""
    samples: Tensor
    """uint8 (photos, height, width, 3): prepared validation photos for the verification of an export."""
    metrics: Mapping[str, Any]
    """Validation scores with their split and protocol, and the epoch."""
    provenance: Mapping[str, Any]
    """Command, data and versions of the training."""
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    """State of the tokenizer beyond configuration and vocabulary."""
    training: Mapping[str, Any] | None = None
    """State of the training for resuming it; None if the checkpoint cannot be resumed."""

    @property
    def scores(self) -> dict[str, int | float]:
        """The scores that identify a checkpoint: epoch, CIDEr and BLEU-4, and the latter two of each dataset."""
        keys = ["epoch", "cider", "bleu_4", *(key for key in self.metrics if key.startswith(("cider@", "bleu_4@")))]
        return {key: value for key in keys if isinstance(value := self.metrics.get(key), int | float)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint atomically.

    Raises:
        CaptionerError: the file cannot be written.
    """
    content = {
        "kind": _KIND,
        "format_version": FORMAT_VERSION,
        **{name: dict(part) if isinstance(part, Mapping) else part for name, part in vars(checkpoint).items()},
        "config": dataclasses.asdict(checkpoint.config),
        "vocabulary": checkpoint.vocabulary.as_dict(),
        "special": dataclasses.asdict(checkpoint.special),
    }
    buffer = io.BytesIO()  # PyTorch's own writer hides why a file cannot be written
    torch.save(content, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(buffer.getbuffer())
    except OSError as error:
        raise CaptionerError(
            f"The checkpoint {path} cannot be written: {error.strerror}; the previous one is intact."
        ) from error


def checkpoint_file(path: Path) -> Path:
    """Returns a checkpoint's file: the path itself, the best checkpoint of a run's folder, or the packaged model's.

    Raises:
        CaptionerError: the path is `PACKAGED`, and the packaged model's checkpoint is missing.
    """
    if path == Path(PACKAGED):
        return _packaged_checkpoint()
    best = path / BEST
    return best if best.is_file() else path


def newest_checkpoint(name: str) -> Path:
    """Returns the newest file with a name in the folders under `runs`, or raises a CaptionerError."""
    found = Path("runs").glob(f"*/{name}")
    if newest := max(found, key=lambda path: path.stat().st_mtime, default=None):
        return newest
    raise CaptionerError(
        f"There is no runs/*/{name}; train a model first with `captioner train`, or name a checkpoint."
    )


def _packaged_checkpoint() -> Path:
    """Finds the checkpoint of the packaged model, which is in the repository but not in the wheel."""
    name = f"{caprun_weights.DEFAULT}.pt"
    # beside the packages of an editable installation, or in the clone that captioner was installed from
    places = (caprun_weights.default_bundle().parents[1] / "checkpoints", Path("weights/checkpoints"))
    for place in places:
        if (place / name).is_file():
            return place / name
    raise CaptionerError(
        f"The packaged model's checkpoint, weights/checkpoints/{name}, is in captioner's repository but not installed "
        "with it; run the command in a clone of the repository, or name the file."
    )


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint, or the best one of a run's folder.

    Raises:
        CaptionerError: the file is missing, damaged, not a checkpoint, or of a newer version.
    """
    path = checkpoint_file(path)
    try:
        content = load_unpickled(path)
    except FileNotFoundError:
        raise CaptionerError(f"There is no checkpoint {path}; `captioner train` prints where it writes them.") from None
    except IsADirectoryError:
        raise CaptionerError(f"{path} is a folder without {BEST}; name a checkpoint or the folder of a run.") from None
    except OSError as error:
        raise CaptionerError(f"The checkpoint {path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a wrong byte can raise anything
        why = str(error) if isinstance(error, DamagedError) else type(error).__name__
        raise CaptionerError(f"{path} is not a checkpoint, or is damaged ({why}); copy it again.") from error
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise CaptionerError(f"{path} is a PyTorch file but not a captioner checkpoint.")
    version = content.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise CaptionerError(f"{path} was written by a newer captioner; upgrade captioner.")
    try:
        return _checkpoint(content, str(path))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CaptionerError(f"{path} is not a complete checkpoint ({error}); copy it again.") from None


def _checkpoint(content: Mapping[str, Any], source: str) -> Checkpoint:
    """Builds a checkpoint; raises KeyError, TypeError or ValueError if a part is missing or has the wrong type."""
    if type(content["format_version"]) is not int:
        raise ValueError("format_version is not a number")
    vocabulary = Vocabulary.from_dict(content["vocabulary"])
    special = from_dict(Special, content["special"], "special")
    if not all(0 <= index < len(vocabulary) for index in dataclasses.astuple(special)):
        raise ValueError("a special id is outside the vocabulary")
    samples, training = content["samples"], content["training"]
    if not isinstance(samples, Tensor) or samples.dtype != torch.uint8 or samples.dim() != 4 or samples.shape[-1] != 3:
        raise ValueError("samples are not photos")
    if training is not None and not isinstance(training, dict):
        raise ValueError("training is not a table")
    weights = _table(content, "model")
    if not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ValueError("model holds values other than tensors")
    plain = {name: _table(content, name) for name in ("metrics", "provenance")}
    plain["tokenizer"] = _table({"tokenizer": {}, **content}, "tokenizer")  # checkpoints of version 0.1 have none
    json.dumps(plain)  # these must be plain data, because they are copied into bundles
    settings = dict(_table(content, "config"))
    train = settings.get("train")
    if isinstance(train, dict) and train.get("stage", "cross-entropy") == "cross-entropy":
        settings.pop("self_critical", None)  # unused defaults, which may differ in this version
    if isinstance(settings.get("data"), dict):  # runs without this setting decoded every JPEG in full
        settings["data"] = {"jpeg_decoding": "full"} | settings["data"]
    config = config_from_dict(settings, source)
    return Checkpoint(config, vocabulary, special, weights, samples, training=training, **plain)


def _table(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = content[name]
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise ValueError(f"{name} is not a table")
    return table


def build_model(checkpoint: Checkpoint) -> CaptionModel:
    """Builds a checkpoint's model in eval mode.

    Raises:
        CaptionerError: the weights do not fit the configuration.
    """
    model = build_caption_model(checkpoint.config, len(checkpoint.vocabulary), checkpoint.special)
    try:
        model.load_state_dict(dict(checkpoint.model))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]  # PyTorch names every parameter
        raise CaptionerError(f"The checkpoint's weights do not fit its configuration ({reason}).") from error
    return model.eval()


def image_spec(config: Config, model: CaptionModel) -> ImageSpec:
    """Returns the model's photo preprocessing."""
    height, width = model.encoder.size
    data, encoder = config.data, model.encoder
    return ImageSpec(height, width, data.fit, data.resample, encoder.mean, encoder.std, data.jpeg_decoding)
