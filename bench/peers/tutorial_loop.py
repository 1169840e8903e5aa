"""The training loop of sgrvinod's a-PyTorch-Tutorial-to-Image-Captioning, on which many repositories are built.

Each row of a batch is one caption. Rows are sorted by length, so that the batch shrinks as captions end. At every step
the attention projects the regions anew, an LSTMCell reads word and context, and the output layer is applied;
`pack_padded_sequence` drops the padding before the loss. The code is our own. So that both sides compute the same
function, it has our layers where the tutorial's differ: a projection of the encoder's features before the loop, tanh in
the attention, and the deep output layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from captioner.models.caption_model import CaptionModel


class Rows(NamedTuple):
    """A batch of the tutorial's loader."""

    features: Tensor  # float32 (rows, regions, channels), repeated for each caption of a photo
    captions: Tensor  # int64 (rows, 1 + length): START, words, END, padding
    lengths: Tensor  # int64 (rows,), START and END included


def rows_of(features: Tensor, tokens: Tensor, pad: int) -> Rows:
    """Makes a row for each caption that is not only padding.

    Args:
        features: float32 (photos, regions, channels).
        tokens: int64 (photos, captions, 1 + length).
        pad: id of the padding.
    """
    rows = tokens.flatten(0, 1)
    lengths = (rows != pad).sum(1)
    there = lengths > 0
    return Rows(features.repeat_interleave(tokens.shape[1], 0)[there], rows[there], lengths[there])


