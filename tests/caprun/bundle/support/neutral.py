"""A bundle whose neutral word for man and woman is child, the only other person in the tiny vocabulary."""

from dataclasses import replace
from pathlib import Path

from caprun.bundle.neutral_words import NeutralWords
from caprun.bundle.reading import read_bundle
from caprun.bundle.writing import write_manifest

WORDS = NeutralWords("en", {"man": "child", "woman": "child"}, {"child child": "child", "a a": "a"})


def make_neutral(bundle: Path, words: NeutralWords = WORDS, *, always: bool = False) -> Path:
    """Give a bundle neutral words, to be said only where they are asked for, or always."""
    opened = read_bundle(bundle)
    search = replace(opened.manifest.search, neutral=always)
    manifest = replace(opened.manifest, neutral=words, search=search)
    write_manifest(bundle, manifest, opened.vocabulary, (bundle / "MODEL_CARD.md").read_text(encoding="utf-8"))
    return bundle
