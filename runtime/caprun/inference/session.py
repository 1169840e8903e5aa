"""A bundle's graphs in ONNX Runtime, and a decoder whose state stays on the device."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from caprun.arrays import Float32Array, Ids
from caprun.bundle.external_data import has_external_data
from caprun.bundle.manifest import GraphSpec, TensorSpec
from caprun.bundle.manifest_check import FIRST_STATE, NEXT
from caprun.bundle.reading import Bundle
from caprun.errors import BundleError, CaprunError, DeviceError
from caprun.inference import graph_cache
from caprun.inference.devices import PROVIDERS, Device, choose_device, onnxruntime
from caprun.inference.precisions import choose_precision
from caprun.search.steps import StepOutput, photo_vectors

_OPTIONS = {
    "cpu": {},
    "cuda": {
        # batches come in many sizes, and an exhaustive search would be made anew for each
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        # memory as it is needed, not doubled at every turn: others use the device, too
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",  # fp32 is fp32: the words must be those of training
    },
}


class OnnxBackend:
    """A bundle's two graphs in ONNX Runtime.

    Args:
        bundle: an ONNX bundle.
        device: `auto` falls back to the CPU where CUDA does not start; `cuda` runs on CUDA or fails.
        threads: threads of one operation; None lets ONNX Runtime take every core.
        precision: one of the bundle's; None for the one that `choose_precision` finds.
        keep: on the CPU, use and fill the cache of optimised graphs.

    Attributes:
        device: where it runs.
        precision: of the graphs that run.

    Raises:
        BundleError: the bundle is not of ONNX graphs, has not that precision, or ONNX Runtime refuses them.
        DeviceError: no ONNX Runtime, or no CUDA where it is asked for.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device = "auto",
        threads: int | None = None,
        precision: str | None = None,
        *,
        keep: bool = False,
    ) -> None:
        if bundle.manifest.format != "onnx":
            raise BundleError(
                f"{bundle.path} holds TorchScript graphs, which caprun does not run: use "
                f"`captioner caption --model {bundle.path} PHOTO`, or export it with --format onnx."
            )
        self._pieces = len(bundle.vocabulary)
        self._keep = keep and graph_cache.directory() is not None
        with ThreadPoolExecutor(2) as pool:
            # of a graph that was kept, the source is checked while ONNX Runtime is imported, which takes longer; of any
            # other it is checked as it is read
            wanted = precision or choose_precision(bundle.manifest, "cpu")
            checked = pool.submit(bundle.check, wanted) if self._keep and device != "cuda" else None
            try:
                self._open(bundle, choose_device(device), threads, precision, pool, checked)
            except DeviceError:
                if device != "auto":
                    raise
                self._open(bundle, "cpu", threads, precision, pool, checked)

    def _open(
        self,
        bundle: Bundle,
        device: Literal["cpu", "cuda"],
        threads: int | None,
        precision: str | None,
        pool: ThreadPoolExecutor,
        checked: Future[None] | None,
    ) -> None:
        self.device, self.precision = device, precision or choose_precision(bundle.manifest, device)
        keep = self._keep and device == "cpu"
        if keep and checked is not None:
            checked.result()
        (encoder, decoder), specs = bundle.graph_files(self.precision), bundle.manifest.graphs
        models = (
            _Model.of(bundle, encoder, specs.encoder, keep),
            _Model.of(bundle, decoder, specs.decoder, keep),
        )
        sources = [place or model.content() for model, place in zip(models, pool.map(_Model.kept, models), strict=True)]
        # one after the other where it takes much memory: on a GPU, and for graphs to be kept, which are written from it
        alone = device == "cuda" or (keep and any(isinstance(source, bytes) for source in sources))
        each: Any = map if alone else pool.map
        self._encoder, self._decoder = each(partial(_Session, device, threads), models, sources)

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> "OnnxSteps":
        """Show photos, uint8 (photos, height, width, 3), to the decoder; `alpha`: attention weights are wanted."""
        (image,) = self._encoder.spec.inputs
        names = [tensor.name for tensor in self._encoder.spec.outputs]
        outputs = self._encoder.run({image.name: images}, names, staying=names)
        return OnnxSteps(self._decoder, self._pieces, outputs, alpha=alpha)

    def start(self, tensors: Mapping[str, npt.NDArray[Any]], *, alpha: bool = False) -> "OnnxSteps":
        """Start the decoder from given state and context, float32 by the names of the manifest."""
        return OnnxSteps(self._decoder, self._pieces, tensors, alpha=alpha)


def refuse_unknown_pieces(candidate: npt.NDArray[np.int64], pieces: int) -> None:
    """Refuse a decoder's candidates that its vocabulary of so many pieces has not.

    Raises:
        BundleError: there are such.
    """
    if candidate.size and candidate.view(np.uint64).max() >= pieces:  # a negative one is large
        raise BundleError(
            f"The decoder says pieces that its vocabulary of {pieces} has not: they are not of one bundle; export it "
            "again."
        )


class OnnxSteps:
    """The decoder in the middle of a batch; hidden and cell state stay on the device."""

    def __init__(self, decoder: "_Session", pieces: int, tensors: Mapping[str, Any], *, alpha: bool) -> None:
        self._decoder, self._pieces = decoder, pieces
        self._tensors = dict(tensors)  # OrtValues or arrays by name: the state, and the context that never changes
        self._first = {name: tensors[name] for name in FIRST_STATE if name in tensors}
        outputs = decoder.spec.outputs
        # the state's names, as they come out of a step and go into the next
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
        """State and context as they are now, copied to the host."""
        return {name: _on_host(value) for name, value in self._tensors.items()}


