"""Caption search over a step function: greedy, beam, diverse beam and sampling, the same for every backend."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caprun.errors import UsageError
from caprun.search.bans import Bans
from caprun.search.beam import beam_search
from caprun.search.hypothesis import Hypothesis
from caprun.search.neutral import Neutralizer
from caprun.search.options import SearchOptions
from caprun.search.sampling import greedy_or_sampled
from caprun.search.steps import Step

if TYPE_CHECKING:
    from caprun.bundle.vocabulary import Vocabulary


def search(
    steps: Step,
    photos: int,
    start: int,
    end: int,
    options: SearchOptions,
    *,
    vocabulary: "Vocabulary | None" = None,
    identities: Sequence[int] | None = None,
    neutral: Neutralizer | None = None,
) -> list[Hypothesis]:
    """Finds captions for a batch of photos.

    Beam search keeps the best `beam_size` extensions of a photo's captions at every step. A photo is finished when no
    live caption can beat its `n_best`-th finished one: log-probabilities only fall, so `log_prob / max_length **
    length_penalty` bounds what a live one can reach. If too few captions have finished at `max_length`, the best
    unfinished ones are added. With bans, enough extra candidates are requested that the result equals a search
    over the whole vocabulary.

    Args:
        steps: The decoder at its first step.
        photos: Number of encoded photos.
        start: Id of START.
        end: Id of END.
        options: Search options.
        vocabulary: Finds the pieces that `repeatable`, `suppress` and `bad_endings` name; not needed without them.
        identities: A non-negative number for each photo, which determines its samples together with the seed and the
            model; None for its position in the batch.
        neutral: The neutral words for `options.neutral`; not used otherwise.

    Returns:
        One hypothesis for each photo, in order, with its alternatives. It does not depend on the other photos.

    Raises:
        UsageError: The options name words, and the vocabulary is missing or cannot spell them; or they request
            neutral words, and there are none.
    """
    if not photos:
        return []
    bans = Bans.of(options, end, vocabulary)
    if options.neutral:
        if neutral is None:
            raise UsageError("`neutral` is True, but the model has no neutral words; leave it out.")
        steps = functools.partial(neutral.step, steps)
        bans = bans and bans.allowing(neutral.written)  # "a person and a person" stands for "a man and a woman"
    drawn = options.temperature > 0
    if drawn or options.beam_size == 1:
        identities = range(photos) if identities is None else identities
        found = greedy_or_sampled(steps, photos, start, end, options, bans, identities)
    else:
        found = beam_search(steps, photos, start, end, options, bans)
    if not options.neutral or neutral is None:
        return found
    return [neutral.all_rephrased(hypothesis, drawn=drawn) for hypothesis in found]
