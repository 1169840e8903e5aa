"""The options of a request: the search options from their table, and two options of the service."""

import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from caprun.bundle.manifest import ModelSpec, refuse_uncalibrated
from caprun.errors import UsageError
from caprun.search.options import SEARCH_OPTIONS, SearchOption
from caprun.server.batching import Ask
from caprun.server.settings import Settings

_MOST_OPTIONS = 64  # maximum in a query
# Python also reads " 1", "1_000" and "nan"
_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)(e-?\d+)?", re.ASCII | re.IGNORECASE)


def request_options(settings: Settings) -> Mapping[str, SearchOption]:
    """Returns the options that a request can have, by name, with the ranges that the service allows."""
    most = dict.fromkeys(("beam_size", "n_best", "groups"), settings.max_beam) | {"max_length": settings.max_length}
    options = {
        name: option._replace(high=min(option.high, most.get(name, option.high)))
        for name, option in SEARCH_OPTIONS.items()
        if option.kind != "words"
    }
    options["attention"] = SearchOption(
        "flag", 0, 1, default=False, help="Return where the model looked for each word."
    )
    options["min_confidence"] = SearchOption(
        "number",
        0,
        1,
        default=settings.min_confidence or 0.0,
        help="Abstain if the caption's confidence is lower; 0 returns every caption.",
    )
    return options


def openapi_parameters(options: Mapping[str, SearchOption], spec: ModelSpec) -> list[dict[str, Any]]:
    """Describes the options of requests to a model as OpenAPI parameters."""
    described = []
    for name, option in options.items():
        kind = "boolean" if option.kind == "flag" else option.kind
        schema = {"type": kind, "default": getattr(spec.search, name, option.default)}
        if option.kind != "flag":
            schema |= {"minimum": option.low, "maximum": option.high}
        described.append({"name": name, "in": "query", "description": option.help, "schema": schema})
    return described


def query_pairs(query: bytes) -> list[tuple[str, str]]:
    """Reads names and values in a query string.

    Raises:
        UsageError: There are too many options.
    """
    try:
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_OPTIONS)
    except ValueError:
        raise UsageError(f"The query has more than {_MOST_OPTIONS} options; leave some out.") from None


def _checked(pairs: Iterable[tuple[str, Any]], options: Mapping[str, SearchOption]) -> dict[str, Any]:
    """Returns the validated values of options; each can be given as text."""
    given: dict[str, Any] = {}
    for name, value in pairs:
        if name not in options:
            raise UsageError(f"There is no option {reprlib.repr(name)}; the options are {', '.join(options)}.")
        if name in given:
            raise UsageError(f"`{name}` is given twice; give it once.")
        value = _value(value, options[name]) if isinstance(value, str) else value
        given[name] = options[name].validated(name, value)
    return given


def ask_of(
    pairs: Iterable[tuple[str, Any]], options: Mapping[str, SearchOption], spec: ModelSpec, settings: Settings
) -> Ask:
    """Checks the options of a request, and adds the defaults of the model and the service.

    Raises:
        UsageError: An option is unknown, given twice or invalid, two options exclude each other, or the model does not
            support an option.
    """
    search = _checked(pairs, options)
    alpha = search.pop("attention", False)
    if alpha and spec.attention_grid is None:
        raise UsageError(f"The model {spec.name} has no attention to show; leave out `attention`.")
    least = search.pop("min_confidence", None)
    refuse_uncalibrated(spec, least, "`min_confidence`")
    wanted = replace(spec.search, **search) if search else spec.search
    if wanted.neutral and spec.neutral is None:
        raise UsageError(f"The model {spec.name} has no neutral words; leave out `neutral`.")
    return Ask(wanted, alpha, settings.min_confidence if least is None else least)


def _value(text: str, option: SearchOption) -> Any:
    """Parses the value of an option; returns the text itself if it is not a valid value."""
    if option.kind == "flag":
        return {"true": True, "false": False}.get(text, text)
    if not _NUMBER.fullmatch(text):
        return text
    try:
        return int(text) if option.kind == "integer" else float(text)
    except ValueError:
        return text
