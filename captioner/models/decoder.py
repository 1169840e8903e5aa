"""Which word comes next: an LSTM that reads the previous word and, where it attends, what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from captioner.config import ModelConfig
from captioner.models.attention import Glance, HardAttention, SoftAttention
from captioner.models.draws import draw
from captioner.models.dropout import Dropout
from captioner.models.recurrence import pack, recur

_EVEN = 64  # rows


class Encoded(NamedTuple):
    """A batch of photos as the decoder starts from them."""

    hidden: Tensor  # (photos, layers, units)
    cell: Tensor  # (photos, layers, units)
    regions: Tensor | None = None  # (photos, regions, channels); None for a decoder that does not attend
    keys: Tensor | None = None  # (photos, regions, attention); the same


class Teacher(NamedTuple):
    """What the decoder says to captions it is given, one row a word that is not padding; a caption's are in order."""

    logits: Tensor  # (words, vocabulary)
    targets: Tensor  # int64 (words,)
    attended: Tensor | None  # (photos, captions, regions): alpha summed over the words of a caption
    lengths: Tensor  # int64 (photos, captions): words of each caption, END counted
    caption: Tensor  # int64 (words,): photo * captions + caption, of each word
    glance_log_prob: Tensor | None = None  # (photos, captions): of the regions drawn, summed over a caption's words
    entropy: Tensor | None = None  # (photos, captions): of hard attention's choices, in nats, summed likewise


def _gates(inputs: int, units: int) -> nn.Linear:
    """The input's share of an LSTM's gates i, f, g, o; one that remembers by default (Jozefowicz et al., 2015)."""
    gates = nn.Linear(inputs, 4 * units)
    with torch.no_grad():
        gates.bias[units : 2 * units] = 1.0
    return gates


