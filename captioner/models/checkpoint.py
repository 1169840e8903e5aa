"""Checkpoints: what training knows, on disk, written whole or not at all, and read without running code."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caprun.atomic_write import atomic_write
from caprun.bundle.plain_data import from_dict
from caprun.bundle.vocabulary import Special, Vocabulary
from caprun.photos.preprocessing import ImageSpec
from captioner.config import Config, config_from_dict
from captioner.errors import CaptionerError
from captioner.models.build import build_caption_model
from captioner.models.caption_model import CaptionModel
from captioner.pytorch_file import DamagedError, load_unpickled, save_sealed

FORMAT_VERSION = 1
BEST, LAST = "best.pt", "last.pt"
"""The checkpoints in the folder of a run."""
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

    @property
    def scores(self) -> dict[str, int | float]:
        """Returns the scores that tell checkpoints of one lineage apart.

        They are `epoch`, `cider`, `bleu_4`, and with several datasets `cider@NAME` and `bleu_4@NAME` of each.
        """
        keys = {key: key.partition("@")[0] for key in self.metrics}
        chosen = [key for name in ("epoch", "cider", "bleu_4") for key in keys if key == name]
        chosen += [key for key, name in keys.items() if key != name and name in ("cider", "bleu_4")]
        return {key: value for key in chosen if isinstance(value := self.metrics[key], int | float)}


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Prepares the folder of a training, and keeps other trainings out of it while the context lasts.

    Checkpoints that a killed training left half written are removed.

    Raises:
        CaptionerError: the folder cannot be written, or another training is writing to it.
    """
    from filelock import FileLock, Timeout

    prepare_folder(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CaptionerError(f"Another training is writing to {folder}; wait, or name another --output.") from None
    except OSError as error:
        raise CaptionerError(f"{folder}/.lock cannot be written: {error.strerror}; name another --output.") from error
    try:
        for unfinished in folder.glob(".*.pt-*"):
            unfinished.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def prepare_folder(folder: Path) -> None:
    """Makes a folder for checkpoints, and finds out before anything is computed whether they can be written there.

    Raises:
        CaptionerError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CaptionerError(
            f"The folder {folder} cannot be written: {error.strerror}; name another --output."
        ) from error


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it with a checksum, whole or not at all; see `atomic_write`.

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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            save_sealed(content, file)
    except OSError as error:
        reason = error.strerror or "PyTorch does not say why"
        raise CaptionerError(f"The checkpoint {path} cannot be written: {reason}; the one before is intact.") from error


def checkpoint_file(path: Path) -> Path:
    """Returns the file of a checkpoint: the path itself, or the best checkpoint of a run's folder."""
    best = path / BEST
    return best if best.is_file() else path


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint, or the best one of a run's folder.

    Raises:
        CaptionerError: the file is missing, damaged, not a checkpoint, or of a newer version.
    """
    path = checkpoint_file(path)
    try:
        content = load_unpickled(path)
    except FileNotFoundError:
        raise CaptionerError(f"There is no checkpoint {path}; `captioner train` says where it writes them.") from None
    except IsADirectoryError:
        raise CaptionerError(f"{path} is a folder without {BEST}; name a checkpoint, or the folder of a run.") from None
    except OSError as error:
        raise CaptionerError(f"The checkpoint {path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # an unpickler raises whatever a wrong byte led to
        why = str(error) if isinstance(error, DamagedError) else type(error).__name__
        raise CaptionerError(f"{path} is no checkpoint, or is damaged ({why}); copy it again.") from error
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise CaptionerError(f"{path} is a PyTorch file, but no checkpoint of captioner's.")
    version = content.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise CaptionerError(f"{path} was written by a newer captioner; upgrade this one.")
    try:
        return _checkpoint(content, str(path))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CaptionerError(f"{path} is no whole checkpoint ({error}); copy it again.") from None


def _checkpoint(content: Mapping[str, Any], source: str) -> Checkpoint:
    """From what a file held; raises KeyError, TypeError or ValueError where a part is missing or of another type."""
    if type(content["format_version"]) is not int:
        raise ValueError("its format_version is no number")
    vocabulary = Vocabulary.from_dict(content["vocabulary"])
    special = from_dict(Special, content["special"], "special")
    if not all(0 <= index < len(vocabulary) for index in dataclasses.astuple(special)):
        raise ValueError("its special ids are not in its vocabulary")
    samples, training = content["samples"], content["training"]
    if not isinstance(samples, Tensor) or samples.dtype != torch.uint8 or samples.dim() != 4 or samples.shape[-1] != 3:
        raise ValueError("its samples are no photos")
    if training is not None and not isinstance(training, dict):
        raise ValueError("its training is no table")
    weights = _table(content, "model")
    if not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ValueError("its model is not of tensors")
    plain = {name: _table(content, name) for name in ("metrics", "provenance")}
    plain["tokenizer"] = _table({"tokenizer": {}, **content}, "tokenizer")  # checkpoints of version 0.1 have none
    json.dumps(plain)  # what is shown to people, and goes into bundles
    settings = dict(_table(content, "config"))
    train = settings.get("train")
    if isinstance(train, dict) and train.get("stage", "cross-entropy") == "cross-entropy":
        settings.pop("self_critical", None)  # its defaults, which nobody looked at, and which may be others today
    config = config_from_dict(settings, source)
    return Checkpoint(config, vocabulary, special, weights, samples, training=training, **plain)


def _table(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = content[name]
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise ValueError(f"its {name} is no table")
    return table


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
