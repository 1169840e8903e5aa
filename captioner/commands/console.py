"""Options that the subcommands share, and how they print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from caprun.errors import UsageError

if TYPE_CHECKING:
    from captioner.datasets import DataSource

Command = TypeVar("Command", bound=Callable[..., Any])
DEVICES = click.Choice(["auto", "cpu", "cuda"])
FILE = click.Path(path_type=Path)


def _sources(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[DataSource, ...]:
    from captioner.datasets import DataSource

    try:
        return tuple(DataSource.parse(one) for one in value)
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def data_option(help_text: str, *, default: str | None = "dataset") -> Callable[[Command], Command]:
    """Returns the option `--data DIR[=WEIGHT]`, which may be repeated; the command takes it as `data`, a tuple."""
    return click.option(
        "--data",
        multiple=True,
        callback=_sources,
        default=None if default is None else (default,),
        show_default=default is not None,
        metavar="DIR[=WEIGHT]",
        help=f"{help_text} May be repeated.",
    )


def say(line: str) -> None:
    """Tell the person at the terminal; standard output is for results alone."""
    click.echo(line, err=True)
