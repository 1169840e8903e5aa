"""Bundles with `child` as the neutral word for man and woman; the tiny vocabulary has no other word for a person."""

from dataclasses import replace
from pathlib import Path

from caprun.bundle.neutral_words import NeutralWords
from caprun.bundle.reading import read_bundle
from caprun.bundle.writing import write_manifest

WORDS = NeutralWords("en", {"man": "child", "woman": "child"}, {"child child": "child", "a a": "a"})


def make_neutral(bundle: Path, words: NeutralWords = WORDS, *, always: bool = False) -> Path:
    """Adds neutral words to a bundle, for use on request or always; returns the bundle's path."""
    opened = read_bundle(bundle)
    search = replace(opened.manifest.search, neutral=always)
    manifest = replace(opened.manifest, neutral=words, search=search)
    write_manifest(bundle, manifest, opened.vocabulary, (bundle / "MODEL_CARD.md").read_text(encoding="utf-8"))
    return bundle
