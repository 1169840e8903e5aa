"""What a model says of pictures unlike those it learnt from, and what is wrong with it: a section of its model card.

    python bench/failures.py                        # the packaged bundle
    python bench/failures.py weights/mine
    python bench/failures.py --update               # a new model: write its captions, then judge those that changed

The pictures and what a person thinks of each caption are in `examples/failures/judgements.toml`. A judgement is of a
caption: where the model says something else now, this fails and names the pictures. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tomli_w

from caprun.bundle.plain_data import from_dict
from caprun.caption import Caption
from caprun.engine import Captioner, packaged_bundle
from caprun.errors import CaprunError
from captioner.errors import CaptionerError

JUDGEMENTS = Path(__file__).parents[1] / "examples" / "failures" / "judgements.toml"
COMMAND = "python bench/failures.py"
_HEAD = "# What the model card says of these pictures; see bench/failures.py.\n\n"


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
    """What is wrong with it; empty where nobody has judged it yet."""


@dataclass(frozen=True)
class Cases:
    """The file's content."""

    case: tuple[Case, ...]


def read_cases(file: Path) -> tuple[Case, ...]:
    """The pictures with their judgements.

    Raises:
        CaptionerError: the file cannot be read, or is not of this form.
    """
    try:
        return from_dict(Cases, tomllib.loads(file.read_text(encoding="utf-8"))).case
    except OSError as error:
        raise CaptionerError(f"The judgements {file} cannot be read: {error.strerror}.") from None
    except ValueError as error:  # of TOML and of its content
        raise CaptionerError(f"The judgements {file} are not of the form that is known: {error}.") from None


def updated(cases: Sequence[Case], said: Mapping[str, Caption]) -> tuple[Case, ...]:
    """With the captions of now; a judgement of another caption is forgotten."""
    now = [replace(case, caption=said[case.picture].text, judgement="") for case in cases]
    return tuple(old if old.caption == new.caption else new for old, new in zip(cases, now, strict=True))


def section(cases: Sequence[Case], said: Mapping[str, Caption], folder: str) -> str:
    """The section.

    Args:
        cases: what was judged.
        said: by the picture.
        folder: where the pictures are, as a link from the card.

    Raises:
        CaptionerError: a caption is another than was judged, or nobody has judged it.
    """
    another = [case for case in cases if case.caption != said[case.picture].text]
    if another:
        shown = "; ".join(f"{c.picture} ({c.caption!r} was judged, {said[c.picture].text!r} is said)" for c in another)
        raise CaptionerError(f"The model says something else of {shown}. Run {COMMAND} --update, and judge it anew.")
    if unjudged := [case.picture for case in cases if not case.judgement.strip()]:
        raise CaptionerError(f"Nobody judged what is said of {', '.join(unjudged)}: write it in {JUDGEMENTS.name}.")
    confident = any(caption.confidence is not None for caption in said.values())
    columns = ["picture", "what is there", "what it says", *["confidence"] * confident, "judgement"]
    rows = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for case in cases:
        caption = said[case.picture]
        sure = [f"{caption.confidence:.2f}" if caption.confidence is not None else ""] * confident
        cells = [f"![{case.shows}]({folder}/{case.picture})", case.shows, f'"{caption.text}"', *sure, case.judgement]
        rows.append(f"| {' | '.join(cells)} |")
    note = f"The pictures are in `examples/failures` of the repository, with their licences. By `{COMMAND}`."
    return "\n".join([*rows, "", note]) + "\n"


def captions(bundle: Path, pictures: Sequence[Path], precision: str | None = None) -> list[Caption]:
    """What a bundle says of them, on the CPU.

    Raises:
        CaprunError: there is no bundle, or a picture cannot be read.
    """
    captioner = Captioner.load(bundle, device="cpu", precision=precision)
    return [captioner.caption(picture) for picture in pictures]


def measure(bundle: Path, file: Path, folder: str, precision: str | None = None, *, update: bool = False) -> str:
    """The section; with `update`, the file is brought up to date first.

    Raises:
        CaprunError: see `section` and `captions`.
    """
    cases = read_cases(file)
    found = captions(bundle, [file.parent / case.picture for case in cases], precision)
    said = {case.picture: caption for case, caption in zip(cases, found, strict=True)}
    if update:
        cases = updated(cases, said)
        content = tomli_w.dumps({"case": [asdict(case) for case in cases]})
        file.write_text(_HEAD + content, encoding="utf-8")
    return section(cases, said, folder)


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=packaged_bundle(), help="[the packaged one]")
    parser.add_argument("--judgements", type=Path, default=JUDGEMENTS, help=f"[{JUDGEMENTS.name}]")
    parser.add_argument("--folder", default="examples/failures", help="of the pictures, seen from the card")
    parser.add_argument("--precision", help="[the fastest measured on such hardware]")
    parser.add_argument("--update", action="store_true", help="write the captions of now, to be judged")
    options = parser.parse_args()
    given = (options.bundle, options.judgements, options.folder, options.precision)
    try:
        print(measure(*given, update=options.update), end="")
    except CaprunError as error:
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
