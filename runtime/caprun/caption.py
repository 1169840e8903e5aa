"""Captions, and rows: the plain data of a caption, an abstention or an error."""

from dataclasses import dataclass
from typing import Any

from caprun.arrays import Float32Array
from caprun.errors import ImageError

ROW_FORMAT = 3
"""Version of the row format: version 1 had no `confidence`, version 2 no `finished`."""


@dataclass(frozen=True, eq=False)
class CaptionWord:
    """One word of a caption."""

    text: str
    log_prob: float
    """Natural logarithm of the word's probability, given the words before it."""
    alpha: Float32Array | None
    """Attention weights, which sum to one, (rows, columns); None if not requested, and for models without attention."""


@dataclass(frozen=True, eq=False)
class Caption:
    """A caption of a photo."""

    text: str
    log_prob: float
    """Natural logarithm of the caption's probability, including its end."""
    words: tuple[CaptionWord, ...]
    finished: bool
    """False if the caption was cut at `max_length`, or if bans left no word to continue with."""
    alternatives: tuple["Caption", ...] = ()
    """The other captions, if `n_best` is above 1: best first, or in the order in which they were sampled."""
    confidence: float | None = None
    """The probability, 0 to 1, of `spec.confidence.event`, calibrated on photos that the model was not trained on; None
    for a model without calibration."""


def as_row(result: Caption | ImageError, min_confidence: float | None = None) -> dict[str, Any]:
    """Converts a photo's result to plain data, the same for `--json`, files, HTTP and Ray.

    Returns:
        `caption`, `log_prob`, `finished` and `words`, and `confidence` and `alternatives` if there are any; `abstained`
        and `confidence` if the first caption's confidence is below the minimum; or `error`. Callers put the photo's
        name first. Numbers have six decimals.
    """
    if isinstance(result, ImageError):
        return {"error": str(result)}
    row = _caption_row(result)
    confidence = row.get("confidence")  # rounded, so that the decision agrees with the number in the row
    if min_confidence is not None and confidence is not None and confidence < min_confidence:
        reason = f"The model abstains: its confidence in its caption is {confidence}, below {min_confidence}."
        return {"abstained": reason, "confidence": confidence}
    if result.alternatives:
        row["alternatives"] = [_caption_row(other) for other in result.alternatives]
    return row


def rounded(number: float) -> float:
    """Rounds a log-probability or a confidence to the precision of rows."""
    return round(number, 6)


def _caption_row(caption: Caption) -> dict[str, Any]:
    return {
        "caption": caption.text,
        "log_prob": rounded(caption.log_prob),
        "finished": caption.finished,
        **({} if caption.confidence is None else {"confidence": rounded(caption.confidence)}),
        "words": [_word_row(word) for word in caption.words],
    }


def _word_row(word: CaptionWord) -> dict[str, Any]:
    row: dict[str, Any] = {"word": word.text, "log_prob": rounded(word.log_prob)}
    if word.alpha is not None:
        row["alpha"] = [[rounded(weight) for weight in weights] for weights in word.alpha.tolist()]
    return row