def _on_host(value: Any) -> npt.NDArray[Any]:
    """An array, or an OrtValue as one."""
    array: npt.NDArray[Any] = value if isinstance(value, np.ndarray) else value.numpy()
    return array


class _Model(NamedTuple):
    """A graph that a session is to be made of."""

    bundle: Bundle
    file: str
    spec: GraphSpec
    entry: graph_cache.Entry | None
    """Where it is kept as ONNX Runtime optimises it; None for nowhere."""

    @classmethod
    def of(cls, bundle: Bundle, file: str, spec: GraphSpec, keep: bool) -> "_Model":
        sha256 = bundle.manifest.files[file].sha256
        entry = graph_cache.entry(sha256, onnxruntime().__version__) if keep else None
        return cls(bundle, file, spec, entry)

    def kept(self) -> Path | None:
        """The optimised graph, if it is there; it was complete in itself when it was made."""
        return None if self.entry is None else self.entry.find()

    def content(self) -> bytes:
        """The graph as it is in the bundle.

        A manifest vouches for the bundle's files, and for none that ONNX Runtime would be led to by one of them.
        """
        content, path = self.bundle.read(self.file), self.bundle.path / self.file
        try:
            incomplete = has_external_data(content)
        except ValueError as error:
            raise BundleError(f"{path} is no ONNX model ({error}); export the bundle again.") from None
        if incomplete:
            raise BundleError(f"{path} has weights in another file, which a bundle cannot; export it again.")
        return content


class _Session:
    """One session; on a GPU, tensors move between host and device only where asked."""

    def __init__(
        self, device: Literal["cpu", "cuda"], threads: int | None, model: _Model, source: bytes | Path
    ) -> None:
        ort = onnxruntime()
        self.spec, self._device, self._threads = model.spec, device, threads
        bundle = model.bundle.path
        try:
            if device == "cuda" and hasattr(ort, "preload_dlls"):
                ort.preload_dlls()
            self._session = self._start(model, source)
        except CaprunError:
            raise
        except Exception as error:  # ONNX Runtime raises classes of its own, derived from nothing narrower
            if device == "cuda":
                raise DeviceError(f"CUDA does not start ({_brief(error)}); use --device cpu.") from error
            raise BundleError(f"ONNX Runtime refuses the graphs of {bundle} ({_brief(error)}).") from error
        if self._session.get_providers()[0] != PROVIDERS[device]:
            raise DeviceError("CUDA was asked for and ONNX Runtime fell back to the CPU; see its CUDA requirements.")
        self._session.disable_fallback()
        described = self.spec.inputs, self.spec.outputs
        for tensors, nodes in zip(described, (self._session.get_inputs(), self._session.get_outputs()), strict=True):
            if not _are(tensors, nodes):
                raise BundleError(f"The graphs of {bundle} are not those its manifest describes; export it again.")

    def _start(self, model: _Model, source: bytes | Path) -> Any:
        """A session of the optimised graph, or else of the bundle's, which leaves an optimised one where it can."""
        if isinstance(source, Path):
            try:
                return self._session_of(source)
            except Exception:  # noqa: BLE001 - as above; whatever is wrong with what was kept, the bundle is not
                assert model.entry
                model.entry.forget()
                source = model.content()
        if model.entry:
            # nothing can be written, the disk fills up; or it is the graph that is refused, as it will be once more
            with contextlib.suppress(Exception), model.entry.being_made() as path:
                return self._session_of(source, keep_as=path)
        return self._session_of(source)

    def _session_of(self, source: bytes | Path, *, keep_as: Path | None = None) -> Any:
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong arrives as an exception, and is said in a sentence
        options.intra_op_num_threads = self._threads or 0
        # threads that wait in a loop for the next operation take the core from whoever else has work
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        provider = PROVIDERS[self._device], _OPTIONS[self._device]
        if isinstance(source, Path):
            graph_cache.set_to_load(ort, options)
            return ort.InferenceSession(str(source), options, providers=[provider])
        options.add_session_config_entry("session.load_model_format", "ONNX")  # what was looked into, not guessed
        if keep_as:
            graph_cache.set_to_keep(options, keep_as)
        return ort.InferenceSession(source, options, providers=[provider])

    def run(self, inputs: dict[str, Any], names: list[str], *, staying: Collection[str]) -> dict[str, Any]:
        """Run the graph.

        Args:
            inputs: arrays, or OrtValues that an earlier run left on the device; names the graph has not are ignored.
            names: of the outputs that are wanted.
            staying: those that stay on a GPU, as OrtValues; the others are copied to NumPy.

        Raises:
            DeviceError: ONNX Runtime failed; a GPU's memory may be full.
        """
        try:
            if self._device == "cpu":  # arrays are where the graph needs them, and binding them would only cost time
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


def _are(tensors: Sequence[TensorSpec], nodes: Sequence[Any]) -> bool:
    """Whether a graph's inputs or outputs have the names, types and sizes that a manifest gives them."""
    found = {node.name: node for node in nodes}
    return len(found) == len(tensors) and all(
        tensor.name in found
        and found[tensor.name].type == _TYPES.get(tensor.dtype)
        and len(found[tensor.name].shape) == len(tensor.shape)
        # what varies is text in either, and ONNX Runtime need not know that a size does not
        and all(
            size == there
            for size, there in zip(tensor.shape, found[tensor.name].shape, strict=True)
            if isinstance(size, int) and isinstance(there, int)
        )
        for tensor in tensors
    )


_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)", "uint8": "tensor(uint8)"}


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
