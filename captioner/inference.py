"""The runtime's search over PyTorch: a model in memory, and the graphs of a TorchScript bundle."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from caprun.arrays import Float32Array, Ids
from caprun.bundle.manifest import FIRST_STATE, NEXT, ModelSpec
from caprun.bundle.plain_data import from_dict
from caprun.bundle.reading import Bundle, read_bundle
from caprun.bundle.writing import describe_file
from caprun.engine import Captioner
from caprun.errors import BundleError, UsageError
from caprun.inference.devices import Device
from caprun.inference.session import refuse_unknown_pieces
from caprun.search.steps import StepOutput, photo_vectors
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.models.backbones import first_line
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Encoded
from captioner.text.build import language_of
from captioner.text.gender_neutral import neutral_words
from captioner.training.checkpoint import Checkpoint, build_model, checkpoint_file, image_spec, load_checkpoint


class ModelSteps:
    """A model's decoder in the middle of a batch; see `caprun.search.steps.Steps`."""

    def __init__(self, model: CaptionModel, encoded: Encoded, *, alpha: bool = False) -> None:
        self._model, self._encoded, self._alpha = model, encoded, alpha
        self._first = encoded.hidden, encoded.cell

    @property
    def photo(self) -> Float32Array:
        """See `caprun.search.steps.Steps`."""
        return photo_vectors(*map(_on_host, self._first))

    @torch.inference_mode()
    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """See `caprun.search.steps.Steps`."""
        device = self._encoded.hidden.device
        indices = (torch.from_numpy(np.ascontiguousarray(index)).to(device) for index in (row, parent, token))
        row_, parent_, token_ = indices
        most = min(k, len(self._model.unsaid))
        log_prob, candidate, hidden, cell, alpha = self._model.candidates(row_, parent_, token_, self._encoded, most)
        self._encoded = self._encoded._replace(hidden=hidden, cell=cell)
        return StepOutput(
            log_prob.float().cpu().numpy(),
            candidate.cpu().numpy(),
            alpha.float().cpu().numpy() if self._alpha and alpha is not None else None,
        )

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """State and context as they are now, copied to the host."""
        return {name: value.cpu().numpy() for name, value in self._encoded._asdict().items() if value is not None}


class ModelBackend:
    """A model in memory as a backend of `caprun.engine.Captioner`; put it in eval mode first."""

    def __init__(self, model: CaptionModel) -> None:
        self._model = model

    @torch.inference_mode()
    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> ModelSteps:
        """See `caprun.engine.Backend`."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._model.unsaid.device)
        return ModelSteps(self._model, self._model.encode(pixels), alpha=alpha)

    def start(self, tensors: Mapping[str, npt.NDArray[Any]], *, alpha: bool = False) -> ModelSteps:
        """Start the decoder from given state and context, float32 by the names of `Encoded`."""
        device = self._model.unsaid.device
        encoded = Encoded(**{name: torch.from_numpy(array).to(device) for name, array in tensors.items()})
        return ModelSteps(self._model, encoded, alpha=alpha)


def _on_host(state: Tensor) -> Float32Array:
    array: Float32Array = state.detach().float().cpu().numpy()
    return array


class ScriptSteps:
    """A TorchScript decoder in the middle of a batch; it knows tensors by their names in the manifest alone."""

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
        self._first = {name: tensors[name] for name in FIRST_STATE if name in tensors}
        self._alpha = alpha

    @property
    def photo(self) -> Float32Array:
        """See `caprun.search.steps.Steps`."""
        return photo_vectors(*(_on_host(self._first[name]) for name in FIRST_STATE))

    @torch.inference_mode()
    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """See `caprun.search.steps.Steps`."""
        arrays = {"row": row, "parent": parent, "token": token, "k": np.array([min(k, self._pieces)])}
        indices = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        given = indices | self._tensors
        values = self._decoder(*(given[tensor.name] for tensor in self._spec.inputs))
        outputs = {tensor.name: value for tensor, value in zip(self._spec.outputs, values, strict=True)}
        states = (tensor.name for tensor in self._spec.outputs if tensor.role == "state")
        self._tensors |= {name.removeprefix(NEXT): outputs[name] for name in states}
        alpha = outputs["alpha"].numpy() if self._alpha and "alpha" in outputs else None
        candidate = outputs["candidate"].numpy()
        refuse_unknown_pieces(candidate, self._pieces)
        return StepOutput(outputs["log_prob"].numpy(), candidate, alpha)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """State and context as they are now."""
        return {name: tensor.numpy() for name, tensor in self._tensors.items()}


class ScriptBackend:
    """The graphs of a TorchScript bundle as a backend of `caprun.engine.Captioner`.

    Raises:
        BundleError: a graph is missing or altered.
        CaptionerError: the bundle is of ONNX graphs, or PyTorch cannot load them.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.manifest.format != "torchscript":
            raise CaptionerError(f"{bundle.path} holds ONNX graphs: use `caprun --model {bundle.path} PHOTO`.")
        self._bundle = bundle
        load = cast("Callable[[io.BytesIO], Callable[..., tuple[Tensor, ...]]]", torch.jit.load)
        graphs = bundle.graphs()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, as its users know
                self._encoder, self._decoder = (load(io.BytesIO(graph)) for graph in graphs)
        except Exception as error:  # whatever a wrong byte led to
            raise CaptionerError(
                f"PyTorch cannot load the graphs of {bundle.path} ({first_line(error)}); export the bundle again."
            ) from error

    @torch.inference_mode()
    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> ScriptSteps:
        """See `caprun.engine.Backend`."""
        values = self._encoder(torch.from_numpy(np.ascontiguousarray(images)))
        names = (tensor.name for tensor in self._bundle.manifest.graphs.encoder.outputs)
        return ScriptSteps(self._decoder, self._bundle, dict(zip(names, values, strict=True)), alpha=alpha)

    def start(self, tensors: Mapping[str, npt.NDArray[Any]], *, alpha: bool = False) -> ScriptSteps:
        """Start the decoder from given state and context, float32 by the names of the manifest."""
        given = {name: torch.from_numpy(array) for name, array in tensors.items()}
        return ScriptSteps(self._decoder, self._bundle, given, alpha=alpha)


