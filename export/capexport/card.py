"""Renders a bundle's model card from `card.md.jinja`, and draws the diagrams of its confidence."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from caprun.bundle.confidence import Confidence
from caprun.bundle.manifest import Manifest
from captioner.evaluation.metrics import TITLES, keys_by_dataset, named, shown
from captioner.evaluation.protocol import scored_by

PICTURE = "confidence.svg"
"""File name of the confidence diagrams, which are next to the card in the bundle."""
Table = tuple[list[str], list[Sequence[object]]]
"""Header and rows of a table."""


def model_card(manifest: Manifest, introduction: str) -> str:
    """Returns the model card in Markdown; all of its numbers come from the manifest."""
    training = manifest.provenance.get("training", {})
    stages = training.get("recipe", {}).get("stages") or training.get("stages", ())
    unknown = [{"name": training.get("dataset", "unknown"), "photos": training.get("photos", {})}]
    environment = Environment(loader=PackageLoader("capexport", "."), trim_blocks=True, lstrip_blocks=True)  # noqa: S701
    environment.filters["cell"] = lambda name: name.replace("|", "\\|") or "unnamed"  # a bar would end a cell
    text = environment.get_template("card.md.jinja").render(
        manifest=manifest,
        introduction=introduction.strip(),
        metrics=manifest.metrics,
        scores=_scores(manifest.metrics),
        scored_by=scored_by(manifest.metrics),
        training=training,
        datasets=training.get("datasets") or unknown,
        stages=_stages(stages) if stages else None,
        commands=[stage["command"] for stage in stages if "command" in stage],
        parity={"encoder": 0, "log_prob": 0} | dict(manifest.parity),
        precisions=_precisions(manifest),
        measured=manifest.confidence.measured if manifest.confidence else None,
        picture=PICTURE,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _scores(metrics: Mapping[str, Any]) -> Table:
    """Returns a table of the scores, with a row for each dataset if there are several."""
    titles = named(metrics, TITLES)
    datasets = list(dict.fromkeys(key.partition("@")[2] for key in keys_by_dataset(metrics)))
    rows: list[Sequence[object]] = []
    for dataset in ["", *datasets]:
        suffix = f"@{dataset}" if dataset else ""
        values = [metrics.get(f"{name}{suffix}") for name in titles]
        cells = ["" if value is None else shown(name, value) for name, value in zip(titles, values, strict=True)]
        place = f"{dataset or 'together'}, {metrics.get(f'photos{suffix}')} photos"
        rows.append([place] * bool(datasets) + cells)
    return ["photos"] * bool(datasets) + [TITLES[name] for name in titles], rows


def _stages(stages: list[Mapping[str, Any]]) -> Table:
    """Returns a table of the scores of a recipe's stages, or of averaged checkpoints."""
    keys = [key.partition("@") for key in ("cider", "bleu_4", *keys_by_dataset(stages[-1]))]
    rows: list[Sequence[object]] = [
        [
            *(stage.get("name", number), f"{stage['seconds'] / 60:.0f}", stage.get("epoch") or ""),
            *(shown(key[0], stage["".join(key)]) if "".join(key) in stage else "" for key in keys),
        ]
        for number, stage in enumerate(stages, 1)
    ]
    titles = [TITLES[name] + (f", {dataset}" if dataset else "") for name, _, dataset in keys]
    return ["stage", "minutes", "best epoch", *titles], rows


def _precisions(manifest: Manifest) -> list[Sequence[object]]:
    """Returns a row for each measurement of each precision."""
    rows: list[Sequence[object]] = []
    for name, precision in manifest.precisions.items():
        size = sum(manifest.files[file].bytes for file in (precision.encoder, precision.decoder) if manifest.files)
        same = precision.parity.get("captions_as_fp32")
        captions = f"{same} of {precision.parity['photos']} equal fp32's" if same is not None else ""
        found = precision.measured if precision.measured != "unmeasured" else ()
        numbers = [[one.device, f"{one.photos_per_second:.0f}", f"{100 * one.cider:.1f}"] for one in found]
        rows += [[name, f"{size / 1e6:.1f}", *cells, captions] for cells in numbers or [["not measured", "", ""]]]
    return rows


def picture(confidence: Confidence) -> str:
    """Returns the reliability diagram and the risk-coverage curve as deterministic SVG."""
    bins, curve = confidence.measured["reliability"], confidence.measured["risk_coverage"]
    svg = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": PICTURE}):
        figure = Figure(figsize=(8, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot([0, 100], [0, 100], "--", color="#222222", linewidth=1)
        left.plot([100 * one["confidence"] for one in bins], [100 * one["good"] for one in bins], "o-")
        left.set(title="Reliability", xlabel="confidence, %", ylabel="good captions, %")
        right.plot([100 * one["coverage"] for one in curve], [100 - 100 * one["good"] for one in curve], "o-")
        right.set(title="Risk and coverage", xlabel="captions kept, %", ylabel="bad among them, %")
        for axes in (left, right):
            axes.set(xlim=(0, 100), ylim=(0, 100))
            axes.grid(alpha=0.25)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return svg.getvalue()
