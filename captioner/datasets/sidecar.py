"""Photos with text files next to them: `photo.txt` has the captions of `photo.jpg`, one per line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePath

from captioner.datasets.example import Example, Problems, split_named
from captioner.datasets.files import actual_name, by_name, folders_within, is_photo_name, list_files, read_text
from captioner.datasets.references import captions_in

NAME = "photos with .txt captions next to them"
FILES = "a .txt of the same name next to each photo"

TEXTS = (".txt", ".caption")
"""Extensions of caption files."""


def find(directory: Path) -> list[list[Path]]:
    """Returns the text files of photos, in any folder."""
    texts = dict.fromkeys(folder / text for folder in folders_within(directory) for _, text in _pairs(folder) if text)
    return [list(texts)] if texts else []


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:  # noqa: ARG001
    """Yields the photos in the order of their names; adds photos and texts without a partner to `problems`."""
    for folder in folders_within(directory):
        inside = folder.relative_to(directory)
        split = next((named for part in inside.parts if (named := split_named(part))), None)
        alone = {name for name in list_files(folder) if name.lower().endswith(TEXTS)}
        for name, text in _pairs(folder):
            alone.discard(text or "")
            lines = read_text(folder / text).split("\n") if text else []
            found = [captions_in({"text": line})[1] for line in lines]
            unread = [at for at, line in enumerate(lines) if line.strip() and not found[at]]
            problems.malformed += [f"{inside / str(text)}:{at + 1}" for at in unread]
            references = tuple(chain.from_iterable(found))
            if references:
                yield Example(folder / name, references, split)
            else:
                problems.uncaptioned.append(str(inside / name))
        keys = {key for name, text in _pairs(folder) if text for key in (name, PurePath(name).stem)}
        for name in sorted(alone):
            why = "its photo has another text" if PurePath(name).stem in keys else "no photo has this name"
            problems.malformed.append(f"{inside / name} ({why})")


def _pairs(folder: Path) -> list[tuple[str, str | None]]:
    """Returns the photos of a folder, each with the name of its text or None."""
    names = list_files(folder)
    texts = {PurePath(name).stem: name for name in reversed(names) if name.lower().endswith(TEXTS)}
    stems = by_name(list(texts))
    keys = ((name, (PurePath(name).stem, name)) for name in names if is_photo_name(name))
    found = ((name, next((stem for key in own if (stem := actual_name(stems, key))), None)) for name, own in keys)
    return [(name, texts[stem] if stem else None) for name, stem in found]
