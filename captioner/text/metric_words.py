"""Which words a caption has, for the metrics: lower-cased, punctuation removed, any script."""

from __future__ import annotations

from captioner.text.splitting import split


def tokenize(caption: str) -> list[str]:
    """Split a caption into its words: lower-cased, punctuation removed.

    A word is a run of letters, digits and combining marks of any script, in Unicode's composed form (NFC); a hyphen or
    an apostrophe inside it stays (`t-shirt`, `l'eau`). Everything else separates words. Scripts that put no space
    between words (Chinese, Japanese, Thai) come out as one word for each phrase: segment them first.

    This is the protocol of papers that "lower-case and remove punctuation". The Penn Treebank tokenizer of
    `pycocoevalcap` differs from it in English contractions and possessives (`man's` is `man` and `'s` there) and in
    numbers (`3.5` stays one word there).
    """
    return [token.text for token in split(caption)]
