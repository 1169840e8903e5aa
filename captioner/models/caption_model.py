"""A captioner: an encoder, and a decoder that starts from what it saw."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caprun.vocabulary import Special
from captioner.config import ModelConfig
from captioner.models.decoder import AttentionDecoder, Encoded, Teacher
from captioner.models.encoder import Encoder


class CaptionModel(nn.Module):
    """Show, Attend and Tell (Xu et al., 2015) over a frozen encoder.

    Args:
        encoder: the CNN.
        config: sizes of the decoder.
        vocabulary: number of pieces.
        special: ids of the pieces that are not words.

    The initial hidden and cell states are a layer each over the mean region (section 3.1.2).
    """

    unsaid: Tensor

    def __init__(self, encoder: Encoder, config: ModelConfig, vocabulary: int, special: Special) -> None:
        super().__init__()
        self.encoder = encoder
        self.special = special
        self.word_dropout = config.word_dropout
        unsaid = torch.zeros(vocabulary)
        unsaid[[special.pad, special.start, special.unk]] = -torch.inf
        self.register_buffer("unsaid", unsaid, persistent=False)
        self.project = nn.Sequential(
            nn.Linear(encoder.channels, config.projection), nn.ReLU(), nn.Dropout(config.dropout)
        )
        self.decoder = AttentionDecoder(
            vocabulary,
            config.projection,
            config.embedding,
            config.units,
            config.attention,
            config.layers,
            config.dropout,
            tie_words=config.tie_words,
        )
        self.initial_hidden = nn.Linear(config.projection, config.layers * config.units)
        self.initial_cell = nn.Linear(config.projection, config.layers * config.units)

    def encode(self, images: Tensor) -> Encoded:
        """uint8 (photos, height, width, 3) -> what the decoder starts from."""
        return self.start(self.encoder(images))

    def start(self, features: Tensor) -> Encoded:
        """The encoder's features, float32 (photos, regions, encoder channels) -> what the decoder starts from."""
        regions = self.project(features)
        mean = regions.mean(1)
        shape = (-1, self.decoder.layers, self.decoder.units)
        return Encoded(
            self.initial_hidden(mean).tanh().view(shape),
            self.initial_cell(mean).view(shape),
            regions,
            self.decoder.attention.keys(regions),
        )

    def forward(self, features: Tensor, tokens: Tensor) -> Teacher:
        """Features (photos, regions, channels) and captions (photos, captions, 1 + length) -> what the teacher sees."""
        read = tokens
        if self.training and self.word_dropout:
            # whoever cannot lean on the words before has to look at the photo (Bowman et al., 2016, section 3.1)
            hidden = torch.rand(tokens.shape, device=tokens.device) < self.word_dropout
            words = (tokens != self.special.pad) & (tokens != self.special.start)
            read = tokens.masked_fill(hidden & words, self.special.unk)
        return self.decoder.teach(self.start(features), tokens, self.special.pad, read)

    def candidates(
        self, row: Tensor, parent: Tensor, token: Tensor, encoded: Encoded, k: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One step of search, as `caprun.decoding.Steps` asks for it and as the exported decoder does it.

        Args:
            row: int64 (rows,), photos still being captioned.
            parent: int64 (rows, beams), states to go on from.
            token: int64 (rows, beams), pieces said last.
            encoded: hidden and cell (states, layers, units); regions and keys of all photos.
            k: how many candidates; a scalar tensor while a graph is traced.

        Returns:
            log_prob and candidate (rows, beams, k), hidden and cell (rows x beams, layers, units), alpha (rows,
            beams, regions). PAD, START and UNK are no candidates: the others' probabilities sum to one.
        """
        # index_select, for it exports as the plain Gather that indexing with a tensor does not
        states = (encoded.hidden, encoded.cell)
        hidden, cell = (s.index_select(0, parent.flatten()).view(*parent.shape, *s.shape[1:]) for s in states)
        regions, keys = (context.index_select(0, row) for context in (encoded.regions, encoded.keys))
        logits, hidden, cell, alpha = self.decoder.step(token, hidden, cell, regions, keys)
        log_prob, candidate = torch.topk(torch.log_softmax(logits + self.unsaid, dim=2), k, dim=2)  # type: ignore[arg-type]
        return log_prob, candidate, hidden.flatten(0, 1), cell.flatten(0, 1), alpha
