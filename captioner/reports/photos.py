"""Selects the photos of a split that a report shows, with caption, score and attention maps of each."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from caprun.caption import Caption
from caprun.drawing.pictures import heat_picture
from caprun.engine import Captioner
from caprun.errors import ImageError
from caprun.photos.preprocessing import prepare, seen_box
from caprun.photos.reading import open_photo
from caprun.search.options import SearchOptions
from captioner.datasets import Example
from captioner.evaluation.cider import Cider, cider_scores
from captioner.evaluation.ngrams import count, sentence
from captioner.text.metric_words import tokenize

_SIDE, _HEAT_SIDE = 480, 180  # pixels of a photo's long side, and of a heat map's
_QUALITY = 80


@dataclass(frozen=True)
class ShownWord:
    """A word of a caption."""

    text: str
    log_prob: float
    heat: str | None
    """Data URI of the photo under the word's heat map; None if the model has no attention."""


@dataclass(frozen=True)
class ShownPhoto:
    """A photo with its caption, score and references."""

    name: str
    picture: str
    """Data URI."""
    width: int
    height: int
    caption: str
    log_prob: float
    finished: bool
    cider: float
    words: tuple[ShownWord, ...]
    references: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """A group of photos under one heading."""

    title: str
    photos: tuple[ShownPhoto, ...]


def shown_groups(
    captioner: Captioner, options: SearchOptions, examples: Sequence[Example], captions: Sequence[str], photos: int
) -> list[Group]:
    """Selects the photos with the best and the worst CIDEr, and some from the whole split.

    Photos that can no longer be read are left out.

    Args:
        captioner: the model; it captions the selected photos again to get its attention.
        options: the options of the search.
        examples: the photos of the split.
        captions: one caption per photo.
        photos: maximum number of photos, a third of them in each group.
    """
    references = [[tokenize(reference) for reference in example.references] for example in examples]
    counted = count([tokenize(caption) for caption in captions], references)
    measure = Cider(photo.references for photo in counted)
    order = np.argsort(-cider_scores(counted), kind="stable").tolist()
    if len(examples) <= photos:
        chosen = {"All photos, best first": order}
    else:
        each = max(1, photos // 3)
        rest = sorted(order[each:-each])
        places = np.linspace(0, len(rest) - 1, max(0, min(len(rest), photos - 2 * each))).astype(int)
        chosen = {
            "Best by CIDEr": order[:each],
            "Worst by CIDEr": order[: -each - 1 : -1],
            "From the whole split": [rest[place] for place in places],
        }
    groups = []
    for title, indices in chosen.items():
        shown = []
        for index in indices:
            example = examples[index]
            try:
                photo = open_photo(example.image)
            except ImageError:
                continue
            images = prepare(photo, captioner.spec.image)[None]
            attends = captioner.spec.attention_grid is not None
            caption = captioner.caption_arrays(images, options, alpha=attends)[0]
            score = measure.scores([sentence(tokenize(caption.text))], counted[index].references)[0]
            shown.append(_shown(example, photo, caption, score, captioner))
        if shown:
            groups.append(Group(title, tuple(shown)))
    return groups


def data_uri(content: bytes, kind: str) -> str:
    """Returns an image as a data URI; `kind` is `png` or `jpeg`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _shown(example: Example, photo: Image.Image, caption: Caption, cider: float, captioner: Captioner) -> ShownPhoto:
    box = seen_box(photo.size, captioner.spec.image)
    small = photo.copy()
    small.thumbnail((_SIDE, _SIDE))
    words = (
        ShownWord(
            word.text,
            word.log_prob,
            None
            if word.alpha is None
            else _jpeg(heat_picture(small, word.alpha, region_box=box, side=min(_HEAT_SIDE, max(small.size)))),
        )
        for word in caption.words
    )
    return ShownPhoto(
        example.image.name,
        _jpeg(small),
        small.width,
        small.height,
        caption.text,
        caption.log_prob,
        caption.finished,
        cider,
        tuple(words),
        example.references,
    )


def _jpeg(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=_QUALITY)
    return data_uri(content.getvalue(), "jpeg")
