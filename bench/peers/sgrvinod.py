"""Captioning as sgrvinod's a-PyTorch-Tutorial-to-Image-Captioning does it, in our own words and with random weights.

ResNet-101 at 256 x 256 pixels, pooled to 14 x 14 regions of 2,048 channels; attention, embedding and LSTM of 512; beam
search over one photo in eager PyTorch, the encoder's output repeated for every beam and projected anew at every step.
Its captions have a given length, for it has learned nothing: END is forbidden before, and the search stops there.
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
    """float32 (1, 3, 256, 256) -> (1, 14, 14, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = nn.Sequential(*list(resnet101(weights=None).children())[:-2])
        self.adaptive_pool = nn.AdaptiveAvgPool2d((REGIONS, REGIONS))

    def forward(self, images: Tensor) -> Tensor:
        """The photo's regions."""
        regions: Tensor = self.adaptive_pool(self.resnet(images))
        return regions.permute(0, 2, 3, 1)


class TutorialAttention(nn.Module):
    """Additive attention with a ReLU, and nothing kept from one step to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(CHANNELS, UNITS)
        self.decoder_att = nn.Linear(UNITS, UNITS)
        self.full_att = nn.Linear(UNITS, 1)

    def forward(self, regions: Tensor, hidden: Tensor) -> Tensor:
        """(beams, 196, 2048) and (beams, 512) -> (beams, 2048)."""
        asked = torch.relu(self.encoder_att(regions) + self.decoder_att(hidden).unsqueeze(1))
        alpha = torch.softmax(self.full_att(asked).squeeze(2), dim=1)
        return (regions * alpha.unsqueeze(2)).sum(dim=1)


class TutorialCaptioner(nn.Module):
    """The whole of it; call `eval` first."""

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
        """So many pieces about the photo at `path`."""
        photo = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(photo).transpose(2, 0, 1)).float() / 255.0
        pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        regions = self.encoder(pixels.unsqueeze(0)).view(1, -1, CHANNELS)
        regions = regions.expand(beams, -1, -1)
        said = torch.full((beams, 1), START)
        total = torch.zeros(beams, 1)
        mean = regions.mean(dim=1)
        hidden, cell = self.init_h(mean), self.init_c(mean)
        for step in range(length):
            context = torch.sigmoid(self.f_beta(hidden)) * self.attention(regions, hidden)
            word = self.embedding(said[:, -1])
            hidden, cell = self.decode_step(torch.cat([word, context], dim=1), (hidden, cell))
            scores = torch.log_softmax(self.fc(hidden), dim=1)
            scores[:, END] = -torch.inf
            scores = total + scores
            # at first all beams are one
            total, best = (scores[0] if step == 0 else scores.view(-1)).topk(beams)
            beam, piece = best // self.pieces, best % self.pieces
            said = torch.cat([said[beam], piece.unsqueeze(1)], dim=1)
            hidden, cell, total = hidden[beam], cell[beam], total.unsqueeze(1)
        best_one: list[int] = said[0, 1:].tolist()
        return best_one
