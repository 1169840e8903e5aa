"""Beam search: keeps the likeliest partial captions, in one group or in several that avoid each other's words."""

from bisect import insort
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from caprun.arrays import Float32Array, Float64Array, Ids
from caprun.search.bans import Bans
from caprun.search.hypothesis import CaptionEnd, Hypothesis, SearchStep, Trace
from caprun.search.options import SearchOptions
from caprun.search.steps import Step


class _Found(NamedTuple):
    """A caption; better ones compare as smaller, and so do earlier ones of equal score."""

    scaled: float
    """The negated score."""
    place: CaptionEnd


def beam_search(
    steps: Step, photos: int, start: int, end: int, options: SearchOptions, bans: Bans | None
) -> list[Hypothesis]:
    """Finds the likeliest captions of each photo; see `caprun.search.decoding.search` for the arguments."""
    width, groups, longest = options.beam_size, options.groups, options.max_length
    log: list[SearchStep] = []
    costs: list[Float64Array] = []  # of each step, (rows, beams)
    ended: list[list[list[_Found]]] = [[[] for _ in range(groups)] for _ in range(photos)]  # finished, best first
    to_beat = np.full((photos, groups), np.inf)  # negated score of the n-th best finished caption

    row = np.arange(photos)
    parent, token = row[:, None], np.full((photos, 1), start, np.int64)
    cost = np.zeros((photos, 1))  # negated log-probability of each beam; inf if it has ended
    history = np.zeros((photos, 1, longest), np.int64)  # pieces of each beam, if there are bans
    some_are_over = False
    for step in range(longest):
        output = steps(row, parent, token, width + (0 if bans is None else bans.most(step)))
        log_prob, candidate = output.log_prob, output.candidate
        if bans is not None:
            log_prob = bans.applied(history[:, :, :step], candidate, log_prob)
        if groups > 1 and log_prob.shape[2] < width:
            log_prob, candidate = _padded(log_prob, candidate, width)
        rows, beams, k = log_prob.shape
        extended = (cost[:, :, None] - log_prob).reshape(rows, -1)
        kept = (
            extended.argsort(1, kind="stable")[:, :width]
            if groups == 1
            else _kept_by_groups(extended, candidate, end, options)
        )
        if rows > 1:
            kept = kept + np.arange(0, rows * beams * k, beams * k)[:, None]  # indices into the candidates of all rows
        cost, token, parent = extended.take(kept), candidate.take(kept), kept // k
        tokens: list[list[int]] = token.tolist()
        log.append(SearchStep(row, parent, tokens, log_prob.take(kept).tolist(), beams, output.alpha))
        costs.append(cost)
        if bans is not None:
            history = history.reshape(rows * beams, longest)[parent]
            history[:, :, step] = token

        if any(end in pieces for pieces in tokens):
            some_are_over = True
            _keep_ended(ended, to_beat, row, np.where(token == end, cost, np.inf), step, options)
            cost[token == end] = np.inf
        if not some_are_over and bans is not None:  # bans may have left a beam without a candidate
            some_are_over = any(np.inf in beams_costs for beams_costs in cost.tolist())
        if some_are_over:
            # costs only rise, so this bounds what a live beam can reach
            reachable = cost.reshape(rows, groups, -1).min(2) / longest**options.length_penalty
            live = (reachable < to_beat[row]).any(1)
            if not live.all():
                row, parent, token, cost, history = row[live], parent[live], token[live], cost[live], history[live]
                if not len(row):
                    break

    trace = Trace(log, photos)
    hypotheses = []
    for photo, of_photo in enumerate(ended):
        by_group = [_found(photo, group, one, log, costs, options) for group, one in enumerate(of_photo)]
        hypotheses.append(trace.hypothesis(photo, _best(photo, by_group, trace, options)))
    return hypotheses


def _padded(log_prob: Float32Array, candidate: Ids, width: int) -> tuple[Float32Array, Ids]:
    """Pads the candidates of each beam to `width` with impossible ones."""
    more = ((0, 0), (0, 0), (0, width - log_prob.shape[2]))
    return np.pad(log_prob, more, constant_values=-np.inf), np.pad(candidate, more)


