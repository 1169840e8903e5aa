"""The same checkpoint in eager PyTorch, run as public repositories do."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from caprun import SearchOptions
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import Checkpoint, build_model


class EagerCaptioner:
    """Runs a checkpoint with one layer of soft attention in PyTorch.

    As in public captioning repositories: PIL, torchvision transforms, `eval`, `inference_mode` and a Python loop over
    steps, which projects the attention's keys at every step and repeats the photo's features for every beam.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model: CaptionModel = build_model(checkpoint).eval()
        assert isinstance(self.model.decoder.hidden_gates, nn.ModuleList)
        encoder = self.model.encoder
        self.pieces, self.special = checkpoint.vocabulary.pieces, checkpoint.special
        self.transform = transforms.Compose(
            [
                transforms.Resize(encoder.size, transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize(encoder.mean, encoder.std),
            ]
        )

    @torch.inference_mode()
    def caption(self, path: str, options: SearchOptions) -> str:
        """Captions one photo by beam search."""
        pixels = self.transform(Image.open(path).convert("RGB")).unsqueeze(0)
        regions = self.model.project(self.model.encoder.features(pixels).flatten(2).transpose(1, 2))
        mean = regions.mean(1)
        width, longest, penalty = options.beam_size, options.max_length, options.length_penalty
        units = self.model.decoder.units
        hidden = torch.tanh(self.model.initial_hidden(mean)).view(1, units)
        cell = self.model.initial_cell(mean).view(1, units)
        total = torch.zeros(1)
        tokens = torch.full((1, 1), self.special.start)
        best_score, best = -float("inf"), tokens[0]
        for length in range(1, longest + 1):
            beams = len(tokens)
            logits, hidden, cell = self.step(tokens[:, -1], hidden, cell, regions.expand(beams, -1, -1))
            log_prob = torch.log_softmax(logits + self.model.unsaid, dim=1)
            total, index = (total[:, None] + log_prob).flatten().topk(width)
            beam, token = index // log_prob.shape[1], index % log_prob.shape[1]
            tokens, hidden, cell = torch.cat([tokens[beam], token[:, None]], 1), hidden[beam], cell[beam]
            for ended in torch.nonzero(token == self.special.end).flatten().tolist():
                score = float(total[ended]) / length**penalty
                if score > best_score:
                    best_score, best = score, tokens[ended, :-1]
            live = token != self.special.end
            if not live.any() or float(total[live].max()) / longest**penalty <= best_score:
                break
            tokens, hidden, cell, total = tokens[live], hidden[live], cell[live], total[live]
        else:
            if best_score == -float("inf"):
                best = tokens[total.argmax()]
        return " ".join(self.pieces[index] for index in best[1:].tolist())

    def step(self, token: Tensor, hidden: Tensor, cell: Tensor, regions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Runs one step of every beam, each with its own copy of the regions; returns logits, hidden and cell."""
        decoder = self.model.decoder
        attention = decoder.attention
        keys = attention.key(regions)  # at every step, as public repositories do
        scores = attention.score(torch.tanh(keys + attention.query(hidden).unsqueeze(1))).squeeze(2)
        alpha = torch.softmax(scores, dim=1)
        context = torch.sigmoid(attention.gate(hidden)) * (alpha.unsqueeze(2) * regions).sum(1)
        word = decoder.embedding(token)
        (recurrent,) = decoder.hidden_gates
        gates = decoder.word_gates(word) + decoder.context_gates(context) + recurrent(hidden)
        i, f, g, o = gates.chunk(4, dim=1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        logits = decoder.output(word + decoder.output_hidden(hidden) + decoder.output_context(context))
        return logits, hidden, cell
