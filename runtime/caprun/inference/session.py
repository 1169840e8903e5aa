"""Runs a bundle's graphs in ONNX Runtime; the decoder's state stays on the device."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from caprun.arrays import Float32Array, Ids
from caprun.bundle.manifest import FIRST_STATE, NEXT, GraphSpec, TensorSpec
from caprun.bundle.reading import Bundle
from caprun.errors import BundleError, DeviceError
from caprun.inference import cuda
from caprun.inference.devices import PROVIDERS, Device, choose_device, onnxruntime
from caprun.inference.precisions import choose_precision
from caprun.search.steps import StepOutput, photo_vectors

_OPTIONS = {
    "cpu": {},
    "cuda": {
        # an exhaustive search would run again for every batch size
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        # allocate what is needed instead of doubling: other processes use the device, too
        "arena_extend_strategy": "kSameAsRequested",
        # captions must equal those of training, which computes in full fp32
        "use_tf32": "0",
    },
}


class OnnxBackend:
    """A bundle's two graphs in ONNX Runtime; `caprun.engine.Captioner.load` describes the arguments.

    Attributes:
        device: The device that the graphs run on.
        precision: The precision of the graphs.
        problem: Why `auto` uses the CPU although CUDA seemed to work; None if it did not try, or CUDA started.

    Raises:
        BundleError: The bundle has no ONNX graphs or no such precision, or ONNX Runtime refuses its graphs.
        DeviceError: ONNX Runtime is not installed, or `cuda` is requested and does not start.
    """

    def __init__(
        self, bundle: Bundle, device: Device = "auto", threads: int | None = None, precision: str | None = None
    ) -> None:
        if bundle.manifest.format != "onnx":
            raise BundleError(
                f"{bundle.path} holds TorchScript graphs, which caprun does not run: use "
                f"`captioner caption --model {bundle.path} PHOTO`, or export it with --format onnx."
            )
        self._pieces = len(bundle.vocabulary)
        self.problem: str | None = None
        chosen = choose_device(device)
        try:
            self._open(bundle, chosen, threads, precision)
        except DeviceError as error:
            if device != "auto" or chosen == "cpu":
                raise
            self.problem = str(error)
            self._open(bundle, "cpu", threads, precision)

    def _open(self, bundle: Bundle, device: Literal["cpu", "cuda"], threads: int | None, precision: str | None) -> None:
        self.device, self.precision = device, precision or choose_precision(bundle.manifest, device)
        files, specs = bundle.graph_files(self.precision), bundle.manifest.graphs
        with ThreadPoolExecutor(2) as pool:
            contents = list(pool.map(partial(_complete_graph, bundle), files))  # both are checked before either is used
            each: Any = map if device == "cuda" else pool.map  # starting a session takes much of a GPU's memory
            start, paths = partial(_Session, device, threads), [bundle.path / file for file in files]
            self._encoder, self._decoder = each(start, paths, contents, (specs.encoder, specs.decoder))

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> "OnnxSteps":
        """Encodes photos, uint8 (photos, height, width, 3), and returns the decoder at its first step.

        With `alpha`, steps return attention weights.
        """
        (image,) = self._encoder.spec.inputs
        names = [tensor.name for tensor in self._encoder.spec.outputs]
        outputs = self._encoder.run({image.name: images}, names, staying=names)
        return OnnxSteps(self._decoder, self._pieces, outputs, alpha=alpha)

    def start(self, tensors: Mapping[str, npt.NDArray[Any]], *, alpha: bool = False) -> "OnnxSteps":
        """Returns the decoder with the given state and context, float32 arrays by their names in the manifest."""
        return OnnxSteps(self._decoder, self._pieces, tensors, alpha=alpha)


def refuse_unknown_pieces(candidate: npt.NDArray[np.int64], pieces: int) -> None:
    """Refuses ids, of any shape, outside a vocabulary of `pieces` pieces.

    Raises:
        BundleError: An id is negative or too large.
    """
    if candidate.size and candidate.view(np.uint64).max() >= pieces:  # as unsigned, a negative id is large
        raise BundleError(
            f"The decoder returns an id outside its vocabulary ({pieces} pieces), so the two belong to different "
            "models; export the bundle again."
        )


class OnnxSteps:
    """The decoder in the middle of a batch; hidden and cell state stay on the device."""

    def __init__(self, decoder: "_Session", pieces: int, tensors: Mapping[str, Any], *, alpha: bool) -> None:
        self._decoder, self._pieces = decoder, pieces
        self._tensors = dict(tensors)  # state and context by name, each an OrtValue or an array
        self._first = {name: tensors[name] for name in FIRST_STATE if name in tensors}
        outputs = decoder.spec.outputs
        # names of the state as a step returns it, and as the next step reads it
        self._states = {t.name: t.name.removeprefix(NEXT) for t in outputs if t.role == "state"}
        self._names = [t.name for t in outputs if alpha or t.name != "alpha"]

    @property
    def photo(self) -> Float32Array:
        """See `caprun.search.steps.Steps`."""
        return photo_vectors(*(_on_host(self._first[name]) for name in FIRST_STATE))

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """See `caprun.search.steps.Steps`."""
        indices = {"row": row, "parent": parent, "token": token, "k": np.array([min(k, self._pieces)], np.int64)}
        outputs = self._decoder.run(indices | self._tensors, self._names, staying=self._states)
        for after, before in self._states.items():
            self._tensors[before] = outputs[after]
        refuse_unknown_pieces(outputs["candidate"], self._pieces)
        return StepOutput(outputs["log_prob"], outputs["candidate"], outputs.get("alpha"))

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Copies the current state and context to the host."""
        return {name: _on_host(value) for name, value in self._tensors.items()}


