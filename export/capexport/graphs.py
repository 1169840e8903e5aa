"""The two modules that are traced, and the names, roles and shapes of their tensors."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from caprun.bundle import NEXT, Graphs, GraphSpec, TensorSpec
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Encoded


class EncoderGraph(nn.Module):
    """uint8 photos to what the decoder starts from; runs once a photo."""

    def __init__(self, model: CaptionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Encoded:
        """uint8 (batch, height, width, 3) -> hidden, cell, regions, keys."""
        return self.model.encode(image)


class DecoderStepGraph(nn.Module):
    """One step of search; see `CaptionModel.candidates`."""

    def __init__(self, model: CaptionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        row: Tensor,
        parent: Tensor,
        token: Tensor,
        hidden: Tensor,
        cell: Tensor,
        regions: Tensor,
        keys: Tensor,
        k: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`k` is int64 (1,): a tensor, for an int would be traced as the constant it happened to be."""
        return self.model.candidates(row, parent, token, Encoded(hidden, cell, regions, keys), _scalar(k))


def _scalar(k: Tensor) -> int | Tensor:
    if torch._C._get_tracing_state() is not None:
        return k[0]  # TorchScript turns it into a number when it runs
    number = k.item()  # int() would make the exporter look for its value
    torch._check(number >= 1)
    return cast("int", number)


def example_inputs(model: CaptionModel, photos: int = 2, beams: int = 3) -> tuple[tuple[Tensor], tuple[Tensor, ...]]:
    """Inputs to trace both graphs with: every size is 2 or more, for a size of 1 is baked in."""
    height, width = model.encoder.size
    image = torch.arange(photos * height * width * 3).remainder(256).to(torch.uint8).view(photos, height, width, 3)
    with torch.inference_mode():
        encoded = model.encode(image)
    row = torch.arange(photos)
    parent = row[:, None].repeat(1, beams)
    token = torch.full((photos, beams), 2)
    return (image,), (row, parent, token, *(tensor.clone() for tensor in encoded), torch.tensor([beams]))


def describe(model: CaptionModel) -> Graphs:
    """The tensors of both graphs as the manifest states them."""
    height, width = model.encoder.size
    decoder = model.decoder
    state = (decoder.layers, decoder.units)
    regions = model.encoder.regions
    channels, attention = decoder.attention.key.in_features, decoder.attention.key.out_features

    def states(count: str, prefix: str = "") -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(prefix + name, "state", "float32", (count, *state)) for name in ("hidden", "cell"))

    context = (
        TensorSpec("regions", "context", "float32", ("batch", regions, channels)),
        TensorSpec("keys", "context", "float32", ("batch", regions, attention)),
    )
    return Graphs(
        encoder=GraphSpec(
            (TensorSpec("image", "image", "uint8", ("batch", height, width, 3)),), (*states("batch"), *context)
        ),
        decoder=GraphSpec(
            (
                TensorSpec("row", "index", "int64", ("rows",)),
                TensorSpec("parent", "index", "int64", ("rows", "beams")),
                TensorSpec("token", "index", "int64", ("rows", "beams")),
                *states("states"),
                *context,
                TensorSpec("k", "index", "int64", (1,)),
            ),
            (
                TensorSpec("log_prob", "output", "float32", ("rows", "beams", "k")),
                TensorSpec("candidate", "output", "int64", ("rows", "beams", "k")),
                *states("rows x beams", NEXT),
                TensorSpec("alpha", "output", "float32", ("rows", "beams", regions)),
            ),
        ),
    )
