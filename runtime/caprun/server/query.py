"""What a request asks of the search: its query string, every parameter with its range."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

from caprun.bundle.manifest import ModelSpec, refuse_uncalibrated
from caprun.errors import UsageError
from caprun.server.queueing import Ask
from caprun.server.settings import Settings

_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,19}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_LONGEST_NAME = 32
_MOST = 64  # parameters that are looked at, to say what is wrong with them


class Parameter(NamedTuple):
    """A query parameter."""

    kind: Literal["integer", "number", "boolean"]
    low: float
    high: float
    meaning: str

    def value(self, name: str, text: str) -> Any:
        """What the text says.

        Raises:
            UsageError: nothing that is allowed.
        """
        if self.kind == "boolean":
            if text not in ("true", "false"):
                raise UsageError(f"{name} is {_shown(text)}; it must be true or false.")
            return text == "true"
        integer = self.kind == "integer"
        if not (_INTEGER if integer else _NUMBER).fullmatch(text):
            number = "a whole number" if integer else "a number"
            raise UsageError(f"{name} is {_shown(text)}; it must be {number} between {self.low} and {self.high}.")
        value = int(text) if integer else float(text)
        if not self.low <= value <= self.high:
            raise UsageError(f"{name} is {text}; it must lie between {self.low} and {self.high}.")
        return value


def parameters(settings: Settings) -> Mapping[str, Parameter]:
    """The parameters that a service takes."""
    beams, pieces = settings.max_beam, settings.max_length
    return {
        "beam_size": Parameter("integer", 1, beams, "Captions kept at every step; 1 is greedy."),
        "n_best": Parameter("integer", 1, beams, "Captions a photo, the best first; beam_size at most."),
        "max_length": Parameter("integer", 1, pieces, "Most pieces of a caption, its end counted."),
        "min_length": Parameter("integer", 0, pieces - 1, "Fewest pieces of a caption, its end not counted."),
        "length_penalty": Parameter("number", 0, 10, "Exponent of the length in a caption's score."),
        "no_repeat_ngram": Parameter("integer", 0, pieces, "No sequence of so many words twice; 0: any."),
        "no_repeat_word": Parameter("integer", 0, pieces, "No word again within so many; 0: any."),
        "groups": Parameter("integer", 1, beams, "Groups of the beam, each avoiding the words of those before it."),
        "diversity": Parameter("number", 0, 100, "How much groups avoid each other's words; wants groups."),
        "temperature": Parameter("number", 0, 100, "Draw the words at random, at this temperature; 0: search."),
        "top_k": Parameter("integer", 0, 2**31 - 1, "Draw among so many likeliest words; wants a temperature."),
        "top_p": Parameter(
            "number", 0, 1, "Draw among the likeliest words of this probability together; wants a temperature."
        ),
        "seed": Parameter("integer", 0, 2**63 - 1, "Of what is drawn; wants a temperature."),
        "min_confidence": Parameter(
            "number", 0, 1, "No caption, but why, where the model's confidence in it is lower; 0: always a caption."
        ),
        "attention": Parameter("boolean", 0, 1, "Also say where the model looked for each word."),
    }


def parse(query: bytes, known: Mapping[str, Parameter], spec: ModelSpec, least: float | None = None) -> Ask:
    """Read a query string.

    Args:
        query: as it came, percent-encoded.
        known: the parameters there are.
        spec: the model's, whose search is the default.
        least: the default of `min_confidence`.

    Raises:
        UsageError: a parameter is unknown, twice there or out of its range, or two do not go together.
    """
    if not query:
        return Ask(spec.search, False, least)
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST)
    except ValueError:
        raise UsageError(f"The query has more than {_MOST} parameters; leave out what is not needed.") from None
    given: dict[str, Any] = {}
    for name, text in pairs:
        parameter = known.get(name)
        if parameter is None:
            raise UsageError(f"There is no parameter {_shown(name)}; there are {', '.join(known)}.")
        if name in given:
            raise UsageError(f"{name} is given twice; give it once.")
        given[name] = parameter.value(name, text)
    alpha = given.pop("attention", False)
    if alpha and spec.attention_grid is None:
        raise UsageError(f"The model {spec.name} has no attention to show; leave out attention.")
    asked = given.pop("min_confidence", None)
    refuse_uncalibrated(spec, asked, "min_confidence")
    options = replace(spec.search, **given) if given else spec.search
    return Ask(options, alpha, least if asked is None else asked)


def _shown(text: str) -> str:
    """What a client wrote, as far as it fits in a sentence."""
    return repr(text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "...")
