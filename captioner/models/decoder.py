"""The decoder: an LSTM that predicts the next word from the previous word and, with attention, from image regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from captioner.config import ModelConfig
from captioner.models.attention import Glance, HardAttention, SoftAttention, TwoLayerAttention, draw
from captioner.models.dropout import Dropout

_EVEN = 64  # rows


class Encoded(NamedTuple):
    """The decoder's initial state and context for a batch of photos."""

    hidden: Tensor  # (photos, layers, units)
    cell: Tensor  # (photos, layers, units)
    regions: Tensor | None = None  # (photos, regions, channels); None without attention
    keys: Tensor | None = None  # (photos, regions, attention); None without attention


class Teacher(NamedTuple):
    """Predictions for given captions: one row per word that is not padding, a caption's words in order."""

    logits: Tensor  # (words, vocabulary)
    targets: Tensor  # int64 (words,)
    attended: Tensor | None  # (photos, captions, regions): alpha, summed over the words of a caption
    lengths: Tensor  # int64 (photos, captions): words of each caption, END included
    caption: Tensor  # int64 (words,): index photo * captions + caption of each word
    glance_log_prob: Tensor | None = None  # (photos, captions): of the drawn regions, summed over words
    entropy: Tensor | None = None  # (photos, captions): of hard attention in nats, summed over words


def _gates(inputs: int, units: int) -> nn.Linear:
    """Returns the input layer of LSTM gates i, f, g, o, with the forget bias at 1 (Jozefowicz et al., 2015)."""
    gates = nn.Linear(inputs, 4 * units)
    with torch.no_grad():
        gates.bias[units : 2 * units] = 1.0
    return gates


