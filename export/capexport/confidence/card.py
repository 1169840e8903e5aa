"""The part of the model card about confidence: figures, a reliability diagram and a risk-coverage curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caprun.bundle.confidence import Confidence

PICTURE = "confidence.svg"
"""Name of the picture, a file of the bundle beside the card."""
_SIDE, _LEFT, _TOP, _GAP = 240, 56, 36, 90
_INK, _LINE, _GRID = "#222222", "#1f6feb", "#d0d7de"
_FIGURES = ("good", "mean confidence", "calibration error", "with equal widths", "AUROC")


def section(confidence: Confidence) -> str:
    """Returns the section as Markdown; every number in it is the manifest's."""
    measured = confidence.measured
    if not measured:
        return f"## Confidence\n\n{confidence.event}\n"
    return f"""\
## Confidence

Every caption carries a probability, its confidence. It is the probability of this event: {confidence.event} On \
average, people's own captions of a photo reach a CIDEr-D of {measured["human_cider"]:.2f} against each other.

The confidence is fitted on the {measured["photos"]} photos of {measured["split"]}. The figures are out of fold: each \
photo is judged by a fit without it ({measured["folds"]} folds by photo). {measured["train_photos"]} training photos \
teach which photos are familiar and which are captioned well. The expected calibration error is over 10 bins with the \
same number of captions each, and over 10 bins of equal width. One fit serves all these precisions and searches. \
Captions that are empty, or cut at the maximum length, have confidence 0.

{_of_searches(measured)}

![Reliability diagram and risk-coverage curve]({PICTURE})

Reliability ({measured["precision"]}, {measured["search"]}): the share of good captions among those of about the same \
confidence.

{_reliability(measured)}

Risk and coverage: the share of good captions when the least confident are withheld (`--min-confidence`).

{_coverage(measured)}

{_of_datasets(measured)}

Pictures that are not photos should get a low confidence. The AUROC of dev photos' confidence against that of \
{measured["outliers"]["of_each_kind"]} drawn pictures of each kind is {measured["outliers"]["auroc"]:.3f}. None of \
these pictures was in the fit.

{_of_outliers(measured)}

These figures hold for photos like those of the dataset and say less about others. A photo of something that the model \
has never seen may get a low confidence, too.
"""


def _of_searches(measured: Mapping[str, Any]) -> str:
    rows = [(one["precision"], one["beam_size"], *_figures(one)) for one in measured["found"]]
    return _table(("precision", "beam size", *_FIGURES), rows)


def _reliability(measured: Mapping[str, Any]) -> str:
    rows = [(_percent(one["confidence"]), _percent(one["good"]), one["captions"]) for one in measured["reliability"]]
    return _table(("confidence", "good", "captions"), rows)


def _coverage(measured: Mapping[str, Any]) -> str:
    curve = measured["risk_coverage"]
    rows = [(_percent(one["coverage"]), f"{one['least']:.2f}", _percent(one["good"])) for one in curve]
    return _table(("captions kept", "lowest confidence", "good"), rows)


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
By dataset, with the same fit and the same threshold for all:

{_table(("dataset", "photos", *_FIGURES), own)}"""
    if without:
        text += f"""

Across datasets: fitted without any photo of the dataset, of dev or of training, and asked about its dev photos. \
This is what to expect of photos from yet another collection.

{_table(("asked about", "dev photos in the fit", *_FIGURES), without)}"""
    return text


def _of_outliers(measured: Mapping[str, Any]) -> str:
    rows = [
        (one["kind"], f"{one['auroc']:.3f}", f"{one['left_out']:.3f}", f"{one['median']:.3f}")
        for one in measured["outliers"]["kinds"]
    ]
    return _table(("kind", "AUROC", "AUROC, fitted without this kind", "median confidence"), rows)


def _figures(one: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of `_FIGURES`."""
    errors = (f"{one[name]:.3f}" for name in ("error_equal_mass", "error_equal_width"))
    discrimination = "" if one["auroc"] is None else f"{one['auroc']:.3f}"
    return (_percent(one["base_rate"]), _percent(one["mean_confidence"]), *errors, discrimination)


def picture(confidence: Confidence) -> str:
    """Returns an SVG of the reliability diagram and the risk-coverage curve."""
    bins, curve = confidence.measured["reliability"], confidence.measured["risk_coverage"]
    width, height = 2 * (_LEFT + _SIDE) + _GAP, _TOP + _SIDE + 56
    said = [(one["confidence"], one["good"]) for one in bins]
    bad = [(one["coverage"], 1 - one["good"]) for one in curve]
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" \
aria-label="Reliability diagram and risk-coverage curve" font-family="sans-serif" font-size="11" fill="{_INK}">
<rect width="100%" height="100%" fill="#ffffff"/>
{_panel(_LEFT, "Reliability", "confidence", "good captions", said, ideal=True)}
{_panel(2 * _LEFT + _SIDE + _GAP // 2, "Risk and coverage", "captions kept", "bad among them", bad)}
</svg>
"""


def _panel(
    left: int, title: str, across: str, up: str, points: Sequence[tuple[float, float]], *, ideal: bool = False
) -> str:
    """Draws axes from 0 to 100% and a line with a mark at each point.

    Args:
        left: x of the vertical axis.
        title: title of the panel.
        across: label of the horizontal axis.
        up: label of the vertical axis.
        points: coordinates, 0..1.
        ideal: whether to draw the diagonal.
    """

    def at(x: float, y: float) -> tuple[float, float]:
        return round(left + _SIDE * x, 1), round(_TOP + _SIDE * (1 - y), 1)

    parts = [f'<text x="{left + _SIDE / 2}" y="{_TOP - 14}" text-anchor="middle" font-size="14">{title}</text>']
    for tenth in range(0, 11, 2):
        share = tenth / 10
        (x, bottom), (_, top), (start, y), (end, _) = at(share, 0), at(share, 1), at(0, share), at(1, share)
        parts += [
            f'<path d="M{x} {bottom}V{top}M{start} {y}H{end}" stroke="{_GRID}"/>',
            f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{10 * tenth}</text>',
            f'<text x="{start - 6}" y="{y + 4}" text-anchor="end">{10 * tenth}</text>',
        ]
    middle, bottom = at(0.5, 0)
    start, y = at(0, 0.5)
    parts += [
        f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">{across}, %</text>',
        f'<text transform="translate({start - 36} {y}) rotate(-90)" text-anchor="middle">{up}, %</text>',
    ]
    if ideal:
        (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
        parts.append(f'<path d="M{x0} {y0}L{x1} {y1}" stroke="{_INK}" stroke-dasharray="4 4"/>')
    placed = [at(x, y) for x, y in points]
    line = " ".join(f"{x},{y}" for x, y in placed)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_LINE}" stroke-width="2"/>')
    parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{_LINE}"/>' for x, y in placed]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _cell(name: str) -> str:
    """Returns a name as text of a table's cell, which a bar would end."""
    return name.replace("|", "\\|") or "unnamed"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
