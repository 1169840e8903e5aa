"""Prints the shell commands of a page, so that CI can run them as a reader would.

python scripts/commands.py docs/start.md | bash -euxo pipefail
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    """Number of its first line, counted from 1."""
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """Returns the fenced blocks of a Markdown text in order."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    return [Block(page.count("\n", 0, match.start(2)) + 1, match[1], match[2]) for match in found]


if __name__ == "__main__":
    for block in blocks(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if block.language == "sh":
            print(block.text, end="")