def load_captioner(path: Path, device: str = "auto", precision: str | None = None, *, many: bool = False) -> Captioner:
    """Open a checkpoint, a TorchScript bundle or an ONNX bundle as the runtime's `Captioner`.

    Args:
        path: of the checkpoint, or the bundle's folder.
        device: `auto`, `cpu` or `cuda`.
        precision, many: see `Captioner.load`; of ONNX bundles alone.

    Raises:
        CaprunError: it is none of these, is damaged, or has not that precision.
    """
    path = checkpoint_file(path)
    bundle = read_bundle(path) if path.is_dir() else None
    if bundle is not None and bundle.manifest.format == "onnx":
        return Captioner.load(path, device=cast("Device", device), precision=precision, many=many)
    if precision is not None:
        raise UsageError(f"{path} is no ONNX bundle and has one precision; leave out --precision.")
    if bundle is not None:
        return Captioner(bundle.manifest, bundle.vocabulary, ScriptBackend(bundle))
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint).to(torch_device(device))
    digest = describe_file(path).sha256
    spec = model_spec(checkpoint, model, path.stem)
    return Captioner(spec, checkpoint.vocabulary, ModelBackend(model), digest=digest)


def splits_of(bundle: Path) -> DataConfig:
    """How the training of a bundle drew its splits, where its dataset had none; all else is the default.

    Raises:
        BundleError: no bundle, or it says so in a way that cannot be.
    """
    training = read_bundle(bundle).manifest.provenance.get("training", {})
    if not isinstance(training, Mapping) or "splits" not in training:
        return DataConfig()  # bundles of version 0.1; there was one way to draw then
    try:
        return from_dict(DataConfig, {name: training[name] for name in ("splits", "split_seed") if name in training})
    except ValueError as error:
        why = str(error).rstrip(".")
        raise BundleError(f"{bundle} does not say how its training was split: {why}; export it again.") from None


def model_spec(checkpoint: Checkpoint, model: CaptionModel, name: str) -> ModelSpec:
    """What captioning needs to know of a checkpoint's model."""
    return ModelSpec(
        name=name,
        image=image_spec(checkpoint.config, model),
        special=checkpoint.special,
        search=checkpoint.config.search,
        attention_grid=model.encoder.grid if model.attends else None,
        neutral=neutral_words(checkpoint.vocabulary, language_of(checkpoint.config.data)),
    )


def torch_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        CaptionerError: CUDA is asked for and PyTorch has none.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise CaptionerError("CUDA was asked for and PyTorch finds none here; use --device cpu.")
    return torch.device("cuda" if has_cuda and device != "cpu" else "cpu")
