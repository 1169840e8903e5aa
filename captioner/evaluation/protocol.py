"""Tables of a split's scores, one per protocol, each with a sentence that states the protocol."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from caprun.search.options import SearchOptions
from captioner.evaluation.metrics import TEACHER_FORCED_TITLES, TITLES, named, shown


@dataclass(frozen=True)
class ScoreTable:
    """The scores of one protocol."""

    title: str
    meaning: str
    """The measurement and its units."""
    cells: Mapping[str, str]
    """Titles and formatted scores."""

    def text(self) -> str:
        """Returns the table as text for a terminal."""
        head = "  ".join(f"{title:>{max(8, len(value))}}" for title, value in self.cells.items())
        row = "  ".join(f"{value:>{max(8, len(title))}}" for title, value in self.cells.items())
        return f"{textwrap.fill(f'{self.title}: {self.meaning}', 100, break_on_hyphens=False)}\n{head}\n{row}"


def scored_by(metrics: Mapping[str, object]) -> str:
    """Returns the units that captions were scored by; older versions scored all captions by words."""
    return f"by {metrics.get('segmentation', 'words')}, lower-cased, punctuation removed"


def score_tables(metrics: Mapping[str, object], search: SearchOptions) -> list[ScoreTable]:
    """Returns a table for each protocol that has scores.

    Args:
        metrics: split, photos, references and segmentation, and scores by their keys in `TEACHER_FORCED_TITLES` and
            `TITLES`.
        search: the search options of the free-running captions.
    """
    where = f"split {metrics.get('split')}, {metrics.get('photos')} photos, {metrics.get('references')} references"
    taught, free = named(metrics, TEACHER_FORCED_TITLES), named(metrics, TITLES)
    tables = []
    if taught:
        meaning = (
            f"{where}, each reference separately; the model predicts each piece given the correct pieces before it. "
            "Loss in nats per piece, the others x100."
        )
        cells = {TEACHER_FORCED_TITLES[name]: shown(name, value) for name, value in taught.items()}
        tables.append(ScoreTable("Teacher-forced", meaning, cells))
    if free:
        meaning = (
            f"{where}, all references of a photo together; the model's own captions, from the photo only, "
            f"{search.text}; {scored_by(metrics)}. x100 except NIST."
        )
        cells = {TITLES[name]: shown(name, value) for name, value in free.items()}
        tables.append(ScoreTable("Free-running", meaning, cells))
    for dataset in dict.fromkeys(key.partition("@")[2] for key in metrics if "@" in key):
        own = {key.partition("@")[0]: value for key, value in metrics.items() if key.partition("@")[2] == dataset}
        meaning = f"as above, {own.get('photos')} photos and {own.get('references')} references of {dataset} only."
        cells = {TITLES[name]: shown(name, value) for name, value in named(own, TITLES).items()}
        tables.append(ScoreTable(f"Free-running, {dataset}", meaning, cells))
    return tables
