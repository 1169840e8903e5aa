"""How captions are searched for: every option with its range, and which of them do not go together."""

from dataclasses import dataclass, fields
from typing import Any

from caprun.errors import UsageError

_RANGES: dict[str, tuple[float, float]] = {
    "beam_size": (1, 100),
    "max_length": (1, 1000),
    "length_penalty": (0, 10),
    "min_length": (0, 999),
    "no_repeat_ngram": (0, 1000),
    "no_repeat_word": (0, 1000),
    "n_best": (1, 100),
    "groups": (1, 100),
    "diversity": (0, 100),
    "temperature": (0, 100),
    "top_k": (0, 2**31 - 1),
    "top_p": (0, 1),
    "seed": (0, 2**63 - 1),
}

_DIVERSITY = 0.5

_ALWAYS = ("beam_size", "max_length", "length_penalty")
"""What is said of every search."""


@dataclass(frozen=True)
class SearchOptions:
    """How captions are searched for; by default, by beam search with nothing forbidden.

    Bans (`min_length`, `no_repeat_ngram`, `no_repeat_word`, `suppress`, `bad_endings`) hold for pieces as the
    vocabulary has them, function words like any other, and END is banned by `min_length` and `bad_endings` alone. A
    caption of which nothing may follow is returned as far as it came, unfinished.

    Raises:
        UsageError: a value out of its range, or two that do not go together.
    """

    beam_size: int = 3
    """Captions kept at every step; 1 is greedy search. Not looked at in sampling."""
    max_length: int = 22
    """Most steps: a caption has at most as many pieces, its END counted."""
    length_penalty: float = 0.7
    """A caption's score is its log-probability over its length (END counted) to this power; 0 prefers short ones."""
    min_length: int = 0
    """Pieces before END may be said."""
    no_repeat_ngram: int = 0
    """No sequence of so many pieces twice in a caption (3: no trigram; 1: no piece at all); 0: any."""
    no_repeat_word: int = 0
    """No piece that is among the so many said last; 1: none twice in a row; 0: any."""
    suppress: tuple[str, ...] = ()
    """Pieces that are never said."""
    bad_endings: tuple[str, ...] = ()
    """Pieces after which END may not be said, such as `a` and `with`."""
    n_best: int = 1
    """Captions returned, the best first; of sampling, captions drawn, in that order."""
    groups: int = 1
    """Groups that the beam is divided into (diverse beam search, Vijayakumar et al., 2018, algorithm 1)."""
    diversity: float = _DIVERSITY
    """With several groups: log-probability that a piece loses in a group's choice for each beam of the groups before
    it that says the same piece at the same step (their lambda, with Hamming diversity)."""
    temperature: float = 0.0
    """0: search. Above: draw every piece, at probabilities whose logarithms are divided by this."""
    top_k: int = 0
    """In sampling: draw among the so many likeliest pieces; 0: all."""
    top_p: float = 1.0
    """In sampling: draw among the fewest likeliest pieces that have this probability together, at the temperature
    (nucleus sampling, Holtzman et al., 2020); 1: all."""
    seed: int = 0
    """Of sampling."""
    neutral: bool = False
    """Say person, people, child and children where a caption would name a gender, by the bundle's neutral words; their
    probabilities are those of all words they stand for. Other options see the neutral words alone."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}; it must lie between {low} and {high}.")
        if not isinstance(self.neutral, bool):
            raise UsageError(f"neutral is {self.neutral!r}; it must be True or False.")
        if 0 < self.temperature < 0.001:
            raise UsageError(f"temperature is {self.temperature}; it must be 0, for search, or 0.001 at least.")
        if self.top_p == 0:
            raise UsageError("top_p is 0, and then nothing could be drawn; it must be above 0.")
        if self.min_length >= self.max_length:
            raise UsageError(
                f"min_length is {self.min_length} and max_length {self.max_length}: a caption could never end; END "
                f"counts in max_length, so min_length may be {self.max_length - 1} at most."
            )
        if self.groups == 1 and self.diversity != _DIVERSITY:
            raise UsageError(
                f"diversity is {self.diversity:g} and groups 1: one group has no others to avoid; add some."
            )
        if self.temperature == 0:
            self._check_search()
        elif self.groups > 1:
            raise UsageError(f"groups is {self.groups} and temperature {self.temperature:g}: sampling has no beams.")

    def _check_search(self) -> None:
        for name, neutral in (("top_k", 0), ("top_p", 1), ("seed", 0)):
            value = getattr(self, name)
            if value != neutral:
                raise UsageError(f"{name} is {value} and temperature 0: sampling wants a temperature, such as 1.")
        if self.beam_size % self.groups:
            raise UsageError(f"groups is {self.groups} and beam_size {self.beam_size}, which it does not divide.")
        if self.n_best > self.beam_size:
            raise UsageError(
                f"n_best is {self.n_best} and beam_size {self.beam_size}: a beam has no more captions than that; "
                "widen it."
            )

    def plain(self, beam_size: int) -> "SearchOptions":
        """Beam search of a width, as long and with the penalty of this one and no other option."""
        return SearchOptions(beam_size, self.max_length, self.length_penalty)

    @property
    def text(self) -> str:
        """The options for a person: the three every search has, and those that are not as usual."""
        beams = [f"beam {self.beam_size}", f"length penalty {self.length_penalty:g}"]
        said = [*(beams if self.temperature == 0 else ["sampled"]), f"at most {self.max_length} steps"]
        for name, value in self.as_dict().items():
            if name not in _ALWAYS:
                shown = "" if value is True else " ".join(value) if isinstance(value, list) else value
                said.append(f"{name.replace('_', ' ')} {shown}".rstrip())
        return ", ".join(said)

    def as_dict(self) -> dict[str, Any]:
        """Returns the options as plain data, for `from_dict`; those with their usual value are left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        unusual = {field.name for field in fields(self) if values[field.name] != field.default}
        if self.temperature > 0:
            unusual.add("seed")  # it decides, even where it is the usual one
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name in unusual or name in _ALWAYS
        }
