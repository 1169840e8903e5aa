"""The options of a search, each declared once with its type, range, default and help, and validated together.

The command line and the HTTP API derive their parameters from them. This imports nothing heavy, so that `caprun --help`
can read it.
"""

import reprlib
from dataclasses import dataclass, field, fields
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

from caprun.errors import UsageError

Kind = Literal["integer", "number", "words", "flag"]
"""The type of an option's value."""

_ALWAYS = ("beam_size", "max_length", "length_penalty")
"""Options that every description of a search includes."""
_LENGTHS_AND_BANS = (
    *("max_length", "length_penalty", "min_length"),
    *("no_repeat_ngram", "no_repeat_word", "repeatable", "suppress", "bad_endings"),
)
"""Options that `SearchOptions.plain` keeps."""


class SearchOption(NamedTuple):
    """A search option."""

    kind: Kind
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
        # integers are compared as they are, because float() refuses those with hundreds of digits
        elif isinstance(value, Real) and not isinstance(value, bool) and not value < self.low and value <= self.high:
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


def _declared(kind: Kind, low: float, high: float, default: Any, text: str) -> Any:
    """Declares an option as a field of `SearchOptions`."""
    return field(default=default, metadata={"option": SearchOption(kind, low, high, default, text)})


_integer = partial(_declared, "integer")
_number = partial(_declared, "number")
_words = partial(_declared, "words", 0, 0, ())


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search; by default, beam search without bans.

    `SEARCH_OPTIONS` has the range and meaning of each; `repeatable`, `suppress` and `bad_endings` may also be given as
    a string of words or a list. Lengths count pieces of the vocabulary. The bans (`min_length`, `no_repeat_ngram`,
    `no_repeat_word`, `suppress`, `bad_endings`) apply to every piece; only `min_length` and `bad_endings` ban END, and
    the bans on repeating one piece (`no_repeat_word`, and `no_repeat_ngram` of 1) leave out those of `repeatable`.
    Where bans leave no piece to continue with, the caption is returned unfinished.

    `groups` and `diversity` are those of diverse beam search (Vijayakumar et al., 2018, algorithm 1 with Hamming
    diversity; `diversity` is their lambda). `top_p` is that of nucleus sampling (Holtzman et al., 2020), applied after
    the temperature. `neutral` adds the probabilities of gendered words to those of the bundle's neutral words; the
    other options see only the neutral words.

    Raises:
        UsageError: An option has the wrong type or is out of range, or two options exclude each other.
    """

    beam_size: int = _integer(1, 100, 3, "Captions kept at every step; 1 is greedy search. Not used in sampling.")
    max_length: int = _integer(1, 1000, 22, "Maximum number of pieces in a caption, including its end.")
    length_penalty: float = _number(
        0, 10, 0.7, "A caption's log-probability is divided by its length to this power; 0 prefers short captions."
    )
    min_length: int = _integer(0, 999, 0, "Minimum number of pieces in a caption, excluding its end.")
    no_repeat_ngram: int = _integer(0, 1000, 0, "Forbid repeated sequences of this many pieces; 0 allows them.")
    no_repeat_word: int = _integer(
        0, 1000, 0, "Forbid repeating any of this many previous pieces; 1 forbids only immediate repeats, 0 allows all."
    )
    repeatable: tuple[str, ...] = _words("Words that may be repeated in spite of no_repeat_word, such as 'a the of'.")
    suppress: tuple[str, ...] = _words("Words that captions must not contain, such as 'man woman'.")
    bad_endings: tuple[str, ...] = _words("Words that captions must not end with, such as 'a the with'.")
    n_best: int = _integer(1, 100, 1, "Captions returned per photo, best first; in sampling, the number of samples.")
    groups: int = _integer(
        1, 100, 1, "Beam groups, each of which avoids the words of earlier groups (diverse beam search)."
    )
    diversity: float = _number(
        0, 100, 0.5, "Penalty on a word's log-probability for each beam of an earlier group that chose it."
    )
    temperature: float = _number(0, 100, 0.0, "Sampling temperature, at least 0.001; 0 searches instead of sampling.")
    top_k: int = _integer(0, 2**31 - 1, 0, "Sample from this many likeliest pieces; 0 samples from all.")
    top_p: float = _number(
        0, 1, 1.0, "Sample from the fewest likeliest pieces whose probabilities reach this sum; 1 samples from all."
    )
    seed: int = _integer(0, 2**63 - 1, 0, "Seed for sampling.")
    neutral: bool = _declared("flag", 0, 1, False, "Say person, people and child instead of man, woman, boy or girl.")

    def __post_init__(self) -> None:
        for name, option in SEARCH_OPTIONS.items():
            object.__setattr__(self, name, option.validated(name, getattr(self, name)))
        if 0 < self.temperature < 0.001:
            raise UsageError(f"`temperature` is {self.temperature}; it must be 0 (search) or at least 0.001.")
        if self.top_p == 0:
            raise UsageError("`top_p` is 0; it must be above 0.")
        if self.min_length >= self.max_length:
            raise UsageError(
                f"`min_length` ({self.min_length}) must be at most {self.max_length - 1}, since `max_length` "
                f"({self.max_length}) includes the end of a caption."
            )
        if self.groups == 1 and self.diversity != SEARCH_OPTIONS["diversity"].default:
            raise UsageError(f"`diversity` ({self.diversity:g}) needs several `groups`; give 2 or more.")
        if self.temperature == 0:
            self._check_search()
        elif self.groups > 1:
            raise UsageError(f"`groups` ({self.groups}) is only for search; leave out `groups` or `temperature`.")

    def _check_search(self) -> None:
        for name in ("top_k", "top_p", "seed"):
            value = getattr(self, name)
            if value != SEARCH_OPTIONS[name].default:
                raise UsageError(f"`{name}` ({value}) is only for sampling; give a `temperature` above 0, such as 1.")
        if self.beam_size % self.groups:
            raise UsageError(f"`groups` ({self.groups}) must divide `beam_size` ({self.beam_size}).")
        if self.n_best > self.beam_size:
            raise UsageError(f"`n_best` ({self.n_best}) must be at most `beam_size` ({self.beam_size}).")

    def plain(self, beam_size: int) -> "SearchOptions":
        """Returns beam search with these lengths and bans, without groups, sampling and neutral words."""
        others = {name: getattr(self, name) for name in _LENGTHS_AND_BANS}
        return SearchOptions(beam_size, **others)

    @property
    def text(self) -> str:
        """The options in words: beam, length, and those that differ from their defaults."""
        beams = [f"beam {self.beam_size}", f"length penalty {self.length_penalty:g}"]
        parts = [*(beams if self.temperature == 0 else ["sampled"]), f"at most {self.max_length} steps"]
        unused = () if self.no_repeat_word or self.no_repeat_ngram == 1 else ("repeatable",)
        for name, value in self.as_dict().items():
            if name not in (*_ALWAYS, *unused):
                shown = "" if value is True else f" {' '.join(value) if isinstance(value, list) else value}"
                parts.append(f"{name.replace('_', ' ')}{shown}")
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Returns the options as plain data for `from_dict`, without most options that have their default."""
        always = (*_ALWAYS, "seed") if self.temperature > 0 else _ALWAYS  # samples depend on the default seed, too
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if name in always or value != SEARCH_OPTIONS[name].default
        }


SEARCH_OPTIONS: dict[str, SearchOption] = {one.name: one.metadata["option"] for one in fields(SearchOptions)}
"""The options by name."""
