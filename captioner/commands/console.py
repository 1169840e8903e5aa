"""Console output of the commands."""

from __future__ import annotations

import shlex
import sys

import click


def say(line: str) -> None:
    """Prints a line of information on standard error; standard output is for results."""
    click.echo(line, err=True)


def own_command() -> str:
    """Returns the command line of this process, quoted for a shell."""
    return shlex.join(["captioner", *sys.argv[1:]])
