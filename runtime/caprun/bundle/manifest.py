"""The manifest of a bundle, `model.json`, as frozen dataclasses.

`model.schema.json` beside this module is generated from these classes; run `python scripts/bundle_schema.py` after a
change.
"""

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

FORMAT_VERSION: Literal[1] = 1
MANIFEST = "model.json"
VOCABULARY = "vocab.json"
MODEL_CARD = "MODEL_CARD.md"
FULL_PRECISION = "fp32"
"""The precision that every bundle has, and whose captions equal PyTorch's."""

FIRST_STATE = ("hidden", "cell")
"""Encoder outputs that a confidence reads, in this order."""
NEXT = "next_"
"""Prefix of a state that the decoder returns: a graph cannot use one name for an input and an output."""


@dataclass(frozen=True)
class FileEntry:
    """Size and checksum of a file of the bundle."""

    bytes: int
    """Size of the file."""
    sha256: str
    """SHA-256 of the content, in hexadecimal."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph."""

    name: str
    """Name in the graph."""
    role: Literal["image", "state", "context", "index", "output"]
    """`state` changes at every step; `context` is read by every step and never changes."""
    dtype: str
    """`float32`, `int64` or `uint8`."""
    shape: tuple[int | str, ...]
    """Sizes of the dimensions; a dimension that varies has a name."""


@dataclass(frozen=True)
class GraphSpec:
    """The tensors of a graph, in the graph's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Graphs:
    """The two graphs of a bundle."""

    encoder: GraphSpec
    decoder: GraphSpec


@dataclass(frozen=True)
class Measurement:
    """Speed and score of a precision on a device."""

    device: str
    """`cuda`, or `cpu/` and the architecture."""
    photos_per_second: float
    """Photos per second, one at a time and in one thread, from uint8 array to caption with the bundle's search."""
    cider: float
    """CIDEr on the scored dev photos."""
    photos: int = 0
    """Number of photos scored, the same for every precision."""


@dataclass(frozen=True)
class Precision:
    """The graph files of a precision, and their measurements."""

    encoder: str
    """File of the encoder graph."""
    decoder: str
    """File of the decoder graph."""
    measured: tuple[Measurement, ...] | Literal["unmeasured"] = "unmeasured"
    """Measurements, one for each device."""
    parity: Mapping[str, Any] = field(default_factory=dict)
    """For a precision other than fp32: the number of its captions that equal fp32's."""


@dataclass(frozen=True)
class ModelSpec:
    """Everything that captioning needs to know about a model, exported or not."""

    name: str
    """Name of the model."""
    image: ImageSpec
    """Input of the encoder."""
    special: Special
    """Ids of the special pieces."""
    search: SearchOptions
    """Default search options."""
    attention_grid: tuple[int, int] | None
    """Rows and columns of the attention weights; null for a model without attention."""
    language: str | None = field(default=None, kw_only=True)
    """Language of the captions as a BCP 47 code, such as `zh`; null where it is unknown."""
    confidence: Confidence | None = field(default=None, kw_only=True)
    """Probability that a caption is good; null where it was not calibrated."""
    neutral: NeutralWords | None = field(default=None, kw_only=True)
    """Words that replace gendered words on request; null where there are none for the captions' language."""

    def __post_init__(self) -> None:
        if self.language is None and self.neutral is not None:
            object.__setattr__(self, "language", self.neutral.language)


@dataclass(frozen=True)
class Manifest(ModelSpec):
    """Everything the runtime needs to know about a bundle; `model.json` adds a digest of it."""

    format: Literal["onnx", "torchscript"]
    """Format of the graphs."""
    licence: str
    """Licence of the weights."""
    files: Mapping[str, FileEntry]
    """Every file of the bundle other than `model.json`, by name."""
    precisions: Mapping[str, Precision]
    """Graphs of each precision, by name."""
    graphs: Graphs
    """Tensors of the graphs, the same in every precision."""
    parity: Mapping[str, Any] = field(default_factory=dict)
    """The export's comparison with PyTorch, and the largest differences."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Scores, with their split and protocol."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """SHA-256 of the checkpoint, its training, and the versions that made the bundle."""
    format_version: Literal[1] = FORMAT_VERSION
    """Version of this format."""


def digest_of(data: Mapping[str, Any]) -> str:
    """Computes the SHA-256 of the canonical JSON of a manifest without its digest."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def refuse_uncalibrated(spec: ModelSpec, least: float | None, option: str = "--min-confidence") -> None:
    """Refuses a minimum confidence, set by `option`, for a model without a calibrated confidence.

    Raises:
        UsageError: A minimum is set and the model has no confidence.
    """
    if least is not None and spec.confidence is None:
        raise UsageError(f"The model {spec.name} has no calibrated confidence; leave out {option}.")
