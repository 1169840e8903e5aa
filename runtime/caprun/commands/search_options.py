"""The search options on the command line, the same for every command that searches."""

import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from caprun.commands.click_types import Integer, Number
from caprun.errors import UsageError
from caprun.search.option_table import SEARCH_OPTIONS, SearchOption

if TYPE_CHECKING:
    from caprun.bundle.manifest import ModelSpec
    from caprun.search.options import SearchOptions


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the search options to a command.

    The command receives those that were given as one mapping, its parameter `search`, for `with_search_options`.
    """

    @wraps(command)
    def collecting(**parameters: Any) -> Any:
        values = {name: parameters.pop(name) for name in SEARCH_OPTIONS}
        return command(search={name: value for name, value in values.items() if value is not None}, **parameters)

    decorated: Callable[..., Any] = collecting
    for name, option in reversed(SEARCH_OPTIONS.items()):
        decorated = _click_option(name, option)(decorated)
    return decorated


def with_search_options(spec: "ModelSpec", given: Mapping[str, Any]) -> "SearchOptions":
    """Replaces a model's search options with those that were given on the command line.

    Raises:
        UsageError: A value is out of its range, two options exclude each other, or the model has no neutral words; the
            options are named as they were typed.
    """
    from dataclasses import replace

    try:
        options = replace(spec.search, **given)
    except UsageError as error:
        raise UsageError(re.sub(r"`(\w+)`", lambda name: f"`{_typed(name[1])}`", str(error))) from None
    if options.neutral and spec.neutral is None:
        raise UsageError(f"The model {spec.name} has no neutral words; leave out `--neutral`.")
    return options


def _click_option(name: str, option: SearchOption) -> Callable[..., Any]:
    default = option.default if option.kind != "words" else "none"
    shared: dict[str, Any] = {"help": option.help, "show_default": f"the model's, else {default}"}
    if option.kind == "words":
        return click.option(_typed(name), name, multiple=True, callback=_words, metavar="WORDS", **shared)
    if option.kind == "flag":
        flag = f"{_typed(name)}/--no-{name.replace('_', '-')}"
        return click.option(flag, name, default=None, help=option.help, show_default="the model's, else off")
    if option.kind == "integer":
        return click.option(_typed(name), name, type=Integer(int(option.low), int(option.high)), **shared)
    return click.option(_typed(name), name, type=Number("number", option.low, option.high), **shared)


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _words(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...] | None:
    """Splits words at blanks; the option may be given several times."""
    return tuple(word for words in given for word in words.split()) if given else None
