"""Writes a bundle: its manifest, and a directory that replaces another on success."""

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from caprun.atomic_write import flush
from caprun.bundle.manifest import MANIFEST, MODEL_CARD, VOCABULARY, FileEntry, Manifest, digest_of
from caprun.bundle.reading import read_manifest
from caprun.bundle.vocabulary import Vocabulary
from caprun.errors import BundleError, CaprunError


def describe_file(path: Path) -> FileEntry:
    """Measures the size and the checksum of a file, as a manifest lists them."""
    content = path.read_bytes()
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def write_manifest(directory: Path, manifest: Manifest, vocabulary: Vocabulary, model_card: str) -> Manifest:
    """Writes vocabulary, model card and, last, the manifest beside the graphs that `directory` already holds.

    Returns:
        The manifest with the size and checksum of every file.
    """
    _write(directory / VOCABULARY, json.dumps(vocabulary.as_dict(), ensure_ascii=False, indent=0))
    _write(directory / MODEL_CARD, model_card)
    files = {path.name: describe_file(path) for path in sorted(directory.iterdir()) if path.name != MANIFEST}
    manifest = replace(manifest, files=files)
    # through JSON once: the digest covers the data as a reader sees it, with lists for tuples
    data = json.loads(json.dumps(asdict(manifest) | {"search": manifest.search.as_dict()}, allow_nan=False))
    _write(directory / MANIFEST, json.dumps(data | {"digest": digest_of(data)}, ensure_ascii=False, indent=2) + "\n")
    return manifest


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


class Replacement:
    """A directory that is written beside its target and renamed into its place on success; a failure leaves the target.

    Raises:
        BundleError: The target exists and is not a bundle alone, or it cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        try:
            self._refuse_to_lose_files()
            self._place = self.target.resolve()  # a link stays, and its target is replaced
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
            own = {MANIFEST, *read_manifest(self.target)["files"]}
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
            _flush(path)  # else the rename could reach the disk before the content
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
            f"{place} cannot be written: {error.strerror or error}; the previous content of {self.target} is unchanged."
        )


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a directory
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)