class CaptionDecoder(nn.Module):
    """LSTM, with attention or without, and a deep output layer (Xu et al., 2015, equations 1 to 7).

    Args:
        config: its sizes, and how it attends. The top one of several layers asks the attention.
        vocabulary: number of pieces.

    With `tie_words` the output layer's matrix is the embedding's (Press and Wolf, 2017); both are in the same space
    here, for equation 7 adds the embedded word to what is projected on the vocabulary.
    """

    def __init__(self, config: ModelConfig, vocabulary: int) -> None:
        super().__init__()
        channels, units, embedding, layers = config.projection, config.units, config.embedding, config.layers
        self.units, self.layers = units, layers
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.attention: SoftAttention | None = None
        if config.attends:
            attention = HardAttention if config.decoder == "hard-attention" else SoftAttention
            self.attention = attention(channels, units, config.attention, gate=config.gate)
        # the first layer's input is split by what it depends on: words are known in advance when a teacher gives them
        self.word_gates = _gates(embedding, units)
        self.context_gates = nn.Linear(channels, 4 * units, bias=False) if config.attends else None
        self.hidden_gates = nn.ModuleList(nn.Linear(units, 4 * units, bias=False) for _ in range(layers))
        self.below_gates = nn.ModuleList(_gates(units, units) for _ in range(layers - 1))
        self.output_hidden = nn.Linear(units, embedding)
        self.output_context = nn.Linear(channels, embedding, bias=False) if config.attends else None
        self.output = nn.Linear(embedding, vocabulary)
        self.dropout = Dropout(config.dropout)
        nn.init.normal_(self.embedding.weight, std=0.1)
        if config.tie_words:
            self.output.weight = self.embedding.weight

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
        """One step; hidden and cell hold a layer each, (photos, beams, units)."""
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
        """Equation 7: the word before, the hidden state and, where there is one, the context each have a say."""
        said = word + self.output_hidden(hidden)
        if self.output_context is not None and context is not None:
            said = said + self.output_context(context)
        logits: Tensor = self.output(self.dropout(said))
        return logits

    def read_photo(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        """Read a photo as if it were the first word (Vinyals et al., 2015, equation 10), from a state of zeros.

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
        """Read one word a beam.

        Args:
            token: int64 (photos, beams), the words just said.
            hidden, cell: (photos, beams, layers, units).
            regions, keys: (photos, regions, channels) and (photos, regions, attention), where the decoder attends.

        Returns:
            logits (photos, beams, vocabulary), hidden and cell as given, alpha (photos, beams, regions) or None.
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
        """Read given captions, every word predicted from the true ones before it.

        Args:
            encoded: the photos.
            tokens: int64 (photos, captions, 1 + length): START, words, END, then `pad`.
            pad: id of the padding.
            read: the same captions with some words hidden; what is read, while `tokens` are what is to be said.
            sampling: share of the words read, START aside, that are drawn from what the model itself said before them
                (scheduled sampling, Bengio et al., 2015).
            unsaid: (vocabulary,), added to the logits that words are drawn from: -inf for what is never said.

        What does not depend on the previous step is one matrix product for all steps: the words' share of the gates
        before, unless words are drawn, and the output layer after. Captions end at different times; give each photo's
        longest first, and the columns in which all have ended are not computed.
        """
        inputs, targets = (tokens if read is None else read)[:, :, :-1], tokens[:, :, 1:]
        said = targets != pad  # (photos, captions, length)
        if type(self.attention) is SoftAttention and self.layers == 1 and not sampling:
            return self._teach_at_once(self.attention, encoded, inputs, targets, said)
        # the last column still speaking, at every step
        columns = (said.any(0) * torch.arange(1, said.shape[1] + 1, device=said.device)[:, None]).amax(0).tolist()
        number = torch.arange(said[:, :, 0].numel(), device=said.device).view(said.shape[:2])
        drawn = self.attention.which_draw(number) if self.attention else None
        embedded = None if sampling else self.dropout(self.embedding(inputs))
        # cut apart at once: the gradient of a cut within the loop would be a whole tensor at every step
        words = None if embedded is None else embedded.unbind(2)
        word_gates = None if embedded is None else self.word_gates(embedded).unbind(2)
        hidden = [layer.unsqueeze(1).expand(-1, said.shape[1], -1) for layer in encoded.hidden.unbind(1)]
        # sums over many steps stay in full precision, also under autocast
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
        logits = self._logits(torch.cat(every_word), torch.cat(every_hidden), torch.cat(seen) if seen else None)
        log_prob, entropy = (None, None) if choice is None else choice.unbind(2)
        return Teacher(logits, torch.cat(spoken), attended, said.sum(2), torch.cat(caption), log_prob, entropy)

    def _teach_at_once(
        self, attention: SoftAttention, encoded: Encoded, inputs: Tensor, targets: Tensor, said: Tensor
    ) -> Teacher:
        """As `teach`, of one layer and soft attention, and faster; see `captioner.models.recurrence`."""
        assert encoded.regions is not None
        assert encoded.keys is not None
        assert self.context_gates is not None
        (recurrent,) = (layer.weight for layer in self.hidden_gates if isinstance(layer, nn.Linear))
        packed = pack(said)
        word = self.dropout(self.embedding(inputs.flatten()[packed.words]))
        words = len(word)
        hidden, context, attended = recur(
            self.word_gates(_even(word))[:words],
            encoded.hidden[:, 0],
            encoded.cell[:, 0],
            encoded.regions,
            encoded.keys,
            packed,
            recurrent,
            self.context_gates.weight,
            attention.query.weight,
            attention.score.weight,
            attention.gate.weight if attention.gate else None,
            attention.gate.bias if attention.gate else None,
        )
        logits = self._logits(*map(_even, (word, hidden, context)))[:words]
        attended = torch.cat([attended, torch.zeros_like(attended[:1])])[packed.rows].view(*said.shape[:2], -1)
        return Teacher(logits, targets.flatten()[packed.words], attended, said.sum(2), packed.words // said.shape[2])

    @torch.no_grad()
    def _say(self, word: Tensor, hidden: Tensor, context: Tensor | None, unsaid: Tensor | None) -> Tensor:
        """Draw the next word of each caption, int64 (photos, columns)."""
        logits = self._logits(word, hidden, context)
        return draw(logits if unsaid is None else logits + unsaid)


def pad_captions(captions: Sequence[Sequence[Sequence[int]]], pad: int) -> Tensor:
    """Captions of several photos to one tensor, int64 (photos, captions, length), filled up with `pad`.

    A photo with fewer captions than the others gets empty ones: all padding.
    """
    most = max(len(photo) for photo in captions)
    longest = max(len(caption) for photo in captions for caption in photo)
    tokens = np.full((len(captions), most, longest), pad, np.int64)
    for i, photo in enumerate(captions):
        for j, caption in enumerate(photo):
            tokens[i, j, : len(caption)] = caption
    return torch.from_numpy(tokens)


def _even(rows: Tensor) -> Tensor:
    """Adds rows of zeros up to a multiple of 64 under a CPU's autocast.

    oneDNN compiles a bf16 product for every number of rows that it meets, which takes as long as computing it, and
    keeps hundreds of kilobytes for each.
    """
    if not torch.is_autocast_enabled("cpu"):
        return rows
    return nn.functional.pad(rows, (0, 0, 0, -len(rows) % _EVEN))


def _zeros(like: Tensor, said: Tensor, values: int) -> Tensor:
    return like.new_zeros(*said.shape[:2], values)


def _cut(tensor: Tensor | None, columns: int) -> Tensor | None:
    return None if tensor is None else tensor[:, :columns]


def _added(total: Tensor | None, step: Tensor | None, speaking: Tensor) -> Tensor | None:
    """Sums over a caption's words (photos, captions, values), and one word more of those that still speak."""
    if total is None or step is None:
        return total
    step = step * speaking.unsqueeze(2)
    return total + nn.functional.pad(step, (0, 0, 0, total.shape[1] - step.shape[1]))
