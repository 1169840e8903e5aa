"""sgrvinod's a-PyTorch-Tutorial-to-Image-Captioning, reimplemented with random weights.

ResNet-101 at 256 x 256 pixels is pooled to 14 x 14 regions of 2,048 channels. Attention, embedding and LSTM have 512
units. Beam search captions one photo in eager PyTorch; the regions are repeated for every beam and projected at every
step. As the weights are random, END is forbidden and the search stops at a given length.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet101

SIZE, REGIONS, CHANNELS, UNITS = 256, 14, 2048, 512
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
START, END = 0, 1


class TutorialEncoder(nn.Module):
    """Encodes float32 (1, 3, 256, 256) into regions (1, 14, 14, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = nn.Sequential(*list(resnet101(weights=None).children())[:-2])
        self.adaptive_pool = nn.AdaptiveAvgPool2d((REGIONS, REGIONS))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the regions."""
        regions: Tensor = self.adaptive_pool(self.resnet(images))
        return regions.permute(0, 2, 3, 1)


class TutorialAttention(nn.Module):
    """Additive attention with a ReLU, which projects the regions at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(CHANNELS, UNITS)
        self.decoder_att = nn.Linear(UNITS, UNITS)
        self.full_att = nn.Linear(UNITS, 1)

    def forward(self, regions: Tensor, hidden: Tensor) -> Tensor:
        """Maps regions (beams, 196, 2048) and hidden (beams, 512) to context (beams, 2048)."""
        query = torch.relu(self.encoder_att(regions) + self.decoder_att(hidden).unsqueeze(1))
        alpha = torch.softmax(self.full_att(query).squeeze(2), dim=1)
        return (regions * alpha.unsqueeze(2)).sum(dim=1)


class TutorialCaptioner(nn.Module):
    """Encoder, attention and decoder; call `eval` first."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.encoder = TutorialEncoder()
        self.attention = TutorialAttention()
        self.embedding = nn.Embedding(pieces, UNITS)
        self.init_h, self.init_c = nn.Linear(CHANNELS, UNITS), nn.Linear(CHANNELS, UNITS)
        self.decode_step = nn.LSTMCell(UNITS + CHANNELS, UNITS)
        self.f_beta = nn.Linear(UNITS, CHANNELS)
        self.fc = nn.Linear(UNITS, pieces)

    @torch.inference_mode()
    def caption(self, path: str, beams: int, length: int) -> list[int]:
        """Returns a caption of `length` pieces."""
        photo = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(photo).transpose(2, 0, 1)).float() / 255.0
        pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        regions = self.encoder(pixels.unsqueeze(0)).view(1, -1, CHANNELS)
        regions = regions.expand(beams, -1, -1)
        tokens = torch.full((beams, 1), START)
        total = torch.zeros(beams, 1)
        mean = regions.mean(dim=1)
        hidden, cell = self.init_h(mean), self.init_c(mean)
        for step in range(length):
            context = torch.sigmoid(self.f_beta(hidden)) * self.attention(regions, hidden)
            word = self.embedding(tokens[:, -1])
            hidden, cell = self.decode_step(torch.cat([word, context], dim=1), (hidden, cell))
            scores = torch.log_softmax(self.fc(hidden), dim=1)
            scores[:, END] = -torch.inf
            scores = total + scores
            # all beams start equal, so the first step takes one
            total, best = (scores[0] if step == 0 else scores.view(-1)).topk(beams)
            beam, piece = best // self.pieces, best % self.pieces
            tokens = torch.cat([tokens[beam], piece.unsqueeze(1)], dim=1)
            hidden, cell, total = hidden[beam], cell[beam], total.unsqueeze(1)
        best_one: list[int] = tokens[0, 1:].tolist()
        return best_one
