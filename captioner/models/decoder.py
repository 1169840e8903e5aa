"""Which word comes next: an LSTM that reads the previous word and what the attention saw."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.models.attention import SoftAttention


class Encoded(NamedTuple):
    """A batch of photos as the decoder starts from them."""

    hidden: Tensor  # (photos, layers, units)
    cell: Tensor  # (photos, layers, units)
    regions: Tensor  # (photos, regions, channels)
    keys: Tensor  # (photos, regions, attention)


class Teacher(NamedTuple):
    """What the decoder says to captions it is given, one row a word that is not padding."""

    logits: Tensor  # (words, vocabulary)
    targets: Tensor  # int64 (words,)
    attended: Tensor  # (photos, captions, regions): alpha summed over the words of a caption
    lengths: Tensor  # int64 (photos, captions): words of each caption, END counted


def _gates(inputs: int, units: int) -> nn.Linear:
    """The input's share of an LSTM's gates i, f, g, o; one that remembers by default (Jozefowicz et al., 2015)."""
    gates = nn.Linear(inputs, 4 * units)
    with torch.no_grad():
        gates.bias[units : 2 * units] = 1.0
    return gates


class AttentionDecoder(nn.Module):
    """LSTM with soft attention and a deep output layer (Xu et al., 2015, equations 1 to 7).

    Args:
        vocabulary: number of pieces.
        channels, embedding, units, attention: vector lengths of a region, a word, the LSTM and the attention.
        layers: stacked LSTM layers; the top one asks the attention.
        dropout: share of the embedded word and of the output layer dropped in training.
        tie_words: the output layer's matrix is the embedding's (Press and Wolf, 2017); both are in the same space here,
            for equation 7 adds the embedded word to what is projected on the vocabulary.
    """

    def __init__(
        self,
        vocabulary: int,
        channels: int,
        embedding: int,
        units: int,
        attention: int,
        layers: int,
        dropout: float,
        *,
        tie_words: bool,
    ) -> None:
        super().__init__()
        self.units, self.layers = units, layers
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.attention = SoftAttention(channels, units, attention)
        # the first layer's input is split by what it depends on: words are known in advance when a teacher gives them
        self.word_gates = _gates(embedding, units)
        self.context_gates = nn.Linear(channels, 4 * units, bias=False)
        self.hidden_gates = nn.ModuleList(nn.Linear(units, 4 * units, bias=False) for _ in range(layers))
        self.below_gates = nn.ModuleList(_gates(units, units) for _ in range(layers - 1))
        self.output_hidden = nn.Linear(units, embedding)
        self.output_context = nn.Linear(channels, embedding, bias=False)
        self.output = nn.Linear(embedding, vocabulary)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=0.1)
        if tie_words:
            self.output.weight = self.embedding.weight

    def _advance(
        self, word_gates: Tensor, hidden: list[Tensor], cell: list[Tensor], regions: Tensor, keys: Tensor
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """One step; hidden and cell hold a layer each, (photos, beams, units)."""
        context, alpha = self.attention(hidden[-1], regions, keys)
        gates = word_gates + self.context_gates(context)
        for layer, recurrent in enumerate(self.hidden_gates):
            if layer:
                gates = self.below_gates[layer - 1](self.dropout(hidden[layer - 1]))
            i, f, g, o = (gates + recurrent(hidden[layer])).chunk(4, dim=-1)
            new_cell = torch.sigmoid(f) * cell[layer] + torch.sigmoid(i) * torch.tanh(g)
            new_hidden = torch.sigmoid(o) * torch.tanh(new_cell)
            hidden = [*hidden[:layer], new_hidden, *hidden[layer + 1 :]]
            cell = [*cell[:layer], new_cell, *cell[layer + 1 :]]
        return hidden, cell, context, alpha

    def _logits(self, word: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Equation 7: the word before, the hidden state and the context each have a say."""
        logits: Tensor = self.output(self.dropout(word + self.output_hidden(hidden) + self.output_context(context)))
        return logits

    def step(
        self, token: Tensor, hidden: Tensor, cell: Tensor, regions: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Read one word a beam.

        Args:
            token: int64 (photos, beams), the words just said.
            hidden, cell: (photos, beams, layers, units).
            regions, keys: (photos, regions, channels) and (photos, regions, attention).

        Returns:
            logits (photos, beams, vocabulary), hidden and cell as given, alpha (photos, beams, regions).
        """
        word = self.embedding(token)
        new_hidden, new_cell, context, alpha = self._advance(
            self.word_gates(word), list(hidden.unbind(2)), list(cell.unbind(2)), regions, keys
        )
        logits = self._logits(word, new_hidden[-1], context)
        return logits, torch.stack(new_hidden, dim=2), torch.stack(new_cell, dim=2), alpha

    def teach(self, encoded: Encoded, tokens: Tensor, pad: int, read: Tensor | None = None) -> Teacher:
        """Read given captions, every word predicted from the true ones before it.

        Args:
            encoded: the photos.
            tokens: int64 (photos, captions, 1 + length): START, words, END, then `pad`.
            pad: id of the padding.
            read: the same captions with some words hidden; what is read, while `tokens` are what is to be said.

        What does not depend on the previous step is one matrix product for all steps: the words' share of the gates
        before, the output layer after. Captions end at different times; give each photo's longest first, and the
        columns in which all have ended are not computed.
        """
        inputs, targets = (tokens if read is None else read)[:, :, :-1], tokens[:, :, 1:]
        said = targets != pad  # (photos, captions, length)
        # the last column still speaking, at every step
        columns = (said.any(0) * torch.arange(1, said.shape[1] + 1, device=said.device)[:, None]).amax(0).tolist()
        word = self.dropout(self.embedding(inputs))
        word_gates = self.word_gates(word)
        hidden = [layer.unsqueeze(1).expand(-1, said.shape[1], -1) for layer in encoded.hidden.unbind(1)]
        # sums over many steps stay in full precision, also under autocast
        cell = [layer.float().unsqueeze(1).expand(-1, said.shape[1], -1) for layer in encoded.cell.unbind(1)]
        attended = encoded.regions.new_zeros(*said.shape[:2], encoded.regions.shape[1])
        kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for t, column in enumerate(columns):
            if column == 0:
                break
            hidden, cell, context, alpha = self._advance(
                word_gates[:, :column, t],
                [layer[:, :column] for layer in hidden],
                [layer[:, :column] for layer in cell],
                encoded.regions,
                encoded.keys,
            )
            speaking = said[:, :column, t]
            alpha = alpha * speaking.unsqueeze(2)
            attended = attended + nn.functional.pad(alpha, (0, 0, 0, said.shape[1] - column))
            kept.append(
                (
                    word[:, :column, t][speaking],
                    hidden[-1][speaking],
                    context[speaking],
                    targets[:, :column, t][speaking],
                )
            )
        words, hiddens, contexts, spoken = (torch.cat(parts) for parts in zip(*kept, strict=True))
        return Teacher(self._logits(words, hiddens, contexts), spoken, attended, said.sum(2))
