"""What is answered: its schema, and how captions become it. The names are those of `caprun --json`."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NotRequired, cast

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict  # that of 3.11 has no annotations for pydantic to read

from caprun.caption import Abstention, rounded
from caprun.errors import ImageError
from caprun.server.queueing import Captioned, Result
from caprun.server.refusal import as_sentence

if TYPE_CHECKING:
    from caprun.caption import Caption, CaptionWord


class Word(TypedDict):
    """A word of a caption."""

    word: str
    log_prob: Annotated[float, Field(description="Natural logarithm of its probability, the words before it given.")]
    alpha: NotRequired[
        Annotated[list[list[float]], Field(description="With attention: rows of weights of where the model looked.")]
    ]


class Alternative(TypedDict):
    """A caption."""

    caption: str
    log_prob: Annotated[float, Field(description="Natural logarithm of the caption's probability.")]
    finished: Annotated[bool, Field(description="False where it was cut at max_length.")]
    confidence: NotRequired[
        Annotated[
            float,
            Field(description="How likely it is to be good, 0 to 1; /v1/model says what of, and if there is one."),
        ]
    ]
    words: list[Word]


class PhotoCaption(Alternative):
    """What the model says of a photo."""

    alternatives: NotRequired[
        Annotated[list[Alternative], Field(description="With n_best above 1: the other captions, the best first.")]
    ]
    attention_box: NotRequired[
        Annotated[
            list[float],
            Field(
                min_length=4,
                max_length=4,
                description="With attention: left, top, right and bottom of the part of the upright photo that alpha "
                "covers, as fractions of its width and height.",
            ),
        ]
    ]


class Timing(TypedDict):
    """Milliseconds of each stage; where there are several photos, of the slowest."""

    receive: Annotated[float, Field(description="From the request's head to the end of its body.")]
    decode: Annotated[float, Field(description="Until the photo was decoded.")]
    queue: Annotated[float, Field(description="Then, until it was captioned, together with others.")]
    caption: Annotated[float, Field(description="What captioning them took.")]
    total: float


class OneAnswer(PhotoCaption):
    """The answer to one photo."""

    timing_ms: Timing


class Abstained(TypedDict):
    """A photo of whose caption the model is less sure than min_confidence."""

    abstained: Annotated[str, Field(description="That there is no caption and why, in one sentence.")]
    confidence: Annotated[float, Field(description="In the caption that is not said, 0 to 1.")]


class OneAbstained(Abstained):
    """The answer to one photo where the model abstains."""

    timing_ms: Timing


class Error(TypedDict):
    """What was wrong and what to do, in one sentence."""

    error: str


class ListAnswer(TypedDict):
    """The answer to a list of photos, in their order."""

    results: list[PhotoCaption | Abstained | Error]
    timing_ms: Timing


class State(TypedDict):
    """How the service is."""

    status: str


class Limits(TypedDict):
    """What a request may ask for."""

    max_bytes: Annotated[int, Field(description="Of its body.")]
    max_photos: Annotated[int, Field(description="In a list.")]
    max_beam: Annotated[int, Field(description="Of beam_size, n_best and groups.")]
    max_length: Annotated[int, Field(description="Pieces of a caption.")]
    max_pixels: Annotated[int, Field(description="Of a photo.")]
    queue: Annotated[int, Field(description="Photos that may wait; beyond them, requests are refused.")]
    deadline: Annotated[float, Field(description="Seconds that a photo may wait.")]


class Model(TypedDict):
    """The model that is served."""

    name: str
    licence: str
    precision: str
    device: str
    attention: Annotated[bool, Field(description="Whether it can say where it looked.")]
    confidence: Annotated[
        str | None,
        Field(description="What a caption's confidence is the probability of; null where captions have none."),
    ]
    min_confidence: Annotated[
        float, Field(description="Below this confidence it abstains, where a request does not say; 0: never.")
    ]
    search: Annotated[dict[str, object], Field(description="Its options where a request does not say.")]
    limits: Limits


def encode(answer: object) -> bytes:
    """Plain data as JSON in UTF-8."""
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace")


def photo_caption(
    caption: "Caption", box: tuple[float, float, float, float] | None, why: Abstention | None = None
) -> bytes:
    """A `PhotoCaption`, with the box where attention is wanted; or an `Abstained` that says why."""
    if why is not None:
        return encode(Abstained(abstained=why.reason, confidence=why.confidence))
    answer = cast("PhotoCaption", _alternative(caption))  # so far they are alike
    if caption.alternatives:
        answer["alternatives"] = [_alternative(other) for other in caption.alternatives]
    if box is not None:
        answer["attention_box"] = [round(edge, 6) for edge in box]
    return encode(answer)


def one(result: Captioned, timing: Timing) -> bytes:
    """A `OneAnswer` or a `OneAbstained`."""
    return b'%s, "timing_ms": %s}' % (result.body[:-1], encode(timing))


def many(results: Sequence[Result], timing: Timing) -> bytes:
    """A `ListAnswer`."""
    bodies = [r.body if isinstance(r, Captioned) else encode(Error(error=as_sentence(r))) for r in results]
    return b'{"results": [%s], "timing_ms": %s}' % (b", ".join(bodies), encode(timing))


def timing_of(receive: float, results: Sequence[Result], total: float) -> Timing:
    """A `Timing`, from seconds."""
    captioned = [result for result in results if not isinstance(result, ImageError)]
    return {
        "receive": _milliseconds([receive]),
        "decode": _milliseconds([result.decode_time for result in captioned]),
        "queue": _milliseconds([result.queue_time for result in captioned]),
        "caption": _milliseconds([result.caption_time for result in captioned]),
        "total": _milliseconds([total]),
    }


def _milliseconds(seconds: list[float]) -> float:
    return round(1000 * max(seconds, default=0.0), 3)


def _alternative(caption: "Caption") -> Alternative:
    answer: Alternative = {
        "caption": caption.text,
        "log_prob": round(caption.log_prob, 6),
        "finished": caption.finished,
        "words": [_word(word) for word in caption.words],
    }
    if caption.confidence is not None:
        answer["confidence"] = rounded(caption.confidence)
    return answer


def _word(word: "CaptionWord") -> Word:
    answer: Word = {"word": word.text, "log_prob": round(word.log_prob, 6)}
    if word.alpha is not None:
        answer["alpha"] = np.round(word.alpha.astype(np.float64), 6).tolist()
    return answer
