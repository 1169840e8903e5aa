"""What the subcommands share: choices, and how they speak."""

from __future__ import annotations

from pathlib import Path

import click

DEVICES = click.Choice(["auto", "cpu", "cuda"])
FILE = click.Path(path_type=Path)


def say(line: str) -> None:
    """Tell the person at the terminal; standard output is for results alone."""
    click.echo(line, err=True)
