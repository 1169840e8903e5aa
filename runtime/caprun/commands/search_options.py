"""The search options, which are the same for every command that searches."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from caprun.commands.click_types import Integer, Number
from caprun.commands.options import collected
from caprun.errors import UsageError
from caprun.search.options import SEARCH_OPTIONS, SearchOption, SearchOptions

if TYPE_CHECKING:
    from caprun.bundle.manifest import ModelSpec
    from caprun.bundle.vocabulary import Vocabulary


def with_search_options(spec: "ModelSpec", vocabulary: "Vocabulary", given: Mapping[str, Any]) -> SearchOptions:
    """Replaces a model's search options with those given on the command line.

    Raises:
        UsageError: A value is out of range, two options exclude each other, the vocabulary cannot spell a word, or the
            model has no neutral words; the message names options as typed.
    """
    from caprun.search.bans import Bans  # loads NumPy, which `--help` does not need

    try:
        options = replace(spec.search, **given)
        Bans.of(options, spec.special.end, vocabulary)  # else the search would refuse words that have no spelling
    except UsageError as error:
        names = rf"`({'|'.join(SEARCH_OPTIONS)})`"
        raise UsageError(re.sub(names, lambda name: f"`{_typed(name[1])}`", str(error))) from None
    if options.neutral and spec.neutral is None:
        raise UsageError(f"The model {spec.name} has no neutral words; leave out `--neutral`.")
    return options


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _click_option(name: str, option: SearchOption) -> Callable[..., Any]:
    default = {"words": "none", "flag": "off"}.get(option.kind, option.default)
    shared: dict[str, Any] = {"help": option.help, "show_default": f"the model's, else {default}"}
    if option.kind == "words":
        shared |= {"multiple": True, "metavar": "WORDS"}
    elif option.kind == "flag":
        return click.option(f"{_typed(name)}/--no-{name.replace('_', '-')}", name, default=None, **shared)
    elif option.kind == "integer":
        shared["type"] = Integer(int(option.low), int(option.high))
    else:
        shared["type"] = Number("number", option.low, option.high)
    return click.option(_typed(name), name, **shared)


search_options = collected(
    "search",
    SEARCH_OPTIONS,
    lambda **values: {
        name: " ".join(value) if isinstance(value, tuple) else value  # an option for words can be given several times
        for name, value in values.items()
        if value not in (None, ())
    },
    [_click_option(name, option) for name, option in SEARCH_OPTIONS.items()],
)
"""Adds the search options to a command, which receives a mapping of those given as its parameter `search`."""
