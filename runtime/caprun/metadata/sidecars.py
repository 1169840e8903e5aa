"""The sidecars of a folder run: which photos still need a caption, and writing it."""

import errno
import os
from collections.abc import Callable, Mapping
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
_FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk, on which no further sidecar could be written


@dataclass
class Sidecars:
    """Writes captions into the XMP sidecars of photos. What a person wrote stays.

    A sidecar says itself which run wrote it, so a run that was stopped goes on without a file of its own.
    """

    mark: Mark
    """The mark of the run, without a caption."""
    language: str | None
    """Code of the captions' language, such as `en`; None if it is unknown."""
    naming: Naming
    alt: bool
    """Writes the alternative text too."""
    overwrite: bool
    """Replaces texts that caprun did not write."""
    say: Callable[[str], object]
    """Takes a sentence about a sidecar that cannot be read or written."""
    written: int = 0
    """Photos with a new caption in their sidecar."""
    kept: int = 0
    """Photos with texts that a person wrote and no caption replaced."""
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
            raise UsageError("{} and {} would both be captioned in {}; leave out --xmp-name stem.".format(*names))

    def path(self, photo: str) -> Path:
        """Returns the path of a photo's sidecar."""
        return Path(f"{photo if self.naming == 'file' else os.path.splitext(photo)[0]}.xmp")  # noqa: PTH122

    def needs(self, photo: str) -> bool:
        """Tells whether a photo needs a caption: not if this run wrote it already, or a person wrote all texts."""
        try:
            return self._to_write(_read(self.path(photo))) is not None
        except OutputError as error:
            self._fail(error)
            return False

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes the caption of a photo's row, where it is new; a row without a caption changes nothing.

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
        """Returns the properties that need a caption: those without a text, with an earlier caption, or overwritten.

        `caption` is the photo's, where it is known: this run wrote another one if the photo has changed since.
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
        self.say(f"Error: {error}")


def _read(path: Path) -> Sidecar:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
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
