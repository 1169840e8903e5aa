"""What a model says of the photos in `examples/` and what a person thinks of it: sections of its card and of docs.

    python bench/judgements.py examples                  # photos as a person's own, by the packaged bundle
    python bench/judgements.py failures weights/mine     # pictures unlike those that models learn from
    python bench/judgements.py examples --update         # a new model: write its captions, then judge what changed
    python bench/judgements.py examples --into PAGE.md   # between its marks <!-- examples --> and <!-- end -->

The pictures, what is there, and what a person thinks of each caption are in the `judgements.toml` of a folder. A
judgement is of a caption: where the model says something else now, this fails and names the pictures. Prints Markdown.
"""

from __future__ import annotations

import argparse
import html
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tomli_w
from sections import write_section

from caprun.bundle.plain_data import from_dict
from caprun.caption import Caption
from caprun.engine import Captioner, packaged_bundle
from caprun.errors import CaprunError
from captioner.errors import CaptionerError

ROOT = Path(__file__).parents[1]
FOLDERS = {"examples": ROOT / "examples" / "photos", "failures": ROOT / "examples" / "failures"}
"""Where the pictures of each section are."""
JUDGEMENTS = "judgements.toml"
COMMAND = "python bench/judgements.py"
_HEAD = "# What the model card says of these pictures; see bench/judgements.py.\n\n"
_WIDTH = 160  # pixels of a picture in the table


@dataclass(frozen=True)
class Case:
    """A picture and what is thought of its caption."""

    picture: str
    """Its file, from the folder of the judgements."""
    shows: str
    """What is there to see, in a person's words."""
    caption: str = ""
    """What was judged."""
    judgement: str = ""
    """What is right and wrong with it; empty where nobody has judged it yet."""


@dataclass(frozen=True)
class Cases:
    """The file's content."""

    case: tuple[Case, ...]


def read_cases(folder: Path) -> tuple[Case, ...]:
    """Reads a folder's pictures with their judgements.

    Raises:
        CaptionerError: the file cannot be read, or is not of this form.
    """
    file = folder / JUDGEMENTS
    try:
        return from_dict(Cases, tomllib.loads(file.read_text(encoding="utf-8"))).case
    except OSError as error:
        raise CaptionerError(f"The judgements {file} cannot be read: {error.strerror}.") from None
    except ValueError as error:  # of TOML and of its content
        raise CaptionerError(f"The judgements {file} are not of the form that is known: {error}.") from None


def updated(cases: Sequence[Case], said: Mapping[str, Caption]) -> tuple[Case, ...]:
    """Returns the cases with the captions of now; a judgement of another caption is forgotten."""
    now = [replace(case, caption=said[case.picture].text, judgement="") for case in cases]
    return tuple(old if old.caption == new.caption else new for old, new in zip(cases, now, strict=True))


def section(name: str, cases: Sequence[Case], said: Mapping[str, Caption], folder: str) -> str:
    """Returns the section.

    Args:
        name: of the section, as `FOLDERS` has it.
        cases: what was judged.
        said: by the picture.
        folder: where the pictures are, as a link from the page.

    Raises:
        CaptionerError: a caption is another than was judged, or nobody has judged it.
    """
    update = f"run `{COMMAND} {name} --update`"
    another = [case for case in cases if case.caption not in ("", said[case.picture].text)]
    if another:
        shown = "; ".join(f"{c.picture} ({c.caption!r} was judged, {said[c.picture].text!r} is said)" for c in another)
        raise CaptionerError(f"The model says something else of {shown}; {update}, and judge it anew.")
    if unjudged := [case.picture for case in cases if not (case.caption and case.judgement.strip())]:
        where = FOLDERS[name].relative_to(ROOT).as_posix()
        raise CaptionerError(
            f"Nobody judged what is said of {', '.join(unjudged)}; {update}, then write it in {where}/{JUDGEMENTS}."
        )
    confident = any(caption.confidence is not None for caption in said.values())
    columns = ["picture", "what is there", "what it says", *["confidence"] * confident, "judgement"]
    rows = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for case in cases:
        caption = said[case.picture]
        sure = [f"{caption.confidence:.2f}" if caption.confidence is not None else ""] * confident
        picture = f'<img src="{folder}/{case.picture}" width="{_WIDTH}" alt="{html.escape(case.shows)}">'
        cells = [picture, case.shows, f'"{caption.text}"', *sure, case.judgement]
        rows.append(f"| {' | '.join(cells)} |")
    where = FOLDERS[name].relative_to(ROOT).as_posix()
    note = f"The pictures are in `{where}` of the repository, with their licences. By `{COMMAND} {name}`."
    return "\n".join([*rows, "", note]) + "\n"


def captions(bundle: Path, pictures: Sequence[Path], precision: str | None = None) -> list[Caption]:
    """Returns what a bundle says of pictures, on the CPU.

    Raises:
        CaprunError: there is no bundle, or a picture cannot be read.
    """
    captioner = Captioner.load(bundle, device="cpu", precision=precision)
    return [captioner.caption(picture) for picture in pictures]


def measure(name: str, bundle: Path, page: Path, precision: str | None = None, *, update: bool = False) -> str:
    """Captions a section's pictures and returns it; with `update`, its judgements are brought up to date first.

    Args:
        name: of the section.
        bundle: the model's.
        page: the file that the section is for, from which its pictures are linked.
        precision: of the bundle; None for the fastest measured on such hardware.
        update: write the captions of now.

    Raises:
        CaprunError: see `section` and `captions`.
    """
    folder = FOLDERS[name]
    cases = read_cases(folder)
    found = captions(bundle, [folder / case.picture for case in cases], precision)
    said = {case.picture: caption for case, caption in zip(cases, found, strict=True)}
    if update:
        cases = updated(cases, said)
        content = tomli_w.dumps({"case": [asdict(case) for case in cases]})
        (folder / JUDGEMENTS).write_text(_HEAD + content, encoding="utf-8")
    return section(name, cases, said, Path(os.path.relpath(folder, page.resolve().parent)).as_posix())


def main() -> None:
    """Print the section, or put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=list(FOLDERS))
    parser.add_argument("bundle", type=Path, nargs="?", default=packaged_bundle(), help="[the packaged one]")
    parser.add_argument("--precision", help="[the fastest measured on such hardware]")
    parser.add_argument("--update", action="store_true", help="write the captions of now, to be judged")
    parser.add_argument("--into", type=Path, metavar="PAGE.md", help="put it between its marks in a page")
    options = parser.parse_args()
    name = options.section
    try:
        page = options.into or ROOT / "README.md"
        found = measure(name, options.bundle, page, options.precision, update=options.update)
        if options.into:
            write_section(options.into, name, found)
        else:
            print(found, end="")
    except CaprunError as error:
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
