"""The graphs of a TorchScript bundle as a backend of the runtime's search."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from caprun.arrays import Float32Array, Ids
from caprun.bundle.manifest import FIRST_STATE, NEXT
from caprun.bundle.reading import Bundle
from caprun.inference.session import refuse_unknown_pieces
from caprun.search.steps import StepOutput, photo_vectors
from captioner.backends.pytorch import on_host
from captioner.errors import CaptionerError
from captioner.models.backbones import first_line


class ScriptSteps:
    """Runs a TorchScript decoder step by step; implements `caprun.search.steps.Steps`.

    Tensors are passed by their names in the manifest, so any decoder variant works.
    """

    def __init__(
        self,
        decoder: Callable[..., tuple[Tensor, ...]],
        bundle: Bundle,
        tensors: Mapping[str, Tensor],
        *,
        alpha: bool,
    ) -> None:
        self._decoder, self._spec = decoder, bundle.manifest.graphs.decoder
        self._pieces = len(bundle.vocabulary)
        self._tensors = dict(tensors)
        self._device = tensors[FIRST_STATE[0]].device
        self._first = {name: tensors[name] for name in FIRST_STATE if name in tensors}
        self._alpha = alpha

    @property
    def photo(self) -> Float32Array:
        """See `caprun.search.steps.Steps`."""
        return photo_vectors(*(on_host(self._first[name]) for name in FIRST_STATE))

    @torch.inference_mode()
    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """See `caprun.search.steps.Steps`."""
        arrays = {"row": row, "parent": parent, "token": token, "k": np.array([min(k, self._pieces)])}
        indices = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for name, array in arrays.items()
        }
        given = indices | self._tensors
        values = self._decoder(*(given[tensor.name] for tensor in self._spec.inputs))
        outputs = {tensor.name: value for tensor, value in zip(self._spec.outputs, values, strict=True)}
        states = (tensor.name for tensor in self._spec.outputs if tensor.role == "state")
        self._tensors |= {name.removeprefix(NEXT): outputs[name] for name in states}
        alpha = outputs["alpha"].cpu().numpy() if self._alpha and "alpha" in outputs else None
        candidate = outputs["candidate"].cpu().numpy()
        refuse_unknown_pieces(candidate, self._pieces)
        return StepOutput(outputs["log_prob"].cpu().numpy(), candidate, alpha)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Copies the current state and context to the host, by their names in the manifest."""
        return {name: tensor.cpu().numpy() for name, tensor in self._tensors.items()}


class ScriptBackend:
    """Implements `caprun.engine.Backend` with the graphs of a TorchScript bundle.

    Args:
        bundle: a TorchScript bundle.
        device: the device of the graphs; None for the CPU.

    Raises:
        BundleError: a graph is missing or altered.
        CaptionerError: the bundle holds ONNX graphs, or PyTorch cannot load the graphs.
    """

    def __init__(self, bundle: Bundle, device: torch.device | None = None) -> None:
        if bundle.manifest.format != "torchscript":
            raise CaptionerError(f"{bundle.path} holds ONNX graphs: use `caprun --model {bundle.path} PHOTO`.")
        self._bundle, self._device = bundle, device or torch.device("cpu")
        load = cast("Callable[..., Callable[..., tuple[Tensor, ...]]]", torch.jit.load)
        graphs = bundle.graphs()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
                self._encoder, self._decoder = (load(io.BytesIO(graph), map_location=self._device) for graph in graphs)
        except Exception as error:  # a wrong byte can raise anything
            raise CaptionerError(
                f"PyTorch cannot load the graphs of {bundle.path} ({first_line(error)}); export the bundle again."
            ) from error

    @torch.inference_mode()
    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> ScriptSteps:
        """See `caprun.engine.Backend`."""
        values = self._encoder(torch.from_numpy(np.ascontiguousarray(images)).to(self._device))
        names = (tensor.name for tensor in self._bundle.manifest.graphs.encoder.outputs)
        return ScriptSteps(self._decoder, self._bundle, dict(zip(names, values, strict=True)), alpha=alpha)

    def start(self, tensors: Mapping[str, npt.NDArray[Any]], *, alpha: bool = False) -> ScriptSteps:
        """Starts the decoder from given state and context, float32 arrays by their names in the manifest."""
        given = {name: torch.from_numpy(array).to(self._device) for name, array in tensors.items()}
        return ScriptSteps(self._decoder, self._bundle, given, alpha=alpha)
