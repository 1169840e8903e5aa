"""Greedy search and sampling: each step extends a caption by the likeliest piece or by a sampled one."""

from collections.abc import Sequence

import numpy as np

from caprun.arrays import Float32Array, Float64Array, Ids
from caprun.search.bans import Bans
from caprun.search.hypothesis import CaptionEnd, Hypothesis, SearchStep, Trace
from caprun.search.options import SearchOptions
from caprun.search.steps import WHOLE, Step


def greedy_or_sampled(
    steps: Step,
    photos: int,
    start: int,
    end: int,
    options: SearchOptions,
    bans: Bans | None,
    identities: Sequence[int],
) -> list[Hypothesis]:
    """Finds one caption for each photo, or samples `n_best`; see `caprun.search.decoding.search` for the arguments."""
    longest, drawing = options.max_length, options.temperature > 0
    count = options.n_best if drawing else 1
    enough = (options.top_k or WHOLE) if drawing else 1
    uniform = _uniform(options, count, identities) if drawing else None
    log: list[SearchStep] = []
    last = np.full((photos, count), longest - 1)  # step of the last piece of each caption
    finished = np.zeros((photos, count), np.bool_)

    row = np.arange(photos)
    parent, token = row[:, None], np.full((photos, 1), start, np.int64)
    own = np.repeat(parent, count, 1)  # parents when every caption continues its own state
    going = np.ones((photos, count), np.bool_)
    history = np.zeros((photos, count, longest), np.int64)  # pieces so far, if there are bans
    for step in range(longest):
        slack = 0 if bans is None else bans.most(step)
        output = steps(row, parent, token, min(enough + slack, WHOLE))
        log_prob, candidate = output.log_prob, output.candidate
        choice = None
        if bans is not None:
            log_prob = bans.applied(history[:, : log_prob.shape[1], :step], candidate, log_prob)
        if uniform is not None:
            choice = _in_all(log_prob, _drawn(log_prob, uniform[row, :, step], options))
        elif bans is not None:
            choice = _in_all(log_prob, log_prob.argmax(2))
        token = candidate[:, :, 0] if choice is None else candidate.take(choice)
        tokens: list[list[int]] = token.tolist()
        gained = log_prob[:, :, 0] if choice is None else log_prob.take(choice)
        gains: list[list[float]] = gained.tolist()
        log.append(SearchStep(row, None, tokens, gains, log_prob.shape[1], output.alpha))
        if bans is not None:
            history[:, :, step] = token

        parent = own
        if step == 0 and count > 1:
            own = np.arange(photos * count).reshape(photos, count)
        # if bans left nothing, the choice is a banned piece
        stuck = bans is not None and any(-np.inf in of_photo for of_photo in gains)
        if not stuck and not any(end in pieces for pieces in tokens):
            continue
        sayable = np.isfinite(gained)
        goes_on = (token != end) & sayable
        at, which = (going & ~goes_on).nonzero()
        ended = sayable[at, which]
        last[row[at], which] = np.where(ended, step, step - 1)
        finished[row[at], which] = ended
        going = going & goes_on
        live = going.any(1)
        if not live.all():
            row, token, parent, going, history = row[live], token[live], parent[live], going[live], history[live]
            if not len(row):
                break
            own = np.arange(len(row) * count).reshape(len(row), count)

    trace = Trace(log, photos)
    hypotheses = []
    for photo, ends in enumerate(zip(last.tolist(), finished.tolist(), strict=True)):
        places = [CaptionEnd(step, i, ended) for i, (step, ended) in enumerate(zip(*ends, strict=True))]
        hypotheses.append(trace.hypothesis(photo, places))
    return hypotheses


def _uniform(options: SearchOptions, count: int, identities: Sequence[int]) -> Float64Array:
    """Draws numbers in [0, 1) from the seed and the photo's identity; (photos, captions, steps)."""
    drawn = [np.random.default_rng([options.seed, one]).random((count, options.max_length)) for one in identities]
    return np.stack(drawn)


def _drawn(log_prob: Float32Array, uniform: Float64Array, options: SearchOptions) -> Ids:
    """Draws a candidate for each caption, (rows, captions): temperature first, then top-k, then top-p.

    Args:
        log_prob: Log-probabilities, the likeliest first, with -inf for banned candidates; (rows, beams, k), where the
            first step has one beam for each photo, and later steps one for each caption.
        uniform: Numbers in [0, 1); (rows, captions).
        options: Temperature, top_k and top_p.
    """
    highest = np.maximum(log_prob.max(2, keepdims=True), np.finfo(np.float32).min)  # -inf where everything is banned
    weight = np.exp(np.subtract(log_prob, highest, dtype=np.float64) / options.temperature)
    if 0 < options.top_k < log_prob.shape[2]:
        weight *= (log_prob > -np.inf).cumsum(2) <= options.top_k
    total = weight.cumsum(2)
    mass = total[:, :, -1:]
    if options.top_p < 1:
        # the nucleus ends with the first candidate that reaches the probability
        last = (total >= options.top_p * mass).argmax(2)
        mass = np.take_along_axis(total, last[:, :, None], 2)
    choice: Ids = (total > uniform[:, :, None] * mass).argmax(2)
    return choice


def _in_all(log_prob: Float32Array, choice: Ids) -> Ids:
    """Converts indices into the candidates of each beam to indices into all candidates."""
    rows, beams, k = log_prob.shape
    return np.arange(0, rows * beams * k, k).reshape(rows, beams) + choice
