"""How the numbers went over the epochs, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

_POINTS = 400  # of the training loss, each the mean over as many steps as it takes
_PANELS = {
    "Loss (nats a piece)": ("Loss",),
    "Teacher-forced accuracy": ("Accuracy", "Top-5"),
    "Free-running scores": ("BLEU-1", "BLEU-4", "ROUGE-L", "METEOR", "CIDEr"),
}
_COLOURS = ("#3366cc", "#c8501e", "#2e8b57", "#8b4fa8", "#b8860b")


def curves_png(
    steps: Sequence[tuple[float, float, float]], epochs: Sequence[Mapping[str, float | None]]
) -> bytes | None:
    """A PNG of the loss, the accuracies and the scores; None where there is no whole epoch.

    Args:
        steps: of each training step, its place in epochs (2.5: half of the third is done), loss and accuracy.
        epochs: rows of `validation_results.csv` by the columns' titles.
    """
    if not epochs:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    x = [row["Epoch"] for row in epochs]
    trained = {"Loss": _thinned(steps, 1), "Accuracy": _thinned(steps, 2)}
    for axes, (title, names) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        if names[0] in trained and steps:
            axes.plot(*trained[names[0]], color="#999999", linewidth=1, label=f"{names[0]}, training")
        for name, colour in zip(names, _COLOURS, strict=False):
            y = [row.get(name) for row in epochs]
            if any(value is not None for value in y):
                heights = [float("nan") if value is None else value for value in y]
                axes.plot(
                    x,
                    heights,
                    color=colour,
                    marker="o",
                    markersize=4,
                    label=name if names[0] not in trained else f"{name}, validation",
                )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)
    picture = io.BytesIO()
    # without its version, so that the same numbers are the same file
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _thinned(steps: Sequence[tuple[float, float, float]], column: int) -> tuple[list[float], list[float]]:
    """Places and means of groups of steps."""
    size = -(-len(steps) // _POINTS) or 1
    groups = [steps[first : first + size] for first in range(0, len(steps), size)]
    return [group[-1][0] for group in groups], [sum(step[column] for step in group) / len(group) for group in groups]
