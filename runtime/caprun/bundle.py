"""The bundle: a directory with graphs, vocabulary and a manifest that vouches for every byte.

ONNX Runtime loads bit-flipped weights without a word, so nothing is given to it that was not checked first.
"""

import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from caprun.confidence import Confidence
from caprun.decoding import SearchOptions
from caprun.errors import BundleError, CaprunError
from caprun.image import ImageSpec
from caprun.manifest_check import is_plain_name, problems
from caprun.own_file import MOST_BYTES, NotOwnError, open_own, read_own, sha256_of
from caprun.schema import from_dict, shown
from caprun.strict_json import parse
from caprun.vocabulary import Special, Vocabulary
from caprun.whole import flush

FORMAT_VERSION = 3  # 1 had no parity of a precision, 2 no confidence
_WITHOUT_CONFIDENCE = 2  # what is written where there is none: an older caprun reads it
MANIFEST = "model.json"
VOCABULARY = "vocab.json"
MODEL_CARD = "MODEL_CARD.md"
_MOST_MANIFEST, _MOST_VOCABULARY = 2**20, 2**25  # bytes
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


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest and vocabulary are read; its graphs are read, and checked, when asked for."""

    path: Path
    manifest: Manifest
    vocabulary: Vocabulary

    def read(self, file: str) -> bytes:
        """The bytes of one of the bundle's files, found as the manifest says they must be."""
        return _read_checked(self.path, file, self.manifest.files[file])

    def graphs(self, precision: str = FULL_PRECISION) -> tuple[bytes, bytes]:
        """Encoder and decoder of a precision."""
        encoder, decoder = self.graph_files(precision)
        return self.read(encoder), self.read(decoder)

    def check(self, precision: str = FULL_PRECISION) -> None:
        """Refuse the bundle if `graphs` would, without the memory for them."""
        for file in self.graph_files(precision):
            _check_content(self.path, file, self.manifest.files[file])

    def graph_files(self, precision: str = FULL_PRECISION) -> tuple[str, str]:
        """Names of the encoder's and the decoder's file of a precision."""
        chosen = self.manifest.precisions.get(precision)
        if chosen is None:
            raise BundleError(f"{self.path} has no {precision} graphs; it has {', '.join(self.manifest.precisions)}.")
        return chosen.encoder, chosen.decoder


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle and check its manifest, that all its files are there, and what is in all but the graphs.

    Raises:
        BundleError: no bundle there, of a newer version, or not what its manifest says.
    """
    path = Path(path)
    try:
        exists, is_directory = path.exists(), path.is_dir()
    except OSError as error:  # a name too long, a directory above that may not be entered
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from error
    if not exists:
        raise BundleError(f"There is no bundle at {path}; give a directory that `captioner export` wrote.")
    if not is_directory:
        raise BundleError(f"{path} is a file; a bundle is the directory that `captioner export` wrote.")
    data = _read_manifest(path)
    if not isinstance(data, dict):
        raise BundleError(f"{path / MANIFEST} is not a manifest; export the bundle again.")
    version = data.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {shown(version)} and this caprun reads up to {FORMAT_VERSION}; upgrade "
            "captioner."
        )
    digest = data.pop("digest", None)
    if digest != _digest(data):
        raise BundleError(f"{path / MANIFEST} has been altered (its digest is wrong); export the bundle again.")
    try:
        manifest = from_dict(Manifest, data)
    except ValueError as error:
        raise _no_sense(path, str(error).rstrip(".")) from None
    _check_files(path, manifest)
    bundle = Bundle(path, manifest, _vocabulary(path, manifest))
    for problem in problems(manifest, len(bundle.vocabulary)):
        raise _no_sense(path, problem)
    return bundle


def _no_sense(path: Path, why: str) -> BundleError:
    return BundleError(f"{path / MANIFEST} is not a manifest: {why}; export the bundle again.")


def _check_files(path: Path, manifest: Manifest) -> None:
    for file in manifest.files:
        if not is_plain_name(file) or file == MANIFEST:
            raise BundleError(f"{path / MANIFEST} lists {shown(file)}, which is no file of the bundle; do not use it.")
    graphs = {file for precision in manifest.precisions.values() for file in (precision.encoder, precision.decoder)}
    unlisted = sorted(graphs - set(manifest.files))
    if unlisted or not graphs:
        missing = ", ".join(map(shown, unlisted)) or "any graph"
        raise BundleError(f"{path / MANIFEST} lists no checksum of {missing}; export the bundle again.")
    for file, entry in manifest.files.items():
        with _opened(path / file) as opened:
            _refuse_size(path / file, os.fstat(opened.fileno()).st_size, entry)
    for file in set(manifest.files) - graphs - {VOCABULARY}:  # which are checked as they are read
        _check_content(path, file, manifest.files[file])


def _vocabulary(path: Path, manifest: Manifest) -> Vocabulary:
    entry = manifest.files.get(VOCABULARY)
    if entry is None:
        raise BundleError(f"{path / MANIFEST} lists no {VOCABULARY}; export the bundle again.")
    content = _read_checked(path, VOCABULARY, entry, _MOST_VOCABULARY)
    try:
        return Vocabulary.from_dict(parse(content))
    except ValueError as error:
        raise BundleError(f"{path / VOCABULARY} is not a vocabulary: {error}; export the bundle again.") from None


def _read_checked(directory: Path, file: str, entry: FileEntry, most: int = MOST_BYTES) -> bytes:
    """The bytes that were checked, which are read once."""
    path = directory / file
    with _saying_what_is_wrong(path):
        content = read_own(path, most)
    if content is None:
        raise BundleError(f"{path} is larger than any such file is; do not use it.")
    _refuse_size(path, len(content), entry)
    _refuse_altered(path, hashlib.sha256(content).hexdigest(), entry)
    return content


def _check_content(directory: Path, file: str, entry: FileEntry) -> None:
    path = directory / file
    with _saying_what_is_wrong(path):
        sha256 = sha256_of(path)
    _refuse_altered(path, sha256, entry)


@contextlib.contextmanager
def _saying_what_is_wrong(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; copy the whole bundle, or export it again.") from None
    except NotOwnError:
        raise BundleError(f"{path} is a link out of the bundle or no file at all; copy the file itself.") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); see to it, or copy the bundle again.") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.FileIO]:
    with _saying_what_is_wrong(path), open_own(path) as file:
        yield file


def _refuse_size(path: Path, size: int, entry: FileEntry) -> None:
    if size != entry.bytes:
        raise BundleError(
            f"{path} has {size} bytes and should have {shown(entry.bytes)}; it is damaged, copy or export it again."
        )


def _refuse_altered(path: Path, sha256: str, entry: FileEntry) -> None:
    if sha256 != entry.sha256:
        raise BundleError(
            f"{path} has been altered (its checksum is wrong); copy it again, or export the bundle again."
        )


def _read_manifest(directory: Path) -> Any:
    path = directory / MANIFEST
    if not os.path.lexists(path):
        raise BundleError(f"{directory} is no bundle: it has no {MANIFEST}.")
    with _saying_what_is_wrong(path):
        content = read_own(path, _MOST_MANIFEST)
    if content is None:
        raise BundleError(f"{path} is larger than any manifest is; do not use it.")
    try:
        return parse(content)
    except ValueError as error:
        raise BundleError(f"{path} is damaged: {error}; export the bundle again.") from None


def _digest(data: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of a manifest without its digest."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def describe_file(path: Path) -> FileEntry:
    """What the manifest says of a file."""
    content = path.read_bytes()
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def write_manifest(directory: Path, manifest: Manifest, vocabulary: Vocabulary, model_card: str) -> Manifest:
    """Write vocabulary, model card and, last, the manifest beside the graphs that are in `directory` already.

    Returns:
        The manifest with every file's size and checksum.
    """
    _write(directory / VOCABULARY, json.dumps(vocabulary.as_dict(), ensure_ascii=False, indent=0))
    _write(directory / MODEL_CARD, model_card)
    files = {path.name: describe_file(path) for path in sorted(directory.iterdir()) if path.name != MANIFEST}
    version = manifest.format_version if manifest.confidence is None else FORMAT_VERSION
    manifest = replace(manifest, files=files, format_version=version)
    # through JSON once: the digest is over what a reader will see, lists for tuples among it
    content = asdict(manifest) | {"search": manifest.search.as_dict()}
    if manifest.confidence is None:
        del content["confidence"]
    data = json.loads(json.dumps(content, allow_nan=False))
    _write(directory / MANIFEST, json.dumps(data | {"digest": _digest(data)}, ensure_ascii=False, indent=2) + "\n")
    return manifest


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


class Replacement:
    """A directory written beside its target, and renamed into its place on success; a failure leaves the target alone.

    Raises:
        BundleError: the target exists and is not a bundle and nothing else, or it cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        try:
            self._refuse_to_lose_files()
            self._place = self.target.resolve()  # where it is a link, what it leads to
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self.directory = self._place.with_name(f".{self._place.name}-{secrets.token_hex(4)}")
            self.directory.mkdir()
        except OSError as error:
            raise BundleError(f"{self.target} cannot be written: {error.strerror}.") from error
        return self.directory

    def _refuse_to_lose_files(self) -> None:
        if not self.target.exists() or (self.target.is_dir() and not any(self.target.iterdir())):
            return
        try:
            own = {MANIFEST, *_read_manifest(self.target)["files"]}
        except (BundleError, KeyError, TypeError):
            raise BundleError(
                f"{self.target} exists and is no bundle; choose another --output, or remove it."
            ) from None
        others = sorted({path.name for path in self.target.iterdir()} - own)
        if others:
            raise BundleError(f"{self.target} holds {others[0]} besides a bundle; choose another --output, or move it.")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self._put_in_place()
            elif isinstance(error, OSError) and not isinstance(error, CaprunError):
                raise self._unwritten(error) from error
        except OSError as failure:
            raise self._unwritten(failure) from failure
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _put_in_place(self) -> None:
        for path in (*self.directory.iterdir(), self.directory):
            _flush(path)  # or the rename could reach the disk before the content
        previous = self.directory.with_name(self.directory.name + "-previous")
        try:
            if self._place.exists():
                self._place.rename(previous)
            self.directory.rename(self._place)
        except BaseException:
            if previous.exists() and not self._place.exists():
                previous.rename(self._place)
            raise
        shutil.rmtree(previous, ignore_errors=True)

    def _unwritten(self, error: OSError) -> BundleError:
        where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else self.directory
        place = self.target / where.relative_to(self.directory) if where.is_relative_to(self.directory) else where
        return BundleError(
            f"{place} cannot be written: {error.strerror or error}; what was at {self.target} before is as it was."
        )


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # which cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)