def _kept_by_groups(extended: Float64Array, candidate: Ids, end: int, options: SearchOptions) -> Ids:
    """Chooses extensions group by group, (rows, beams); each group avoids the pieces that earlier groups chose.

    This is one step of algorithm 1 of Vijayakumar et al. with Hamming diversity. Diversity changes only the choice; the
    beams keep the model's costs. END is never avoided, since captions may end together.

    Args:
        extended: Costs of the extended beams; (rows, beams * k).
        candidate: Ids of the candidates; (rows, beams, k).
        end: Id of END.
        options: Groups and diversity.
    """
    rows, beams, k = candidate.shape
    each = options.beam_size // options.groups
    row_start = np.arange(0, rows * beams * k, beams * k)[:, None]
    pieces = candidate.reshape(rows, -1)
    avoidable = (extended < np.inf) & (pieces != end)  # ended beams choose nothing
    kept: list[Ids] = []
    taken: list[Ids] = []
    for group in range(options.groups):
        first, last = (0, k) if beams == 1 else (group * each * k, (group + 1) * each * k)
        own, own_pieces = extended[:, first:last], pieces[:, first:last]
        if taken:
            before = np.concatenate(taken, 1)
            own = own + options.diversity * (own_pieces[:, :, None] == before[:, None, :]).sum(2)
        chosen = own.argsort(1, kind="stable")[:, :each] + first
        kept.append(chosen)
        at = row_start + chosen
        taken.append(np.where(avoidable.take(at), pieces.take(at), -1))
    return np.concatenate(kept, 1)


def _keep_ended(
    ended: list[list[list[_Found]]],
    to_beat: Float64Array,
    row: Ids,
    cost: Float64Array,
    step: int,
    options: SearchOptions,
) -> None:
    """Keeps the captions that end at this step if they are among the n best of their group.

    Args:
        ended: The captions kept, changed in place.
        to_beat: Negated score of the n-th best caption of each group, changed in place; (photos, groups).
        row: Photos of the step.
        cost: Costs of the captions that end at this step, inf for other beams; (rows, beams).
        step: The step.
        options: n_best, groups and length_penalty.
    """
    each = options.beam_size // options.groups
    at, beam = np.nonzero(cost < np.inf)
    scaled = cost[at, beam] / (step + 1) ** options.length_penalty
    for photo, which, one in zip(row[at].tolist(), beam.tolist(), scaled.tolist(), strict=True):
        group = which // each
        found = ended[photo][group]
        insort(found, _Found(one, CaptionEnd(step, which, True)))
        del found[options.n_best :]
        if len(found) == options.n_best:
            to_beat[photo, group] = found[-1].scaled


def _found(
    photo: int,
    group: int,
    found: list[_Found],
    log: list[SearchStep],
    costs: list[Float64Array],
    options: SearchOptions,
) -> list[_Found]:
    """Adds unfinished captions to `found`, the finished ones of a photo's group, if there are too few."""
    each = options.beam_size // options.groups
    for step in range(len(log) - 1, -1, -1):
        if len(found) == options.n_best:
            break
        row = log[step].row
        at = int(np.searchsorted(row, photo))
        if at == len(row) or row[at] != photo:
            continue
        cost = costs[step][at, group * each : (group + 1) * each]
        found += [
            _Found(float(cost[i]) / (step + 1) ** options.length_penalty, CaptionEnd(step, group * each + i, False))
            for i in cost.argsort(kind="stable")[: options.n_best - len(found)].tolist()
            if cost[i] < np.inf
        ]
        if found:  # earlier steps hold prefixes of these captions
            break
    return found or [_Found(np.inf, CaptionEnd(-1, 0, False))]


def _best(photo: int, by_group: list[list[_Found]], trace: Trace, options: SearchOptions) -> list[CaptionEnd]:
    """Chooses n distinct captions, the best of each group before any second best; returns the best first."""
    if len(by_group) == 1:
        return [found.place for found in by_group[0]]
    chosen: dict[tuple[int, ...], _Found] = {}
    for ranked in zip_longest(*by_group):
        for found in ranked:
            if found is not None and len(chosen) < options.n_best:
                chosen.setdefault(trace.hypothesis(photo, [found.place]).ids, found)
    finished_first = sorted(chosen.values(), key=lambda found: (not found.place.finished, found.scaled))
    return [found.place for found in finished_first]
