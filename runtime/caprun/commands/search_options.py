"""The search's options on the command line, the same on every command that searches."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from caprun.errors import UsageError

if TYPE_CHECKING:
    from caprun.bundle.manifest import ModelSpec
    from caprun.search.options import SearchOptions


def _pieces(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...] | None:
    """Pieces separated by blanks, the option given once or several times."""
    return tuple(piece for words in given for piece in words.split()) if given else None


_WORDS = {"multiple": True, "callback": _pieces, "metavar": "WORDS"}
_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "beam_size": ({"type": int}, "Captions kept at every step; 1 is greedy."),
    "max_length": ({"type": int}, "Most pieces of a caption, its end counted."),
    "length_penalty": ({"type": float}, "Exponent of the length in a caption's score."),
    "min_length": ({"type": int}, "Fewest pieces of a caption, its end not counted."),
    "no_repeat_ngram": ({"type": int}, "No sequence of so many words twice; 0: any."),
    "no_repeat_word": ({"type": int}, "No word again within so many; 1: none twice in a row; 0: any."),
    "suppress": (_WORDS, "Words never to say, such as 'man woman'."),
    "bad_endings": (_WORDS, "Words not to end with, such as 'a the with'."),
    "n_best": ({"type": int}, "Captions a photo, the best first."),
    "groups": ({"type": int}, "Groups of the beam, each avoiding the words of those before it."),
    "diversity": ({"type": float}, "How much groups avoid each other's words."),
    "temperature": ({"type": float}, "Draw the words at random, at this temperature; 0: search."),
    "top_k": ({"type": int}, "Draw among so many likeliest words; 0: all."),
    "top_p": ({"type": float}, "Draw among the likeliest words of this probability together; 1: all."),
    "seed": ({"type": int}, "Of what is drawn."),
    "neutral": ({"is_flag": True, "default": None}, "Say person, people, child, not man, woman, boy or girl."),
}


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of the search, on whichever command searches.

    The command gets those that were given as one mapping, its parameter `search`, for `with_search_options`.
    """

    @wraps(command)
    def collecting(**parameters: Any) -> Any:
        values = {name: parameters.pop(name) for name in _OPTIONS}
        return command(search={name: value for name, value in values.items() if value is not None}, **parameters)

    decorated: Callable[..., Any] = collecting
    for name, (settings, meaning) in reversed(_OPTIONS.items()):
        flag = f"--{name.replace('_', '-')}"
        if settings.get("is_flag"):
            flag += f"/--no-{name.replace('_', '-')}"
        decorated = click.option(flag, name, **settings, help=meaning)(decorated)
    return decorated


def with_search_options(spec: "ModelSpec", given: Mapping[str, Any]) -> "SearchOptions":
    """Returns a model's search options with those that were given on the command line in their place.

    Raises:
        UsageError: a value is out of its range, two do not go together, or the model cannot do what is asked.
    """
    from dataclasses import replace

    options = replace(spec.search, **given)
    if options.neutral and spec.neutral is None:
        raise UsageError(f"The model {spec.name} has no neutral words to say; leave out --neutral.")
    return options
