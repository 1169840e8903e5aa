"""Search in NumPy over a step function, the one definition of it: greedy, beam, diverse beam and sampling.

What takes a step (ONNX Runtime, PyTorch, TorchScript) is behind `Steps`; what is searched is the same for all.
"""

from collections.abc import Sequence

from caprun.errors import UsageError
from caprun.search.bans import Bans, PieceIds
from caprun.search.beam import beam_search
from caprun.search.hypothesis import Hypothesis
from caprun.search.neutral import Neutralizer
from caprun.search.options import SearchOptions
from caprun.search.sampling import say
from caprun.search.steps import Steps


def search(
    steps: Steps,
    photos: int,
    start: int,
    end: int,
    options: SearchOptions,
    *,
    vocabulary: PieceIds | None = None,
    identities: Sequence[int] | None = None,
    neutral: Neutralizer | None = None,
) -> list[Hypothesis]:
    """Find captions for each of a batch of photos.

    Beam search: at every step the best `beam_size` extensions of a photo's captions are kept; those that end are
    finished, the rest live on. A photo is done when no live caption can still beat its `n_best`-th finished one:
    log-probabilities only fall, so `log_prob / max_length ** length_penalty` bounds what a live one can reach. A
    photo of which too little has finished at `max_length` gets its best unfinished captions too. So many candidates are
    requested that bans leave enough of them: the result is that of a search over the whole vocabulary.

    Args:
        steps: the decoder, at its first step.
        photos: how many photos it has seen.
        start, end: ids of START and END.
        options: how to search.
        vocabulary: what `suppress` and `bad_endings` name pieces of; not needed without them.
        identities: one number a photo, 0 or more. What is drawn for a photo in sampling depends on the seed, this
            number and what the model says of the photo, never on the rest of the batch. By default its position,
            and then a photo draws otherwise elsewhere.
        neutral: the neutral words to say where `options.neutral` asks for them; not used otherwise.

    Returns:
        One hypothesis a photo, in order, with its alternatives. None depends on what else is in the batch.

    Raises:
        UsageError: pieces are named and the vocabulary is missing, or does not have them whole; or neutral words are
            asked for and there are none.
    """
    if not photos:
        return []
    bans = Bans.of(options, end, vocabulary)
    if options.neutral:
        if neutral is None:
            raise UsageError("neutral is True and the model has no neutral words; leave it out.")
        steps = neutral.steps(steps)
    drawn = options.temperature > 0
    if drawn or options.beam_size == 1:
        identities = range(photos) if identities is None else identities
        found = say(steps, photos, start, end, options, bans, identities)
    else:
        found = beam_search(steps, photos, start, end, options, bans)
    if not options.neutral or neutral is None:
        return found
    return [neutral.all_rephrased(hypothesis, drawn=drawn) for hypothesis in found]
