"""The search options: one table of name, type, range, default and help.

`SearchOptions` validates with it, and the command line and the HTTP API derive their parameters from it. It imports
nothing heavy, so that `caprun --help` can read it.
"""

import reprlib
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

from caprun.errors import UsageError


class SearchOption(NamedTuple):
    """A search option."""

    kind: Literal["integer", "number", "words", "flag"]
    low: float
    """The smallest value; used only for numbers."""
    high: float
    """The largest value; used only for numbers."""
    default: Any
    """The value if neither the caller nor the bundle sets one."""
    help: str

    def validated(self, name: str, value: Any) -> Any:
        """Checks the type and range of a value.

        Args:
            name: The option's name, for the message.
            value: A whole number, a number, words (a string of them, a list or a tuple), or True or False.

        Returns:
            An int, a float, a tuple of strings, or a bool.

        Raises:
            UsageError: The value has the wrong type or is out of range.
        """
        if self.kind == "words":
            if isinstance(value, str):
                return tuple(value.split())
            if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
                return tuple(value)
        elif self.kind == "flag":
            if isinstance(value, bool):
                return value
        elif self.kind == "integer":
            if isinstance(value, Integral) and not isinstance(value, bool) and self.low <= int(value) <= self.high:
                return int(value)
        elif isinstance(value, Real) and not isinstance(value, bool) and self.low <= float(value) <= self.high:
            return float(value)
        raise UsageError(f"`{name}` is {reprlib.repr(value)}; it must be {self._accepted}.")

    @property
    def _accepted(self) -> str:
        if self.kind == "words":
            return "words, such as 'a the' or ['a', 'the']"
        if self.kind == "flag":
            return "true or false"
        number = "a whole number" if self.kind == "integer" else "a number"
        return f"{number} from {self.low} to {self.high}"


_integer = partial(SearchOption, "integer")
_number = partial(SearchOption, "number")
_words = partial(SearchOption, "words", 0, 0, ())

SEARCH_OPTIONS: dict[str, SearchOption] = {
    "beam_size": _integer(1, 100, 3, "Captions kept at every step; 1 is greedy search. Not used in sampling."),
    "max_length": _integer(1, 1000, 22, "Maximum number of pieces in a caption, including its end."),
    "length_penalty": _number(
        0, 10, 0.7, "A caption's log-probability is divided by its length to this power; 0 prefers short captions."
    ),
    "min_length": _integer(0, 999, 0, "Minimum number of pieces in a caption, excluding its end."),
    "no_repeat_ngram": _integer(0, 1000, 0, "Forbid repeated sequences of this many pieces; 0 allows them."),
    "no_repeat_word": _integer(
        0, 1000, 0, "Forbid repeating any of this many previous pieces; 1 forbids only immediate repeats, 0 allows all."
    ),
    "suppress": _words("Words that captions must not contain, such as 'man woman'."),
    "bad_endings": _words("Words that captions must not end with, such as 'a the with'."),
    "n_best": _integer(1, 100, 1, "Captions returned per photo, best first; in sampling, the number of samples."),
    "groups": _integer(
        1, 100, 1, "Beam groups, each of which avoids the words of earlier groups (diverse beam search)."
    ),
    "diversity": _number(
        0, 100, 0.5, "Penalty on a word's log-probability for each beam of an earlier group that chose it."
    ),
    "temperature": _number(0, 100, 0.0, "Sampling temperature, at least 0.001; 0 searches instead of sampling."),
    "top_k": _integer(0, 2**31 - 1, 0, "Sample from this many likeliest pieces; 0 samples from all."),
    "top_p": _number(
        0, 1, 1.0, "Sample from the fewest likeliest pieces whose probabilities reach this sum; 1 samples from all."
    ),
    "seed": _integer(0, 2**63 - 1, 0, "Seed for sampling."),
    "neutral": SearchOption(
        "flag", 0, 1, default=False, help="Say person, people and child instead of man, woman, boy or girl."
    ),
}
"""The options by name, in the order of `SearchOptions`."""
