"""A decoding step as a few large matrix products, a faster equivalent of `CaptionModel.candidates`.

For one photo, most of a step's time is reading each weight once and launching operations. So products with the same
input are joined: query, gate and recurrent gates for the hidden state; gates and output for the context. Biases are
summed. Two-layer attention applies a ReLU to the hidden state first, so its query and gate are computed separately.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from captioner.models.attention import TwoLayerAttention
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Encoded


class FusedStep(nn.Module):
    """A copy of a model's decoder, with joined weights; the model is in eval mode."""

    word_product: Tensor
    context_product: Tensor | None
    output_bias: Tensor

    def __init__(self, model: CaptionModel) -> None:
        super().__init__()
        decoder = model.decoder
        self.units, self.layers, self.attention = decoder.units, decoder.layers, decoder.attention
        self.asks_apart = isinstance(self.attention, TwoLayerAttention)
        self.said, self.rectifies = decoder.output_hidden, decoder.rectifies
        # reorders the gates i, f, g, o to i, f, o, g, so that one sigmoid covers the three sigmoid gates
        order = torch.arange(4 * self.units).view(4, -1)[[0, 1, 3, 2]].flatten()
        self.embedding = decoder.embedding
        hidden = [cast("nn.Linear", layer).weight[order] for layer in decoder.hidden_gates]
        bias = [decoder.word_gates.bias[order]]
        bias += [cast("nn.Linear", layer).bias[order] for layer in decoder.below_gates]
        self.parts = [4 * self.units]  # sizes of the parts of the top layer's product
        if self.attention is not None and not self.asks_apart:
            asked = [cast("nn.Linear", one) for one in (self.attention.query, self.attention.gate) if one is not None]
            self.parts += [one.out_features for one in asked]
            hidden[-1] = torch.cat([hidden[-1], *(one.weight for one in asked)])
            nothing = torch.zeros(self.parts[1])  # the query has no bias
            bias[-1] = torch.cat([bias[-1], nothing, *(one.bias for one in asked[1:])])
        for layer in range(self.layers):
            self.register_buffer(f"hidden_product_{layer}", hidden[layer].detach().clone())
            self.register_buffer(f"bias_{layer}", bias[layer].detach().clone())
        for layer, below in enumerate(decoder.below_gates, 1):
            self.register_buffer(f"below_product_{layer}", cast("nn.Linear", below).weight[order].detach().clone())
        self.register_buffer("word_product", decoder.word_gates.weight[order].detach().clone())
        joined = [] if decoder.context_gates is None else [decoder.context_gates.weight[order]]
        joined += [] if decoder.output_context is None else [decoder.output_context.weight]
        self.register_buffer("context_product", torch.cat(joined).detach() if joined else None)
        self.output = decoder.output
        # -inf for pieces that are never generated
        self.register_buffer("output_bias", (decoder.output.bias + model.unsaid).detach())

    def forward(
        self, row: Tensor | None, parent: Tensor, token: Tensor, encoded: Encoded, k: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Computes a step; arguments and results are those of `CaptionModel.candidates`, up to rounding."""
        units, top, linear = self.units, self.layers - 1, nn.functional.linear
        # an embedding lookup exports as one Gather; indexing with a tensor does not
        hidden, cell = (
            _chunks(nn.functional.embedding(parent, state.flatten(1)), self.layers)
            for state in (encoded.hidden, encoded.cell)
        )
        word = self.embedding(token)
        products = [
            linear(hidden[layer], self.get_buffer(f"hidden_product_{layer}"), self.get_buffer(f"bias_{layer}"))
            for layer in range(self.layers)
        ]
        if self.attention is not None and self.asks_apart:
            asked = [one(hidden[top]) for one in (self.attention.query, self.attention.gate) if one is not None]
        else:
            products[top], *asked = torch.split(products[top], self.parts, dim=2)
        gates = linear(word, self.word_product) + products[0]
        said = word
        alpha = None
        if self.attention is not None:
            assert row is not None
            assert encoded.regions is not None
            assert encoded.keys is not None
            assert self.context_product is not None
            regions, keys = encoded.regions.index_select(0, row), encoded.keys.index_select(0, row)
            scores = self.attention.scores(asked[0], keys)
            alpha = torch.softmax(scores, dim=2)
            context, _ = self.attention.look(scores, alpha, regions, None)
            if len(asked) > 1:
                context = torch.sigmoid(asked[1]) * context
            seen = linear(context, self.context_product)
            if self.said is not None:
                seen, meant = torch.split(seen, [4 * units, said.shape[2]], dim=2)
                said = said + meant
            gates = gates + seen
        new_hidden: list[Tensor] = []
        new_cell: list[Tensor] = []
        for layer in range(self.layers):
            if layer:
                gates = linear(new_hidden[-1], self.get_buffer(f"below_product_{layer}")) + products[layer]
            bent, g = torch.split(gates, [3 * units, units], dim=2)
            i, f, o = torch.sigmoid(bent).chunk(3, dim=2)
            new_cell.append(f * cell[layer] + i * torch.tanh(g))
            new_hidden.append(o * torch.tanh(new_cell[-1]))
        if self.said is not None:
            said = said + self.said(new_hidden[-1])
        else:
            said = new_hidden[-1].relu() if self.rectifies else new_hidden[-1]
        log_prob = torch.log_softmax(linear(said, self.output.weight, self.output_bias), dim=2)
        best, candidate = torch.topk(log_prob, k, dim=2)  # type: ignore[arg-type]
        after = [torch.cat(state, dim=2).view(-1, self.layers, units) for state in (new_hidden, new_cell)]
        return best, candidate, after[0], after[1], alpha


def _chunks(tensor: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Splits the last dimension into equal parts; one part needs no operation."""
    return (tensor,) if parts == 1 else tensor.chunk(parts, dim=-1)
