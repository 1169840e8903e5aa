"""Averages the weights of several models into one.

Models that were fine-tuned from the same model make different errors. The mean of their weights makes fewer errors than
each of them, at the cost of one model (Wortsman et al., "Model soups", 2022). A mean that includes the original model
forgets less (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022, equation 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caprun.bundle.writing import describe_file
from caprun.engine import Captioner
from captioner.backends.pytorch import ModelBackend, model_spec
from captioner.config import changed_settings
from captioner.datasets import Example
from captioner.errors import CaptionerError
from captioner.evaluation.report import evaluate
from captioner.models.checkpoint import Checkpoint, build_model, checkpoint_file, load_checkpoint

_FREE = {"model.dropout", "model.word_dropout", "model.fine_tune", "model.encoder_weights"}
"""Settings of a model that do not affect its captions; the origin of the initial weights is among them."""
_SEEN = {"data.image_size", "data.fit", "data.resample"}
"""Settings of the data that a model depends on."""


def average(files: Sequence[Path], shares: Sequence[float], command: str) -> Checkpoint:
    """Averages the weights of checkpoints; the result has the configuration of the first, and no scores.

    Args:
        files: two or more checkpoints with the same architecture and vocabulary.
        shares: the weight of each checkpoint, in any unit.
        command: the command line, for the provenance of the result.

    Raises:
        CaptionerError: a checkpoint cannot be read, or its model differs from the first.
    """
    if len(files) < 2:
        raise CaptionerError("An average needs at least two checkpoints; name another.")
    files = [checkpoint_file(file) for file in files]
    if len(shares) != len(files):
        raise CaptionerError(f"There are {len(files)} checkpoints and {len(shares)} weights; give each one a weight.")
    if not all(0 < share < float("inf") for share in shares):
        raise CaptionerError("The weights of an average must be above 0; leave out checkpoints that should not count.")
    largest = max(shares)
    shares = [share / largest for share in shares]  # the sum of huge shares would be infinite
    whole = sum(shares)
    first = load_checkpoint(files[0])
    parts: list[dict[str, Any]] = []
    trainings: dict[str, dict[str, Any]] = {}
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in _floats(first.model).items()}
    for file, share in zip(files, shares, strict=True):
        other = load_checkpoint(file)
        if problem := _difference(first, other):
            raise CaptionerError(
                f"The model in {file} differs from the one in {files[0]} ({problem}); average models that were trained "
                "from the same model with --init."
            )
        for name, value in _floats(other.model).items():
            total[name] += value.to(torch.float64) * (share / whole)
        digest = describe_file(file).sha256
        parts.append({"checkpoint_sha256": digest, "share": share / whole, **other.scores})
        trainings |= _trainings(other.provenance, other.scores, digest)
    # a tied tensor has two names and is saved once
    means: dict[int, Tensor] = {}
    for name, mean in total.items():
        means.setdefault(first.model[name].data_ptr(), mean.to(first.model[name].dtype))
    weights = {name: means.get(value.data_ptr(), value) for name, value in first.model.items()}
    provenance = {
        **{name: value for name, value in first.provenance.items() if name != "init"},
        "command": command,
        "train_seconds": sum(one["seconds"] for one in trainings.values()),
        "stages": list(trainings.values()),
        "average": parts,
    }
    return replace(first, model=weights, metrics={}, provenance=provenance, training=None)


def scored(
    checkpoint: Checkpoint,
    dev: Sequence[Example],
    device: torch.device,
    say: Callable[[str], None],
    *,
    allow_missing: bool = False,
) -> Checkpoint:
    """Scores an average on the dev split with its own search options.

    Raises:
        ImageError: a photo cannot be read and `allow_missing` is false.
    """
    model = build_model(checkpoint).to(device)
    captioner = Captioner(model_spec(checkpoint, model, "average"), checkpoint.vocabulary, ModelBackend(model))
    report = evaluate(
        captioner,
        dev,
        captioner.spec.search,
        "dev",
        allow_missing=allow_missing,
        say=say,
        checkpoint=checkpoint,
    )
    found = report.metrics["cider"]
    before = [part.get("cider", 0.0) for part in checkpoint.provenance["average"]]
    if found < min(before):
        each = ", ".join(f"{cider:.3f}" for cider in before)
        say(
            f"warning: the mean is worse (cider {found:.3f}) than each model ({each}); models must be trained from the "
            "same model with --init"
        )
    return replace(checkpoint, metrics={**report.metrics, "captions": "free"})


def _trainings(provenance: Mapping[str, Any], scores: Mapping[str, Any], digest: str) -> dict[str, dict[str, Any]]:
    """Returns the training runs behind a checkpoint, keyed by sha256, in order; its own run is the last."""
    init = provenance.get("init")
    before = {}
    if isinstance(init, Mapping):
        before = _trainings(init, init.get("scores", {}), str(init.get("checkpoint_sha256")))
    seconds = provenance.get("train_seconds")
    own = {"command": str(provenance.get("command")), "seconds": seconds if isinstance(seconds, int | float) else 0}
    return {**before, digest: {**own, **scores}}


def _floats(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in model.items() if value.is_floating_point()}


def _difference(first: Checkpoint, other: Checkpoint) -> str:
    for name, (mine, theirs) in changed_settings(first.config, other.config).items():
        if name in _SEEN or (name.startswith("model.") and name not in _FREE):
            return f"{name} is {theirs!r} instead of {mine!r}"
    if first.vocabulary.as_dict() != other.vocabulary.as_dict():
        return "the vocabularies differ"
    shapes = [{name: value.shape for name, value in one.model.items()} for one in (first, other)]
    return "the shapes of the weights differ" if shapes[0] != shapes[1] else ""