class CaptionDecoder(nn.Module):
    """An LSTM with or without attention and with a deep output layer (Xu et al., 2015, equations 1 to 7).

    Args:
        config: sizes, and the types of attention and output layer. The top LSTM layer queries the attention.
        channels: length of a region vector.
        vocabulary: number of pieces.

    With `tie_words` the output layer shares the embedding's matrix (Press and Wolf, 2017). Both are in the same space,
    because equation 7 adds the embedded word to the vector that is projected to the vocabulary.
    """

    def __init__(self, config: ModelConfig, channels: int, vocabulary: int) -> None:
        super().__init__()
        units, embedding, layers = config.units, config.embedding, config.layers
        self.units, self.layers = units, layers
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.attention = self.build_attention(config, channels) if config.attends else None
        # the first layer's input is split by source, because the words of given captions are known in advance
        self.word_gates = _gates(embedding, units)
        self.context_gates = nn.Linear(channels, 4 * units, bias=False) if config.attends else None
        self.hidden_gates = nn.ModuleList(nn.Linear(units, 4 * units, bias=False) for _ in range(layers))
        self.below_gates = nn.ModuleList(_gates(units, units) for _ in range(layers - 1))
        deep = config.output == "deep"
        self.output_hidden = nn.Linear(units, embedding) if deep else None
        self.output_context = nn.Linear(channels, embedding, bias=False) if deep and config.attends else None
        self.output = nn.Linear(embedding if deep else units, vocabulary)
        self.rectifies = config.output == "relu"
        self.dropout = Dropout(config.dropout)
        nn.init.normal_(self.embedding.weight, std=0.1)
        if config.tie_words:
            self.output.weight = self.embedding.weight

    def build_attention(self, config: ModelConfig, channels: int) -> SoftAttention:
        """Builds the attention module; `channels` is the length of a region vector."""
        soft = TwoLayerAttention if config.attention_layers > 1 else SoftAttention
        attention = HardAttention if config.decoder == "hard-attention" else soft
        activation = config.attention_activation
        return attention(channels, config.units, config.attention, gate=config.gate, activation=activation)

    def _look(self, hidden: Tensor, regions: Tensor | None, keys: Tensor | None, drawn: Tensor | None) -> Glance | None:
        if self.attention is None:
            return None
        assert regions is not None
        assert keys is not None
        glance: Glance = self.attention(hidden, regions, keys, drawn)
        return glance

    def _advance(
        self, word_gates: Tensor, hidden: list[Tensor], cell: list[Tensor], glance: Glance | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Runs one step; hidden and cell have one tensor per layer, (photos, beams, units)."""
        gates = word_gates
        if self.context_gates is not None and glance is not None:
            gates = gates + self.context_gates(glance.context)
        for layer, recurrent in enumerate(self.hidden_gates):
            if layer:
                gates = self.below_gates[layer - 1](self.dropout(hidden[layer - 1]))
            i, f, g, o = (gates + recurrent(hidden[layer])).chunk(4, dim=-1)
            new_cell = torch.sigmoid(f) * cell[layer] + torch.sigmoid(i) * torch.tanh(g)
            new_hidden = torch.sigmoid(o) * torch.tanh(new_cell)
            hidden = [*hidden[:layer], new_hidden, *hidden[layer + 1 :]]
            cell = [*cell[:layer], new_cell, *cell[layer + 1 :]]
        return hidden, cell

    def _logits(self, word: Tensor, hidden: Tensor, context: Tensor | None) -> Tensor:
        """Computes logits: equation 7 for a deep output layer, otherwise a projection of the hidden state."""
        if self.output_hidden is None:
            said = hidden.relu() if self.rectifies else hidden
        else:
            said = word + self.output_hidden(hidden)
        if self.output_context is not None and context is not None:
            said = said + self.output_context(context)
        logits: Tensor = self.output(self.dropout(said))
        return logits

    def read_photo(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        """Reads photos as the first word (Vinyals et al., 2015, equation 10), starting from a zero state.

        Args:
            photo: (photos, embedding).

        Returns:
            hidden and cell (photos, layers, units).
        """
        gates = self.word_gates(photo).unsqueeze(1)
        zeros = [torch.zeros_like(gates[..., : self.units])] * self.layers
        hidden, cell = self._advance(gates, zeros, zeros, None)
        return torch.cat(hidden, dim=1), torch.cat(cell, dim=1)

    def step(
        self, token: Tensor, hidden: Tensor, cell: Tensor, regions: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Reads one word per beam.

        Args:
            token: int64 (photos, beams), the last words.
            hidden, cell: (photos, beams, layers, units).
            regions, keys: (photos, regions, channels) and (photos, regions, attention), if the decoder has attention.

        Returns:
            logits (photos, beams, vocabulary), the new hidden and cell, and alpha (photos, beams, regions) or None.
        """
        word = self.embedding(token)
        before = list(hidden.unbind(2))
        glance = self._look(before[-1], regions, keys, None)
        new_hidden, new_cell = self._advance(self.word_gates(word), before, list(cell.unbind(2)), glance)
        logits = self._logits(word, new_hidden[-1], glance.context if glance else None)
        alpha = glance.alpha if glance else None
        return logits, torch.stack(new_hidden, dim=2), torch.stack(new_cell, dim=2), alpha

    def teach(
        self,
        encoded: Encoded,
        tokens: Tensor,
        pad: int,
        read: Tensor | None = None,
        sampling: float = 0.0,
        unsaid: Tensor | None = None,
    ) -> Teacher:
        """Predicts each word of given captions from the correct words before it.

        Args:
            encoded: the photos.
            tokens: int64 (photos, captions, 1 + length): START, words, END, then `pad`; the longest caption of each
                photo first, because columns whose captions have all ended are not computed.
            pad: id of the padding.
            read: the same captions with some words hidden, as input; `tokens` are the targets.
            sampling: share of the input words after START that are drawn from the model's own predictions (scheduled
                sampling, Bengio et al., 2015).
            unsaid: (vocabulary,), added to the logits of such draws: -inf for pieces that are never drawn.

        Everything that does not depend on the previous step is one matrix product for all steps: the word part of the
        gates before the loop, unless words are drawn, and the output layer after it.
        """
        inputs, targets = (tokens if read is None else read)[:, :, :-1], tokens[:, :, 1:]
        said = targets != pad  # (photos, captions, length)
        # the number of columns with unfinished captions, at every step
        columns = (said.any(0) * torch.arange(1, said.shape[1] + 1, device=said.device)[:, None]).amax(0).tolist()
        number = torch.arange(said[:, :, 0].numel(), device=said.device).view(said.shape[:2])
        drawn = self.attention.which_draw(number) if self.attention else None
        embedded = None if sampling else self.dropout(self.embedding(inputs))
        # unbound once, because a slice in the loop would have a gradient of the full tensor at every step
        words = None if embedded is None else embedded.unbind(2)
        word_gates = None if embedded is None else self.word_gates(embedded).unbind(2)
        hidden = [layer.unsqueeze(1).expand(-1, said.shape[1], -1) for layer in encoded.hidden.unbind(1)]
        # the cell sums over many steps, so it stays in full precision under autocast
        cell = [layer.float().unsqueeze(1).expand(-1, said.shape[1], -1) for layer in encoded.cell.unbind(1)]
        attended = None if encoded.regions is None else _zeros(encoded.regions, said, encoded.regions.shape[1])
        choice = None if drawn is None else _zeros(hidden[-1].float(), said, 2)
        word = context = None
        kept: list[tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]] = []
        for t, column in enumerate(columns):
            if column == 0:
                break
            if words is None or word_gates is None:
                token = inputs[:, :column, t]
                if word is not None:
                    own = self._say(word[:, :column], hidden[-1][:, :column], _cut(context, column), unsaid)
                    token = own.where(torch.rand(token.shape, device=token.device) < sampling, token)
                word = self.dropout(self.embedding(token))
                gates = self.word_gates(word)
            else:
                word, gates = words[t][:, :column], word_gates[t][:, :column]
            hidden, cell = ([layer[:, :column] for layer in state] for state in (hidden, cell))
            glance = self._look(hidden[-1], encoded.regions, encoded.keys, _cut(drawn, column))
            hidden, cell = self._advance(gates, hidden, cell, glance)
            context = glance.context if glance else None
            speaking = said[:, :column, t]
            if glance is not None:
                attended = _added(attended, glance.alpha, speaking)
                choice = _added(choice, glance.choice, speaking)
            kept.append(
                (
                    word[speaking],
                    hidden[-1][speaking],
                    None if context is None else context[speaking],
                    targets[:, :column, t][speaking],
                    number[:, :column][speaking],
                )
            )
        every_word, every_hidden, contexts, spoken, caption = zip(*kept, strict=True)
        seen = [context for context in contexts if context is not None]
        output = [_even(torch.cat(rows)) if rows else None for rows in (every_word, every_hidden, seen)]
        right = torch.cat(spoken)
        logits = self._logits(*output)[: len(right)]  # type: ignore[arg-type] # only the context may be None
        log_prob, entropy = (None, None) if choice is None else choice.unbind(2)
        return Teacher(logits, right, attended, said.sum(2), torch.cat(caption), log_prob, entropy)

    @torch.no_grad()
    def _say(self, word: Tensor, hidden: Tensor, context: Tensor | None, unsaid: Tensor | None) -> Tensor:
        """Draws the next word of each caption, int64 (photos, columns)."""
        logits = self._logits(word, hidden, context)
        return draw(logits if unsaid is None else logits + unsaid)


