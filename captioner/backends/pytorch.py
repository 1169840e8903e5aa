"""A PyTorch model as a backend of the runtime's search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from caprun.arrays import Float32Array, Ids
from caprun.bundle.manifest import FIRST_STATE, NEXT, ModelSpec
from caprun.inference.session import refuse_unknown_pieces
from caprun.search.steps import StepOutput, photo_vectors
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import Checkpoint, image_spec
from captioner.models.decoder import Encoded
from captioner.text.build import language_of
from captioner.text.gender_neutral import neutral_words

Step = Callable[[dict[str, Tensor], int], Mapping[str, Tensor]]
"""Maps indices, state and context to outputs with a number of candidates, named as in an exported decoder."""


class TorchSteps:
    """Runs a decoder in PyTorch step by step; implements `caprun.search.steps.Steps`.

    Args:
        step: runs one step of the decoder.
        tensors: state and context by name, on the decoder's device.
        pieces: size of the vocabulary.
        alpha: whether steps return attention weights.
    """

    def __init__(self, step: Step, tensors: Mapping[str, Tensor], pieces: int, *, alpha: bool) -> None:
        self._step, self._tensors, self._pieces, self._alpha = step, dict(tensors), pieces, alpha
        self._first = [tensors[name] for name in FIRST_STATE]

    @property
    def photo(self) -> Float32Array:
        """See `caprun.search.steps.Steps`."""
        return photo_vectors(*map(on_host, self._first))

    @torch.inference_mode()
    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """See `caprun.search.steps.Steps`."""
        arrays, device = {"row": row, "parent": parent, "token": token}, self._first[0].device
        indices = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}
        outputs = self._step(indices | self._tensors, min(k, self._pieces))
        self._tensors |= {name.removeprefix(NEXT): outputs[name] for name in outputs if name.startswith(NEXT)}
        alpha = on_host(outputs["alpha"]) if self._alpha and "alpha" in outputs else None
        candidate = outputs["candidate"].cpu().numpy()
        refuse_unknown_pieces(candidate, self._pieces)
        return StepOutput(on_host(outputs["log_prob"]), candidate, alpha)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Copies the current state and context to the host, by name."""
        return {name: value.cpu().numpy() for name, value in self._tensors.items()}


def model_steps(model: CaptionModel, encoded: Encoded, *, alpha: bool = False) -> TorchSteps:
    """Runs the decoder of a model; see `TorchSteps`."""
    present = {name: value for name, value in encoded._asdict().items() if value is not None}

    def step(given: dict[str, Tensor], k: int) -> dict[str, Tensor]:
        now = Encoded(**{name: given[name] for name in present})
        values = model.candidates(given["row"], given["parent"], given["token"], now, k)
        names = ("log_prob", "candidate", f"{NEXT}hidden", f"{NEXT}cell", "alpha")
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}

    return TorchSteps(step, present, len(model.unsaid), alpha=alpha)


class ModelBackend:
    """Implements `caprun.engine.Backend` with a model in memory; the caller puts the model in eval mode first.

    Attributes:
        model: the model.
        features: the features of the photos that were encoded last, float32 (photos, regions, channels); None before.
    """

    def __init__(self, model: CaptionModel) -> None:
        self.model = model
        self.features: Tensor | None = None

    @torch.inference_mode()
    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> TorchSteps:
        """See `caprun.engine.Backend`."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.model.unsaid.device)
        self.features = self.model.encoder(pixels)
        return model_steps(self.model, self.model.start(self.features), alpha=alpha)

    def start(self, tensors: Mapping[str, npt.NDArray[Any]], *, alpha: bool = False) -> TorchSteps:
        """Starts the decoder from given state and context, float32 arrays keyed by the fields of `Encoded`."""
        device = self.model.unsaid.device
        encoded = Encoded(**{name: torch.from_numpy(array).to(device) for name, array in tensors.items()})
        return model_steps(self.model, encoded, alpha=alpha)


def on_host(tensor: Tensor) -> Float32Array:
    """Copies a tensor of any shape to the host as float32."""
    array: Float32Array = tensor.detach().float().cpu().numpy()
    return array


def model_spec(checkpoint: Checkpoint, model: CaptionModel, name: str, language: str | None = None) -> ModelSpec:
    """Returns the specification of a checkpoint's model for the runtime.

    Args:
        checkpoint, model: the checkpoint and its model.
        name: name of the model.
        language: language code of the captions; None for the language in the training configuration.
    """
    language = language or language_of(checkpoint.config.data)
    return ModelSpec(
        name=name,
        image=image_spec(checkpoint.config, model),
        special=checkpoint.special,
        search=checkpoint.config.search,
        attention_grid=model.encoder.grid if model.attends else None,
        language=language,
        neutral=neutral_words(checkpoint.vocabulary, language),
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
