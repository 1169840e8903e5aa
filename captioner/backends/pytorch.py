"""A PyTorch model as a backend of the runtime's search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from caprun.arrays import Float32Array, Ids
from caprun.bundle.manifest import ModelSpec
from caprun.search.steps import StepOutput, photo_vectors
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import Checkpoint, image_spec
from captioner.models.decoder import Encoded
from captioner.text.build import language_of
from captioner.text.gender_neutral import neutral_words


class ModelSteps:
    """Runs a model's decoder step by step; implements `caprun.search.steps.Steps`."""

    def __init__(self, model: CaptionModel, encoded: Encoded, *, alpha: bool = False) -> None:
        self._model, self._encoded, self._alpha = model, encoded, alpha
        self._first = encoded.hidden, encoded.cell

    @property
    def photo(self) -> Float32Array:
        """See `caprun.search.steps.Steps`."""
        return photo_vectors(*map(on_host, self._first))

    @torch.inference_mode()
    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """See `caprun.search.steps.Steps`."""
        device = self._encoded.hidden.device
        row_, parent_, token_ = (torch.from_numpy(np.ascontiguousarray(ids)).to(device) for ids in (row, parent, token))
        most = min(k, len(self._model.unsaid))
        log_prob, candidate, hidden, cell, alpha = self._model.candidates(row_, parent_, token_, self._encoded, most)
        self._encoded = self._encoded._replace(hidden=hidden, cell=cell)
        return StepOutput(
            on_host(log_prob),
            candidate.cpu().numpy(),
            on_host(alpha) if self._alpha and alpha is not None else None,
        )

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Copies the current state and context to the host, by the field names of `Encoded`."""
        return {name: value.cpu().numpy() for name, value in self._encoded._asdict().items() if value is not None}


class ModelBackend:
    """Implements `caprun.engine.Backend` with a model in memory; the caller puts the model in eval mode first."""

    def __init__(self, model: CaptionModel) -> None:
        self._model = model

    @torch.inference_mode()
    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> ModelSteps:
        """See `caprun.engine.Backend`."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._model.unsaid.device)
        return ModelSteps(self._model, self._model.encode(pixels), alpha=alpha)

    def start(self, tensors: Mapping[str, npt.NDArray[Any]], *, alpha: bool = False) -> ModelSteps:
        """Starts the decoder from given state and context, float32 arrays by the field names of `Encoded`."""
        device = self._model.unsaid.device
        encoded = Encoded(**{name: torch.from_numpy(array).to(device) for name, array in tensors.items()})
        return ModelSteps(self._model, encoded, alpha=alpha)


def on_host(tensor: Tensor) -> Float32Array:
    """Copies a tensor of any shape to the host as float32."""
    array: Float32Array = tensor.detach().float().cpu().numpy()
    return array


def model_spec(checkpoint: Checkpoint, model: CaptionModel, name: str) -> ModelSpec:
    """Returns what captioning needs to know about a checkpoint's model."""
    return ModelSpec(
        name=name,
        image=image_spec(checkpoint.config, model),
        special=checkpoint.special,
        search=checkpoint.config.search,
        attention_grid=model.encoder.grid if model.attends else None,
        neutral=neutral_words(checkpoint.vocabulary, language_of(checkpoint.config.data)),
    )


def torch_device(device: str) -> torch.device:
    """Returns the device that `--device` names: `auto`, `cpu` or `cuda`; `auto` means CUDA if it is available.

    Raises:
        CaptionerError: `cuda` was requested and PyTorch finds no CUDA device.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise CaptionerError("PyTorch finds no CUDA device; use --device cpu.")
    return torch.device("cuda" if has_cuda and device != "cpu" else "cpu")
