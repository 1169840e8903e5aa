"""The part of the model card about confidence: figures, a reliability diagram and a risk-coverage curve."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from caprun.bundle.confidence import Confidence

PICTURE = "confidence.svg"
"""Name of the picture, a file of the bundle beside the card."""
_FIGURES = ("good", "mean confidence", "calibration error", "with equal widths", "AUROC")


def section(confidence: Confidence) -> str:
    """Returns the section as Markdown; every number in it is the manifest's."""
    measured = confidence.measured
    if not measured:
        return f"## Confidence\n\n{confidence.event}\n"
    searches = [(one["precision"], one["beam_size"], *_figures(one)) for one in measured["found"]]
    bins = [(_percent(one["confidence"]), _percent(one["good"]), one["captions"]) for one in measured["reliability"]]
    kept = [
        (_percent(one["coverage"]), f"{one['least']:.2f}", _percent(one["good"])) for one in measured["risk_coverage"]
    ]
    kinds = [
        (one["kind"], f"{one['auroc']:.3f}", f"{one['left_out']:.3f}", f"{one['median']:.3f}")
        for one in measured["outliers"]["kinds"]
    ]
    return f"""\
## Confidence

Every caption carries a probability, its confidence. It is the probability of this event: {confidence.event} \
People's own captions of a photo reach a mean CIDEr-D of {_by_dataset(measured["human_cider"])} against each other. \
So a caption is good from {_by_dataset(measured["human_cider"], measured["share"])}.

The confidence is fitted on the {measured["photos"]} photos of {measured["split"]}. The figures are out of fold: each \
photo is judged by a fit without it ({measured["folds"]} folds by photo). {measured["train_photos"]} training photos \
teach which photos are familiar and which are captioned well. The expected calibration error is over 10 bins with the \
same number of captions each, and over 10 bins of equal width. One fit serves all these precisions and searches. \
Captions that are empty, or cut at the maximum length, have confidence 0.

{_table(("precision", "beam size", *_FIGURES), searches)}

![Reliability diagram and risk-coverage curve]({PICTURE})

Reliability ({measured["precision"]}, {measured["search"]}): the share of good captions among those of about the same \
confidence.

{_table(("confidence", "good", "captions"), bins)}

Risk and coverage: the share of good captions when the least confident are withheld (`--min-confidence`).

{_table(("captions kept", "lowest confidence", "good"), kept)}

{_of_datasets(measured)}

Pictures that are not photos should get a low confidence. The AUROC of dev photos' confidence against that of \
{measured["outliers"]["of_each_kind"]} drawn pictures of each kind is {measured["outliers"]["auroc"]:.3f}. None of \
these pictures was in the fit.

{_table(("kind", "AUROC", "AUROC, fitted without this kind", "median confidence"), kinds)}

These figures hold for photos like those of the dataset and say less about others. A photo of something that the model \
has never seen may get a low confidence, too.
"""


def _of_datasets(measured: Mapping[str, Any]) -> str:
    """Returns two tables, out of fold and fitted without the dataset; nothing where there is one dataset."""
    datasets = measured.get("datasets", ())
    if not datasets:
        return ""
    own = [(_cell(one["dataset"]), one["photos"], *_figures(one)) for one in datasets]
    without = [
        (_cell(one["dataset"]), one["transfer"]["fitted_on"], *_figures(one["transfer"]))
        for one in datasets
        if one["transfer"] is not None
    ]
    text = f"""\
By dataset, with the same fit for all:

{_table(("dataset", "photos", *_FIGURES), own)}"""
    if without:
        text += f"""

Across datasets: fitted without any photo of the dataset, of dev or of training, and asked about its dev photos. \
This is what to expect of photos from yet another collection.

{_table(("asked about", "dev photos in the fit", *_FIGURES), without)}"""
    return text


def _figures(one: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of `_FIGURES`."""
    errors = (f"{one[name]:.3f}" for name in ("error_equal_mass", "error_equal_width"))
    discrimination = "" if one["auroc"] is None else f"{one['auroc']:.3f}"
    return (_percent(one["base_rate"]), _percent(one["mean_confidence"]), *errors, discrimination)


def picture(confidence: Confidence) -> str:
    """Returns an SVG of the reliability diagram and the risk-coverage curve; equal figures give equal bytes."""
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


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _by_dataset(scores: Mapping[str, float], share: float = 1.0) -> str:
    if len(scores) == 1:
        return f"{share * next(iter(scores.values())):.2f}"
    return ", ".join(f"{share * score:.2f} ({_cell(name)})" for name, score in scores.items())


def _cell(name: str) -> str:
    """Returns a name as text of a table's cell, which a bar would end."""
    return name.replace("|", "\\|") or "unnamed"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
