"""Splits captions into words for the metrics: lower-cased, punctuation removed, any script."""

from __future__ import annotations

from captioner.text.splitting import split


def tokenize(caption: str) -> list[str]:
    """Splits a caption into its words: lower-cased, punctuation removed.

    A word is a run of letters, digits and combining marks of any script, in Unicode's composed form (NFC). A hyphen or
    an apostrophe inside a word stays (`t-shirt`, `l'eau`); everything else separates words. In scripts without spaces
    (Chinese, Japanese, Thai) each phrase is one word; segment such captions first.

    This is the protocol of papers that "lower-case and remove punctuation". The Penn Treebank tokenizer of
    `pycocoevalcap` differs in English contractions and possessives (it splits `man's` into `man` and `'s`) and in
    numbers (it keeps `3.5` as one word).
    """
    return [token.text for token in split(caption)]
