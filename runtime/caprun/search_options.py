"""The search's options on the command line, the same on every command that searches."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from caprun.decoding import SearchOptions

F = TypeVar("F", bound=Callable[..., object])


def search_options(command: F) -> F:
    """The options of the search, on whichever command searches."""
    for option in (
        click.option("--length-penalty", type=float, help="Exponent of the length in a caption's score."),
        click.option("--max-length", type=int, help="Most pieces of a caption, its end counted."),
        click.option("--beam-size", type=int, help="Captions kept at every step; 1 is greedy."),
    ):
        command = option(command)
    return command


def with_search_options(
    defaults: "SearchOptions", beam_size: int | None, max_length: int | None, length_penalty: float | None
) -> "SearchOptions":
    """A model's search options with those that were given on the command line in their place."""
    from dataclasses import replace

    given: dict[str, Any] = {"beam_size": beam_size, "max_length": max_length, "length_penalty": length_penalty}
    return replace(defaults, **{key: value for key, value in given.items() if value is not None})