class Attention(nn.Module):
    """Additive attention over the regions of a row."""

    def __init__(self, channels: int, units: int, attention: int) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(channels, attention)
        self.decoder_att = nn.Linear(units, attention, bias=False)
        self.full_att = nn.Linear(attention, 1, bias=False)

    def forward(self, regions: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (rows, regions, channels) and (rows, units) to context (rows, channels) and alpha (rows, regions)."""
        query = self.encoder_att(regions) + self.decoder_att(hidden).unsqueeze(1)
        alpha = torch.softmax(self.full_att(torch.tanh(query)).squeeze(2), dim=1)
        return (regions * alpha.unsqueeze(2)).sum(dim=1), alpha


class TutorialDecoder(nn.Module):
    """The tutorial's decoder: one layer of soft attention with a gate.

    Args:
        model: the model whose weights are copied.
    """

    def __init__(self, model: CaptionModel) -> None:
        super().__init__()
        ours, attention = model.decoder, model.decoder.attention
        vocabulary, embedding = ours.embedding.weight.shape
        channels, units, query = attention.key.in_features, ours.units, attention.key.out_features
        self.project = nn.Linear(model.project[0].in_features, channels)
        self.init_h, self.init_c = nn.Linear(channels, units), nn.Linear(channels, units)
        self.attention = Attention(channels, units, query)
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.decode_step = nn.LSTMCell(embedding + channels, units)
        self.f_beta = nn.Linear(units, channels)
        self.fc_hidden = nn.Linear(units, embedding)
        self.fc_context = nn.Linear(channels, embedding, bias=False)
        self.fc = nn.Linear(embedding, vocabulary)
        self.dropout = nn.Dropout(ours.dropout.share)
        if ours.output.weight is ours.embedding.weight:
            self.fc.weight = self.embedding.weight
        # an LSTMCell adds two biases, where our decoder has one
        self.decode_step.bias_hh.requires_grad_(False).zero_()
        with torch.no_grad():
            for name, values in _by_our_names(self, model.state_dict()).items():
                self.get_parameter(name).copy_(values)

    def forward(self, rows: Rows) -> tuple[Tensor, Tensor, list[int], Tensor]:
        """Returns scores (rows, length, vocabulary), captions, lengths, alphas (rows, length, regions), all sorted."""
        lengths, order = rows.lengths.sort(dim=0, descending=True)
        captions = rows.captions[order]
        regions = self.dropout(torch.relu(self.project(rows.features[order])))
        words = self.dropout(self.embedding(captions))
        mean = regions.mean(dim=1)
        hidden, cell = torch.tanh(self.init_h(mean)), self.init_c(mean)
        decode_lengths = (lengths - 1).tolist()
        longest = max(decode_lengths)
        scores = torch.zeros(len(captions), longest, self.fc.out_features)
        alphas = torch.zeros(len(captions), longest, regions.shape[1])
        for t in range(longest):
            count = sum(length > t for length in decode_lengths)
            hidden, cell, word = hidden[:count], cell[:count], words[:count, t]
            context, alpha = self.attention(regions[:count], hidden)
            context = torch.sigmoid(self.f_beta(hidden)) * context
            hidden, cell = self.decode_step(torch.cat([word, context], dim=1), (hidden, cell))
            output = word + self.fc_hidden(hidden) + self.fc_context(context)
            scores[:count, t] = self.fc(self.dropout(output))
            alphas[:count, t] = alpha
        return scores, captions, decode_lengths, alphas

    def loss(self, rows: Rows, smoothing: float, alpha_c: float) -> tuple[Tensor, Tensor]:
        """Returns cross-entropy plus doubly stochastic regularisation (Xu et al., equation 14), and top-5 accuracy."""
        scores, captions, lengths, alphas = self(rows)
        packed = pack_padded_sequence(scores, lengths, batch_first=True).data
        targets = pack_padded_sequence(captions[:, 1:], lengths, batch_first=True).data
        loss = nn.functional.cross_entropy(packed, targets, label_smoothing=smoothing)
        right = (packed.detach().topk(5, dim=1).indices == targets.unsqueeze(1)).sum()
        return loss + alpha_c * ((1.0 - alphas.sum(dim=1)) ** 2).mean(), right / len(targets)

    def named_gradients(self, model: CaptionModel) -> dict[str, tuple[Tensor, Tensor]]:
        """Returns the gradient of each weight by name, with that of the same weight of `model`."""
        theirs = _by_our_names(self, {name: p.grad for name, p in model.named_parameters() if p.requires_grad})
        return {name: (p.grad, theirs[name]) for name, p in self.named_parameters() if p.requires_grad}


def train_step(decoder: TutorialDecoder, optimizer: torch.optim.Optimizer, rows: Rows, smoothing: float) -> float:
    """Trains on a batch as the tutorial does, with clipping by value and the accuracy; returns the loss."""
    loss, accuracy = decoder.loss(rows, smoothing, alpha_c=1.0)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_value_(decoder.parameters(), 5.0)
    optimizer.step()
    accuracy.item()  # the tutorial reads it for its log
    return loss.item()


def _by_our_names(decoder: TutorialDecoder, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames our weights to the names of this decoder, and joins those that are a single tensor here."""
    both = {
        "project": "project.0",
        "init_h": "initial_hidden",
        "init_c": "initial_cell",
        "attention.encoder_att": "decoder.attention.key",
        "attention.decoder_att": "decoder.attention.query",
        "attention.full_att": "decoder.attention.score",
        "embedding": "decoder.embedding",
        "f_beta": "decoder.attention.gate",
        "fc_hidden": "decoder.output_hidden",
        "fc_context": "decoder.output_context",
        "fc": "decoder.output",
    }
    found = {
        "decode_step.weight_ih": torch.cat(
            [ours["decoder.word_gates.weight"], ours["decoder.context_gates.weight"]], dim=1
        ),
        "decode_step.weight_hh": ours["decoder.hidden_gates.0.weight"],
        "decode_step.bias_ih": ours["decoder.word_gates.bias"],
    }
    for name, parameter in decoder.named_parameters():
        layer, _, kind = name.rpartition(".")
        if layer in both and parameter.requires_grad:
            found[name] = ours[f"{both[layer]}.{kind}"]
    return found
