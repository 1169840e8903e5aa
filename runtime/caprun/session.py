"""ONNX Runtime: which device, how many threads, and a decoder whose state stays where it was computed."""

import contextlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from caprun.bundle import NEXT, Bundle, GraphSpec
from caprun.decoding import Ids, StepOutput
from caprun.errors import BundleError, DeviceError
from caprun.onnx_wire import has_external_data

Device = Literal["auto", "cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def onnxruntime() -> Any:
    """Import ONNX Runtime, or say in one sentence what to install."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"ONNX Runtime is not installed or does not load ({error}): "
            'pip install onnxruntime, or "onnxruntime-gpu[cuda,cudnn]" for CUDA.'
        ) from error
    # Two packages unpack into the same folder; a half-removed one leaves a module with nothing in it.
    if not hasattr(onnxruntime, "InferenceSession"):
        raise DeviceError(f"ONNX Runtime is installed badly. {_REINSTALL}")
    return onnxruntime


_REINSTALL = (
    "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one of them: onnxruntime, or onnxruntime-gpu "
    "for CUDA."
)


def installed_packages() -> dict[str, str]:
    """The ONNX Runtime packages installed, with their versions; two at once overwrite each other's files."""
    versions = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def choose_device(device: Device) -> Literal["cpu", "cuda"]:
    """`auto` is CUDA where ONNX Runtime was built with it.

    Raises:
        DeviceError: CUDA is asked for and this ONNX Runtime has none.
    """
    has_cuda = _PROVIDERS["cuda"] in onnxruntime().get_available_providers()
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if device == "cuda" and not has_cuda:
        if len(installed_packages()) > 1:
            raise DeviceError(
                f"onnxruntime and onnxruntime-gpu are both installed and one hides the other: {_REINSTALL}"
            )
        raise DeviceError(
            "CUDA was asked for and the ONNX Runtime installed here runs on the CPU alone: "
            'pip uninstall -y onnxruntime, then pip install "onnxruntime-gpu[cuda,cudnn]", or use --device cpu.'
        )
    return device


class OnnxBackend:
    """A bundle's two graphs in ONNX Runtime.

    Args:
        bundle: an ONNX bundle.
        device: `auto` falls back to the CPU where CUDA does not start; `cuda` runs on CUDA or fails.
        threads: threads of one operation; None lets ONNX Runtime take every core.

    Raises:
        BundleError: the bundle is not of ONNX graphs, or ONNX Runtime refuses them.
        DeviceError: no ONNX Runtime, or no CUDA where it is asked for.
    """

    def __init__(self, bundle: Bundle, device: Device = "auto", threads: int | None = None) -> None:
        if bundle.manifest.format != "onnx":
            raise BundleError(
                f"{bundle.path} holds TorchScript graphs, which caprun does not run: use "
                f"`captioner caption --model {bundle.path} PHOTO`, or export it with --format onnx."
            )
        self.device: Literal["cpu", "cuda"] = choose_device(device)
        graphs = bundle.manifest.graphs
        encoder, decoder = bundle.graphs()
        files = bundle.manifest.precisions["fp32"]
        _refuse_incomplete(bundle.path / files.encoder, encoder)
        _refuse_incomplete(bundle.path / files.decoder, decoder)
        try:
            self._encoder = _Graph(encoder, graphs.encoder, self.device, threads, bundle)
        except DeviceError:
            if device != "auto":
                raise
            self.device = "cpu"
            self._encoder = _Graph(encoder, graphs.encoder, self.device, threads, bundle)
        self._decoder = _Graph(decoder, graphs.decoder, self.device, threads, bundle)
        self._pieces = len(bundle.vocabulary)

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> "OnnxSteps":
        """Show photos, uint8 (photos, height, width, 3), to the decoder; `alpha`: attention weights are wanted."""
        (image,) = self._encoder.spec.inputs
        outputs = self._encoder.run({image.name: images}, keep_on_device=True)
        return OnnxSteps(self._decoder, self._pieces, outputs, alpha=alpha)

    def start(self, tensors: Mapping[str, npt.NDArray[Any]], *, alpha: bool = False) -> "OnnxSteps":
        """Start the decoder from given state and context, float32 by the names of the manifest."""
        return OnnxSteps(self._decoder, self._pieces, tensors, alpha=alpha)


class OnnxSteps:
    """The decoder in the middle of a batch; hidden and cell state stay on the device."""

    def __init__(self, decoder: "_Graph", pieces: int, tensors: Mapping[str, Any], *, alpha: bool) -> None:
        self._decoder, self._pieces = decoder, pieces
        self._tensors = dict(tensors)  # OrtValues or arrays by name: the state, and the context that never changes
        self._alpha = alpha
        self._fetched = {"log_prob", "candidate"} | ({"alpha"} if alpha else set())

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """See `caprun.decoding.Steps`."""
        indices = {"row": row, "parent": parent, "token": token, "k": np.array([min(k, self._pieces)], np.int64)}
        outputs = self._decoder.run(indices | self._tensors, keep_on_device=False, fetched=self._fetched)
        for tensor in self._decoder.spec.outputs:
            if tensor.role == "state":
                self._tensors[tensor.name.removeprefix(NEXT)] = outputs[tensor.name]
        return StepOutput(outputs["log_prob"], outputs["candidate"], outputs.get("alpha"))

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """State and context as they are now, copied to the host."""
        return {name: v if isinstance(v, np.ndarray) else v.numpy() for name, v in self._tensors.items()}


class _Graph:
    """One session, run through I/O binding so that tensors move between host and device only where asked."""

    def __init__(
        self, model: bytes, spec: GraphSpec, device: Literal["cpu", "cuda"], threads: int | None, bundle: Bundle
    ) -> None:
        ort = onnxruntime()
        self.spec, self._device = spec, device
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong arrives as an exception, and is said in a sentence
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.load_model_format", "ONNX")  # what was looked into, not guessed
        provider = _PROVIDERS[device]
        try:
            if device == "cuda" and hasattr(ort, "preload_dlls"):
                ort.preload_dlls()
            self._session = ort.InferenceSession(model, options, providers=[provider])
        except Exception as error:  # ONNX Runtime raises classes of its own, derived from nothing narrower
            if device == "cuda":
                raise DeviceError(f"CUDA does not start ({_brief(error)}); use --device cpu.") from error
            raise BundleError(f"ONNX Runtime refuses the graphs of {bundle.path} ({_brief(error)}).") from error
        if self._session.get_providers()[0] != provider:
            raise DeviceError("CUDA was asked for and ONNX Runtime fell back to the CPU; see its CUDA requirements.")
        self._session.disable_fallback()
        names = {node.name for node in self._session.get_inputs()}, {node.name for node in self._session.get_outputs()}
        if names != ({tensor.name for tensor in spec.inputs}, {tensor.name for tensor in spec.outputs}):
            raise BundleError(f"The graphs of {bundle.path} are not those its manifest describes; export it again.")

    def run(self, inputs: dict[str, Any], *, keep_on_device: bool, fetched: set[str] | None = None) -> dict[str, Any]:
        """Run the graph.

        Args:
            inputs: arrays, or OrtValues that an earlier run left on the device; names the graph has not are ignored.
            keep_on_device: all outputs stay there, as OrtValues.
            fetched: otherwise, the outputs to copy to NumPy; those with role `state` stay.

        Raises:
            DeviceError: ONNX Runtime failed; a GPU's memory may be full.
        """
        binding = self._session.io_binding()
        for tensor in self.spec.inputs:
            value = inputs[tensor.name]
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(tensor.name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(tensor.name, value)
        bound = []
        for tensor in self.spec.outputs:
            stays = keep_on_device or tensor.role == "state"
            if stays or fetched is None or tensor.name in fetched:
                binding.bind_output(tensor.name, self._device if stays else "cpu")
                bound.append((tensor.name, stays))
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise DeviceError(
                f"ONNX Runtime failed on the {self._device} ({_brief(error)}); its memory may be full: caption fewer "
                "photos at a time."
            ) from error
        values = binding.get_outputs()
        return {name: value if stays else value.numpy() for (name, stays), value in zip(bound, values, strict=True)}


def _refuse_incomplete(path: Path, graph: bytes) -> None:
    """The manifest vouches for the bundle's files, and for none that ONNX Runtime would be led to by one of them."""
    try:
        incomplete = has_external_data(graph)
    except ValueError as error:
        raise BundleError(f"{path} is no ONNX model ({error}); export the bundle again.") from None
    if incomplete:
        raise BundleError(f"{path} has weights in another file, which a bundle cannot; export it again.")


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
