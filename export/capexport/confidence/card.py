"""What a model card says of the confidence: figures, a reliability diagram and a risk-coverage curve."""

from __future__ import annotations

from collections.abc import Sequence

from caprun.bundle.confidence import Confidence

PICTURE = "confidence.svg"
"""A file of the bundle, beside the card."""
_SIDE, _LEFT, _TOP, _GAP = 240, 56, 36, 90
_INK, _LINE, _GRID = "#222222", "#1f6feb", "#d0d7de"


def section(confidence: Confidence) -> str:
    """Markdown, every number of it the manifest's."""
    measured = confidence.measured
    if not measured:
        return f"## Confidence\n\n{confidence.event}\n"
    outliers = measured["outliers"]
    searches = _table(
        ("precision", "beam", "good", "mean confidence", "calibration error", "the same, equal widths", "AUROC"),
        [
            (
                one["precision"],
                one["beam_size"],
                _percent(one["base_rate"]),
                _percent(one["mean_confidence"]),
                f"{one['error_equal_mass']:.3f}",
                f"{one['error_equal_width']:.3f}",
                f"{one['auroc']:.3f}",
            )
            for one in measured["found"]
        ],
    )
    bins = _table(
        ("confidence", "good", "captions"),
        [(_percent(one["confidence"]), _percent(one["good"]), one["captions"]) for one in measured["reliability"]],
    )
    curve = _table(
        ("captions kept", "of a confidence from", "good"),
        [
            (_percent(one["coverage"]), f"{one['least']:.2f}", _percent(one["good"]))
            for one in measured["risk_coverage"]
        ],
    )
    kinds = _table(
        ("kind", "AUROC", "AUROC, this kind not in the fit", "median confidence"),
        [
            (one["kind"], f"{one['auroc']:.3f}", f"{one['left_out']:.3f}", f"{one['median']:.3f}")
            for one in outliers["kinds"]
        ],
    )
    return f"""\
## Confidence

Every caption carries a probability. It is that of this: {confidence.event} What people wrote of the same photo has a \
CIDEr-D of {measured["human_cider"]:.2f} on average.

Fitted on the {measured["photos"]} photos of {measured["split"]}, and measured on the same, each by a fit that had not \
seen it ({measured["folds"]} folds by photo); {measured["train_photos"]} training photos say which photos are \
familiar and which are captioned well. Expected calibration error is over 10 bins of as many captions each, and over \
10 of equal width. One fit serves these precisions and searches; of an empty caption, and of one that was cut at the \
maximum length, the confidence is 0:

{searches}

![Reliability diagram and risk-coverage curve]({PICTURE})

Reliability ({measured["precision"]}, {measured["search"]}): what is said with such a confidence is good so often.

{bins}

Risk and coverage: how many captions are good where the less confident are kept back (`--min-confidence`).

{curve}

Pictures that are no photos should get a low confidence. AUROC of the dev photos' confidence against that of \
{outliers["of_each_kind"]} drawn pictures of each kind, none of them in the fit, is {outliers["auroc"]:.3f}; by kind:

{kinds}

All this is about photos like those of the dataset. Of others it says less; a photo of what the model has never seen \
may get a low confidence, too.
"""


def picture(confidence: Confidence) -> str:
    """An SVG of both curves: what is said against what is so, and how many are good where fewer are captioned."""
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
    """Axes from 0 to 100 %, and a line with a point for each pair."""

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


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
