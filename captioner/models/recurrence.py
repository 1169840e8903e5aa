"""What an attending LSTM does with captions it is given, all steps as one function with its own gradient.

Autograd would add every step's share to the weights' gradients, each the product of a thin matrix, and copy whole
tensors to cut a step out of them. Here the gradients of all steps are kept and multiplied once, as cuDNN does it for an
LSTM without attention; and captions are sorted by length, so that what has ended is not computed. The attention's
tanh, most of what is left, is 2 sigmoid(2x) - 1, for PyTorch computes a sigmoid faster on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Packed(NamedTuple):
    """Captions as rows, longest first; their words step by step, as `pack_padded_sequence` has them."""

    photo: Tensor  # int64 (rows,): whose caption a row is
    place: Tensor  # int64 (rows,): photo * captions + caption
    counts: list[int]  # of each step, how many rows still speak: never more than the step before
    words: Tensor  # int64 (words,): photo * captions * length + caption * length + t, of each word
    rows: Tensor  # int64 (photos * captions,): row of each caption; of one without words, a row past the last


def pack(said: Tensor) -> Packed:
    """From bool (photos, captions, length): which words there are; a caption's are its first."""
    photos, captions, length = said.shape
    lengths = said.sum(2).flatten()
    order = lengths.argsort(descending=True, stable=True)
    order = order[: int((lengths > 0).sum())]
    speaking = said.flatten(0, 1)[order].t()  # (length, rows)
    counts = [count for count in speaking.sum(1).tolist() if count]
    step, row = speaking.nonzero(as_tuple=True)
    words = order[row] * length + step
    rows = torch.full((photos * captions,), len(order), device=said.device)
    rows[order] = torch.arange(len(order), device=said.device)
    return Packed(order // captions, order, counts, words, rows)


def recur(
    word_gates: Tensor,
    hidden: Tensor,
    cell: Tensor,
    regions: Tensor,
    keys: Tensor,
    packed: Packed,
    recurrent: Tensor,
    context_gates: Tensor,
    query: Tensor,
    score: Tensor,
    gate: Tensor | None = None,
    gate_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft attention and one LSTM layer over all words (Xu et al., 2015, equations 1 to 6 and 13).

    Args:
        word_gates: (words, 4 * units), the words' share of the gates i, f, g, o, with its bias.
        hidden, cell: (photos, units), what every caption starts from.
        regions, keys: (photos, regions, channels) and (photos, regions, attention).
        packed: which word is whose.
        recurrent, context_gates: weights (4 * units, units) and (4 * units, channels).
        query, score: weights (attention, units) and (1, attention).
        gate, gate_bias: (channels, units) and (channels,), where attention has the gate beta.

    Returns:
        hidden (words, units), context (words, channels), and alpha summed over each row's words (rows, regions).
    """
    device = word_gates.device.type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    # products of weights alone are in half precision where autocast asks for it, and nothing that is summed up
    with torch.autocast(device, enabled=False):
        states = (word_gates, hidden, cell, regions, keys)
        out: tuple[Tensor, Tensor, Tensor] = _Recurrence.apply(
            *(state if half is None else state.float() for state in states),
            packed.photo,
            packed.place,
            len(packed.rows),
            packed.counts,
            torch.cat([recurrent, query] if gate is None else [recurrent, query, gate]),
            context_gates,
            score,
            gate_bias,
            half,
        )
    return out


class _Recurrence(torch.autograd.Function):
    """What begins with `of_` is of one step, the rest of all; `asking` is all that looks at the hidden state.

    At first all captions of a photo look the same way, and only the words they read are their own: the photos look
    once, not the captions. These first looks come after all words, so that without a copy the first rows of a tensor
    are those of words, and what is left without the first step's words those of looks.
    """

    @staticmethod
    def forward(
        ctx: Any,
        word_gates: Tensor,
        hidden: Tensor,
        cell: Tensor,
        regions: Tensor,
        keys: Tensor,
        photo: Tensor,
        place: Tensor,
        places: int,
        counts: Sequence[int],
        asking: Tensor,
        context_gates: Tensor,
        score: Tensor,
        gate_bias: Tensor | None,
        half: torch.dtype | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        words, units, attention = len(word_gates), hidden.shape[1], keys.shape[2]
        four, asked, rows = 4 * units, 4 * units + attention, words + len(keys)
        first_keys = 2 * keys
        own_keys, first_cell = first_keys.index_select(0, photo), cell.index_select(0, photo)
        asking, context_gates = (weight if half is None else weight.to(half) for weight in (asking, context_gates))
        scratch, twice = torch.empty_like(max(own_keys, first_keys, key=len)), 2 * score[0]
        grid = keys.new_zeros(places, keys.shape[1])
        queries, alphas = keys.new_empty(rows, 1, attention), keys.new_empty(rows, keys.shape[1])
        befores, seen = hidden.new_empty(rows, units), regions.new_empty(rows, regions.shape[2])
        betas = None if gate_bias is None else torch.empty_like(seen)
        contexts = seen if betas is None else torch.empty_like(seen)
        gates, hiddens, cells = torch.empty_like(word_gates), *(hidden.new_empty(words, units) for _ in range(2))
        attended, cell = keys.new_empty(len(photo), keys.shape[1]), first_cell
        for step, look in _steps(counts, words, len(keys)):
            count, first = step.stop - step.start, look.start == words
            befores[look] = hidden if first else hidden[:count]
            says = _product(befores[look], asking.t())
            torch.mul(says[:, None, four:asked], 2, out=queries[look])
            of_keys = first_keys if first else own_keys[:count]
            bent = torch.add(of_keys, queries[look], out=scratch[: len(of_keys)]).sigmoid_()  # (1 + tanh) / 2
            of_alpha = torch.softmax(torch.matmul(bent, twice), dim=1, out=alphas[look])
            if first:
                torch.index_select(of_alpha, 0, photo, out=attended)
                torch.bmm(of_alpha.unsqueeze(1), regions, out=seen[look].unsqueeze(1))
            else:
                attended[:count] += of_alpha
                grid.index_copy_(0, place[:count], of_alpha)
                of_grid = torch.bmm(grid.view(len(regions), -1, grid.shape[1]), regions).flatten(0, 1)
                torch.index_select(of_grid, 0, place[:count], out=seen[look])
            if betas is not None and gate_bias is not None:
                of_beta = torch.add(says[:, asked:], gate_bias, out=betas[look]).sigmoid_()
                torch.mul(of_beta, seen[look], out=contexts[look])
            share = _product(contexts[look], context_gates.t()).add_(says[:, :four])
            if first:
                share = share.index_select(0, photo)
                torch.index_select(contexts[look], 0, photo, out=contexts[step])
            of_gates = torch.add(share, word_gates[step], out=gates[step])
            of_gates[:, : 2 * units].sigmoid_()
            i, f, g, o = of_gates.chunk(4, dim=1)
            _tanh(g, out=g)
            o.sigmoid_()
            cell = torch.mul(f, cell[:count], out=cells[step]).addcmul_(i, g)
            hidden = torch.mul(o, _tanh(cell), out=hiddens[step])
        ctx.counts, ctx.places = counts, places
        ctx.save_for_backward(
            photo, place, first_cell, regions, first_keys, own_keys, queries, alphas, gates, befores, cells, seen,
            contexts, betas, asking, context_gates, score,
        )  # fmt: skip
        return hiddens, contexts[:words], attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hiddens: Tensor, d_contexts: Tensor, d_attended: Tensor) -> tuple[Tensor | None, ...]:
        (
            photo, place, first_cell, regions, first_keys, own_keys, queries, alphas, gates, befores, cells, seen,
            contexts, betas, asking, context_gates, score,
        ) = ctx.saved_tensors  # fmt: skip
        sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
        words, units, attention, photos = len(gates), cells.shape[1], score.shape[1], len(regions)
        four, asked = 4 * units, 4 * units + attention
        d_says = gates.new_empty(len(seen), len(asking))
        d_seen = torch.empty_like(seen)
        d_hidden, d_cell = torch.zeros_like(first_cell), torch.zeros_like(first_cell)
        most = max(own_keys, first_keys, key=len)
        scratch, slopes, d_keys = torch.empty_like(most), torch.empty_like(most), torch.zeros_like(own_keys)
        d_score, fourfold, bent_cells = torch.zeros_like(score[0]), 4 * score[0], _tanh(cells)
        grid = seen.new_zeros(ctx.places, seen.shape[1])
        columns = regions.transpose(1, 2)
        steps = _steps(ctx.counts, words, photos)
        before_cells = [first_cell, *(cells[step] for step, _ in steps[:-1])]
        for (step, look), before in reversed(list(zip(steps, before_cells, strict=True))):
            count, first = step.stop - step.start, look.start == words
            i, f, g, o = gates[step].chunk(4, dim=1)
            of_hidden, of_cell, of_says = d_hidden[:count].add_(d_hiddens[step]), d_cell[:count], d_says[look]
            of_cell += tanh_backward(of_hidden * o, bent_cells[step])
            d_i, d_f, d_g, d_o = d_says[step, :four].chunk(4, dim=1)
            sigmoid_backward.grad_input(of_cell * g, i, grad_input=d_i)
            sigmoid_backward.grad_input(of_cell * before[:count], f, grad_input=d_f)
            tanh_backward.grad_input(of_cell * i, g, grad_input=d_g)
            sigmoid_backward.grad_input(of_hidden * bent_cells[step], o, grad_input=d_o)
            of_cell *= f
            d_context, d_alphas = d_contexts[step], d_attended[:count]
            if first:
                of_says[:, :four] = _summed(d_says[step, :four], photo, photos)
                d_context, d_alphas = _summed(d_context, photo, photos), _summed(d_alphas, photo, photos)
            of_context = _product(of_says[:, :four], context_gates)
            if betas is None:
                of_seen = torch.add(of_context, d_context, out=d_seen[look])
            else:
                of_context += d_context
                of_gate = of_context * seen[look]
                sigmoid_backward.grad_input(of_gate, betas[look], grad_input=of_says[:, asked:])
                of_seen = torch.mul(of_context, betas[look], out=d_seen[look])
            if first:
                d_alpha = torch.bmm(of_seen.unsqueeze(1), columns).squeeze(1)
            else:
                grid.index_copy_(0, place[:count], of_seen)
                of_grid = torch.bmm(grid.view(photos, -1, grid.shape[1]), columns).flatten(0, 1)
                d_alpha = of_grid.index_select(0, place[:count])
            d_alpha += d_alphas
            of_scores = torch.ops.aten._softmax_backward_data(d_alpha, alphas[look], 1, alphas.dtype)
            # computed again: what it takes is less than what it would take to keep it, of every step, in memory
            of_keys = first_keys if first else own_keys[:count]
            bent = torch.add(of_keys, queries[look], out=scratch[: len(of_keys)]).sigmoid_()
            slope = torch.addcmul(bent, bent, bent, value=-1, out=slopes[: len(of_keys)])  # a fourth of tanh's
            of_queries = torch.bmm(of_scores.unsqueeze(1), slope).squeeze(1)
            torch.mul(of_queries, fourfold, out=of_says[:, four:asked])
            d_score.addmv_(bent.view(-1, attention).t(), of_scores.view(-1))
            if first:
                d_first, d_photo_keys = _product(of_says, asking), slope.mul_(of_scores.unsqueeze(2))
            else:
                d_hidden[:count] = _product(of_says, asking)
                d_keys[:count].addcmul_(slope, of_scores.unsqueeze(2))
        # of each look, first the words' after the first step, then the photos'
        looks = slice(len(photo), None)
        looker = torch.cat([*(photo[:count] for count in ctx.counts[1:]), torch.arange(photos, device=photo.device)])
        return (
            d_says[:words, :four],
            d_first,
            _summed(d_cell, photo, photos),
            _outer(alphas[looks], d_seen[looks], looker, photos),
            d_photo_keys.index_add_(0, photo, d_keys).mul_(fourfold),
            None,
            None,
            None,
            None,
            _product(d_says[looks].t(), befores[looks], asking.dtype),
            _product(d_says[looks, :four].t(), contexts[looks], asking.dtype),
            2 * d_score.unsqueeze(0),  # the sum of what reaches the scores through softmax is nothing
            None if betas is None else d_says[looks, asked:].sum(0),
            None,
        )


def _tanh(x: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.sigmoid(2 * x, out=out).mul_(2).sub_(1)


def _product(left: Tensor, right: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """A matrix product in the precision given, or in that of `right`; the result is as precise as `left`."""
    precision = precision or right.dtype
    return torch.mm(left.to(precision), right.to(precision)).to(left.dtype)


def _slices(counts: Sequence[int]) -> list[slice]:
    """Where each step's words are."""
    ends = [0, *accumulate(counts)]
    return [slice(first, end) for first, end in pairwise(ends)]


def _steps(counts: Sequence[int], words: int, photos: int) -> list[tuple[slice, slice]]:
    """Where each step's words are, and its looks: the first step's are the photos', after all words."""
    steps = _slices(counts) or [slice(0, 0)]
    return list(zip(steps, [slice(words, words + photos), *steps[1:]], strict=True))


def _summed(rows: Tensor, photo: Tensor, photos: int) -> Tensor:
    """Of each photo the sum of its captions' rows."""
    return rows.new_zeros(photos, rows.shape[1]).index_add_(0, photo, rows)


def _outer(alphas: Tensor, d_seen: Tensor, photo: Tensor, photos: int) -> Tensor:
    """Sum over each photo's looks of alpha times the gradient of what was seen: (photos, regions, channels)."""
    order = photo.argsort(stable=True)
    each = torch.bincount(photo, minlength=photos)
    place = torch.empty_like(photo)
    place[order] = torch.arange(len(photo), device=photo.device) - (each.cumsum(0) - each)[photo[order]]
    most = int(each.max())
    left = alphas.new_zeros(photos, most, alphas.shape[1])
    right = d_seen.new_zeros(photos, most, d_seen.shape[1])
    left[photo, place], right[photo, place] = alphas, d_seen
    return torch.bmm(left.transpose(1, 2), right)
