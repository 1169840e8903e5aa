"""The model card of a bundle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from capexport.confidence.card import section
from caprun.bundle.manifest import Manifest
from captioner.evaluation.metrics import TITLES, keys_by_dataset, named, shown


def model_card(manifest: Manifest, introduction: str) -> str:
    """Returns the card in Markdown; every number in it is the manifest's."""
    metrics, parity, training = manifest.metrics, manifest.parity, manifest.provenance.get("training", {})
    image, search = manifest.image, manifest.search
    text = f"""\
# {manifest.name}

{introduction.strip()}

Licence: {manifest.licence}

## Scores

Split {metrics.get("split")}: {metrics.get("photos")} photos, {metrics.get("references")} references. Captions are \
free-running, lower-cased and without punctuation; search: {search.text}. Scores are PyTorch's\
{f", at the end of epoch {metrics['epoch']}" if "epoch" in metrics else ""}, times 100 except NIST.

{_scores(metrics)}

## Training

    {training.get("command", "unknown")}

Data: {_data(training)}. Time: \
{training.get("train_seconds", "unknown")} s on {training.get("device", "unknown")}, \
{training.get("threads", "unknown")} threads. Checkpoint sha256: `{manifest.provenance.get("checkpoint_sha256")}`.

{_stages(training)}

## Input

Photos are resized to {image.width}x{image.height} pixels ({image.fit}, {image.resample}).

## Export

The {manifest.format} graphs were compared with PyTorch on {parity.get("photos")} photos, in batches of \
{_listed(parity.get("batch_sizes", ()))} and with beam sizes {_listed(parity.get("beam_sizes", ()))}. All \
{parity.get("captions")} captions agree, except {parity.get("near_ties")} near-ties. The largest difference is \
{parity.get("encoder", 0):.1e} for encoder outputs and {parity.get("log_prob", 0):.1e} for log-probabilities.

{_precisions(manifest)}

{section(manifest.confidence) if manifest.confidence else ""}
"""
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _scores(metrics: Mapping[str, Any]) -> str:
    """Returns a table of the scores, with a row for each dataset where there are several."""
    titles = named(metrics, TITLES)
    datasets = _datasets(metrics)
    rows = []
    for dataset in ["", *datasets]:
        suffix = f"@{dataset}" if dataset else ""
        values = [metrics.get(f"{name}{suffix}") for name in titles]
        cells = ["" if value is None else shown(name, value) for name, value in zip(titles, values, strict=True)]
        place = f"{dataset or 'together'}, {metrics.get(f'photos{suffix}')} photos"
        rows.append(f"| {' | '.join([place] * bool(datasets) + cells)} |")
    head = [*["photos"] * bool(datasets), *(TITLES[name] for name in titles)]
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *rows])


def _datasets(metrics: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(key.partition("@")[2] for key in keys_by_dataset(metrics)))


def _data(training: Mapping[str, Any]) -> str:
    """Returns the datasets of a training, with their photos."""
    datasets = training.get("datasets") or [
        {"name": training.get("dataset", "unknown"), "photos": training.get("photos", {})}
    ]
    described = []
    for one in datasets:
        weight = one.get("weight", 1)
        described.append(f"{one['name']}, {_listed(one['photos'])} photos" + f", weight {weight:g}" * (weight != 1))
    return "; ".join(described)


def _stages(training: Mapping[str, Any]) -> str:
    """Returns a table of the scores of a recipe's stages, or of the parts of an average, if there are any."""
    recipe = training.get("recipe", {})
    stages = recipe.get("stages") or training.get("stages", ())
    if not stages:
        return ""
    made = f"Recipe {recipe['name']} (sha256 `{recipe['sha256'][:12]}`), {recipe['cores']} cores. " if recipe else ""
    keys = ["cider", "bleu_4", *keys_by_dataset(stages[-1])]
    titles = [TITLES[name] + (f", {dataset}" * bool(dataset)) for name, _, dataset in (k.partition("@") for k in keys)]
    rows = [
        f"| {stage.get('name', number)} | {stage['seconds'] / 60:.0f} | {stage.get('epoch') or ''} | "
        f"{' | '.join(shown(key.partition('@')[0], stage[key]) if key in stage else '' for key in keys)} |"
        for number, stage in enumerate(stages, 1)
    ]
    commands = [f"    {stage['command']}" for stage in stages if "command" in stage]
    return "\n".join(
        [
            f"{made}Its stages, scored on dev:",
            "",
            f"| stage | minutes | best epoch | {' | '.join(titles)} |",
            f"|{' --- |' * (3 + len(titles))}",
            *rows,
            "",
            *commands,
        ]
    )


def _precisions(manifest: Manifest) -> str:
    """Returns a table of the measurements of each precision, if there are several."""
    if len(manifest.precisions) == 1:
        return ""
    rows = []
    for name, precision in manifest.precisions.items():
        size = sum(manifest.files[file].bytes for file in (precision.encoder, precision.decoder) if manifest.files)
        same = precision.parity.get("captions_as_fp32")
        captions = f"{same} of {precision.parity['photos']} equal fp32's" if same is not None else ""
        found = precision.measured if precision.measured != "unmeasured" else ()
        numbers = [f"{one.device} | {one.photos_per_second:.0f} | {100 * one.cider:.1f}" for one in found]
        rows += [f"| {name} | {size / 1e6:.1f} | {said} | {captions} |" for said in numbers or ["not measured | | "]]
    return (
        "The runtime takes the fastest precision that was measured on its kind of hardware. Photos/s is measured with "
        "one photo at a time, from array to caption, on one thread; CIDEr, times 100, on the same dev photos.\n\n"
        "| precision | MB | measured on | photos/s | CIDEr | captions |\n| --- | --- | --- | --- | --- | --- |\n"
    ) + "\n".join(rows)


def _listed(items: Mapping[str, object] | Iterable[object]) -> str:
    if isinstance(items, Mapping):
        return ", ".join(f"{key} {value}" for key, value in items.items()) or "unknown"
    return ", ".join(map(str, items))
