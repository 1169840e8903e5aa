"""Reading a bundle: a directory with graphs, vocabulary and a manifest that vouches for every byte.

ONNX Runtime loads bit-flipped weights without a word, so nothing is given to it that was not checked first.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from caprun.bundle.file_access import MOST_BYTES, NotOwnError, open_own, read_own, sha256_of
from caprun.bundle.manifest import (
    FORMAT_VERSION,
    FULL_PRECISION,
    MANIFEST,
    VOCABULARY,
    FileEntry,
    Manifest,
    digest_of,
)
from caprun.bundle.manifest_check import is_plain_name, problems
from caprun.bundle.plain_data import from_dict, shown
from caprun.bundle.strict_json import parse
from caprun.bundle.vocabulary import Vocabulary
from caprun.errors import BundleError

_MOST_MANIFEST, _MOST_VOCABULARY = 2**20, 2**25  # bytes


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
    data = read_manifest(path)
    if not isinstance(data, dict):
        raise BundleError(f"{path / MANIFEST} is not a manifest; export the bundle again.")
    version = data.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {shown(version)} and this caprun reads up to {FORMAT_VERSION}; upgrade "
            "captioner."
        )
    digest = data.pop("digest", None)
    if digest != digest_of(data):
        raise BundleError(f"{path / MANIFEST} has been altered (its digest is wrong); export the bundle again.")
    try:
        manifest = from_dict(Manifest, data)
    except ValueError as error:
        raise _no_sense(path, str(error).rstrip(".")) from None
    _check_files(path, manifest)
    bundle = Bundle(path, manifest, _vocabulary(path, manifest))
    for problem in problems(manifest, len(bundle.vocabulary)):
        raise _no_sense(path, problem)
    if manifest.neutral is not None:
        for problem in manifest.neutral.problems(bundle.vocabulary, frozenset(astuple(manifest.special))):
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


def read_manifest(directory: Path) -> Any:
    """Reads a manifest as plain data, before anything in it is checked.

    Raises:
        BundleError: There is none, or it is not JSON.
    """
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
