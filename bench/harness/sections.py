"""Generated sections of Markdown files, each between `<!-- NAME -->` and the next `<!-- end -->`."""

from __future__ import annotations

from pathlib import Path

from captioner.errors import CaptionerError


def with_section(text: str, name: str, section: str) -> str:
    """Returns a text with a section between its marks.

    Raises:
        CaptionerError: the text has no such marks.
    """
    mark, end = f"<!-- {name} -->\n", "<!-- end -->\n"
    before, found, rest = text.partition(mark)
    replaced, ended, after = rest.partition(end)
    if not found or not ended or "<!-- " in replaced:  # otherwise the end found belongs to another section
        raise CaptionerError(f"There is no section {name}; add a line {mark.strip()}, and below it {end.strip()}.")
    return f"{before}{mark}\n{section.strip()}\n\n{end}{after}"


def write_section(file: Path, name: str, section: str) -> None:
    """Puts a section between its marks in a file.

    Raises:
        CaptionerError: the file cannot be read or written, or has no such marks.
    """
    try:
        file.write_text(with_section(file.read_text(encoding="utf-8"), name, section), encoding="utf-8")
    except OSError as error:
        raise CaptionerError(f"{file} cannot be written: {error.strerror}.") from None
    except CaptionerError as error:
        raise CaptionerError(f"{file}: {error}") from None
