"""The manifest of a bundle, `model.json`: what it holds, as frozen dataclasses."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from caprun.bundle.confidence import Confidence
from caprun.bundle.neutral_words import NeutralWords
from caprun.bundle.vocabulary import Special
from caprun.errors import UsageError
from caprun.photos.preprocessing import ImageSpec
from caprun.search.options import SearchOptions

FORMAT_VERSION = 4  # 1 had no parity of a precision, 2 no confidence, 3 no neutral words
WITHOUT_NEUTRAL_WORDS, _WITHOUT_CONFIDENCE = 3, 2  # what is written where there are none: an older caprun reads it
MANIFEST = "model.json"
VOCABULARY = "vocab.json"
MODEL_CARD = "MODEL_CARD.md"
FULL_PRECISION = "fp32"
"""The precision that every bundle has, and that says the same as PyTorch."""


@dataclass(frozen=True)
class FileEntry:
    """What a file of the bundle must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output."""

    name: str
    role: Literal["image", "state", "context", "index", "output"]
    """`state` changes at every step, `context` is seen by every step and never changes."""
    dtype: str
    shape: tuple[int | str, ...]
    """Text for what varies."""


@dataclass(frozen=True)
class GraphSpec:
    """The tensors of a graph, in its own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Graphs:
    """The two graphs of every bundle."""

    encoder: GraphSpec
    decoder: GraphSpec


@dataclass(frozen=True)
class Measurement:
    """What a precision was found to do on a device, on the same photos as fp32."""

    device: str
    """`cuda`, or `cpu/` and the architecture."""
    photos_per_second: float
    """One photo at a time, uint8 array to caption, one thread, with the bundle's own search."""
    cider: float
    """0..1 and above, on dev; of fp32 the same photos'."""
    photos: int = 0
    """How many were scored."""


@dataclass(frozen=True)
class Precision:
    """The graph files of one precision, and where it was measured."""

    encoder: str
    decoder: str
    measured: tuple[Measurement, ...] | Literal["unmeasured"] = "unmeasured"
    parity: Mapping[str, Any] = field(default_factory=dict)
    """Of another precision than fp32: how many captions are fp32's."""


@dataclass(frozen=True)
class ModelSpec:
    """What captioning needs to know of a model, exported or not."""

    name: str
    image: ImageSpec
    special: Special
    search: SearchOptions
    """Used unless others are given."""
    attention_grid: tuple[int, int] | None
    """Rows and columns of the regions behind alpha; none for a model that does not attend."""
    confidence: Confidence | None = field(default=None, kw_only=True)
    """How likely its captions are to be good; none where it was not calibrated."""
    neutral: NeutralWords | None = field(default=None, kw_only=True)
    """What it says where no gender may be said; none where its language is not known."""


@dataclass(frozen=True)
class Manifest(ModelSpec):
    """Everything the runtime needs to know; `model.json` is this and its own digest."""

    format: Literal["onnx", "torchscript"]
    licence: str
    files: Mapping[str, FileEntry]
    precisions: Mapping[str, Precision]
    graphs: Graphs
    parity: Mapping[str, Any] = field(default_factory=dict)
    """What the export compared with PyTorch, and how large the differences were."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Scores with their split and protocol."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """The checkpoint's sha256 and the versions that made the bundle."""
    format_version: int = _WITHOUT_CONFIDENCE


def digest_of(data: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of a manifest without its digest."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def refuse_uncalibrated(spec: ModelSpec, least: float | None, option: str = "--min-confidence") -> None:
    """Refuse to compare the confidence of a model that has none.

    Args:
        spec: the model's.
        least: the confidence that is asked for; None for none.
        option: how that was said.

    Raises:
        UsageError: it was, and there is none.
    """
    if least is not None and spec.confidence is None:
        raise UsageError(f"The model {spec.name} has no calibrated confidence to abstain by; leave out {option}.")
