"""Writes `report.html`: configuration, scores by protocol, curves, epochs and photos in one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from caprun.engine import Captioner
from caprun.search.options import SearchOptions
from captioner.datasets import Example
from captioner.evaluation.metrics import TEACHER_FORCED_TITLES, TITLES, shown
from captioner.evaluation.protocol import score_tables
from captioner.output_files import write_whole
from captioner.reports.photos import data_uri, shown_groups

_KEYS = {title: key for key, title in (TEACHER_FORCED_TITLES | TITLES).items()}


@dataclass(frozen=True)
class Content:
    """The content of a report."""

    title: str
    metrics: Mapping[str, object]
    """Split, numbers of photos and references, and scores by key."""
    captioner: Captioner
    search: SearchOptions
    examples: Sequence[Example]
    captions: Sequence[str]
    """One caption per photo of `examples`."""
    epochs: Sequence[Mapping[str, float | None]] = ()
    """Rows of `validation_results.csv` by column title; empty outside a training run."""
    curves: bytes | None = None
    """A PNG."""
    config: str | None = None
    """The configuration as TOML."""
    photos: int = 12
    """Maximum number of photos to show."""


def write_report(path: Path, content: Content) -> None:
    """Writes the report.

    Raises:
        CaptionerError: the file cannot be written.
    """
    write_whole("The report", path, report_html(content))


def report_html(content: Content) -> str:
    """Returns the report as HTML, with all text escaped and all images embedded."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("captioner.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    titles = content.epochs[0] if content.epochs else ()
    columns = [title for title in titles if any(row[title] is not None for row in content.epochs)]
    return environment.get_template("page.html.jinja").render(
        title=content.title,
        tables=score_tables(content.metrics, content.search),
        curves=None if content.curves is None else data_uri(content.curves, "png"),
        columns=columns,
        epochs=[[_cell(title, row[title]) for title in columns] for row in content.epochs],
        groups=shown_groups(content.captioner, content.search, content.examples, content.captions, content.photos),
        config=content.config,
        language=content.captioner.spec.language,
    )


def _cell(title: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if title not in _KEYS else shown(_KEYS[title], value)
