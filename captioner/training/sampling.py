"""Captions drawn from a model, all of a batch at once in torch, to be learnt from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Encoded


class Drawn(NamedTuple):
    """Captions of a batch of photos."""

    tokens: Tensor  # int64 (photos, samples, 1 + length): START, pieces, END unless cut off, padding; longest first
    lengths: Tensor  # int64 (photos, samples): pieces, END counted
    ended: Tensor  # bool (photos, samples): whether END was said before `max_length`


@torch.no_grad()
def sample(model: CaptionModel, encoded: Encoded, samples: int, max_length: int, temperature: float) -> Drawn:
    """Draw captions piece by piece, each from what the model says of the photo and of the pieces before it.

    Args:
        model: as it is, in eval mode or with dropout.
        encoded: the photos.
        samples: captions a photo.
        max_length: most pieces of a caption, END counted.
        temperature: log-probabilities are divided by it; 0 takes the likeliest piece, as `caprun`'s greedy search does.

    A caption that has ended is not computed on: what a photo still says is moved to its first places, and photos that
    are silent are left out.
    """
    end, photos = model.special.end, len(encoded.hidden)
    device = encoded.hidden.device
    tokens = torch.full((photos * samples, 1 + max_length), model.special.pad, device=device)
    tokens[:, 0] = model.special.start
    # which captions the places of the state are of; past the last: of none
    nobody = photos * samples
    owner = torch.arange(nobody, device=device).view(photos, samples)
    hidden, cell = (state.unsqueeze(1).expand(-1, samples, -1, -1) for state in (encoded.hidden, encoded.cell))
    regions, keys = encoded.regions, encoded.keys
    said = torch.full_like(owner, model.special.start)
    for step in range(1, max_length + 1):
        logits, hidden, cell, _ = model.decoder.step(said, hidden, cell, regions, keys)
        logits = logits + model.unsaid
        said = _draw(logits, temperature) if temperature else logits.argmax(-1)
        speaking = owner < nobody
        tokens[owner[speaking], step] = said[speaking]
        speaking &= said != end
        each = speaking.sum(1)
        most = int(each.max())
        if not most:
            break
        # longer captions stay; moving them costs as much as a good part of a step, so it must be worth it
        if most < owner.shape[1] or not bool(each.all()):
            photo = each.nonzero().squeeze(1)
            place = (~speaking[photo]).sort(dim=1, stable=True).indices[:, :most]
            kept = photo[:, None], place
            owner = owner.masked_fill(~speaking, nobody)[kept]
            said, hidden, cell = said[kept], hidden[kept], cell[kept]
            if len(photo) < len(each) and regions is not None and keys is not None:
                regions, keys = regions[photo], keys[photo]
        else:
            owner = owner.masked_fill(~speaking, nobody)
    tokens = tokens.view(photos, samples, -1)
    lengths = (tokens[..., 1:] != model.special.pad).sum(2)
    order = lengths.argsort(dim=1, descending=True, stable=True)
    lengths = lengths.gather(1, order)
    tokens = tokens.gather(1, order.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
    tokens = tokens[..., : 1 + int(lengths.max())]
    return Drawn(tokens, lengths, (tokens == end).any(2))


def _draw(logits: Tensor, temperature: float) -> Tensor:
    """One of the last axis: (..., choices) -> int64 (...).

    By one uniform number a row: random numbers are most of what `captioner.models.draws.draw` costs, which needs one a
    choice. What has no probability is never drawn.
    """
    mass = torch.softmax(logits.float() / temperature, -1).cumsum(-1)
    uniform = torch.rand(*mass.shape[:-1], 1, device=mass.device) * mass[..., -1:]
    # rounding may make it the whole mass, behind which there is nothing
    return torch.searchsorted(mass, uniform, right=True).squeeze(-1).clamp_max_(mass.shape[-1] - 1)
