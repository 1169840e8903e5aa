"""Tables in Markdown, printed row by row."""

from __future__ import annotations


def row(*cells: object) -> str:
    """Formats a row."""
    return f"| {' | '.join(map(str, cells))} |"


def header(*columns: str) -> str:
    """Formats the names of the columns and the rule below them."""
    return f"{row(*columns)}\n{row(*['---'] * len(columns))}"
