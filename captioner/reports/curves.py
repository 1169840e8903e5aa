"""Draws training curves: losses or rewards, and scores by epoch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

_POINTS = 400  # maximum number of points of a training curve; each is the mean over several steps
_SCORES = {"Free-running scores": ("BLEU-1", "BLEU-4", "ROUGE-L", "METEOR", "CIDEr")}
_PANELS = {
    "Loss": {"Loss (nats per piece)": ("Loss",), "Teacher-forced accuracy": ("Accuracy", "Top-5"), **_SCORES},
    "Reward": {"Reward of sampled captions": ("Reward",), "Words of sampled captions": ("Words",), **_SCORES},
}
"""Titles of the panels and their curves, by the first column of a training step."""
_COLOURS = ("#3366cc", "#c8501e", "#2e8b57", "#8b4fa8", "#b8860b")


def curves_png(
    steps: Sequence[Sequence[float]],
    epochs: Sequence[Mapping[str, float | None]],
    names: Sequence[str] = ("Loss", "Accuracy"),
) -> bytes | None:
    """Draws the values of each step and the scores of each epoch as a PNG.

    Args:
        steps: for each training step, its position in epochs (2.5 is the middle of the third) and its values.
        epochs: rows of `validation_results.csv` by column title.
        names: the titles of a step's values.

    Returns:
        The PNG, with the same bytes for the same values; None if no epoch is complete.
    """
    if not epochs:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    x = [row["Epoch"] for row in epochs]
    trained = {name: _thinned(steps, column) for column, name in enumerate(names, 1)}
    panels = _PANELS[names[0]]
    for axes, (title, shown) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        if shown[0] in trained and steps:
            axes.plot(*trained[shown[0]], color="#999999", linewidth=1, label=f"{shown[0]}, training")
        for name, colour in zip(shown, _COLOURS, strict=False):
            y = [row.get(name) for row in epochs]
            if any(value is not None for value in y):
                heights = [float("nan") if value is None else value for value in y]
                label = name if shown[0] not in trained else f"{name}, validation"
                axes.plot(x, heights, color=colour, marker="o", markersize=4, label=label)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)
    picture = io.BytesIO()
    # without matplotlib's version in the file, the same values produce the same bytes
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _thinned(steps: Sequence[Sequence[float]], column: int) -> tuple[list[float], list[float]]:
    """Returns positions and means of groups of steps."""
    size = -(-len(steps) // _POINTS) or 1
    groups = [steps[first : first + size] for first in range(0, len(steps), size)]
    return [group[-1][0] for group in groups], [sum(step[column] for step in group) / len(group) for group in groups]
