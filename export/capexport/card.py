"""The model card: what a bundle says about itself to a person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from caprun.bundle import Manifest
from captioner.evaluation.metrics import TITLES, named, shown


def model_card(manifest: Manifest, introduction: str) -> str:
    """Markdown; every number in it is the manifest's."""
    metrics, parity, training = manifest.metrics, manifest.parity, manifest.provenance.get("training", {})
    image, search = manifest.image, manifest.search
    scores = {TITLES[name]: shown(name, value) for name, value in named(metrics, TITLES).items()}
    text = f"""\
# {manifest.name}

{introduction.strip()}

Licence: {manifest.licence}

## Scores

Split {metrics.get("split")}: {metrics.get("photos")} photos, {metrics.get("references")} references, free-running
captions, lower-cased, punctuation removed; beam {search.beam_size}, length penalty {search.length_penalty:g}, at most
{search.max_length} steps. Measured with PyTorch at the end of epoch {metrics.get("epoch")}; x100 but for NIST:

| {" | ".join(scores)} |
|{" --- |" * len(scores)}
| {" | ".join(scores.values())} |

## Training

    {training.get("command", "unknown")}

Data: {training.get("dataset", "unknown")}; photos: {_listed(training.get("photos", {}))}. Time: \
{training.get("train_seconds", "unknown")} s on {training.get("device", "unknown")}, \
{training.get("threads", "unknown")} threads. Checkpoint sha256: `{manifest.provenance.get("checkpoint_sha256")}`.

## Input

Photos are brought to {image.width}x{image.height} pixels ({image.fit}, {image.resample}).

## Export

{manifest.format}, compared with PyTorch on {parity.get("photos")} photos, in batches of \
{_listed(parity.get("batch_sizes", ()))} and with beams of {_listed(parity.get("beam_sizes", ()))}: \
{parity.get("captions")} captions, all the same but for {parity.get("near_ties")} near-ties. Largest differences: \
{parity.get("encoder", 0):.1e} of encoder outputs, {parity.get("log_prob", 0):.1e} of log-probabilities.
"""
    return re.sub(r"\n{3,}", "\n\n", text)


def _listed(items: Mapping[str, object] | Iterable[object]) -> str:
    if isinstance(items, Mapping):
        return ", ".join(f"{key} {value}" for key, value in items.items()) or "unknown"
    return ", ".join(map(str, items))
