"""Regenerates the model card of a bundle: examples, failures, biases, and the card itself.

    python bench/model_card.py --data flickr8k --data everyday
    python bench/model_card.py weights/zh/caprun_zh --introduction weights/zh/card.md --data flickr8k_zh

The output of `bench/judgements.py` and `bench/biases.py` replaces the text between `<!-- examples -->`,
`<!-- failures -->` or `<!-- biases -->` and `<!-- end -->` in the introduction. Sections without these marks are left
out; the rest of the introduction is written by hand. The card in the bundle is generated from the introduction and the
manifest. The other files of the bundle do not change.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import biases
import judgements
from harness.command_line import ROOT, command_line

from capexport.card import model_card
from caprun.bundle.manifest import MANIFEST, MODEL_CARD
from caprun.bundle.reading import read_bundle
from caprun.bundle.writing import replaced_bundle, write_manifest
from caprun.engine import packaged_bundle
from caprun.errors import CaprunError
from captioner.errors import CaptionerError

INTRODUCTION = ROOT / "weights" / "checkpoints" / "everyday_lite2.md"


def sections_of(introduction: str) -> list[str]:
    """Returns the names of the sections for which an introduction has marks."""
    return [name for name in (*judgements.FOLDERS, "biases") if f"<!-- {name} -->" in introduction]


def with_section(text: str, name: str, section: str) -> str:
    """Returns a text with a section between its marks.

    Raises:
        CaptionerError: the text has no such marks.
    """
    mark, end = f"<!-- {name} -->\n", "<!-- end -->\n"
    before, found, rest = text.partition(mark)
    replaced, ended, after = rest.partition(end)
    if not found or not ended or "<!-- " in replaced:  # otherwise the end found belongs to another section
        raise CaptionerError(f"There is no section {name}; add a line {mark.strip()}, and below it {end.strip()}.")
    return f"{before}{mark}\n{section.strip()}\n\n{end}{after}"


def write_card(path: Path, introduction: str) -> None:
    """Replaces the card of a bundle.

    Raises:
        CaprunError: the path is not a bundle, or cannot be written.
    """
    bundle = read_bundle(path)
    for precision in bundle.manifest.precisions:
        bundle.graphs(precision)  # the new manifest vouches for the copied files
    with replaced_bundle(path) as directory:
        for file in path.iterdir():
            if file.name not in (MANIFEST, MODEL_CARD):
                shutil.copy(file, directory)
        write_manifest(directory, bundle.manifest, bundle.vocabulary, model_card(bundle.manifest, introduction))


def main() -> None:
    """Writes the introduction and the card."""
    parser = command_line(__doc__)
    parser.add_argument(
        "bundle", type=Path, nargs="?", default=packaged_bundle(), help="Bundle.  [default: the packaged one]"
    )
    parser.add_argument(
        "--data", type=Path, required=True, action="append", help="Folder of captioned photos; can be repeated."
    )
    parser.add_argument(
        "--introduction", type=Path, default=INTRODUCTION, help=f"Introduction.  [default: {INTRODUCTION.name}]"
    )
    options = parser.parse_args()
    try:
        text = options.introduction.read_text(encoding="utf-8")
        neutral = read_bundle(options.bundle).manifest.neutral is not None
        page = options.bundle / MODEL_CARD
        for name in sections_of(text):
            if name == "biases":
                section = biases.measure(options.bundle, options.data, "dev", neutral=neutral)
            else:
                section = judgements.measure(name, options.bundle, page)
            text = with_section(text, name, section)
        write_card(options.bundle, text)
        options.introduction.write_text(text, encoding="utf-8")  # last, so that both or neither change
    except (CaprunError, OSError) as error:
        parser.exit(1, f"Error: {error}\n")
    print(options.bundle / MODEL_CARD)


if __name__ == "__main__":
    main()
