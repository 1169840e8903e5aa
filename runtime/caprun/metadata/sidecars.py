"""Writes captions into the XMP sidecars of a folder run, and tells which photos still need one."""

import errno
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from caprun.atomic_write import atomic_write
from caprun.errors import OutputError, UsageError
from caprun.metadata.xmp import ALT_TEXT, DESCRIPTION, Mark, Property, Sidecar
from caprun.photos.file import printable

Naming = Literal["file", "stem"]
"""`file`: photo.jpg.xmp, as darktable and digiKam name it; `stem`: photo.xmp, as Adobe's programs do."""
_MAX_BYTES = 20_000_000
_FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk is full, so no sidecar can be written


@dataclass
class Sidecars:
    """Writes captions into the XMP sidecars of photos, and keeps texts that a person wrote.

    Each sidecar records the run that wrote it, so an interrupted run resumes without a state file. A sidecar that
    cannot be read or written is reported on standard error.
    """

    mark: Mark
    """The mark of the run, without a caption."""
    language: str | None
    """Language code of the captions, such as `en`; None if it is unknown."""
    naming: Naming
    alt: bool
    """True to write the alternative text too."""
    overwrite: bool
    """True to replace texts that caprun did not write."""
    written: int = 0
    """Photos with a new caption in their sidecar."""
    kept: int = 0
    """Photos left unchanged because a person wrote their texts."""
    failed: int = 0
    """Photos with a sidecar that cannot be read or written."""
    _owner: dict[Path, str] = field(default_factory=dict)

    def add(self, photo: str) -> None:
        """Adds a photo.

        Raises:
            UsageError: Another photo has the same sidecar.
        """
        path = self.path(photo)
        if os.path.normpath(owner := self._owner.setdefault(path, photo)) != os.path.normpath(photo):
            names = [printable(str(one)) for one in (owner, photo, path)]
            raise UsageError("The captions of {} and {} would both be in {}; leave out --xmp-name stem.".format(*names))

    def path(self, photo: str) -> Path:
        """Returns the path of a photo's sidecar."""
        return Path(f"{photo if self.naming == 'file' else os.path.splitext(photo)[0]}.xmp")  # noqa: PTH122

    def needs(self, photo: str) -> bool:
        """Returns whether a photo needs a caption: not if this run has written one, or a person wrote all texts."""
        try:
            return self._to_write(_read(self.path(photo))) is not None
        except OutputError as error:
            self._fail(error)
            return False

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes the caption of a row to the photo's sidecar if it is new; ignores a row without a caption.

        Raises:
            OutputError: The disk is full.
        """
        if "caption" not in row:
            return
        path = self.path(row["image"])
        try:
            sidecar = _read(path)
            if properties := self._to_write(sidecar, row["caption"]):
                mark = self.mark._replace(caption=row["caption"], confidence=str(row.get("confidence", "")))
                sidecar.write(properties, mark, self.language)
                _write(path, sidecar)
                self.written += 1
        except OutputError as error:
            if error.errno in _FULL:
                raise
            self._fail(error)

    def _to_write(self, sidecar: Sidecar, caption: str | None = None) -> list[Property] | None:
        """Returns the properties to write: empty, with an earlier caption, or overwritten; None to leave the sidecar.

        If `caption` is known and differs from the one that this run wrote, the photo has changed since then.
        """
        properties = [
            one
            for one in ((DESCRIPTION, ALT_TEXT) if self.alt else (DESCRIPTION,))
            if self.overwrite or not sidecar.text(one) or sidecar.is_own(one, self.language)
        ]
        if not properties:
            self.kept += 1
            return None
        mark = sidecar.mark
        written = mark is not None and mark.run == self.mark.run and caption in (None, mark.caption)
        done = written and all(sidecar.is_own(one, self.language) for one in properties)
        return None if done else properties

    def _fail(self, error: OutputError) -> None:
        self.failed += 1
        print(f"Error: {error}", file=sys.stderr, flush=True)


def _read(path: Path) -> Sidecar:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise ValueError("is not a regular file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"is larger than {_MAX_BYTES:,} bytes")
        return Sidecar(content)
    except FileNotFoundError:
        return Sidecar(None)
    except OSError as error:
        name = printable(str(path))
        raise OutputError(f"The sidecar {name} cannot be read ({error.strerror}); change its permissions.") from error
    except ValueError as error:
        raise OutputError(f"The sidecar {printable(str(path))} {error}; repair or remove it.") from None


def _write(path: Path, sidecar: Sidecar) -> None:
    try:
        with atomic_write(path) as file:
            file.write(sidecar.as_bytes())
    except OSError as error:
        why = "make room on the disk" if error.errno in _FULL else "change the permissions of the file and its folder"
        failure = OutputError(f"The sidecar {printable(str(path))} cannot be written ({error.strerror}); {why}.")
        failure.errno = error.errno
        raise failure from error
