"""The two graphs of a bundle as PyTorch modules, and the names, roles and shapes of their tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import cast

import torch
from timm.models import reparameterize_model
from torch import Tensor, nn

from capexport.fused_step import FusedStep
from caprun.bundle.manifest import NEXT, Graphs, GraphSpec, TensorSpec
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import CaptionDecoder, Encoded


class EncoderGraph(nn.Module):
    """The encoder: maps photos to the decoder's initial state and context. It runs once per photo.

    Branches that are separate only in training, such as MobileCLIP's, are merged.
    """

    def __init__(self, model: CaptionModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        reparameterize_model(self.model.encoder, inplace=True)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps uint8 (batch, height, width, 3) to hidden and cell and, if the model attends, regions and keys."""
        return _present(self.model.encode(image))


class StepGraph(nn.Module):
    """A decoding step, with joined weights where `FusedStep` can join them.

    It takes the tensors that `describe` lists. A model without attention has no `row`, `regions` or `keys`.
    """

    def __init__(self, model: CaptionModel) -> None:
        super().__init__()
        self.attends = model.attends
        self.step = FusedStep(model) if type(model.decoder) is CaptionDecoder else model

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Computes a step; `k` is int64 (1,), since an int would be traced as a constant."""
        row, others = (given[0], given[1:]) if self.attends else (None, given)
        parent, token, *encoded, k = others
        step = self.step.candidates if isinstance(self.step, CaptionModel) else self.step
        return _present(step(row, parent, token, Encoded(*encoded), _scalar(k)))


def _present(tensors: Iterable[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if tensor is not None)


def _scalar(k: Tensor) -> int | Tensor:
    if torch._C._get_tracing_state() is not None:
        return k[0]  # TorchScript converts it when it runs
    number = k.item()  # int() would force the exporter to fix its value
    torch._check(number >= 1)
    return cast("int", number)


def example_inputs(model: CaptionModel, photos: int = 2, beams: int = 3) -> tuple[tuple[Tensor], tuple[Tensor, ...]]:
    """Returns inputs for tracing both graphs. Every size is at least 2, because a size of 1 would become a constant."""
    height, width = model.encoder.size
    image = torch.arange(photos * height * width * 3).remainder(256).to(torch.uint8).view(photos, height, width, 3)
    with torch.inference_mode():
        encoded = model.encode(image)
    given = {name: tensor.clone() for name, tensor in encoded._asdict().items() if tensor is not None}
    given["row"] = torch.arange(photos)
    given["parent"] = given["row"][:, None].repeat(1, beams)
    given["token"] = torch.full((photos, beams), 2)
    given["k"] = torch.tensor([beams])
    return (image,), tuple(given[tensor.name] for tensor in describe(model).decoder.inputs)


def describe(model: CaptionModel) -> Graphs:
    """Describes the tensors of both graphs for the manifest."""
    height, width = model.encoder.size
    decoder, regions, attention = model.decoder, model.encoder.regions, model.decoder.attention

    def states(count: str, prefix: str = "") -> tuple[TensorSpec, ...]:
        shape = (count, decoder.layers, decoder.units)
        return tuple(TensorSpec(prefix + name, "state", "float32", shape) for name in ("hidden", "cell"))

    row: tuple[TensorSpec, ...] = ()
    context: tuple[TensorSpec, ...] = ()
    alpha: tuple[TensorSpec, ...] = ()
    if attention is not None and decoder.context_gates is not None:
        row = (TensorSpec("row", "index", "int64", ("rows",)),)
        context = (
            TensorSpec("regions", "context", "float32", ("batch", regions, decoder.context_gates.in_features)),
            TensorSpec("keys", "context", "float32", ("batch", regions, attention.size)),
        )
        alpha = (TensorSpec("alpha", "output", "float32", ("rows", "beams", regions)),)
    image = TensorSpec("image", "image", "uint8", ("batch", height, width, 3))
    parent, token = (TensorSpec(name, "index", "int64", ("rows", "beams")) for name in ("parent", "token"))
    candidates = (
        TensorSpec("log_prob", "output", "float32", ("rows", "beams", "k")),
        TensorSpec("candidate", "output", "int64", ("rows", "beams", "k")),
    )
    k = TensorSpec("k", "index", "int64", (1,))
    return Graphs(
        encoder=GraphSpec((image,), (*states("batch"), *context)),
        decoder=GraphSpec(
            (*row, parent, token, *states("states"), *context, k),
            (*candidates, *states("rows x beams", NEXT), *alpha),
        ),
    )
