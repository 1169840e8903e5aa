"""Prints a table of a model's captions of pictures in `examples/` with a person's judgement of each, in Markdown.

    python bench/judgements.py examples                  # ordinary photos, with the packaged bundle
    python bench/judgements.py failures weights/mine     # pictures unlike those of the training
    python bench/judgements.py examples --update         # a new model: write its captions, then judge the changed ones

The `judgements.toml` of each folder lists its pictures, what they show, and the judgement of each caption. A judgement
holds for one caption: if the model's caption of a picture has changed, the command fails and names the picture.
"""

from __future__ import annotations

import html
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tomli_w
from harness.command_line import ROOT, command_line

from caprun.bundle.plain_data import from_dict
from caprun.caption import Caption
from caprun.engine import Captioner, packaged_bundle
from caprun.errors import CaprunError
from captioner.errors import CaptionerError

FOLDERS = {"examples": ROOT / "examples" / "photos", "failures": ROOT / "examples" / "failures"}
"""The folder of the pictures of each section."""
JUDGEMENTS = "judgements.toml"
COMMAND = "python bench/judgements.py"
_HEAD = "# Judgements of the captions of these pictures; see bench/judgements.py.\n\n"
_WIDTH = 160  # pixels of a picture in the table


@dataclass(frozen=True)
class Case:
    """A picture and the judgement of its caption."""

    picture: str
    """Path of its file, relative to the folder."""
    shows: str
    """A person's description."""
    caption: str = ""
    """The caption that was judged."""
    judgement: str = ""
    """A person's assessment; empty until somebody writes it."""


@dataclass(frozen=True)
class Cases:
    """The content of `judgements.toml`."""

    case: tuple[Case, ...]


def read_cases(folder: Path) -> tuple[Case, ...]:
    """Reads a folder's pictures with their judgements.

    Raises:
        CaptionerError: the file cannot be read or does not match the schema.
    """
    file = folder / JUDGEMENTS
    try:
        return from_dict(Cases, tomllib.loads(file.read_text(encoding="utf-8"))).case
    except OSError as error:
        raise CaptionerError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError as error:  # TOML syntax or schema
        raise CaptionerError(f"{file} is not a valid file of judgements: {error}.") from None


def updated(cases: Sequence[Case], found: Mapping[str, Caption]) -> tuple[Case, ...]:
    """Returns the cases with new captions; those whose caption changed lose their judgement."""
    now = [replace(case, caption=found[case.picture].text, judgement="") for case in cases]
    return tuple(old if old.caption == new.caption else new for old, new in zip(cases, now, strict=True))


def section(name: str, cases: Sequence[Case], found: Mapping[str, Caption], folder: str) -> str:
    """Formats the section.

    Args:
        name: name of the section, a key of `FOLDERS`.
        cases: the judged pictures.
        found: the model's captions by picture.
        folder: link from the page to the folder of the pictures.

    Raises:
        CaptionerError: a caption has changed since it was judged, or has no judgement.
    """
    update = f"run `{COMMAND} {name} --update`"
    another = [case for case in cases if case.caption not in ("", found[case.picture].text)]
    if another:
        shown = "; ".join(
            f"{c.picture} ({c.caption!r} was judged, the caption is {found[c.picture].text!r})" for c in another
        )
        raise CaptionerError(f"Captions have changed since they were judged: {shown}; {update}, and judge them anew.")
    if unjudged := [case.picture for case in cases if not (case.caption and case.judgement.strip())]:
        where = FOLDERS[name].relative_to(ROOT).as_posix()
        raise CaptionerError(f"No judgement of {', '.join(unjudged)}; {update}, then write it in {where}/{JUDGEMENTS}.")
    confident = any(caption.confidence is not None for caption in found.values())
    columns = ["picture", "what is there", "what it says", *["confidence"] * confident, "judgement"]
    rows = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for case in cases:
        caption = found[case.picture]
        sure = [f"{caption.confidence:.2f}" if caption.confidence is not None else ""] * confident
        picture = f'<img src="{folder}/{case.picture}" width="{_WIDTH}" alt="{html.escape(case.shows)}">'
        cells = [picture, case.shows, f'"{caption.text}"', *sure, case.judgement]
        rows.append(f"| {' | '.join(cells)} |")
    where = FOLDERS[name].relative_to(ROOT).as_posix()
    note = f"The pictures are in `{where}` of the repository, with their licences. By `{COMMAND} {name}`."
    return "\n".join([*rows, "", note]) + "\n"


def captions(bundle: Path, pictures: Sequence[Path]) -> list[Caption]:
    """Captions pictures on the CPU.

    Raises:
        CaprunError: the bundle or a picture cannot be read.
    """
    captioner = Captioner.load(bundle, device="cpu")
    return [captioner.caption(picture) for picture in pictures]


def measure(name: str, bundle: Path, page: Path, *, update: bool = False) -> str:
    """Captions the pictures of a section and formats it.

    Args:
        name: name of the section, a key of `FOLDERS`.
        bundle: the model.
        page: the page that links to the pictures.
        update: whether to write the captions to `judgements.toml` first.

    Raises:
        CaprunError: a file cannot be read, or a caption has no judgement.
    """
    folder = FOLDERS[name]
    cases = read_cases(folder)
    texts = captions(bundle, [folder / case.picture for case in cases])
    found = {case.picture: caption for case, caption in zip(cases, texts, strict=True)}
    if update:
        cases = updated(cases, found)
        content = tomli_w.dumps({"case": [asdict(case) for case in cases]})
        (folder / JUDGEMENTS).write_text(_HEAD + content, encoding="utf-8")
    return section(name, cases, found, Path(os.path.relpath(folder, page.resolve().parent)).as_posix())


def main() -> None:
    """Prints the section, with links from the repository's root."""
    parser = command_line(__doc__)
    parser.add_argument("section", choices=list(FOLDERS), help="Section, and folder of pictures.")
    parser.add_argument(
        "bundle", type=Path, nargs="?", default=packaged_bundle(), help="Bundle.  [default: the packaged one]"
    )
    parser.add_argument("--update", action="store_true", help="Write the captions to judgements.toml first.")
    options = parser.parse_args()
    try:
        print(measure(options.section, options.bundle, ROOT / "README.md", update=options.update), end="")
    except CaprunError as error:
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