def pad_captions(captions: Sequence[Sequence[Sequence[int]]], pad: int) -> Tensor:
    """Converts captions of several photos to one tensor, int64 (photos, captions, length), padded with `pad`.

    A photo with fewer captions than the others gets captions that are all padding.
    """
    most = max(len(photo) for photo in captions)
    longest = max(len(caption) for photo in captions for caption in photo)
    tokens = np.full((len(captions), most, longest), pad, np.int64)
    for i, photo in enumerate(captions):
        for j, caption in enumerate(photo):
            tokens[i, j, : len(caption)] = caption
    return torch.from_numpy(tokens)


def _even(rows: Tensor) -> Tensor:
    """Pads with rows of zeros to a multiple of 64 under CPU autocast.

    oneDNN compiles a bf16 product for each number of rows, which takes as long as the product itself and keeps hundreds
    of kilobytes in memory.
    """
    if not torch.is_autocast_enabled("cpu"):
        return rows
    return nn.functional.pad(rows, (0, 0, 0, -len(rows) % _EVEN))


def _zeros(like: Tensor, said: Tensor, values: int) -> Tensor:
    return like.new_zeros(*said.shape[:2], values)


def _cut(tensor: Tensor | None, columns: int) -> Tensor | None:
    return None if tensor is None else tensor[:, :columns]


def _added(total: Tensor | None, step: Tensor | None, speaking: Tensor) -> Tensor | None:
    """Adds the values of one step, (photos, columns, values), to sums over words, (photos, captions, values)."""
    if total is None or step is None:
        return total
    step = step * speaking.unsqueeze(2)
    return total + nn.functional.pad(step, (0, 0, 0, total.shape[1] - step.shape[1]))
