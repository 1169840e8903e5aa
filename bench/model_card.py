"""Bring the packaged model's card up to date with its bundle: examples, failures, biases, and the card itself.

    python bench/model_card.py --data flickr8k --data everyday

What `bench/judgements.py` and `bench/biases.py` print takes its place between the marks `<!-- examples -->`,
`<!-- failures -->`, `<!-- biases -->` and `<!-- end -->` in the introduction, which is written by hand otherwise, and
the bundle's card is written anew from it, with everything else in the bundle as it was.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import biases
import judgements
from sections import with_section

from capexport.card import model_card
from caprun.bundle.manifest import MANIFEST, MODEL_CARD
from caprun.bundle.reading import read_bundle
from caprun.bundle.writing import replaced_bundle, write_manifest
from caprun.engine import packaged_bundle
from caprun.errors import CaprunError

INTRODUCTION = Path(__file__).parents[1] / "weights" / "checkpoints" / "everyday_lite2.md"


def write_card(path: Path, introduction: str) -> None:
    """Write a bundle's card anew; its other files stay byte for byte.

    Raises:
        CaprunError: it is no bundle, or cannot be written.
    """
    bundle = read_bundle(path)
    for precision in bundle.manifest.precisions:
        bundle.check(precision)  # the manifest that is written vouches for what is copied
    with replaced_bundle(path) as directory:
        for file in path.iterdir():
            if file.name not in (MANIFEST, MODEL_CARD):
                shutil.copy(file, directory)
        write_manifest(directory, bundle.manifest, bundle.vocabulary, model_card(bundle.manifest, introduction))


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=packaged_bundle(), help="[the packaged one]")
    parser.add_argument(
        "--data", type=Path, required=True, action="append", help="a dataset whose dev photos are captioned"
    )
    parser.add_argument("--introduction", type=Path, default=INTRODUCTION, help=f"[{INTRODUCTION.name}]")
    options = parser.parse_args()
    try:
        text = options.introduction.read_text(encoding="utf-8")
        neutral = read_bundle(options.bundle).manifest.neutral is not None
        page = options.bundle / MODEL_CARD
        found = {name: judgements.measure(name, options.bundle, page) for name in judgements.FOLDERS}
        found["biases"] = biases.measure(options.bundle, options.data, "dev", neutral=neutral)
        for name, section in found.items():
            text = with_section(text, name, section)
        options.introduction.write_text(text, encoding="utf-8")
        write_card(options.bundle, text)
    except (CaprunError, OSError) as error:
        parser.exit(1, f"Error: {error}\n")
    print(options.bundle / MODEL_CARD)


if __name__ == "__main__":
    main()