def _on_host(value: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = value if isinstance(value, np.ndarray) else value.numpy()
    return array


def _complete_graph(bundle: Bundle, file: str) -> bytes:
    """Reads a graph; refuses weights in other files, which ONNX Runtime would load without a checksum."""
    content = bundle.read(file)
    if b"location" in content:  # the key of every such reference; text in a graph is neither split nor compressed
        raise BundleError(
            f"{bundle.path / file} contains the word `location`, which marks weights in another file: keep all weights "
            "in the graph, rename every tensor and node whose name contains it, and export the bundle again."
        )
    return content


class _Session:
    """One graph in ONNX Runtime; on a GPU, tensors move between host and device only on request."""

    def __init__(
        self, device: Literal["cpu", "cuda"], threads: int | None, path: Path, content: bytes, spec: GraphSpec
    ) -> None:
        ort = onnxruntime()
        self.spec, self._device = spec, device
        try:
            with cuda.started_quietly(ort) if device == "cuda" else contextlib.nullcontext():
                self._session = _start(ort, device, threads, content)
        except Exception as error:  # ONNX Runtime's exceptions have no narrower common base class
            if device == "cuda":
                raise DeviceError(cuda.failure(_brief(error))) from error
            raise BundleError(f"ONNX Runtime refuses {path} ({_brief(error)}); export the bundle again.") from error
        if self._session.get_providers()[0] != PROVIDERS[device]:
            raise DeviceError(cuda.failure(""))
        self._session.disable_fallback()
        described = spec.inputs, spec.outputs
        for tensors, nodes in zip(described, (self._session.get_inputs(), self._session.get_outputs()), strict=True):
            if not _match(tensors, nodes):
                raise BundleError(f"{path} differs from its manifest; export the bundle again.")

    def run(self, inputs: dict[str, Any], names: list[str], *, staying: Collection[str]) -> dict[str, Any]:
        """Runs the graph.

        Args:
            inputs: Arrays, or OrtValues that an earlier run left on the device; other names are ignored.
            names: Outputs to return.
            staying: Outputs that stay on a GPU, as OrtValues; the others are copied to NumPy.

        Raises:
            DeviceError: ONNX Runtime failed; a GPU's memory may be full.
        """
        try:
            if self._device == "cpu":  # binding arrays that are already in place would only cost time
                given = {tensor.name: inputs[tensor.name] for tensor in self.spec.inputs}
                return dict(zip(names, self._session.run(names, given), strict=True))
            return self._run_bound(inputs, names, staying)
        except Exception as error:
            raise DeviceError(
                f"ONNX Runtime failed on the {self._device} ({_brief(error)}); its memory may be full: caption fewer "
                "photos at a time."
            ) from error

    def _run_bound(self, inputs: dict[str, Any], names: list[str], staying: Collection[str]) -> dict[str, Any]:
        binding = self._session.io_binding()
        for tensor in self.spec.inputs:
            value = inputs[tensor.name]
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(tensor.name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(tensor.name, value)
        for name in names:
            binding.bind_output(name, self._device if name in staying else "cpu")
        self._session.run_with_iobinding(binding)
        values = zip(names, binding.get_outputs(), strict=True)
        return {name: value if name in staying else value.numpy() for name, value in values}


def _start(ort: Any, device: Literal["cpu", "cuda"], threads: int | None, content: bytes) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors arrive as exceptions
    options.intra_op_num_threads = threads or 0
    # threads that spin while they wait take the core from other work
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # the format that was checked, not a guess
    return ort.InferenceSession(content, options, providers=[(PROVIDERS[device], _OPTIONS[device])])


_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)", "uint8": "tensor(uint8)"}


def _match(tensors: Sequence[TensorSpec], nodes: Sequence[Any]) -> bool:
    """Returns whether a graph's inputs or outputs have the names, types and sizes in the manifest."""
    found = {node.name: node for node in nodes}
    return len(found) == len(tensors) and all(
        tensor.name in found
        and found[tensor.name].type == _TYPES.get(tensor.dtype)
        and len(found[tensor.name].shape) == len(tensor.shape)
        # a dynamic size is text on either side, and ONNX Runtime may not know that a size is fixed
        and all(
            size == there
            for size, there in zip(tensor.shape, found[tensor.name].shape, strict=True)
            if isinstance(size, int) and isinstance(there, int)
        )
        for tensor in tensors
    )


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
