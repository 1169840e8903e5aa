"""Writes a bundle: its manifest, and a directory that replaces another one on success."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from caprun.atomic_write import flush
from caprun.bundle.manifest import MANIFEST, MODEL_CARD, VOCABULARY, FileEntry, Manifest, digest_of
from caprun.bundle.reading import read_manifest
from caprun.bundle.vocabulary import Vocabulary
from caprun.errors import BundleError, CaprunError


def describe_file(path: Path) -> FileEntry:
    """Returns the size and the checksum of a file for a manifest."""
    content = path.read_bytes()
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def write_manifest(directory: Path, manifest: Manifest, vocabulary: Vocabulary, model_card: str) -> Manifest:
    """Writes the vocabulary, the model card and then the manifest beside the graphs in `directory`.

    Returns:
        The manifest with the size and checksum of every file.
    """
    _write(directory / VOCABULARY, json.dumps(vocabulary.as_dict(), ensure_ascii=False, indent=0))
    _write(directory / MODEL_CARD, model_card)
    files = {path.name: describe_file(path) for path in sorted(directory.iterdir()) if path.name != MANIFEST}
    manifest = replace(manifest, files=files)
    # a round trip through JSON: the digest covers the data as it is read, with lists for tuples
    data = json.loads(json.dumps(asdict(manifest) | {"search": manifest.search.as_dict()}, allow_nan=False))
    _write(directory / MANIFEST, json.dumps(data | {"digest": digest_of(data)}, ensure_ascii=False, indent=2) + "\n")
    return manifest


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def replaced_bundle(target: Path) -> Iterator[Path]:
    """Creates a directory beside `target` that replaces it on success; on failure `target` stays unchanged.

    Raises:
        BundleError: The target exists and is not a bundle or has other files in it, or it cannot be written.
    """
    try:
        _refuse_to_lose_files(target)
        place = target.resolve()  # a link stays, and its target is replaced
        place.parent.mkdir(parents=True, exist_ok=True)
        directory = place.with_name(f".{place.name}-{secrets.token_hex(4)}")
        directory.mkdir()
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror}.") from error
    try:
        yield directory
        _put_in_place(directory, place)
    except CaprunError:
        raise
    except OSError as error:
        where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else directory
        if where.is_relative_to(directory):
            where = target / where.relative_to(directory)
        raise BundleError(
            f"{where} cannot be written: {error.strerror or error}; the previous content of {target} is unchanged."
        ) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _refuse_to_lose_files(target: Path) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        own = {MANIFEST, *read_manifest(target)["files"]}
    except (BundleError, KeyError, TypeError):
        raise BundleError(f"{target} exists and is not a bundle; choose another --output, or remove it.") from None
    others = sorted({path.name for path in target.iterdir()} - own)
    if others:
        raise BundleError(f"{target} holds {others[0]} besides a bundle; choose another --output, or move that file.")


def _put_in_place(directory: Path, place: Path) -> None:
    for path in (*directory.iterdir(), directory):
        _flush(path)  # else the rename could reach the disk before the content
    previous = directory.with_name(directory.name + "-previous")
    try:
        if place.exists():
            place.rename(previous)
        directory.rename(place)
    except BaseException:
        if previous.exists() and not place.exists():
            previous.rename(place)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a directory
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)
