"""A search that every contender supports."""

from caprun import SearchOptions


def without_bans(options: SearchOptions, beam_size: int) -> SearchOptions:
    """Returns beam search with a beam size, and the `max_length` and `length_penalty` of other options."""
    return SearchOptions(beam_size, options.max_length, options.length_penalty)
