"""Reads a bundle: a directory with graphs, a vocabulary, and a manifest that vouches for every byte.

ONNX Runtime loads bit-flipped weights without an error, so it is given only bytes that were checked.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caprun.bundle.checking import MOST_BYTES, ForeignFileError, open_own, parse_json, read_own
from caprun.bundle.manifest import FORMAT_VERSION, FULL_PRECISION, MANIFEST, VOCABULARY, FileEntry, Manifest, digest_of
from caprun.bundle.manifest_check import is_plain_name, problems
from caprun.bundle.plain_data import from_dict, shown
from caprun.bundle.vocabulary import Vocabulary
from caprun.errors import BundleError

_MOST_MANIFEST, _MOST_VOCABULARY = 2**20, 2**25  # bytes


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest and vocabulary are read; graphs are read and checked on demand."""

    path: Path
    manifest: Manifest
    vocabulary: Vocabulary
    digest: str
    """SHA-256 of the manifest, which covers all files."""

    def read(self, file: str) -> bytes:
        """Reads one of the bundle's files and checks it against the manifest."""
        return _read_checked(self.path / file, self.manifest.files[file])

    def graphs(self, precision: str = FULL_PRECISION) -> tuple[bytes, bytes]:
        """Reads the encoder and the decoder of a precision."""
        encoder, decoder = self.graph_files(precision)
        return self.read(encoder), self.read(decoder)

    def graph_files(self, precision: str = FULL_PRECISION) -> tuple[str, str]:
        """Returns the file names of the encoder and the decoder of a precision."""
        chosen = self.manifest.precisions.get(precision)
        if chosen is None:
            raise BundleError(f"{self.path} has no {precision} graphs; it has {', '.join(self.manifest.precisions)}.")
        return chosen.encoder, chosen.decoder


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Opens a bundle and checks its manifest, the size of every file, and the content of all files except graphs.

    Raises:
        BundleError: The path is not a bundle, has another format version, or differs from its manifest.
    """
    path = Path(path)
    manifest, digest = _manifest(path)
    _check_files(path, manifest)
    bundle = Bundle(path, manifest, _vocabulary(path, manifest), digest)
    for problem in problems(manifest, bundle.vocabulary):
        raise _not_a_manifest(path, problem)
    return bundle


def read_manifest(directory: Path) -> Any:
    """Reads a manifest as plain data, before anything in it is checked.

    Raises:
        BundleError: There is no manifest, or it is not JSON.
    """
    path = directory / MANIFEST
    with _explained(path):
        try:
            content = read_own(path, _MOST_MANIFEST)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the path
            raise BundleError(
                f"There is no bundle at {directory}; give a directory with a {MANIFEST}, which `captioner export` "
                "writes, or a name that `caprun models` lists."
            ) from None
    if content is None:
        raise BundleError(f"{path} is too large for a manifest; do not use it.")
    try:
        return parse_json(content)
    except ValueError as error:
        raise BundleError(f"{path} is damaged: {error}; export the bundle again.") from None


def _manifest(path: Path) -> tuple[Manifest, str]:
    """Reads the manifest and its digest."""
    data = read_manifest(path)
    if not isinstance(data, dict):
        raise _not_a_manifest(path, "it is not a JSON object")
    version = data.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {shown(version)}, but this caprun reads version {FORMAT_VERSION}: upgrade "
            "caprun, or export the model again if a draft before version 0.2.0 wrote the bundle."
        )
    digest = data.pop("digest", None)
    if digest != digest_of(data):
        raise BundleError(f"{path / MANIFEST} has been altered (its digest is wrong); export the bundle again.")
    try:
        return from_dict(Manifest, {"format_version": None} | data), digest
    except ValueError as error:
        raise _not_a_manifest(path, str(error).rstrip(".")) from None


def _not_a_manifest(path: Path, why: str) -> BundleError:
    return BundleError(f"{path / MANIFEST} is not a manifest: {why}; export the bundle again.")


def _check_files(path: Path, manifest: Manifest) -> None:
    for file in manifest.files:
        if not is_plain_name(file) or file == MANIFEST:
            raise BundleError(f"{path / MANIFEST} lists {shown(file)}, which cannot be a bundle file; do not use it.")
    graphs = {file for precision in manifest.precisions.values() for file in (precision.encoder, precision.decoder)}
    unlisted = sorted(graphs - set(manifest.files))
    if unlisted or not graphs:
        missing = ", ".join(map(shown, unlisted)) or "any graph"
        raise BundleError(f"{path / MANIFEST} lists no checksum for {missing}; export the bundle again.")
    for file, entry in manifest.files.items():
        with _explained(path / file), open_own(path / file) as opened:
            size = os.fstat(opened.fileno()).st_size
        _refuse_size(path / file, size, entry)
    for file in set(manifest.files) - graphs - {VOCABULARY}:  # graphs and vocabulary are checked as they are read
        _read_checked(path / file, manifest.files[file])


def _vocabulary(path: Path, manifest: Manifest) -> Vocabulary:
    entry = manifest.files.get(VOCABULARY)
    if entry is None:
        raise BundleError(f"{path / MANIFEST} lists no {VOCABULARY}; export the bundle again.")
    content = _read_checked(path / VOCABULARY, entry, _MOST_VOCABULARY)
    try:
        return Vocabulary.from_dict(parse_json(content))
    except ValueError as error:
        raise BundleError(f"{path / VOCABULARY} is not a vocabulary: {error}; export the bundle again.") from None


def _read_checked(path: Path, entry: FileEntry, most: int = MOST_BYTES) -> bytes:
    """Reads a file once and returns the bytes that were checked."""
    with _explained(path):
        content = read_own(path, most)
    if content is None:
        raise BundleError(f"{path} is too large for a file of a bundle; do not use it.")
    _refuse_size(path, len(content), entry)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleError(
            f"{path} has been altered (its checksum is wrong); copy it again, or export the bundle again."
        )
    return content


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns file system errors into sentences."""
    try:
        yield
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; copy the whole bundle, or export it again.") from None
    except ForeignFileError:
        raise BundleError(f"{path} is a link out of the bundle or not a regular file; copy the file itself.") from None
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read ({error.strerror}); change its permissions, or copy the bundle again."
        ) from error


def _refuse_size(path: Path, size: int, entry: FileEntry) -> None:
    if size != entry.bytes:
        raise BundleError(
            f"{path} has {size} bytes, but its manifest lists {shown(entry.bytes)}; copy it again, or export the "
            "bundle again."
        )
