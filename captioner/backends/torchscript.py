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

from caprun.bundle.reading import Bundle
from captioner.backends.pytorch import TorchSteps
from captioner.errors import CaptionerError
from captioner.models.backbones import first_line

Graph = Callable[..., tuple[Tensor, ...]]


class ScriptBackend:
    """Implements `caprun.engine.Backend` with the graphs of a TorchScript bundle.

    Args:
        bundle: a TorchScript bundle.
        device: the device that runs the graphs; None for the CPU.

    Raises:
        BundleError: a graph is missing or altered.
        CaptionerError: the bundle holds ONNX graphs, or PyTorch cannot load the graphs.
    """

    def __init__(self, bundle: Bundle, device: torch.device | None = None) -> None:
        if bundle.manifest.format != "torchscript":
            raise CaptionerError(f"{bundle.path} holds ONNX graphs: use `caprun --model {bundle.path} PHOTO`.")
        self._bundle, self._device = bundle, device or torch.device("cpu")
        load = cast("Callable[..., Graph]", torch.jit.load)
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
    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> TorchSteps:
        """See `caprun.engine.Backend`."""
        values = self._encoder(torch.from_numpy(np.ascontiguousarray(images)).to(self._device))
        names = (tensor.name for tensor in self._bundle.manifest.graphs.encoder.outputs)
        return self._steps(dict(zip(names, values, strict=True)), alpha=alpha)

    def start(self, tensors: Mapping[str, npt.NDArray[Any]], *, alpha: bool = False) -> TorchSteps:
        """Starts the decoder from given state and context, float32 arrays keyed by their names in the manifest."""
        given = {name: torch.from_numpy(array).to(self._device) for name, array in tensors.items()}
        return self._steps(given, alpha=alpha)

    def _steps(self, tensors: Mapping[str, Tensor], *, alpha: bool) -> TorchSteps:
        """Runs the decoder; tensors are passed by their names in the manifest, so any decoder works."""
        spec = self._bundle.manifest.graphs.decoder

        def step(given: dict[str, Tensor], k: int) -> dict[str, Tensor]:
            given = given | {"k": torch.tensor([k], device=given["token"].device)}
            values = self._decoder(*(given[tensor.name] for tensor in spec.inputs))
            return {tensor.name: value for tensor, value in zip(spec.outputs, values, strict=True)}

        return TorchSteps(step, tensors, len(self._bundle.vocabulary), alpha=alpha)
