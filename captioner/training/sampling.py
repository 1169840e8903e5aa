"""Draws captions from a model for training, a whole batch at once in torch."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Encoded


class Drawn(NamedTuple):
    """Drawn captions of a batch of photos."""

    tokens: Tensor  # int64 (photos, samples, 1 + length): START, pieces, END unless cut off, padding; longest first
    lengths: Tensor  # int64 (photos, samples): pieces, END included
    ended: Tensor  # bool (photos, samples): whether END was drawn within `max_length`


def drawable(model: CaptionModel) -> Tensor:
    """Returns (vocabulary,): -inf for pieces never drawn, such as padding, which ends a drawn caption; 0 for others."""
    pad = torch.tensor([model.special.pad], device=model.unsaid.device)
    return model.unsaid.index_fill(0, pad, -math.inf)


@torch.no_grad()
def sample(model: CaptionModel, encoded: Encoded, samples: int, max_length: int, temperature: float) -> Drawn:
    """Draws captions piece by piece, each piece given the photo and the pieces before it.

    Args:
        model: the model, in eval mode or with dropout.
        encoded: the encoded photos.
        samples: captions per photo.
        max_length: maximum number of pieces of a caption, END included.
        temperature: divides log-probabilities; 0 takes the most likely piece, as greedy search does.

    Finished captions cost no more computation: the unfinished captions of a photo move to its first places, and photos
    whose captions are all finished are left out.
    """
    end, photos = model.special.end, len(encoded.hidden)
    device = encoded.hidden.device
    tokens = torch.full((photos * samples, 1 + max_length), model.special.pad, device=device)
    tokens[:, 0] = model.special.start
    # owner: index of the caption at each place of the state; `unused` marks an unused place
    unused = photos * samples
    owner = torch.arange(unused, device=device).view(photos, samples)
    hidden, cell = (state.unsqueeze(1).expand(-1, samples, -1, -1) for state in (encoded.hidden, encoded.cell))
    regions, keys = encoded.regions, encoded.keys
    said, unsaid = torch.full_like(owner, model.special.start), drawable(model)
    for step in range(1, max_length + 1):
        logits, hidden, cell, _ = model.decoder.step(said, hidden, cell, regions, keys)
        logits = logits + unsaid
        said = _draw(logits, temperature) if temperature else logits.argmax(-1)
        speaking = owner < unused
        tokens[owner[speaking], step] = said[speaking]
        speaking &= said != end
        each = speaking.sum(1)
        most = int(each.max())
        if not most:
            break
        # moving the state takes much of a step's time, so it moves only when that frees places
        if most < owner.shape[1] or not bool(each.all()):
            photo = each.nonzero().squeeze(1)
            place = (~speaking[photo]).sort(dim=1, stable=True).indices[:, :most]
            kept = photo[:, None], place
            owner = owner.masked_fill(~speaking, unused)[kept]
            said, hidden, cell = said[kept], hidden[kept], cell[kept]
            if len(photo) < len(each) and regions is not None and keys is not None:
                regions, keys = regions[photo], keys[photo]
        else:
            owner = owner.masked_fill(~speaking, unused)
    tokens = tokens.view(photos, samples, -1)
    lengths = (tokens[..., 1:] != model.special.pad).sum(2)
    order = lengths.argsort(dim=1, descending=True, stable=True)
    lengths = lengths.gather(1, order)
    tokens = tokens.gather(1, order.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
    tokens = tokens[..., : 1 + int(lengths.max())]
    return Drawn(tokens, lengths, (tokens == end).any(2))


def _draw(logits: Tensor, temperature: float) -> Tensor:
    """Draws an index of the last axis: (..., choices) -> int64 (...).

    It needs one uniform number per row; `captioner.models.attention.draw` needs one per choice, which is most of its
    cost. A choice with probability 0 is never drawn.
    """
    mass = torch.softmax(logits.float() / temperature, -1).cumsum(-1)
    uniform = torch.rand(*mass.shape[:-1], 1, device=mass.device) * mass[..., -1:]
    # rounding can yield the total mass, which is past the last choice
    return torch.searchsorted(mass, uniform, right=True).squeeze(-1).clamp_max_(mass.shape[-1] - 1)
