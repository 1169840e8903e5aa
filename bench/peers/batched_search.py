"""Batched beam search in PyTorch that stays on the device, written for speed.

Weights and activations have the same precision; normalisation, scores and log-probabilities are float32. Images are in
channels-last order. The attention's keys are computed once and shared by the beams of a photo. The search waits for the
device once per step, to decide whether to continue. Shapes are the same at every step, so `torch.compile` compiles two
functions per batch size: the encoder and a step. Scores and the end of the search are those of
`caprun.search.decoding.search`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from caprun import SearchOptions
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Encoded


class BatchedCaptioner:
    """Captions batches with a model with soft attention or without attention.

    Args:
        model: a model in eval mode on its device; it is converted to `dtype`.
        dtype: precision of weights and activations.
        compiled: whether `torch.compile` compiles the encoder and the step.
    """

    def __init__(self, model: CaptionModel, dtype: torch.dtype, *, compiled: bool) -> None:
        encoder = model.encoder
        self._scale, self._shift = encoder.scale.float(), encoder.shift.float()
        self._model, self._dtype = model.to(dtype), dtype
        encoder.features.to(memory_format=torch.channels_last)
        compile_: Callable[[Any], Any] = torch.compile(dynamic=False) if compiled else lambda function: function
        self._encode, self._step = compile_(self._encode_photos), compile_(self._take_step)

    def _encode_photos(self, images: Tensor) -> Encoded:
        """Encodes images, uint8 (photos, height, width, 3), into the initial state and context of the decoder."""
        encoder = self._model.encoder
        pixels = images.permute(0, 3, 1, 2).float() * self._scale + self._shift
        features = encoder.features(pixels.to(self._dtype)).flatten(2).transpose(1, 2)
        return self._model.start(features if encoder.pool is None else torch.matmul(encoder.pool, features))

    def _take_step(
        self, token: Tensor, hidden: Tensor, cell: Tensor, context: tuple[Tensor | None, ...], total: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Runs a step; returns total, token and parent of the best beams, each (photos, beams), and their states."""
        width = token.shape[1]
        logits, hidden, cell, _ = self._model.decoder.step(token, hidden, cell, *context)
        log_prob = torch.log_softmax(logits.float() + self._model.unsaid.float(), dim=2)
        total, best = (total.unsqueeze(2) + log_prob).flatten(1).topk(width, dim=1)
        beam, token = best // log_prob.shape[2], best % log_prob.shape[2]
        index = beam[:, :, None, None]
        hidden, cell = (torch.take_along_dim(state, index, dim=1) for state in (hidden, cell))
        return total, token, beam, hidden, cell

    @torch.inference_mode()
    def caption(self, images: npt.NDArray[np.uint8], options: SearchOptions) -> list[list[int]]:
        """Captions images, uint8 (photos, height, width, 3); returns the ids of each caption, without START and END."""
        special, width = self._model.special, options.beam_size
        longest, penalty = options.max_length, options.length_penalty
        device, photos = self._scale.device, len(images)
        encoded = self._encode(torch.from_numpy(images).to(device))
        hidden, cell = (state.unsqueeze(1).repeat(1, width, 1, 1) for state in (encoded.hidden, encoded.cell))
        token = torch.full((photos, width), special.start, device=device)
        total = torch.full((photos, width), -torch.inf, device=device)
        total[:, 0] = 0  # all beams start equal, so only one counts
        tokens = torch.full((photos, width, longest), special.end, device=device)
        best_score = torch.full((photos,), -torch.inf, device=device)
        best = tokens[:, 0].clone()
        for step in range(longest):
            context = (encoded.regions, encoded.keys)
            total, token, beam, hidden, cell = self._step(token, hidden, cell, context, total)
            tokens = torch.take_along_dim(tokens, beam.unsqueeze(2), dim=1)
            tokens[:, :, step] = token
            ended = token == special.end
            score, at = (total.masked_fill(~ended, -torch.inf) / (step + 1) ** penalty).max(1)
            better = score > best_score
            best_score = torch.where(better, score, best_score)
            best = torch.where(better[:, None], torch.take_along_dim(tokens, at[:, None, None], dim=1)[:, 0], best)
            total = total.masked_fill(ended, -torch.inf)
            if not (total.amax(1) / longest**penalty > best_score).any():
                break
        # a photo without a finished caption gets its best unfinished one
        unfinished = torch.take_along_dim(tokens, total.argmax(1)[:, None, None], dim=1)[:, 0]
        best = torch.where(torch.isinf(best_score)[:, None], unfinished, best)
        rows: list[list[int]] = best.tolist()
        return [row[: row.index(special.end)] if special.end in row else row for row in rows]
