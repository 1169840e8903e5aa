"""The options of a search, validated together."""

from dataclasses import dataclass
from typing import Any

from caprun.errors import UsageError
from caprun.search.option_table import SEARCH_OPTIONS

_ALWAYS = ("beam_size", "max_length", "length_penalty")
"""Options that every description of a search includes."""


def _default(name: str) -> Any:
    return SEARCH_OPTIONS[name].default


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search; by default, beam search without bans.

    `caprun.search.option_table.SEARCH_OPTIONS` has the range and meaning of each option; `suppress` and `bad_endings`
    may also be given as a string of words or a list. Lengths count pieces of the vocabulary. The bans (`min_length`,
    `no_repeat_ngram`, `no_repeat_word`, `suppress`, `bad_endings`) apply to every piece; only `min_length` and
    `bad_endings` ban END. Where bans leave no piece to continue with, the caption is returned unfinished.

    `groups` and `diversity` are those of diverse beam search (Vijayakumar et al., 2018, algorithm 1 with Hamming
    diversity; `diversity` is their lambda). `top_p` is that of nucleus sampling (Holtzman et al., 2020), applied after
    the temperature. `neutral` adds the probabilities of gendered words to those of the bundle's neutral words; the
    other options see only the neutral words.

    Raises:
        UsageError: An option has the wrong type or is out of range, or two options exclude each other.
    """

    beam_size: int = _default("beam_size")
    max_length: int = _default("max_length")
    length_penalty: float = _default("length_penalty")
    min_length: int = _default("min_length")
    no_repeat_ngram: int = _default("no_repeat_ngram")
    no_repeat_word: int = _default("no_repeat_word")
    suppress: tuple[str, ...] = _default("suppress")
    bad_endings: tuple[str, ...] = _default("bad_endings")
    n_best: int = _default("n_best")
    groups: int = _default("groups")
    diversity: float = _default("diversity")
    temperature: float = _default("temperature")
    top_k: int = _default("top_k")
    top_p: float = _default("top_p")
    seed: int = _default("seed")
    neutral: bool = _default("neutral")

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
        if self.groups == 1 and self.diversity != _default("diversity"):
            raise UsageError(f"`diversity` ({self.diversity:g}) needs several `groups`; give 2 or more.")
        if self.temperature == 0:
            self._check_search()
        elif self.groups > 1:
            raise UsageError(f"`groups` ({self.groups}) is only for search; leave out `groups` or `temperature`.")

    def _check_search(self) -> None:
        for name in ("top_k", "top_p", "seed"):
            value = getattr(self, name)
            if value != _default(name):
                raise UsageError(f"`{name}` ({value}) is only for sampling; give a `temperature` above 0, such as 1.")
        if self.beam_size % self.groups:
            raise UsageError(f"`groups` ({self.groups}) must divide `beam_size` ({self.beam_size}).")
        if self.n_best > self.beam_size:
            raise UsageError(f"`n_best` ({self.n_best}) must be at most `beam_size` ({self.beam_size}).")

    def plain(self, beam_size: int) -> "SearchOptions":
        """Returns plain beam search with a beam size, and the `max_length` and `length_penalty` of these options."""
        return SearchOptions(beam_size, self.max_length, self.length_penalty)

    @property
    def text(self) -> str:
        """The options in words: beam, length, and those that differ from their defaults."""
        beams = [f"beam {self.beam_size}", f"length penalty {self.length_penalty:g}"]
        parts = [*(beams if self.temperature == 0 else ["sampled"]), f"at most {self.max_length} steps"]
        for name, value in self.as_dict().items():
            if name not in _ALWAYS:
                shown = "" if value is True else f" {' '.join(value) if isinstance(value, list) else value}"
                parts.append(f"{name.replace('_', ' ')}{shown}")
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Returns the options as plain data for `from_dict`, without most options that have their default."""
        always = (*_ALWAYS, "seed") if self.temperature > 0 else _ALWAYS  # samples depend on the default seed, too
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if name in always or value != _default(name)
        }
